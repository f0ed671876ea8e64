"""Compression of scored traces, and a table of their tokens; loads the student's tokenizer and no model."""

import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cotpress.compression.config import Alignment, CompressionConfig, Selection
from cotpress.compression.ranking import Rules, TokenizedTrace, rank_traces, student_scores
from cotpress.errors import ConfigError, DataError
from cotpress.modeling.alignment import decoded_text, pool, tokenize_with_offsets
from cotpress.modeling.loading import tokenizer_fingerprint
from cotpress.modeling.segments import character_groups
from cotpress.modeling.selection import RankedTrace, draw_ratio, num_to_keep
from cotpress.progress import Progress
from cotpress.records import (
    COMPRESSED_FILE,
    RANKING_FILE,
    REWRITTEN_FILE,
    SCORES_FILE,
    TRACES_FILE,
    CompressedTrace,
    RewrittenTrace,
    ScoredTrace,
    Trace,
)
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.source import identified
from cotpress.store.tables import read_records, training_traces, write_records
from cotpress.tracking import Table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

STAGE = "compress"
BY_MARKER = "actual_ratio_by_marker"  # fact of mixed ratios: the reached ratio by the drawn one, as Python writes it
NO_SCORE = "no score"  # reason for a trace that the score stage neither scored nor refused
USUAL_SHARE = 0.95  # share of the training traces below which the log contains a warning
TRACES_AT_ONCE = 512  # traces per batch; limits memory without changing results
TRACES_RANKED = 1000  # number of first traces whose order of deletion is stored for reports
DECIDED_TO_KEEP = 0.5
"""The tokens of a character, mostly one, stay if at least this share of them was decided to stay. Shares other than 0
and 1 occur in characters of several tokens, and if the student has another tokenizer than LLMLingua's model."""


def compress(
    config: CompressionConfig,
    *,
    ratio: float,
    seed: int,
    traces: Artifact,
    scores: Artifact | None,
    tokenizer: "PreTrainedTokenizerBase",
    tokenizer_key: str,
    store: ArtifactStore,
) -> Artifact:
    """Cut the training traces to a ratio: an artifact with `compressed.parquet` (`CompressedTrace`).

    Where scores decide, `ranking.parquet` (`RankedTrace`) holds the order of deletion of the first `TRACES_RANKED`
    traces, and so their compression at every ratio.

    The ratio is counted in the student's tokens; mixed ratios, of which each trace draws one by `seed`, take its place.
    No scores keep everything (the system Original); so does a single ratio of 1, which is therefore the same artifact
    for every scorer. With `selection=llmlingua_compat` the scores are decisions, 1 or 0, made for this ratio, and
    exactly their tokens are kept. With `llmlingua2_compat` they hold texts, made for the ratio that each trace draws.
    Validation rows of the data are left out.

    Raises:
        ConfigError: A ratio below 1 without scores, or settings that do not go together.
        DataError: No trace is left.
        ArtifactError: The scores belong to other texts or tokens than they say.
    """
    if scores is None and ratio < 1 and not config.mixed_ratios:
        raise ConfigError(
            f"ratio: got {ratio:g} but no scores; without a scorer only 1.0 (keep everything) is possible"
        )
    if scores is None or (ratio >= 1 and not config.mixed_ratios):
        scores, plan = None, _Plan(ratios=(1.0,), mixed=False, rules=Rules(), seed=0)
    elif config.mixed_ratios:
        ratios = tuple(sorted(config.mixed_ratios))
        plan = _Plan(ratios=ratios, mixed=True, rules=Rules.of(config), seed=seed, selection=config.selection)
    else:
        plan = _Plan(ratios=(ratio,), mixed=False, rules=Rules.of(config), seed=0, selection=config.selection)
    identity = {
        "traces": traces.key,
        "scores": None if scores is None else scores.key,
        "tokenizer": tokenizer_key,
        "plan": plan,
    }
    source = _Source(traces=traces, scores=scores, tokenizer=tokenizer, tokenizer_key=tokenizer_key)
    artifact = store.build(STAGE, identified(identity, compress), lambda folder: _produce(source, plan, folder))
    num_rows, dropped = artifact.manifest["num_rows"], artifact.manifest["dropped"]
    num_traces = num_rows + sum(dropped.values())
    if num_rows < USUAL_SHARE * num_traces:  # students are compared as if trained on the same traces
        reasons = ", ".join(f"{n} {reason}" for reason, n in dropped.items())
        log.warning(
            "compress: only %d of %d training traces are left (%s); a student of all of them learns from other data",
            num_rows, num_traces, reasons,
        )  # fmt: skip
    return artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
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
class _Source:
    traces: Artifact
    scores: Artifact | None
    tokenizer: "PreTrainedTokenizerBase"
    tokenizer_key: str


def _produce(source: _Source, plan: _Plan, folder: Path) -> Summary:
    train = training_traces(source.traces.file(TRACES_FILE))
    dropped: Counter[str] = Counter()
    rows: list[CompressedTrace] = []
    ranked: list[RankedTrace] = []
    with Progress("compress", len(train), "traces") as progress:
        tokens = _tokens(source, plan.rules, train, dropped, progress)
        while chunk := list(itertools.islice(tokens, TRACES_AT_ONCE)):
            rows += _cut(source.tokenizer, plan, chunk)
            ranked += _orders(plan, chunk[: TRACES_RANKED - len(ranked)])
    dropped = _with_reasons(dropped, source.scores)
    if not rows:
        reasons = ", ".join(f"{n} {reason}" for reason, n in dropped.items()) or "the data has no training rows"
        raise DataError(f"compress: no trace is left of {len(train)} ({reasons}). Fix: check data and scorer settings")
    write_records(folder / COMPRESSED_FILE, rows, CompressedTrace)
    if ranked and source.scores is not None:
        write_records(folder / RANKING_FILE, ranked, RankedTrace)
    return Summary(num_rows=len(rows), dropped=dropped, facts=_facts(rows))


def _tokens(
    source: _Source, rules: Rules, traces: Iterable[Trace], dropped: Counter[str], progress: Progress
) -> Iterator[TokenizedTrace]:
    scored: dict[str, ScoredTrace] | None = None
    if source.scores is not None:
        scored = {row.id: row for row in _scores(source.scores)}
    for trace in traces:
        progress.advance(1)
        ids, offsets = tokenize_with_offsets(source.tokenizer, trace.thinking)
        if scored is not None and (trace.id not in scored or len(scored[trace.id].scores) == 0):
            dropped[NO_SCORE] += 1
        elif len(ids) == 0:
            dropped["no tokens"] += 1
        elif scored is None:
            yield TokenizedTrace(trace=trace, ids=ids, offsets=offsets, scores=np.zeros(len(ids), dtype=np.float32))
        else:
            row = scored[trace.id]
            scores = student_scores(rules.alignment, row, trace, ids, offsets, source.tokenizer_key)
            rewritten = row if isinstance(row, RewrittenTrace) else None
            yield TokenizedTrace(trace=trace, ids=ids, offsets=offsets, scores=scores, rewritten=rewritten)


def _scores(artifact: Artifact) -> Sequence[ScoredTrace]:
    """Read the rows of the stage score or decide."""
    if REWRITTEN_FILE in artifact.manifest["files"]:
        return read_records(artifact.file(REWRITTEN_FILE), RewrittenTrace)
    return read_records(artifact.file(SCORES_FILE), ScoredTrace)


def _with_reasons(dropped: Counter[str], scores: Artifact | None) -> Counter[str]:
    """Return the counts with the reasons of the score stage for the traces without a score."""
    refused = Counter[str]() if scores is None else Counter[str](scores.manifest["dropped"])
    return dropped - Counter({NO_SCORE: refused.total()}) + refused


def _cut(tokenizer: "PreTrainedTokenizerBase", plan: _Plan, chunk: Sequence[TokenizedTrace]) -> list[CompressedTrace]:
    """Cut traces to their ratios; one row per trace."""
    match plan.selection:
        case Selection.llmlingua_compat:
            shares = [pool(t.scores, character_groups(t.offsets)) for t in chunk]
            return [
                _row(tokenizer, t, plan.ratios[0], share >= DECIDED_TO_KEEP)
                for t, share in zip(chunk, shares, strict=True)
            ]
        case Selection.llmlingua2_compat:
            rows = [_rewritten_row(tokenizer, t) for t in chunk]
            return [replace(row, marker_ratio=row.target_ratio if plan.mixed else None) for row in rows]
        case Selection.exact:
            return _cut_exactly(tokenizer, plan, chunk)


def _cut_exactly(
    tokenizer: "PreTrainedTokenizerBase", plan: _Plan, chunk: Sequence[TokenizedTrace]
) -> list[CompressedTrace]:
    ranking = rank_traces(plan.rules, chunk)
    ratios = np.array([plan.draw(t.trace.id) for t in chunk], dtype=np.float64)
    bounds = np.cumsum(ranking.lengths)[:-1]
    rows = []
    for t, ratio, keep, held in zip(
        chunk, ratios.tolist(), np.split(ranking.cut(ratios), bounds), np.split(ranking.held, bounds), strict=True
    ):
        exceeded = int(held.sum()) > num_to_keep(len(t.ids), ratio)
        row = _row(tokenizer, t, ratio, keep)
        rows.append(replace(row, marker_ratio=ratio if plan.mixed else None, protection_exceeded=exceeded))
    return rows


def _orders(plan: _Plan, chunk: Sequence[TokenizedTrace]) -> list[RankedTrace]:
    """Order of deletion of each trace; none if the selection has no order."""
    if plan.selection is not Selection.exact or not chunk:
        return []
    ranking = rank_traces(plan.rules, chunk)
    bounds = np.cumsum(ranking.lengths)[:-1]
    parts = zip(chunk, np.split(ranking.places.astype(np.int32), bounds), np.split(ranking.held, bounds), strict=True)
    return [
        RankedTrace(id=t.trace.id, offsets=t.offsets, scores=t.scores, places=places, num_held=int(held.sum()))
        for t, places, held in parts
    ]


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
    ids, offsets = tokenize_with_offsets(tokenizer, rewritten.text)
    row = _row(tokenizer, tokens, rewritten.ratio, _surviving(tokens, rewritten))
    text = decoded_text(tokenizer, rewritten.text, ids, offsets, np.ones(len(ids), dtype=np.bool_))
    kept = {"token_ids": ids, "num_kept_tokens": len(ids), "actual_ratio": len(ids) / row.num_tokens}
    return replace(row, compressed_thinking=text, **kept)


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


def _facts(rows: Sequence[CompressedTrace]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "num_tokens": sum(r.num_tokens for r in rows),
        "num_kept_tokens": sum(r.num_kept_tokens for r in rows),
        "actual_ratio": _kept_fraction(rows),
        "num_exceeded": sum(r.protection_exceeded for r in rows),
        "num_empty_responses": sum(not r.response.strip() for r in rows),
    }
    drawn = sorted({r.marker_ratio for r in rows if r.marker_ratio is not None})
    if drawn:
        facts[BY_MARKER] = {str(m): _kept_fraction([r for r in rows if r.marker_ratio == m]) for m in drawn}
    return facts


def _kept_fraction(rows: Sequence[CompressedTrace]) -> float:
    return sum(r.num_kept_tokens for r in rows) / sum(r.num_tokens for r in rows)


def reached_ratio(compressed: Artifact, marker_ratio: float | None) -> float | None:
    """Return the kept fraction of the thinking tokens of the traces whose marker states a ratio; None for all traces.

    None if no trace drew that ratio, or if an earlier release made the artifact.
    """
    if marker_ratio is None:
        return float(compressed.facts["actual_ratio"])
    reached = compressed.facts.get(BY_MARKER, {}).get(str(float(marker_ratio)))
    return None if reached is None else float(reached)


TOKEN_COLUMNS = ("trace_id", "position", "token", "score", "kept", "ratio")


def token_table(
    compressed: Artifact, traces: Artifact, scores: Artifact | None, tokenizer: "PreTrainedTokenizerBase", limit: int
) -> Table:
    """Return one row per thinking token of the first traces, `limit` rows at most, for a tracker."""
    texts = {t.id: t for t in read_records(traces.file(TRACES_FILE), Trace)}
    scored = {} if scores is None else {s.id: s for s in _scores(scores)}
    key = tokenizer_fingerprint(tokenizer)
    rows: list[tuple[str, int, str, float | None, bool, float]] = []
    for row in read_records(compressed.file(COMPRESSED_FILE), CompressedTrace):
        if len(rows) >= limit:
            break
        trace = texts[row.id]
        ids, offsets = tokenize_with_offsets(tokenizer, trace.thinking)
        if row.id in scored:
            values = student_scores(Alignment.own, scored[row.id], trace, ids, offsets, key).tolist()
        else:
            values = [None] * len(ids)
        for place, ((start, end), value, kept) in enumerate(zip(offsets.tolist(), values, row.keep_mask, strict=True)):
            rows.append((row.id, place, trace.thinking[start:end], value, bool(kept), row.target_ratio))
    return Table(columns=TOKEN_COLUMNS, rows=rows[:limit])
