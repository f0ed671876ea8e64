"""The read stage: log-probability, entropy and rank of every thinking token of a trace, under one condition.

A reading depends on model, condition and template, not on a ratio or scorer, so all scorers that are formulas over
readings share them. A refused trace has a row without tokens, with the reason.

Thinking over the model's context is read in overlapping windows, each behind the whole condition. A scorer that
compares two conditions needs the same windows under both: a token then has the same thinking before it in both
readings. The text is read again under the condition of the shorter context, in the windows of the other (`beside`).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cotpress.modeling.loading import tokenizer_fingerprint
from cotpress.modeling.logprobs import ScoreInput, token_readings
from cotpress.records import ReadTrace, Trace
from cotpress.scoring.base import NO_TOKENS
from cotpress.scoring.config import Condition
from cotpress.scoring.reader import CONDITION_TOO_LONG, NO_QUESTION, NO_RESPONSE, Reader, missing_text

if TYPE_CHECKING:
    import torch

SAME_WINDOWS = "read alike without the other conditions"
"""Reason for a row without tokens in a reading with `beside`: the one without it serves as well."""

REASONS = (NO_TOKENS, NO_QUESTION, NO_RESPONSE, CONDITION_TOO_LONG)
"""Reasons of refused traces; of several readings the first one here counts."""


_PLANS_AT_HAND = 1024
"""Traces whose plan is remembered: it is needed several times within a chunk."""


class _Plan(NamedTuple):
    """Plan of one trace: reason to refuse it, its context, thinking tokens per window (None: all at once)."""

    refusal: str | None
    context_ids: list[int]
    window_tokens: int | None


class ConditionReading:
    """Reads traces under one condition.

    Args:
        name: Model and condition, for the log.
        reader: Turns traces into input.
        model: Loads the model, in eval mode; called when there is something to read.
        condition: Text before the thinking.
        beside: All conditions that are compared, whose windows are used; empty: `condition` alone.
    """

    def __init__(
        self,
        name: str,
        reader: Reader,
        model: "Callable[[], torch.nn.Module]",
        condition: Condition,
        beside: Sequence[Condition] = (),
    ) -> None:
        self.name, self._reader, self._model = name, reader, model
        self._condition, self._beside = condition, beside
        self._fingerprint = tokenizer_fingerprint(reader.tokenizer)
        self._planned = lru_cache(_PLANS_AT_HAND)(self._plan)

    def num_tokens(self, trace: Trace) -> int:
        """Count the tokens of `trace` that are read; 0 if it is refused."""
        return len(self._reader.thinking_ids(trace)) if self._planned(trace).refusal is None else 0

    def refusal(self, trace: Trace) -> str | None:
        """Give None: a refused trace has a row as well."""
        return None

    def in_windows(self, trace: Trace) -> bool:
        """True if `trace` is longer than the context and read all the same."""
        plan = self._planned(trace)
        return plan.refusal is None and plan.window_tokens is not None

    def score(self, traces: Sequence[Trace]) -> Iterator[ReadTrace]:
        """Yield one row per trace, in order, as they are finished."""
        read = [trace for trace in traces if self._planned(trace).refusal is None]
        values = token_readings(self._model(), self._inputs(read), self._reader.tokens_per_batch) if read else iter(())
        for trace in traces:
            plan = self._planned(trace)
            if plan.refusal is None:
                (ids, offsets), reading = self._reader.tokens(trace), next(values)
            else:
                ids, offsets = np.empty(0, dtype=np.int32), np.empty((0, 2), dtype=np.int32)
                reading = np.empty((0, 3), dtype=np.float32)
            yield ReadTrace(
                id=trace.id,
                token_ids=ids,
                offsets=offsets,
                logprob=np.ascontiguousarray(reading[:, 0]),
                entropy=np.ascontiguousarray(reading[:, 1]),
                rank=reading[:, 2].astype(np.int32),
                in_windows=self.in_windows(trace),
                refusal=plan.refusal or "",
                tokenizer=self._fingerprint,
            )

    def _inputs(self, traces: Sequence[Trace]) -> Iterator[ScoreInput]:
        for trace in traces:
            plan = self._planned(trace)
            targets = self._reader.thinking_ids(trace)
            yield ScoreInput(context_ids=plan.context_ids, target_ids=targets, window_tokens=plan.window_tokens)

    def _plan(self, trace: Trace) -> _Plan:
        num_tokens = len(self._reader.thinking_ids(trace))
        conditions = {self._condition, *self._beside}
        reason = missing_text(conditions, trace) if num_tokens else NO_TOKENS
        if reason is not None:
            return _Plan(reason, [], None)
        contexts = {condition: self._reader.context_ids(condition, trace) for condition in conditions}
        own, longest = contexts[self._condition], max(map(len, contexts.values()))
        room = self._reader.context_tokens - longest
        if self._beside and (room >= num_tokens or longest == len(own)):
            return _Plan(SAME_WINDOWS, [], None)
        if room >= num_tokens:
            return _Plan(None, own, None)
        return _Plan(CONDITION_TOO_LONG if 2 * longest > self._reader.context_tokens else None, own, room)
