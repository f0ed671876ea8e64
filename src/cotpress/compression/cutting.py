"""Rows of compressed traces: a trace, its scores and the settings in, one `CompressedTrace` out; touches no file.

The compress stage (stage.py) makes its artifacts of these rows, the Python API (`cotpress.api`) returns them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from cotpress.answers import Extractor
from cotpress.compression.allocation import SurveyedTrace, survey
from cotpress.compression.config import (
    Allocation,
    CompressionConfig,
    Mode,
    Selection,
    Statement,
    TrainedTokens,
)
from cotpress.compression.first_solution import first_solution
from cotpress.compression.ranking import Rules, TokenizedTrace, rank_traces, student_scores, student_tokens
from cotpress.errors import ConfigError
from cotpress.modeling.alignment import decoded_text, pool, retokenized
from cotpress.modeling.segments import character_groups, unit_ids
from cotpress.modeling.selection import RankedTrace, draw_ratio, num_to_keep, rank_weights
from cotpress.records import CompressedTrace, RewrittenTrace, ScoredTrace, Trace, Unit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_SCORE = "no score"  # reason for a trace that the score stage neither scored nor refused
NO_TOKENS = "no tokens"  # reason for a trace whose thinking has no token of the student
DECIDED_TO_KEEP = 0.5
"""The tokens of a character, mostly one, stay if at least this share of them was decided to stay. Shares other than 0
and 1 occur in characters of several tokens, and if the student has another tokenizer than LLMLingua's model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Settings of the selection; part of the artifact's identity."""

    ratios: tuple[float, ...]
    mixed: bool
    rules: Rules
    seed: int
    selection: Selection = Selection.exact

    def draw(self, trace_id: str) -> float:
        """Draw the ratio of one trace."""
        return draw_ratio(self.ratios, self.seed, trace_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The thinking stays whole, and its tokens have weights of the loss, `soft` ones or 1 and 0."""

    soft: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SolutionFinder:
    """The thinking ends with the step that `first_solution` finds."""

    extractor: Extractor
    statement: Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutter:
    """Everything that determines the row of a trace besides the trace and its scores.

    Attributes:
        plan: Ratios and rules of the selection.
        allocation: Division of the kept tokens among the traces.
        tokens: Tokens of a shortened thinking that a student is trained on.
        is_scored: True if scores, or decisions in their place, select the tokens.
        tokenizer: The student's.
        tokenizer_key: Its fingerprint.
        loss: Weights of the loss; None where tokens are deleted.
        found_by: The finder of the step that a thinking ends with; None where a ratio decides.
    """

    plan: Plan
    allocation: Allocation
    tokens: TrainedTokens
    is_scored: bool
    tokenizer: "PreTrainedTokenizerBase"
    tokenizer_key: str
    loss: Loss | None = None
    found_by: SolutionFinder | None = None

    @classmethod
    def of(
        cls,
        config: CompressionConfig,
        *,
        ratio: float,
        seed: int,
        is_scored: bool,
        tokenizer: "PreTrainedTokenizerBase",
        tokenizer_key: str,
        extractor: Extractor = Extractor.math,
    ) -> Self:
        """Return the cutter of a configuration; without scores, and at a single ratio of 1, it keeps everything.

        Raises:
            ConfigError: A ratio below 1 without scores.
        """
        found_by = None
        if config.mode is Mode.first_solution:
            is_scored, ratio = False, 1.0
            found_by = SolutionFinder(extractor=extractor, statement=config.statement)
        if not is_scored and ratio < 1 and not config.mixed_ratios:
            raise ConfigError(
                f"ratio: got {ratio:g} but no scores; without a scorer only 1.0 (keep everything) is possible"
            )
        keeps_all = not is_scored or (ratio >= 1 and not config.mixed_ratios)
        loss = config.mode is Mode.mask_loss and not keeps_all
        tokens, allocation = config.tokens, config.allocation
        if loss or (keeps_all and found_by is None):
            tokens = TrainedTokens.splice  # nothing is cut
        if keeps_all or ratio <= 0:
            allocation = Allocation.fixed  # all traces keep all of their tokens, or none
        if keeps_all:
            plan = Plan(ratios=(1.0,), mixed=False, rules=Rules(), seed=0)
        elif config.mixed_ratios:
            ratios = tuple(sorted(config.mixed_ratios))
            plan = Plan(ratios=ratios, mixed=True, rules=Rules.of(config), seed=seed, selection=config.selection)
        else:
            plan = Plan(ratios=(ratio,), mixed=False, rules=Rules.of(config), seed=0, selection=config.selection)
        return cls(
            plan=plan, allocation=allocation, tokens=tokens, is_scored=not keeps_all, tokenizer=tokenizer,
            tokenizer_key=tokenizer_key, loss=Loss(soft=config.soft_weights) if loss else None, found_by=found_by,
        )  # fmt: skip

    def tokenized(self, trace: Trace, row: ScoredTrace | None, *, anew: bool) -> TokenizedTrace | str:
        """Return a trace in the student's tokens with its scores, or the reason to drop it.

        With `anew` tokens that the scores hold are compared with those of the text (`student_tokens`).

        Raises:
            ArtifactError: The scores belong to another text or to other tokens than they say.
        """
        if self.is_scored and (row is None or len(row.scores) == 0):
            return NO_SCORE
        ids, offsets = student_tokens(self.tokenizer, self.tokenizer_key, trace, row, anew=anew)
        if len(ids) == 0:
            return NO_TOKENS
        if row is None:
            scores = np.zeros(len(ids), dtype=np.float32)
        else:
            scores = student_scores(self.plan.rules.alignment, row, trace, ids, offsets, self.tokenizer_key)
        rewritten = row if isinstance(row, RewrittenTrace) else None
        return TokenizedTrace(trace=trace, ids=ids, offsets=offsets, scores=scores, rewritten=rewritten)

    def survey(self, tokens: Sequence[TokenizedTrace]) -> list[SurveyedTrace]:
        """Return the scores that the numbers of kept tokens are allocated by."""
        return survey(self.plan.rules, tokens)

    def rows(self, tokens: Sequence[TokenizedTrace], shares: NDArray[np.int64] | None = None) -> list[CompressedTrace]:
        """Compress traces, at least one; one row per trace, with the tokens that a student is trained on.

        `shares`, int64 `[traces]`, are their numbers of kept tokens; None follows the ratio.
        """
        if self.found_by is not None:
            rows = [_ended(self.tokenizer, self.found_by, t) for t in tokens]
        elif self.loss is not None:
            rows = _weighted(self.tokenizer, self.plan, self.loss, tokens, shares)
        else:
            rows = _cut(self.tokenizer, self.plan, tokens, shares)
        return [self._with_tokens(row) for row in rows]

    def _with_tokens(self, row: CompressedTrace) -> CompressedTrace:
        """Return a row with the tokens that a student is trained on, and the text that they stand for."""
        if self.tokens is TrainedTokens.splice:
            return row
        text, ids = retokenized(self.tokenizer, row.compressed_thinking)
        return replace(row, compressed_thinking=text, token_ids=ids)

    @property
    def has_order(self) -> bool:
        """True if an order of deletion gives the cut of a trace at every ratio."""
        return self.is_scored and self.plan.selection is Selection.exact and self.loss is None

    def orders(self, tokens: Sequence[TokenizedTrace]) -> list[RankedTrace]:
        """Return the order of deletion of each trace, if there is one (`has_order`)."""
        if not tokens:
            return []
        ranking = rank_traces(self.plan.rules, tokens)
        bounds = np.cumsum(ranking.lengths)[:-1]
        places = np.split(ranking.places.astype(np.int32), bounds)
        return [
            RankedTrace(id=t.trace.id, offsets=t.offsets, scores=t.scores, places=own, num_held=int(held.sum()))
            for t, own, held in zip(tokens, places, np.split(ranking.held, bounds), strict=True)
        ]


def _cut(
    tokenizer: "PreTrainedTokenizerBase",
    plan: Plan,
    chunk: Sequence[TokenizedTrace],
    shares: NDArray[np.int64] | None = None,
) -> list[CompressedTrace]:
    """Cut traces to their ratios, or to `shares`, numbers of tokens; one row per trace."""
    match plan.selection:
        case Selection.llmlingua_compat:
            decided = [pool(t.scores, character_groups(t.offsets)) for t in chunk]
            return [
                _row(tokenizer, t, plan.ratios[0], kept >= DECIDED_TO_KEEP)
                for t, kept in zip(chunk, decided, strict=True)
            ]
        case Selection.llmlingua2_compat:
            rows = [_rewritten_row(tokenizer, t) for t in chunk]
            return [replace(row, marker_ratio=row.target_ratio if plan.mixed else None) for row in rows]
        case Selection.exact:
            return _cut_exactly(tokenizer, plan, chunk, shares)


def _cut_exactly(
    tokenizer: "PreTrainedTokenizerBase",
    plan: Plan,
    chunk: Sequence[TokenizedTrace],
    shares: NDArray[np.int64] | None,
) -> list[CompressedTrace]:
    ranking = rank_traces(plan.rules, chunk)
    ratios = np.array([plan.draw(t.trace.id) for t in chunk], dtype=np.float64)
    kept = ranking.cut(ratios) if shares is None else ranking.cut_to(shares)
    bounds = np.cumsum(ranking.lengths)[:-1]
    rows = []
    for t, ratio, keep, held in zip(
        chunk, ratios.tolist(), np.split(kept, bounds), np.split(ranking.held, bounds), strict=True
    ):
        exceeded = int(held.sum()) > num_to_keep(len(t.ids), ratio)
        row = _row(tokenizer, t, ratio, keep)
        rows.append(replace(row, marker_ratio=ratio if plan.mixed else None, protection_exceeded=exceeded))
    return rows


def _weighted(
    tokenizer: "PreTrainedTokenizerBase",
    plan: Plan,
    loss: Loss,
    chunk: Sequence[TokenizedTrace],
    shares: NDArray[np.int64] | None,
) -> list[CompressedTrace]:
    """Return the whole traces with weights of the loss, whose mean is the ratio or that of the shares."""
    if loss.soft:
        ranking = rank_traces(plan.rules, chunk)
        bounds = np.cumsum(ranking.lengths)[:-1]
        soft = [np.split(values, bounds) for values in (ranking.places, ranking.held)]
        means = [plan.ratios[0]] * len(chunk) if shares is None else (shares / ranking.lengths).tolist()
        weights = [rank_weights(places, held, mean) for places, held, mean in zip(*soft, means, strict=True)]
        exceeded = [int(held.sum()) > num_to_keep(len(held), mean) for held, mean in zip(soft[1], means, strict=True)]
    else:
        cut = _cut(tokenizer, plan, chunk, shares)
        weights = [row.keep_mask.astype(np.float32) for row in cut]
        exceeded = [row.protection_exceeded for row in cut]
    rows = []
    for t, w, e in zip(chunk, weights, exceeded, strict=True):
        row = _row(tokenizer, t, plan.ratios[0], np.ones(len(t.ids), dtype=np.bool_))
        rows.append(replace(row, loss_weights=w, protection_exceeded=e))
    return rows


def _ended(tokenizer: "PreTrainedTokenizerBase", found_by: SolutionFinder, tokens: TokenizedTrace) -> CompressedTrace:
    """Return the row of a trace that ends with its first right solution; whole without one.

    A token belongs to a step as in `unit_ids`, so that the white space after a full stop may end the thinking with it.
    """
    trace, keep = tokens.trace, np.ones(len(tokens.ids), dtype=np.bool_)
    step = first_solution(trace.thinking, trace.answer, extractor=found_by.extractor, statement=found_by.statement)
    if step is not None:
        keep = unit_ids(Unit.step, trace.thinking, tokens.offsets) <= step
    return replace(_row(tokenizer, tokens, 1.0, keep), solution_found=step is not None)


def _row(
    tokenizer: "PreTrainedTokenizerBase", tokens: TokenizedTrace, ratio: float, keep: NDArray[np.bool_]
) -> CompressedTrace:
    trace, num_tokens, num_kept = tokens.trace, len(keep), int(keep.sum())
    return CompressedTrace(
        id=trace.id,
        question=trace.question,
        compressed_thinking=decoded_text(tokenizer, trace.thinking, tokens.ids, tokens.offsets, keep),
        response=trace.response,
        answer=trace.answer,
        split=trace.split,
        token_ids=tokens.ids[keep],
        keep_mask=keep,
        num_tokens=num_tokens,
        num_kept_tokens=num_kept,
        target_ratio=ratio,
        actual_ratio=num_kept / num_tokens,
    )


def _rewritten_row(tokenizer: "PreTrainedTokenizerBase", tokens: TokenizedTrace) -> CompressedTrace:
    """Return the row of a text that was rewritten; the student learns from the tokens of that text."""
    rewritten = tokens.rewritten
    assert rewritten is not None
    if rewritten.ratio >= 1:
        return _row(tokenizer, tokens, rewritten.ratio, np.ones(len(tokens.ids), dtype=np.bool_))
    text, ids = retokenized(tokenizer, rewritten.text)
    row = _row(tokenizer, tokens, rewritten.ratio, _surviving(tokens, rewritten))
    return replace(
        row,
        compressed_thinking=text,
        token_ids=ids,
        num_kept_tokens=len(ids),
        actual_ratio=len(ids) / row.num_tokens,
    )


def _surviving(tokens: TokenizedTrace, rewritten: RewrittenTrace) -> NDArray[np.bool_]:
    """Mark the student's tokens that are still in a rewritten text, bool `[n]`.

    A token is marked if at least `DECIDED_TO_KEEP` of its characters were decided to stay. White space that nothing was
    decided about does not count; a token of nothing else goes with the next one, or is lost if it holds a line break.
    """
    text = tokens.trace.thinking
    counted, stays = np.array([not c.isspace() for c in text]), np.zeros(len(text), dtype=np.bool_)
    for (start, end), score in zip(rewritten.offsets.tolist(), rewritten.scores.tolist(), strict=True):
        counted[start:end] = True
        stays[start:end] = score >= DECIDED_TO_KEEP
    keep, following = np.zeros(len(tokens.ids), dtype=np.bool_), False
    for i, (start, end) in reversed([*enumerate(tokens.offsets.tolist())]):
        num_counted = counted[start:end].sum()
        if num_counted:
            following = bool(stays[start:end].sum() >= DECIDED_TO_KEEP * num_counted)
        keep[i] = following and (num_counted > 0 or "\n" not in text[start:end])
    return keep
