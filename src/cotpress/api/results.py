"""Results of the Python API, and their plain columns for a table."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cotpress.records import CompressedTrace, ScoredTrace, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """Importance of every token of one text; `cotpress.select` cuts it at any ratio.

    Attributes:
        text: The text that was scored.
        scores: float32 `[n]`, one per token of the model's tokenizer; higher = keep.
        offsets: int32 `[n, 2]`, characters of `text` that each token stands for.
        scorer: Name of the scorer.
        trace: The text with its question, response and answer.
        record: The scores in the tokens that the scorer reads, which may be those of another tokenizer.
        tokenizer: The model's, in whose tokens a ratio is counted.
        tokenizer_key: Its fingerprint.
    """

    text: str
    scores: NDArray[np.float32] = field(repr=False)
    offsets: NDArray[np.int32] = field(repr=False)
    scorer: str
    trace: Trace = field(repr=False)
    record: ScoredTrace = field(repr=False)
    tokenizer: "PreTrainedTokenizerBase" = field(repr=False)
    tokenizer_key: str = field(repr=False)

    @property
    def tokens(self) -> list[str]:
        """The characters of each token."""
        return [self.text[start:end] for start, end in self.offsets.tolist()]

    @property
    def columns(self) -> dict[str, Any]:
        """See `columns`."""
        return {"scores": self.scores.tolist(), "offsets": self.offsets.tolist()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compressed:
    """One compressed text.

    Attributes:
        text: The compressed text.
        mask: bool `[n]`, tokens of the original that are kept.
        scores: float32 `[n]`, by which they were chosen, 1 and 0 where a selection of LLMLingua decided; None where
            none was needed: at ratio 1, and with `mode="first_solution"`.
        ratio: Kept fraction of the tokens.
        original: The text before.
        offsets: int32 `[n, 2]`, characters of `original` that each token stands for.
        row: The record that `compress.py` would write, with loss weights, markers and token ids.
    """

    text: str
    mask: NDArray[np.bool_] = field(repr=False)
    scores: NDArray[np.float32] | None = field(repr=False)
    ratio: float
    original: str = field(repr=False)
    offsets: NDArray[np.int32] = field(repr=False)
    row: CompressedTrace = field(repr=False)

    @property
    def tokens(self) -> list[str]:
        """The characters of each token of the original."""
        return [self.original[start:end] for start, end in self.offsets.tolist()]

    @property
    def columns(self) -> dict[str, Any]:
        """See `columns`."""
        return {
            "compressed_thinking": self.text,
            "keep_mask": self.mask.tolist(),
            "scores": None if self.scores is None else self.scores.tolist(),
            "num_tokens": self.row.num_tokens,
            "num_kept_tokens": self.row.num_kept_tokens,
            "target_ratio": self.row.target_ratio,
            "actual_ratio": self.ratio,
        }


def columns(results: Scores | Compressed | Iterable[Scores] | Iterable[Compressed]) -> dict[str, Any]:
    """Return plain values by column, as `datasets.Dataset.map` takes them: of one result, or lists of several.

    The columns of compressed texts have the names of `compress.py`: `compressed_thinking`, `keep_mask`, `scores`,
    `num_tokens`, `num_kept_tokens`, `target_ratio`, `actual_ratio`; those of scores are `scores` and `offsets`.
    """
    if isinstance(results, Scores | Compressed):
        return results.columns
    rows = [result.columns for result in results]
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
