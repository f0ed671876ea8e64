"""Records to training examples: token ids and where the prompt ends; what is too long is dropped, never cut."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cotpress.modeling.alignment import spans_to_mask, tokenize_with_offsets
from cotpress.prompts import ChatFormat
from cotpress.records import CompressedTrace, ValuableTrace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training sequence; the loss is on everything after the prompt.

    Attributes:
        ids: Token ids of prompt and completion.
        num_prompt: Tokens of the prompt, at least 1.
        row: Id of the record that it was made of, for messages.
    """

    ids: tuple[int, ...]
    num_prompt: int
    row: str = ""

    @property
    def num_targets(self) -> int:
        """Number of tokens that the loss counts."""
        return len(self.ids) - self.num_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Training examples and what was dropped on the way to them, by reason."""

    kept: Sequence[Example]
    dropped: dict[str, int]

    @property
    def num_tokens(self) -> int:
        """All tokens, prompts included."""
        return sum(len(e.ids) for e in self.kept)


def student_examples(rows: Iterable[CompressedTrace], written: ChatFormat, max_tokens: int) -> Examples:
    """[question, compressed thinking, response] of the `train` split, with the ratio marker where a trace has one."""
    return _collect(
        (
            (
                r.id,
                written.prompt_ids(r.question, r.marker_ratio),
                written.completion_ids(r.token_ids.tolist(), r.response),
            )
            for r in rows
            if r.split == "train"
        ),
        max_tokens,
    )


def reference_examples(
    rows: Iterable[ValuableTrace], tokenizer: "PreTrainedTokenizerBase", written: ChatFormat, max_tokens: int
) -> Examples:
    """[question, valuable thinking, response] of every trace (CTS, arXiv 2505.17827, section 3.1).

    The valuable thinking is made of the original tokens, so the reference model learns what it will later score.
    """

    def pairs() -> Iterable[tuple[str, list[int], list[int]]]:
        for row in rows:
            ids, offsets = tokenize_with_offsets(tokenizer, row.thinking)
            kept = np.asarray(ids)[spans_to_mask(offsets, row.valuable)]
            yield row.id, written.prompt_ids(row.question), written.completion_ids(kept.tolist(), row.response)

    return _collect(pairs(), max_tokens)


def _collect(pairs: Iterable[tuple[str, list[int], list[int]]], max_tokens: int) -> Examples:
    kept, dropped = [], Counter[str]()
    for row, prompt, completion in pairs:
        if len(prompt) + len(completion) > max_tokens:
            dropped[f"longer than {max_tokens} tokens"] += 1
        else:
            kept.append(Example(ids=(*prompt, *completion), num_prompt=len(prompt), row=row))
    return Examples(kept=kept, dropped=dict(dropped))
