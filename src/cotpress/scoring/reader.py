"""The text around the thinking as a causal language model reads it, and scorers that run such a model themselves.

Templates:
    chat   the format the reference model was trained in: chat prompt with the condition as the user's turn (empty
           without condition), the opening of the thinking, the thinking, its closing, the response, end of turn.
    plain  bos, then the condition and a blank line if there is one, the thinking, a blank line, the response.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from cotpress.errors import ModelError
from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.config import ModelConfig
from cotpress.prompts import ChatFormat
from cotpress.records import Trace, Unit
from cotpress.scoring.base import NO_TOKENS, TokenScorer
from cotpress.scoring.config import Condition, ReadingConfig, Template, TokenReadingConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from cotpress.scoring.models import Models

R = TypeVar("R", bound=ReadingConfig)

TOO_LONG = "longer than the model's context"
CONDITION_TOO_LONG = "condition takes over half of the model's context"
NO_RESPONSE = "no response to condition on"
NOTHING_FOLLOWS = "nothing to read after the thinking"
NO_QUESTION = "no question to condition on"

_TRACES_AT_HAND = 1024
"""Tokenized traces that are remembered: each is needed several times within a batch."""


def condition_text(condition: Condition, trace: Trace) -> str:
    """The text that stands for a condition in a trace; empty for `none`."""
    match condition:
        case Condition.none:
            return ""
        case Condition.answer:
            return trace.response
        case Condition.question:
            return trace.question
        case Condition.question_answer:
            return f"{trace.question}\n\n{trace.response}"


def missing_text(conditions: Iterable[Condition], trace: Trace) -> str | None:
    """The reason to refuse a trace that lacks the text of one of some conditions, or None."""
    needed = set(conditions)
    if needed & {Condition.question, Condition.question_answer} and not trace.question.strip():
        return NO_QUESTION
    if needed & {Condition.answer, Condition.question_answer} and not trace.response.strip():
        return NO_RESPONSE
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A trace as the one sequence that a model reads.

    Attributes:
        ids: Context, thinking and, if it is read, the closing and the text after it.
        thinking: Positions of the thinking in `ids`.
        following: Positions of the text after the closing; empty if it is not read.
    """

    ids: list[int]
    thinking: range
    following: range


class Reader:
    """Turns traces into input for one model.

    Args:
        tokenizer: Of the model that reads.
        model: Chat format and context length.
        template: Format that joins condition and thinking.
        tokens_per_batch: Tokens per forward pass; changes speed and memory only.

    Raises:
        ModelError: The template is plain and the tokenizer has no bos token.
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
        """Token ids between the thinking and the text after it; at least one."""
        if self._template is Template.chat:
            return self._chat.thinking_end()
        return self._chat.text_ids("\n\n")

    def following_ids(self, text: str) -> list[int]:
        """Token ids of the text after the closing: the response or answer, and in a chat the end of the turn."""
        end = [int(self.tokenizer.eos_token_id)] if self._template is Template.chat else []
        return [*self._chat.text_ids(text), *end]


class ModelScorer(TokenScorer[R]):
    """A scorer that runs a causal language model over each text as a whole; longer texts are refused.

    Args:
        config: Its settings.
        reader: Turns traces into input.
        model: In eval mode.
    """

    passes: ClassVar[int | None] = 1
    reads_response: bool = False
    """True if the model also reads the text after the thinking."""

    def __init__(self, config: R, reader: Reader, model: "torch.nn.Module") -> None:
        pooling = config.pooling if isinstance(config, TokenReadingConfig) else Unit.token
        super().__init__(config.name, reader.tokenizer, pooling)
        self._reader, self._condition, self._model = reader, config.condition, model

    @classmethod
    def identity(cls, config: Any, models: "Models") -> dict[str, Any]:
        """See `ScorerKind`."""
        return models.reading_identity(config.template, reference=config.needs_reference)

    @classmethod
    def build(cls, config: R, models: "Models") -> "ModelScorer[R]":
        """See `Scorer`."""
        reader = models.reader(config.template, cls.tokens_per_batch(models))
        return cls(config, reader, models.model(config.read_by))

    @classmethod
    def tokens_per_batch(cls, models: "Models") -> int:
        """Tokens of a forward pass."""
        return models.trainer.tokens_per_batch

    def tokens(self, trace: Trace) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """See `TokenScorer`."""
        return self._reader.tokens(trace)

    def following(self, trace: Trace) -> str:
        """The text that the model reads after the thinking, if `reads_response`."""
        return trace.response

    def after_ids(self, trace: Trace) -> list[int]:
        """Token ids after the thinking, its closing included; none unless `reads_response`."""
        if not self.reads_response:
            return []
        return [*self._reader.closing_ids(), *self._reader.following_ids(self.following(trace))]

    def whole(self, trace: Trace) -> Whole:
        """Everything that the model reads of `trace`."""
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
        """Refuse traces that lack a text that the scorer needs, or do not fit the model's context."""
        if self.num_tokens(trace) == 0:
            return NO_TOKENS
        if (reason := missing_text([self._condition], trace)) is not None:
            return reason
        if self.reads_response and not self.following(trace).strip():
            return NOTHING_FOLLOWS
        length = len(self._reader.context_ids(self._condition, trace)) + self.num_tokens(trace)
        return TOO_LONG if length + len(self.after_ids(trace)) > self._reader.context_tokens else None
