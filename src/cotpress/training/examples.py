"""Training examples: token ids of prompt and completion, from compressed traces (student) or valuable ones (reference)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cotpress.modeling.alignment import spans_to_mask, tokenize_with_offsets
from cotpress.prompts import ChatFormat
from cotpress.records import CompressedTrace, ValuableTrace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOO_LONG = "over-long"
NOTHING_VALUABLE = "no valuable token"


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence.

    Attributes:
        input_ids: int32 `[n]`, prompt and completion.
        num_prompt: Leading tokens that are read but not learned.
    """

    input_ids: NDArray[np.int32]
    num_prompt: int

    @property
    def num_targets(self) -> int:
        """Tokens the loss is taken on."""
        return len(self.input_ids) - self.num_prompt


@dataclass(frozen=True, slots=True)
class Examples:
    """Usable examples, and how many traces were left out for which reason."""

    rows: list[Example]
    dropped: dict[str, int]


def student_examples(traces: Iterable[CompressedTrace], chat: ChatFormat, max_tokens: int) -> Examples:
    """Question (with the ratio marker where one is announced) to compressed thinking and response; train split only.

    Args:
        traces: Output of the compress stage.
        chat: The student's conversation format.
        max_tokens: Longest sequence; longer ones are dropped, never cut.
    """
    builder = _Builder(chat, max_tokens)
    for trace in traces:
        if trace.split == "train":
            builder.add(trace.question, trace.token_ids.tolist(), trace.response, trace.marker_ratio)
    return builder.result()


def reference_examples(
    traces: Iterable[ValuableTrace], tokenizer: "PreTrainedTokenizerBase", chat: ChatFormat, max_tokens: int
) -> Examples:
    """Question to the valuable tokens of the thinking and the response: what the reference model learns to expect.

    The tokens are those of the whole thinking, chosen through their character offsets, so no text is re-tokenized.
    """
    builder = _Builder(chat, max_tokens)
    for trace in traces:
        ids, offsets = tokenize_with_offsets(tokenizer, trace.thinking)
        kept = ids[spans_to_mask(offsets, trace.valuable)]
        if len(kept) == 0:
            builder.dropped[NOTHING_VALUABLE] += 1
        else:
            builder.add(trace.question, kept.tolist(), trace.response, None)
    return builder.result()


class _Builder:
    def __init__(self, chat: ChatFormat, max_tokens: int) -> None:
        self._chat, self._max_tokens = chat, max_tokens
        self._rows: list[Example] = []
        self.dropped: Counter[str] = Counter()

    def add(self, question: str, thinking: Sequence[int], response: str, marker_ratio: float | None) -> None:
        prompt = self._chat.prompt_ids(question, marker_ratio)
        ids = np.asarray([*prompt, *self._chat.completion_ids(thinking, response)], dtype=np.int32)
        if len(ids) > self._max_tokens:
            self.dropped[TOO_LONG] += 1
        else:
            self._rows.append(Example(ids, len(prompt)))

    def result(self) -> Examples:
        return Examples(self._rows, dict(self.dropped))
