"""Scored traces to compressed traces: loads no model, only the student's tokenizer."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cotpress.artifacts import Artifact, ArtifactStore, Summary
from cotpress.compression.config import CompressionConfig, Protection, Selection, check_llmlingua_compat
from cotpress.compression.protection import protected_tokens
from cotpress.compression.selection import num_to_keep, select_many
from cotpress.errors import ArtifactError, ConfigError, DataError
from cotpress.modeling.alignment import kept_text, project_scores, tokenize_with_offsets
from cotpress.progress import Progress
from cotpress.records import CompressedTrace, ScoredTrace, Trace
from cotpress.tables import read_records, write_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STAGE = "compress"
COMPRESSED_FILE = "compressed.parquet"
TRACES_FILE = "traces.parquet"
SCORES_FILE = "scores.parquet"
TRACES_AT_ONCE = 512
"""Traces whose tokens are selected in one go; bounds memory, changes no result."""
DECIDED_TO_KEEP = 0.5
"""A token stays if at least this share of its characters was decided to stay; other shares than 0 and 1 come up only
where the student has a tokenizer of its own."""


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
    """The training traces cut to a ratio, as an artifact with `compressed.parquet` (`CompressedTrace`).

    Args:
        config: How to select. With `selection=llmlingua_compat` the scores are decisions, 1 or 0, that were made for
            this ratio; what they keep is kept, however much it is.
        ratio: Kept fraction for every trace, in (0, 1]; not looked at with mixed ratios.
        seed: Which ratio each trace draws; only looked at with mixed ratios.
        traces: Data artifact; its validation rows are left out.
        scores: Score artifact. None keeps everything (the system Original); so does a single ratio of 1, which
            therefore is the same artifact whatever the scorer.
        tokenizer: The student's tokenizer, in whose tokens the ratio is counted.
        tokenizer_key: Fingerprint of `tokenizer`. Scores made with another tokenizer are projected through characters.
        store: Where artifacts lie.

    Raises:
        ConfigError: A ratio below 1 without scores, or settings that do not go together.
        DataError: No trace is left.
        ArtifactError: The scores belong to other texts or tokens than they say.
    """
    if scores is None and ratio < 1 and not config.mixed_ratios:
        raise ConfigError(
            f"ratio: got {ratio:g} but no scores; without a scorer only 1.0 (keep everything) is possible"
        )
    if config.selection is Selection.llmlingua_compat:
        check_llmlingua_compat(config)
    if scores is None or (ratio >= 1 and not config.mixed_ratios):
        scores, plan = None, _Plan(ratios=(1.0,), mixed=False, protection=Protection.none, seed=0)
    elif config.mixed_ratios:
        plan = _Plan(ratios=tuple(sorted(config.mixed_ratios)), mixed=True, protection=config.protection, seed=seed)
    else:
        plan = _Plan(ratios=(ratio,), mixed=False, protection=config.protection, seed=0, selection=config.selection)
    identity = {
        "traces": traces.key,
        "scores": None if scores is None else scores.key,
        "tokenizer": tokenizer_key,
        "plan": plan,
    }
    source = _Source(traces=traces, scores=scores, tokenizer=tokenizer, tokenizer_key=tokenizer_key)
    return store.build(STAGE, identity, lambda folder: _produce(source, plan, folder))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What determines the selection, given tokens and scores."""

    ratios: tuple[float, ...]
    mixed: bool
    protection: Protection
    seed: int
    selection: Selection = Selection.exact

    def draw(self, trace_id: str) -> float:
        """The ratio of one trace: uniform over `ratios`, and the same whatever other traces there are."""
        digest = hashlib.sha256(f"{self.seed}:{trace_id}".encode()).digest()
        return self.ratios[int.from_bytes(digest[:8]) % len(self.ratios)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    traces: Artifact
    scores: Artifact | None
    tokenizer: "PreTrainedTokenizerBase"
    tokenizer_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokens:
    """A trace in the student's tokens: ids int32 `[n]`, offsets int32 `[n, 2]`, scores float32 `[n]`."""

    trace: Trace
    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    scores: NDArray[np.float32]


def _produce(source: _Source, plan: _Plan, folder: Path) -> Summary:
    train = [t for t in read_records(source.traces.file(TRACES_FILE), Trace) if t.split == "train"]
    dropped: Counter[str] = Counter()
    rows: list[CompressedTrace] = []
    with Progress("compress", len(train), "traces") as progress:
        tokens = _tokens(source, train, dropped, progress)
        while chunk := list(itertools.islice(tokens, TRACES_AT_ONCE)):
            rows.extend(_cut(plan, chunk))
    if not rows:
        reasons = ", ".join(f"{n} {why}" for why, n in dropped.items()) or "the data has no training rows"
        raise DataError(f"compress: no trace is left of {len(train)} ({reasons}). Fix: check data and scorer settings")
    write_records(folder / COMPRESSED_FILE, rows, CompressedTrace)
    return Summary(num_rows=len(rows), dropped=dropped, facts=_facts(rows))


def _tokens(source: _Source, traces: Iterable[Trace], dropped: Counter[str], progress: Progress) -> Iterator[_Tokens]:
    scored: dict[str, ScoredTrace] | None = None
    if source.scores is not None:
        scored = {row.id: row for row in read_records(source.scores.file(SCORES_FILE), ScoredTrace)}
    for trace in traces:
        progress.advance(1)
        ids, offsets = tokenize_with_offsets(source.tokenizer, trace.thinking)
        if len(ids) == 0:
            dropped["no tokens"] += 1
        elif scored is None:
            yield _Tokens(trace=trace, ids=ids, offsets=offsets, scores=np.zeros(len(ids), dtype=np.float32))
        elif trace.id not in scored or len(scored[trace.id].scores) == 0:
            dropped["no score"] += 1
        else:
            scores = _student_scores(scored[trace.id], trace, ids, offsets, source.tokenizer_key)
            yield _Tokens(trace=trace, ids=ids, offsets=offsets, scores=scores)


def _student_scores(
    scored: ScoredTrace, trace: Trace, ids: NDArray[np.int32], offsets: NDArray[np.int32], tokenizer_key: str
) -> NDArray[np.float32]:
    if not np.isfinite(scored.scores).all() or scored.offsets.max() > len(trace.thinking):
        raise ArtifactError(
            f"scores of trace '{trace.id}' do not fit its text: they are not finite or reach past its end. "
            "Fix: remove that score artifact, it is computed again"
        )
    if scored.tokenizer != tokenizer_key:
        return project_scores(scored.offsets, scored.scores, offsets, len(trace.thinking))
    if not np.array_equal(scored.token_ids, ids):
        raise ArtifactError(
            f"scores of trace '{trace.id}' name the student's tokenizer but hold other tokens "
            f"({len(scored.token_ids)}, expected {len(ids)}). Fix: remove that score artifact, it is computed again"
        )
    return scored.scores


def _cut(plan: _Plan, chunk: Sequence[_Tokens]) -> Iterator[CompressedTrace]:
    if plan.selection is Selection.llmlingua_compat:
        for tokens in chunk:
            row = _row(tokens, plan.ratios[0], tokens.scores >= DECIDED_TO_KEEP, marker_ratio=None)
            yield replace(row, protection_exceeded=False)  # more than the ratio allows, but not by protection
        return
    ratios = np.array([plan.draw(t.trace.id) for t in chunk], dtype=np.float64)
    lengths = np.array([len(t.ids) for t in chunk], dtype=np.int64)
    held = [protected_tokens(plan.protection, t.trace.thinking, t.offsets) for t in chunk]
    mask = select_many(np.concatenate([t.scores for t in chunk]), lengths, ratios, np.concatenate(held))
    masks = np.split(mask, np.cumsum(lengths)[:-1])
    for tokens, ratio, keep in zip(chunk, ratios.tolist(), masks, strict=True):
        yield _row(tokens, ratio, keep, marker_ratio=ratio if plan.mixed else None)


def _row(tokens: _Tokens, ratio: float, keep: NDArray[np.bool_], marker_ratio: float | None) -> CompressedTrace:
    trace, num_tokens, num_kept = tokens.trace, len(keep), int(keep.sum())
    return CompressedTrace(
        id=trace.id,
        question=trace.question,
        compressed_thinking=kept_text(trace.thinking, tokens.offsets, keep),
        response=trace.response,
        answer=trace.answer,
        split=trace.split,
        token_ids=tokens.ids[keep],
        keep_mask=keep,
        num_tokens=num_tokens,
        num_kept_tokens=num_kept,
        target_ratio=ratio,
        actual_ratio=num_kept / num_tokens,
        marker_ratio=marker_ratio,
        protection_exceeded=num_kept > num_to_keep(num_tokens, ratio),
    )


def _facts(rows: Sequence[CompressedTrace]) -> dict[str, Any]:
    num_tokens, num_kept = sum(r.num_tokens for r in rows), sum(r.num_kept_tokens for r in rows)
    return {
        "num_tokens": num_tokens,
        "num_kept_tokens": num_kept,
        "actual_ratio": num_kept / num_tokens,
        "num_exceeded": sum(r.protection_exceeded for r in rows),
    }
