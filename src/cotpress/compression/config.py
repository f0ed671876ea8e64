"""Settings of the compression of scored traces."""

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Annotated

from cotpress.errors import ConfigError, require
from cotpress.modeling.word_weights import WordWeights
from cotpress.records import SEGMENT_STARTS, Unit
from cotpress.settings import Count, Ratio, Rule


class Mode(Enum):
    """Effect of the compression on the training thinking."""

    delete = "delete"
    """Tokens that are not kept are deleted."""
    mask_loss = "mask_loss"
    """The thinking stays whole, and tokens that are not kept have no loss (arXiv 2602.00425, with segments chosen by
    the size and sign of integrated gradients; here tokens or units chosen by any scorer at any ratio)."""
    first_solution = "first_solution"
    """The thinking ends with the first step that states the right answer; needs no scorer. ECN of arXiv 2605.13165 ends
    it with the first node that concludes with the right answer, as annotated by a language model; here rules find the
    statement (`statement`), and the answer check of the evaluation decides about it."""


class Length(Enum):
    """Length of the compressed thinking."""

    ratio = "ratio"
    """The share of its tokens that `ratio` or the mixed ratios name."""
    own = "own"
    """That of each trace, by its content."""


class Statement(Enum):
    """Steps that state an answer, for `mode=first_solution`."""

    announced = "announced"
    r"""Steps with an announced answer: `the answer is ...`, `\boxed{...}` and the like."""
    concluded = "concluded"
    """Also steps that begin with `So`, `Therefore` and the like, with their result. An intermediate result that happens
    to equal the answer then counts as well."""


class Selection(Enum):
    """Method of choosing the tokens."""

    exact = "exact"
    """Exactly the requested ratio, by score."""
    llmlingua_compat = "llmlingua_compat"
    """The decisions of LLMLingua 0.2.2 as the CTS release calls it: window by window, with a model, off the ratio."""
    llmlingua2_compat = "llmlingua2_compat"
    """The texts of LLMLingua-2 (0.2.2) as the TokenSkip release calls it: by words, chunk by chunk, off the ratio."""


class Protection(Enum):
    """Rule for tokens that are kept whatever their score."""

    none = "none"
    digits = "digits"
    """Every token with a digit."""
    math = "math"
    """Every token of a number, an operator or a LaTeX command, so that commands and numbers stay whole."""
    answer = "answer"
    """Every occurrence of the gold answer, as a whole number or word."""


class Alignment(Enum):
    """Token whose score decides about a token."""

    own = "own"
    """The token itself."""
    next = "next"
    """The following token, and the last token always stays: the off-by-one of LLMLingua 0.2.2."""


class Allocation(Enum):
    """Division of the kept tokens among the traces."""

    fixed = "fixed"
    """Every trace is cut to the ratio."""
    threshold = "threshold"
    """One threshold on the scores of all traces, which keeps as many tokens of them together."""
    budget = "budget"
    """A trace of higher scores than the others keeps more, one of lower scores less, and all together as many."""


class TrainedTokens(Enum):
    """Tokens of a shortened thinking that a student is trained on."""

    splice = "splice"
    """The kept tokens of the whole thinking."""
    retokenize = "retokenize"
    """Those of the shortened text, as in both papers: what is left on either side of a gap may merge or part."""


class ExportFormat(Enum):
    """File format of exported training data."""

    parquet = "parquet"
    """Rows with keep masks, and with weights of the loss if `mode=mask_loss`."""
    trl = "trl"
    """One JSON object per line with `prompt` and `completion` messages (TRL, conversational); with `mode=mask_loss`
    tokens, `input_ids`, and those with a loss, `assistant_masks` (TRL, tokenized)."""
    llamafactory = "llamafactory"
    """One JSON object per line with `messages`, and the `dataset_info.json` for LLaMA-Factory."""
    openai = "openai"
    """One JSON object per line with `messages`, for OpenAI's fine-tuning."""
    datasets = "datasets"
    """The rows of `parquet` as a folder for `datasets.load_from_disk`."""


ROWS_FORMATS = frozenset({ExportFormat.parquet, ExportFormat.datasets})
"""Formats that hold all columns of the compressed rows."""


@dataclass(kw_only=True, slots=True)
class CompressionConfig:
    """Config group `compression`."""

    mode: Mode = Mode.delete
    """Effect on the training thinking: delete, mask_loss or first_solution."""
    length: Length | None = None
    """Length of the compressed thinking: ratio, or own (of each trace); null is that of the mode, own for
    first_solution and ratio for others. No mode has both."""
    soft_weights: bool = False
    """Weigh the loss of every thinking token by its place in the order of deletion, in place of 1 and 0; only with
    `mode=mask_loss`. The mean weight is the ratio. Of `n` tokens, `u = 1 - (place + 0.5) / n`; at a ratio r of at most
    0.5 the weight is `2 r u`, above it `1 - 2 (1 - r) (1 - u)`: linear in the place, within [0, 1]. Protected tokens
    have weight 1, and the others share the rest of the ratio in the same way."""
    statement: Statement = Statement.announced
    """Steps that state an answer: announced or concluded; only with `mode=first_solution`."""
    selection: Selection = Selection.exact
    """Method of choosing the tokens."""
    iterative_size: int = 1800
    """Tokens per window, at least 2; only with `selection=llmlingua_compat`."""
    mixed_ratios: list[Ratio] = field(default_factory=list)
    """Empty: every trace is cut to `ratio`, without a control marker (CTS). Otherwise each trace draws one of these
    ratios, which a control marker in the prompt states; `ratio` is then requested at evaluation (TokenSkip)."""
    allocation: Allocation = Allocation.fixed
    """Division of the kept tokens among the traces. With `threshold` and `budget`, `ratio` holds for all traces
    together, to the token, and each keeps one at least."""
    granularity: Unit = Unit.word
    """Unit that is kept or dropped as one, ranked by the mean score of its tokens. The ratio is still met exactly: at
    most one unit of a trace is cut, and keeps its beginning. `protection`, `keep_strings` and
    `max_consecutive_deletions` apply to tokens and may keep parts of any others. With every unit, the tokens of one
    character stay or go together: the nearest number of tokens that divides none is kept."""
    segment_starts: list[Annotated[str, Rule(lambda text: bool(text.strip()), "texts that are not blank")]] = field(
        default_factory=lambda: [*SEGMENT_STARTS]
    )
    """Openings of a step that begin a segment, in any case, after any punctuation and only as whole words; in any
    language. Only with `granularity=segment`."""
    alignment: Alignment = Alignment.own
    """Token whose score decides about a token."""
    protection: Protection = Protection.none
    """Tokens that are kept whatever their score."""
    keep_strings: list[Annotated[str, Rule(bool, "texts that are not empty")]] = field(default_factory=list)
    r"""Texts whose every occurrence is kept as well, e.g. `["Step", ":", "\n"]` (LLMLingua's `force_tokens`). A text of
    the escapes `\n` and `\t` alone means line breaks and tabs, which the command line cannot express otherwise."""
    max_consecutive_deletions: Count | None = None
    """Longest run of deleted tokens, at least 1; null sets no limit."""
    drop_consecutive: bool = False
    """Drop a kept string that repeats the one before it with nothing kept between them; only with
    `selection=llmlingua2_compat`."""
    word_weights: WordWeights = WordWeights.tiktoken
    """Tokenizer that counts the tokens of a word, which weigh it at the threshold; only with
    `selection=llmlingua2_compat`."""

    tokens: TrainedTokens = TrainedTokens.splice
    """Tokens of a shortened thinking that a student is trained on. The ratio counts those of the whole thinking with
    either. With `selection=llmlingua2_compat` they are always those of the shortened text."""

    @property
    def has_own_length(self) -> bool:
        """True if the content of each trace decides its length, and no ratio does."""
        return self.mode is Mode.first_solution

    def validate(self, key: str) -> None:
        """Refuse settings that the mode or the selection ignores, except for the parameters of another selection."""
        self._check_mode(key)
        usual, used = CompressionConfig(selection=self.selection), _USED[self.selection] | _PARAMETERS
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if name not in used and value != getattr(usual, name) and value is not _OF_CTS.get(name):
                raise ConfigError(
                    f"{key}.{name} has no effect with {key}.selection={self.selection.value}: {_WHY[self.selection]}. "
                    f"Fix: {_FIX[self.selection]}, or leave {key}.{name} out"
                )
        if self.allocation is not Allocation.fixed and self.mixed_ratios:
            raise ConfigError(
                f"{key}.allocation: got '{self.allocation.value}', but with {key}.mixed_ratios a marker states the "
                f"ratio of each trace, which would not keep it. Fix: {key}.allocation=fixed, or {key}.mixed_ratios=[]"
            )
        if self.granularity is Unit.segment:
            require(f"{key}.segment_starts", self.segment_starts, bool(self.segment_starts), "at least one text")
        elif self.segment_starts != usual.segment_starts:
            raise ConfigError(
                f"{key}.segment_starts has no effect with {key}.granularity={self.granularity.value}. "
                f"Fix: {key}.granularity=segment, or leave {key}.segment_starts out"
            )
        if self.selection is Selection.llmlingua_compat:
            allowed = "a whole number of at least 2"
            require(f"{key}.iterative_size", self.iterative_size, self.iterative_size >= 2, allowed)
        if self.selection is Selection.llmlingua2_compat and self.protection not in (
            Protection.none,
            Protection.digits,
        ):
            raise ConfigError(
                f"{key}.protection: got '{self.protection.value}', but LLMLingua-2 can protect digits alone. "
                f"Fix: {key}.protection=digits, or compression=mixed"
            )

    def _check_mode(self, key: str) -> None:
        """Refuse settings that do not go with the mode."""
        mode, usual = f"{key}.mode={self.mode.value}", CompressionConfig()
        length = Length.own if self.has_own_length else Length.ratio
        if self.length not in (None, length):
            raise ConfigError(
                f"{key}.length: got '{self.length.value}', but with {mode} it is {length.value}. "
                f"Fix: leave {key}.length out"
            )
        changed = {f.name for f in fields(self) if getattr(self, f.name) != getattr(usual, f.name)}
        for name in sorted(changed & _MODE_OF.keys()):
            if self.mode is not _MODE_OF[name]:
                raise ConfigError(
                    f"{key}.{name} has no effect with {mode}. Fix: {key}.mode={_MODE_OF[name].value}, or leave "
                    f"{key}.{name} out"
                )
        if self.mode is Mode.first_solution and (unused := sorted(changed - _OF_SOLUTIONS)):
            raise ConfigError(
                f"{key}.{unused[0]} has no effect with {mode}, as no scorer selects tokens. Fix: compression=single, "
                f"or leave {key}.{unused[0]} out"
            )
        if self.mode is Mode.mask_loss and self.mixed_ratios:
            raise ConfigError(
                f"{key}.mixed_ratios: got {self.mixed_ratios} with {mode}, but the thinking stays whole, so that no "
                "control marker can announce its length. Fix: compression=single"
            )
        if self.mode is Mode.mask_loss and self.selection is Selection.llmlingua2_compat:
            raise ConfigError(
                f"{key}.selection: got 'llmlingua2_compat' with {mode}, but LLMLingua-2 gives texts, not tokens of the "
                f"thinking. Fix: compression=single"
            )
        if self.soft_weights and self.selection is not Selection.exact:
            raise ConfigError(
                f"{key}.soft_weights: got true with {key}.selection={self.selection.value}, which decides about tokens "
                f"and has no order of them. Fix: compression=single"
            )


def check_export(format_: ExportFormat, compression: CompressionConfig) -> None:
    """Raise a `ConfigError` for an export that cannot say which tokens of the thinking have a loss.

    TRL's collator reads a mask of tokens (`assistant_masks`); the conversations of LLaMA-Factory and OpenAI have none.
    """
    holding = ROWS_FORMATS if compression.soft_weights else ROWS_FORMATS | {ExportFormat.trl}
    if compression.mode is Mode.mask_loss and format_ not in holding:
        allowed = ", ".join(kind.value for kind in ExportFormat if kind in holding)
        weights = "weights of single tokens" if compression.soft_weights else "mask of single tokens"
        raise ConfigError(
            f"export: got {format_.value} with compression.mode=mask_loss, but this format holds no {weights}. "
            f"Allowed: {allowed}. Fix: export=parquet, whose column loss_weights holds them"
        )


_MODE_OF = {"soft_weights": Mode.mask_loss, "statement": Mode.first_solution}
"""Mode of the settings that only one has."""
_OF_SOLUTIONS = {"mode", "length", "statement", "tokens", "iterative_size", "word_weights"}
"""Settings that may be set with `mode=first_solution`."""
_PARAMETERS = {"mode", "length", "soft_weights", "statement", "selection", "iterative_size", "word_weights", "tokens"}
"""Settings that may be set with every selection, as in a multirun over selections, though some have only one use."""
_OF_CTS = {"granularity": Unit.token}
"""Settings of the CTS paper, which may be set with every selection: its experiment and sweeps set them for all."""
_RULES = {"granularity", "segment_starts", "alignment", "protection", "keep_strings", "max_consecutive_deletions"}
_USED = {
    Selection.exact: {"mixed_ratios", "allocation", *_RULES},
    Selection.llmlingua_compat: set[str](),
    Selection.llmlingua2_compat: {"mixed_ratios", "protection", "keep_strings", "drop_consecutive"},
}
_WHY = {
    Selection.exact: "kept strings are never dropped",
    Selection.llmlingua_compat: "the release of CTS cuts every trace to one ratio and has no other options",
    Selection.llmlingua2_compat: "LLMLingua-2 decides about its own words",
}
_FIX = {
    Selection.exact: "compression=llmlingua2_compat",
    Selection.llmlingua_compat: "compression=single",
    Selection.llmlingua2_compat: "compression=single or mixed",
}

_UNITS = {Selection.llmlingua_compat.value: Unit.token.value, Selection.llmlingua2_compat.value: Unit.word.value}
"""Units that the selections of the releases delete, whatever the granularity is."""


def unit_name(selection: str | None, granularity: str | None) -> str:
    """The unit that is kept or dropped as one, for cards; runs of earlier releases name no granularity."""
    return _UNITS.get(selection or "") or granularity or Unit.token.value
