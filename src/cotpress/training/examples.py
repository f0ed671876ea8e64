"""Training examples from records: token ids and the length of the prompt; too long ones are dropped, never cut."""

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
    """One training sequence; the loss is over everything after the prompt.

    Attributes:
        ids: Token ids of prompt and completion.
        num_prompt: Tokens of the prompt, at least 1.
        row: Id of its record, for messages.
    """

    ids: tuple[int, ...]
    num_prompt: int
    row: str = ""

    @property
    def num_targets(self) -> int:
        """Number of tokens with a loss."""
        return len(self.ids) - self.num_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Training examples, and the number of dropped records by reason."""

    kept: Sequence[Example]
    dropped: dict[str, int]


def student_examples(rows: Iterable[CompressedTrace], chat: ChatFormat, max_tokens: int) -> Examples:
    """[question, compressed thinking, response] of the `train` split, with the ratio marker where a trace has one."""
    return _examples(
        (
            (
                row.id,
                chat.prompt_ids(row.question, row.marker_ratio),
                chat.completion_ids(row.token_ids.tolist(), row.response),
            )
            for row in rows
            if row.split == "train"
        ),
        max_tokens,
    )


def reference_examples(
    rows: Iterable[ValuableTrace], tokenizer: "PreTrainedTokenizerBase", chat: ChatFormat, max_tokens: int
) -> Examples:
    """[question, valuable thinking, response] of every trace (CTS, arXiv 2505.17827, section 3.1).

    The valuable thinking consists of the original tokens, so the reference model learns the tokens that it scores.
    """

    def sequences() -> Iterable[_Sequence]:
        for row in rows:
            ids, offsets = tokenize_with_offsets(tokenizer, row.thinking)
            valuable = np.asarray(ids)[spans_to_mask(offsets, row.valuable)]
            yield row.id, chat.prompt_ids(row.question), chat.completion_ids(valuable.tolist(), row.response)

    return _examples(sequences(), max_tokens)


_Sequence = tuple[str, list[int], list[int]]
"""Id of the record, tokens of the prompt, tokens of the completion."""


def _examples(sequences: Iterable[_Sequence], max_tokens: int) -> Examples:
    kept, num_longer = [], 0
    for row, prompt, completion in sequences:
        if len(prompt) + len(completion) > max_tokens:
            num_longer += 1
        else:
            kept.append(Example(ids=(*prompt, *completion), num_prompt=len(prompt), row=row))
    return Examples(kept=kept, dropped={f"longer than {max_tokens} tokens": num_longer} if num_longer else {})
