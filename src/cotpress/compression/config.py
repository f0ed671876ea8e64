"""Settings of the compression: which tokens stay, given their scores."""

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Annotated

from cotpress.errors import ConfigError, require
from cotpress.records import Unit
from cotpress.settings import Count, Ratio, Rule

_Text = Annotated[str, Rule(bool, "texts that are not empty")]


class Selection(Enum):
    """Who chooses the tokens."""

    exact = "exact"
    """The asked ratio to the token, by score."""
    llmlingua_compat = "llmlingua_compat"
    """What LLMLingua 0.2.2 does, as the CTS release calls it: window by window, with a model, missing the ratio."""


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
    """Whose score decides about a token."""

    own = "own"
    """Its own: the formula."""
    next = "next"
    """That of the token after it; the last token always stays. What LLMLingua 0.2.2 does, one off."""


class ExportFormat(Enum):
    """How compressed training data is written for use elsewhere."""

    parquet = "parquet"
    """The compressed rows as they are, keep masks included."""
    trl = "trl"
    """One JSON object per line with `prompt` and `completion` messages (TRL, conversational)."""
    llamafactory = "llamafactory"
    """One JSON object per line with `messages`, and the `dataset_info.json` that LLaMA-Factory reads."""
    openai = "openai"
    """One JSON object per line with `messages`, as OpenAI's fine-tuning takes it."""


@dataclass(kw_only=True, slots=True)
class CompressionConfig:
    """Config group `compression`."""

    selection: Selection = Selection.exact
    """Who chooses the tokens."""
    iterative_size: int = 1800
    """Tokens per window, at least 2; only looked at with `selection=llmlingua_compat`."""
    mixed_ratios: list[Ratio] = field(default_factory=list)
    """Empty: every trace is cut to `ratio` and no marker is shown (CTS). Otherwise each trace draws one of
    these ratios, which a control marker in the prompt announces; `ratio` is then asked at evaluation (TokenSkip)."""
    granularity: Unit = Unit.token
    """What stays or goes as one, ranked by the mean score of its tokens. The ratio is met to the token all the same: at
    most one word or step of a trace is cut, and keeps its beginning. `protection`, `keep_strings` and
    `max_consecutive_deletions` speak of tokens and may keep parts of any others."""
    alignment: Alignment = Alignment.own
    """Whose score decides about a token."""
    protection: Protection = Protection.none
    """Tokens that are kept whatever their score."""
    keep_strings: list[_Text] = field(default_factory=list)
    r"""Texts whose every occurrence is kept as well, e.g. `["Step", ":", "\n"]` (LLMLingua's `force_tokens`). A text of
    nothing but the escapes `\n` and `\t` means line breaks and tabs: the command line has no other way to give them."""
    max_consecutive_deletions: Count | None = None
    """Longest run of tokens that may be missing, at least 1; null sets no limit."""

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
