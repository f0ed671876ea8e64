"""Settings of the compression: which tokens stay, given their scores."""

from dataclasses import dataclass, field, fields
from enum import Enum

from cotpress.errors import ConfigError
from cotpress.records import Unit


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
    mixed_ratios: list[float] = field(default_factory=list)
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
    keep_strings: list[str] = field(default_factory=list)
    r"""Texts whose every occurrence is kept as well, e.g. `["Step", ":", "\n"]` (LLMLingua's `force_tokens`). A text of
    nothing but the escapes `\n` and `\t` means line breaks and tabs: the command line has no other way to give them."""
    max_consecutive_deletions: int | None = None
    """Longest run of tokens that may be missing, at least 1; null sets no limit."""


def check_llmlingua_compat(config: CompressionConfig) -> None:
    """Refuse settings that `selection=llmlingua_compat` does not look at.

    Raises:
        ConfigError: Names them.
    """
    usual = CompressionConfig(selection=config.selection, iterative_size=config.iterative_size)
    for name in (f.name for f in fields(config)):
        if getattr(config, name) != getattr(usual, name):
            raise ConfigError(
                f"compression.{name} has no effect with compression.selection=llmlingua_compat: the release of CTS "
                "cuts every trace to one ratio and ignores its own protection options. Fix: compression=single, or "
                f"leave compression.{name} out"
            )
    if config.iterative_size < 2:
        raise ConfigError(f"compression.iterative_size: got {config.iterative_size}, allowed: 2 or more")
