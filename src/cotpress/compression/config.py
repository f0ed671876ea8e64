"""Settings of the compression, which selects the kept tokens by their scores."""

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Annotated

from cotpress.errors import ConfigError, require
from cotpress.records import Unit
from cotpress.settings import Count, Ratio, Rule

_Text = Annotated[str, Rule(bool, "texts that are not empty")]


class Selection(Enum):
    """Algorithms that select the kept tokens."""

    exact = "exact"
    """Keep the tokens of the highest scores; their number meets the ratio exactly."""
    llmlingua_compat = "llmlingua_compat"
    """LLMLingua 0.2.2 as the CTS release calls it: a model selects window by window, and the ratio is missed."""


class Protection(Enum):
    """Tokens that are kept whatever their score."""

    none = "none"
    digits = "digits"
    """Every token that holds a digit."""
    math = "math"
    """Every token of a number, an operator or a LaTeX command; commands and numbers stay whole."""
    answer = "answer"
    """Every occurrence of the gold answer, as a whole number or word."""


class Alignment(Enum):
    """Scores that decide about a token."""

    own = "own"
    """The score of the token itself: the published formula."""
    next = "next"
    """The score of the token after it; the last token always stays. The off-by-one of LLMLingua 0.2.2."""


class ExportFormat(Enum):
    """File formats of exported training data."""

    parquet = "parquet"
    """The compressed rows with their keep masks."""
    trl = "trl"
    """One JSON object per line with `prompt` and `completion` messages (TRL, conversational)."""
    llamafactory = "llamafactory"
    """One JSON object per line with `messages`, and the `dataset_info.json` that LLaMA-Factory reads."""
    openai = "openai"
    """One JSON object per line with `messages`, the format of OpenAI's fine-tuning."""


@dataclass(kw_only=True, slots=True)
class CompressionConfig:
    """Config group `compression`."""

    selection: Selection = Selection.exact
    """Algorithm that selects the kept tokens."""
    iterative_size: int = 1800
    """Tokens per window, at least 2; used by `selection=llmlingua_compat` only."""
    mixed_ratios: list[Ratio] = field(default_factory=list)
    """Empty: every trace is cut to `ratio`, without a marker (CTS). Otherwise each trace draws one of these ratios,
    which a control marker in the prompt announces, and the evaluation asks for `ratio` (TokenSkip)."""
    granularity: Unit = Unit.token
    """Unit that is kept or deleted as a whole, ranked by the mean score of its tokens. The kept count still meets the
    ratio exactly: at most one word or step of a trace is cut and keeps its beginning. `protection`, `keep_strings` and
    `max_consecutive_deletions` act on tokens and may keep parts of other units."""
    alignment: Alignment = Alignment.own
    """Score that decides about a token."""
    protection: Protection = Protection.none
    """Tokens that are kept whatever their score."""
    keep_strings: list[_Text] = field(default_factory=list)
    r"""Texts that are kept wherever they occur, e.g. `["Step", ":", "\n"]` (LLMLingua's `force_tokens`). A text that
    consists of the escapes `\n` and `\t` stands for line breaks and tabs, which are hard to type on a command line."""
    max_consecutive_deletions: Count | None = None
    """Longest run of deleted tokens, at least 1; null sets no limit."""

    def validate(self, key: str) -> None:
        """Refuse settings that `selection=llmlingua_compat` ignores."""
        if self.selection is not Selection.llmlingua_compat:
            return
        usual = CompressionConfig(selection=self.selection, iterative_size=self.iterative_size)
        for name in (f.name for f in fields(self)):
            if getattr(self, name) != getattr(usual, name):
                raise ConfigError(
                    f"{key}.{name} has no effect with {key}.selection=llmlingua_compat: the release of CTS cuts every "
                    f"trace to one ratio and ignores its own protection options. Fix: compression=single, or leave "
                    f"{key}.{name} out"
                )
        require(f"{key}.iterative_size", self.iterative_size, self.iterative_size >= 2, "a whole number of at least 2")
