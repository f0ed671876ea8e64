"""How a causal language model reads a trace: what stands before the thinking and after it, and what does not fit.

Templates:
    chat   the format the reference model was trained in: chat prompt with the condition as the user's turn (empty
           without condition), the opening of the thinking, the thinking, its closing, the response, end of turn.
    plain  bos, then the condition and a blank line if there is one, the thinking, a blank line, the response.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cotpress.errors import ModelError
from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.logprobs import ScoreInput
from cotpress.prompts import ChatFormat
from cotpress.records import Trace, Unit
from cotpress.scoring.base import TokenScorer
from cotpress.scoring.config import Condition, ReadingConfig, Template, TokenReadingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOO_LONG = "longer than the model's context"
CONDITION_TOO_LONG = "condition takes over half of the model's context"
NO_RESPONSE = "no response to condition on"
NOTHING_FOLLOWS = "nothing to read after the thinking"
NO_QUESTION = "no question to condition on"

_TRACES_AT_HAND = 1024
"""Tokenized traces that are remembered: each is asked for several times within a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A trace as the one sequence that a model reads.

    Attributes:
        ids: Context, thinking and, if it is read, closing and what follows it.
        thinking: Positions of the thinking in `ids`.
        following: Positions of what follows the closing; empty if it is not read.
    """

    ids: list[int]
    thinking: range
    following: range


class Reader:
    """Writes traces as input for one model.

    Args:
        tokenizer: Of the model that reads.
        model: Chat format and context length.
        template: How condition and thinking are joined.
        tokens_per_batch: Tokens per forward pass; changes speed and memory only.

    Raises:
        ModelError: `template=plain` meets a tokenizer without bos token.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", model: ModelConfig, template: Template, tokens_per_batch: int
    ) -> None:
        if template is Template.plain and tokenizer.bos_token_id is None:
            raise ModelError(
                f"scorer.template=plain starts with the bos token, which the tokenizer of '{model.name}' does not "
                "have. Fix: scorer.template=chat"
            )
        self.tokenizer, self.context_tokens, self.tokens_per_batch = tokenizer, model.context_tokens, tokens_per_batch
        self._template, self._chat = template, ChatFormat(tokenizer, model.chat)
        self._tokenized = lru_cache(_TRACES_AT_HAND)(partial(tokenize_with_offsets, tokenizer))

    def tokens(self, trace: Trace) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token ids of the thinking alone, int32 `[n]`, and the characters they stand for, int32 `[n, 2]`."""
        return self._tokenized(trace.thinking)

    def thinking_ids(self, trace: Trace) -> NDArray[np.int32]:
        """Token ids of the thinking alone, int32 `[n]`."""
        return self.tokens(trace)[0]

    def context_ids(self, condition: Condition, trace: Trace) -> list[int]:
        """Token ids of everything before the thinking; at least one."""
        text = condition_text(condition, trace)
        if self._template is Template.chat:
            return [*self._chat.prompt_ids(text), *self._chat.thinking_start()]
        return [int(self.tokenizer.bos_token_id), *(self._chat.text_ids(text + "\n\n") if text else [])]

    def closing_ids(self) -> list[int]:
        """Token ids between the thinking and what follows it; at least one."""
        if self._template is Template.chat:
            return self._chat.thinking_end()
        return self._chat.text_ids("\n\n")

    def following_ids(self, text: str) -> list[int]:
        """Token ids of what follows the closing: the response or answer, and in a chat the end of the turn."""
        end = [int(self.tokenizer.eos_token_id)] if self._template is Template.chat else []
        return [*self._chat.text_ids(text), *end]


class ReadingScorer(TokenScorer):
    """A scorer that reads with a causal language model."""

    reads_response: bool = False
    """True if the model also reads what follows the thinking."""
    reads_windows: bool = False
    """True if a token's score needs only what stands before it, so that thinking over the context can be read window
    by window (`inputs`); otherwise such traces are refused."""

    def __init__(self, config: ReadingConfig, reader: Reader) -> None:
        pooling = config.pooling if isinstance(config, TokenReadingConfig) else Unit.token
        super().__init__(config.name, reader.tokenizer, pooling)
        self._reader, self._condition = reader, config.condition

    def tokens(self, trace: Trace) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """See `TokenScorer`."""
        return self._reader.tokens(trace)

    def conditions(self) -> tuple[Condition, ...]:
        """Every condition that the thinking is read under."""
        return (self._condition,)

    def inputs(self, traces: Sequence[Trace]) -> Iterator[ScoreInput]:
        """What the model reads: each trace once per condition, in order, written when it is asked for.

        Over the model's context it is read in windows, the same ones under every condition: a token has the same
        thinking before it in all its readings, so they differ by the condition alone.
        """
        for trace in traces:
            contexts = [self._reader.context_ids(condition, trace) for condition in self.conditions()]
            targets = self._reader.thinking_ids(trace)
            room = self._reader.context_tokens - max(map(len, contexts))
            for context in contexts:
                yield ScoreInput(
                    context_ids=context, target_ids=targets, window_tokens=room if room < len(targets) else None
                )

    def in_windows(self, trace: Trace) -> bool:
        """See `Scorer`."""
        return self.reads_windows and self._length(trace) > self._reader.context_tokens

    def following(self, trace: Trace) -> str:
        """What the model reads after the thinking, if `reads_response`."""
        return trace.response

    def after_ids(self, trace: Trace) -> list[int]:
        """Token ids that the model reads after the thinking: the closing and what follows, if `reads_response`."""
        if not self.reads_response:
            return []
        return [*self._reader.closing_ids(), *self._reader.following_ids(self.following(trace))]

    def whole(self, trace: Trace) -> Whole:
        """Everything that the model reads of `trace`, under the scorer's own condition."""
        context, thinking = self._reader.context_ids(self._condition, trace), self._reader.thinking_ids(trace).tolist()
        after = self.after_ids(trace)
        start, end = len(context), len(context) + len(thinking)
        closed = end + min(len(self._reader.closing_ids()), len(after))
        return Whole(
            ids=[*context, *thinking, *after],
            thinking=range(start, end),
            following=range(closed, end + len(after)),
        )

    def refusal(self, trace: Trace) -> str | None:
        """Refuses traces that lack what the scorer asks for, or do not fit the model's context.

        What can be read in windows fits, unless the condition, which stands before every window, leaves less room
        than it takes.
        """
        asked = self.conditions()
        if {Condition.question, Condition.question_answer} & set(asked) and not trace.question.strip():
            return NO_QUESTION
        if {Condition.answer, Condition.question_answer} & set(asked) and not trace.response.strip():
            return NO_RESPONSE
        if self.reads_response and not self.following(trace).strip():
            return NOTHING_FOLLOWS
        if self._length(trace) <= self._reader.context_tokens:
            return None
        if not self.reads_windows:
            return TOO_LONG
        return CONDITION_TOO_LONG if 2 * self._longest_context(trace) > self._reader.context_tokens else None

    def _longest_context(self, trace: Trace) -> int:
        return max(len(self._reader.context_ids(condition, trace)) for condition in self.conditions())

    def _length(self, trace: Trace) -> int:
        """Tokens of the longest sequence that is read if it is read in one go."""
        return self._longest_context(trace) + self.num_tokens(trace) + len(self.after_ids(trace))


def condition_text(condition: Condition, trace: Trace) -> str:
    """What a model is told about `trace` under a condition; empty without one."""
    match condition:
        case Condition.none:
            return ""
        case Condition.answer:
            return trace.response
        case Condition.question:
            return trace.question
        case Condition.question_answer:
            return f"{trace.question}\n\n{trace.response}"
