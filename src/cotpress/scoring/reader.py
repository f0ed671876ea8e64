"""The read stage, the text that a causal language model reads, and the base class of scorers that run such a model.

A reading depends on model, condition and template, not on a ratio or scorer, so all scorers that are formulas over
readings share them. A refused trace has a row without tokens, with the reason.

Thinking over the model's context is read in overlapping windows, each behind the whole condition. A scorer that
compares two conditions needs the same windows under both: a token then has the same thinking before it in both
readings. The text is read again under the condition of the shorter context, in the windows of the other (`beside`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar

import numpy as np

from cotpress.errors import ModelError
from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.config import ModelConfig
from cotpress.prompts import ChatFormat
from cotpress.records import ReadTrace, Trace
from cotpress.scoring.base import (
    CONDITION_TOO_LONG,
    NO_QUESTION,
    NO_RESPONSE,
    NO_TOKENS,
    SAME_WINDOWS,
    R,
    Tokens,
    TokenScorer,
)
from cotpress.scoring.config import Condition, ReadBy, Template

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from cotpress.modeling.logprobs import ScoreInput
    from cotpress.scoring.models import Models

T = TypeVar("T")

TOO_LONG = "longer than the model's context"
NOTHING_FOLLOWS = "nothing to read after the thinking"

_TRACES_AT_HAND = 1024
"""Traces whose tokens are remembered: they are needed several times within a chunk."""


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


def no_cache_error(scorer: str, model: str) -> ModelError:
    """The error for a scorer that edits caches, and a model that has none to edit."""
    return ModelError(
        f"scorer={scorer} goes on from cut and masked caches, but the model '{model}' has layers that keep a state "
        "instead (linear attention, convolutions, Mamba). Allowed for it: scorers that read whole texts, such as cts, "
        "self_information or reference_likelihood. Fix: scorer=reference_likelihood, or another model"
    )


def check_cache(scorer: str, model: "torch.nn.Module") -> None:
    """Raise a `ModelError` if layers of a loaded model keep a state instead of a cache."""
    from cotpress.modeling.architecture import keeps_state
    from cotpress.modeling.loading import unwrapped

    base = unwrapped(model)
    if keeps_state(base, base.config):
        raise no_cache_error(scorer, type(base).__name__)


def padded_batches(items: Sequence[T], length: Callable[[T], int], tokens_per_batch: int) -> Iterator[list[T]]:
    """Yield consecutive items whose padded size is within the budget; at least one at a time."""
    batch: list[T] = []
    longest = 0
    for item in items:
        longest = max(longest, length(item))
        if batch and longest * (len(batch) + 1) > tokens_per_batch:
            yield batch
            batch, longest = [], length(item)
        batch.append(item)
    if batch:
        yield batch


class Reader:
    """Turns traces into input for one model; `tokens_per_batch` bounds its forward passes.

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

    def tokens(self, trace: Trace) -> Tokens:
        """Tokens of the thinking alone."""
        return self._tokenized(trace.thinking)

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
        end = [self._chat.end_id] if self._template is Template.chat else []
        return [*self._chat.text_ids(text), *end]


class ConditionReading:
    """Reads traces under one condition, in the windows of all that are compared, `beside`, if there are any."""

    def __init__(
        self,
        name: str,
        template: Template,
        read_by: ReadBy,
        condition: Condition,
        beside: Sequence[Condition],
        models: "Models",
    ) -> None:
        from cotpress.modeling.loading import tokenizer_fingerprint

        self.name, self._condition, self._beside = name, condition, beside
        self._reader = models.reader(template, models.trainer.tokens_per_batch)
        self._model = partial(models.model, read_by, forwards_only=True)
        self._fingerprint = tokenizer_fingerprint(self._reader.tokenizer)

    def refusal(self, trace: Trace) -> str | None:
        """Give None: a refused trace has a row as well."""
        return None

    def score(self, traces: Sequence[Trace]) -> Iterator[ReadTrace]:
        """Yield one row per trace, in order, as they are finished."""
        from cotpress.modeling.logprobs import token_readings

        plans = [self.plan(trace) for trace in traces]
        inputs = [plan for plan in plans if not isinstance(plan, str)]
        values = token_readings(self._model(), inputs, self._reader.tokens_per_batch) if inputs else iter(())
        for trace, plan in zip(traces, plans, strict=True):
            if isinstance(plan, str):
                refusal, in_windows, values_N3 = plan, False, np.empty((0, 3), dtype=np.float32)
            else:
                refusal, in_windows, values_N3 = "", plan.window_tokens is not None, next(values)
            ids, offsets = self._reader.tokens(trace)
            yield ReadTrace(
                id=trace.id,
                token_ids=ids[: len(values_N3)],
                offsets=offsets[: len(values_N3)],
                logprob=np.ascontiguousarray(values_N3[:, 0]),
                entropy=np.ascontiguousarray(values_N3[:, 1]),
                rank=values_N3[:, 2].astype(np.int32),
                in_windows=in_windows,
                refusal=refusal,
                tokenizer=self._fingerprint,
            )

    def plan(self, trace: Trace) -> "ScoreInput | str":
        """The model's input, or the reason why the trace is not read."""
        from cotpress.modeling.logprobs import ScoreInput

        ids, _ = self._reader.tokens(trace)
        conditions = {self._condition, *self._beside}
        reason = missing_text(conditions, trace) if len(ids) else NO_TOKENS
        if reason is not None:
            return reason
        contexts = {condition: self._reader.context_ids(condition, trace) for condition in conditions}
        own, longest = contexts[self._condition], max(map(len, contexts.values()))
        room = self._reader.context_tokens - longest
        if self._beside and (room >= len(ids) or longest == len(own)):
            return SAME_WINDOWS
        if 2 * longest > self._reader.context_tokens and room < len(ids):
            return CONDITION_TOO_LONG
        return ScoreInput(context_ids=own, target_ids=ids, window_tokens=None if room >= len(ids) else room)


class ModelScorer(TokenScorer[R]):
    """A scorer that runs a causal language model, in eval mode, over each text as a whole; refuses longer texts."""

    passes: ClassVar[int | None] = 1
    reads_response: bool = False
    """True if the model also reads the text after the thinking."""

    def __init__(self, config: R, reader: Reader, model: "torch.nn.Module") -> None:
        super().__init__(config, reader.tokenizer)
        self._reader, self._condition, self._model = reader, config.condition, model

    @classmethod
    def build(cls, config: R, models: "Models") -> Self:
        """See `TokenScorer`."""
        return cls._built(config, models, models.trainer.tokens_per_batch)

    @classmethod
    def _built(cls, config: R, models: "Models", tokens_per_batch: int) -> Self:
        """Make the scorer with this bound of its forward passes."""
        model = models.model(config.read_by)
        if cls.edits_cache:
            check_cache(config.name, model)
        return cls(config, models.reader(config.template, tokens_per_batch), model)

    def tokens(self, trace: Trace) -> Tokens:
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

    def whole(self, trace: Trace) -> tuple[list[int], range, range]:
        """Token ids of all that the model reads of `trace`, and the positions of the thinking and of the text after the
        closing, which is empty if it is not read."""
        from cotpress.modeling.loading import check_ids

        context, after = self._reader.context_ids(self._condition, trace), self.after_ids(trace)
        ids = [*context, *self.tokens(trace)[0].tolist(), *after]
        check_ids(self._model, ids, f"{self.name}: trace '{trace.id}'")
        end = len(ids) - len(after)
        closed = end + min(len(self._reader.closing_ids()), len(after))
        return ids, range(len(context), end), range(closed, len(ids))

    def refusal(self, trace: Trace) -> str | None:
        """Refuse traces that lack a text that the scorer needs, or do not fit the model's context."""
        if (reason := super().refusal(trace) or missing_text([self._condition], trace)) is not None:
            return reason
        if self.reads_response and not self.following(trace).strip():
            return NOTHING_FOLLOWS
        return TOO_LONG if len(self.whole(trace)[0]) > self._reader.context_tokens else None
