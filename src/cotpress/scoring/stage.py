"""The score stage: one finite importance per thinking token of every training trace.

Traces stream: they are read in shards, scored, and written as a shard is finished, so memory does not grow with their
number, and an interrupted job goes on from its last shard.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cotpress.artifacts import SCRATCH, Artifact, ArtifactStore, Summary
from cotpress.errors import ArtifactError, DataError, MemoryLimitError, ModelError
from cotpress.memory import MEMORY_FIX, is_out_of_memory
from cotpress.modeling.logprobs import WINDOW_OVERLAP
from cotpress.modeling_config import ModelConfig
from cotpress.progress import Progress
from cotpress.records import ScoredTrace, Trace
from cotpress.scoring.base import NO_TOKENS, Scorer
from cotpress.scoring.config import ScorerConfig
from cotpress.scoring.plan import plan_scorer
from cotpress.tables import concatenate, read_records, stream_records, write_records
from cotpress.trainer_config import TrainerConfig

log = logging.getLogger(__name__)

TRACES_FILE = "traces.parquet"
SCORES_FILE = "scores.parquet"
TRAIN = "train"
SHARD_CHARACTERS = 200_000
"""Thinking characters per shard: what an interrupted job may have to score again (a minute or two on a CPU)."""
TEMPLATE_TOKENS = 256
"""More than a chat template adds around the texts of a trace."""


def score(
    config: ScorerConfig,
    *,
    traces: Artifact,
    distilled: Artifact | None,
    reference: Artifact | None,
    base: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
) -> Artifact:
    """The scores of the training traces; computed only if they are not there yet.

    Args:
        config: Which scorer, with its settings.
        traces: Output of the data stage.
        distilled: Output of the distill stage; needed by scorers that train on its labels.
        reference: Output of the reference stage; None scores with the base model itself.
        base: The model that the reference model was made from.
        trainer: Hardware; does not change the result.
        store: Where artifacts are kept.

    Raises:
        DataError: There is no training trace that can be scored.
        ModelError: A model cannot be loaded, or gives scores that are not finite.
        MemoryLimitError: A single text does not fit the memory.
    """
    plan = plan_scorer(config, distilled, reference, base, trainer, store)
    identity: dict[str, Any] = {"scorer": config, "traces": traces.key, **plan.identity}
    if plan.window_context is not None and _may_be_longer(traces, plan.window_context):
        identity["windows"] = {"overlap": WINDOW_OVERLAP}
    return store.build("score", identity, lambda workdir: produce(plan.make(), traces, workdir))


def _may_be_longer(traces: Artifact, num_tokens: int) -> bool:
    """False only if every trace fits so many tokens: no token stands for less than a byte of text."""
    with pq.ParquetFile(traces.file(TRACES_FILE), memory_map=True) as file:
        for batch in file.iter_batches(columns=["question", "thinking", "response"]):
            texts = (pc.cast(pc.binary_length(column), "int64") for column in batch.columns)
            num_bytes = pc.max(pc.add(pc.add(next(texts), next(texts)), next(texts))).as_py()
            if num_bytes is not None and num_bytes + TEMPLATE_TOKENS > num_tokens:
                return True
    return False


@dataclass(slots=True)
class _Counts:
    """What became of the traces so far."""

    num_traces: int = 0
    num_tokens: int = 0
    num_in_windows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def admit(self, scorer: Scorer, rows: Sequence[Trace]) -> list[Trace]:
        """Those of the traces that can be scored; all are counted."""
        admitted = []
        for trace in rows:
            self.num_traces += 1
            num_tokens = scorer.num_tokens(trace)
            reason = scorer.refusal(trace) if num_tokens else NO_TOKENS
            if reason is not None:
                self.dropped[reason] += 1
                continue
            admitted.append(trace)
            self.num_tokens += num_tokens
            self.num_in_windows += scorer.in_windows(trace)
        return admitted

    def facts(self, scorer: str) -> dict[str, Any]:
        """For the manifest."""
        facts: dict[str, Any] = {"num_tokens": self.num_tokens, "scorer": scorer}
        if self.num_in_windows:
            facts["windows"] = {"num_traces": self.num_in_windows, "overlap": WINDOW_OVERLAP}
        return facts


def produce(scorer: Scorer, traces: Artifact, workdir: Path, verb: str = "score") -> Summary:
    """Write the scores of the training traces into `workdir`, shard by shard; finished shards are found again.

    Args:
        scorer: What to score with.
        traces: Output of the data stage.
        workdir: Folder of the artifact in the making.
        verb: What is done, for progress and log.

    Raises:
        DataError: There is no training trace that can be scored.
        ModelError: A score is not finite.
        MemoryLimitError: A single text does not fit the memory.
    """
    source, scratch = traces.file(TRACES_FILE), workdir / SCRATCH
    scratch.mkdir(exist_ok=True)
    planned = list(_plan_shards(source))
    paths = [scratch / f"scores-{number:05d}.parquet" for number in range(len(planned))]
    done = sum(shard.num_characters for shard, path in zip(planned, paths, strict=True) if path.is_file())
    counts, written, num_new, started = _Counts(), [], 0, time.monotonic()
    train = (t for t in stream_records(source, Trace) if t.split == TRAIN)
    total = sum(shard.num_characters for shard in planned)
    with Progress(f"{verb} {scorer.name}", total, "characters", done=done) as progress:
        for shard, path in zip(planned, paths, strict=True):
            num_before = counts.num_tokens
            admitted = counts.admit(scorer, list(islice(train, shard.num_traces)))
            if not admitted:
                continue
            if not _holds(path, admitted):
                _score_shard(scorer, admitted, path, progress)
                num_new += counts.num_tokens - num_before
            written.append(path)
    if not written:
        reasons = ", ".join(f"{n} {why}" for why, n in counts.dropped.items()) or "the train split is empty"
        raise DataError(f"scorer {scorer.name}: none of {counts.num_traces} training traces can be scored: {reasons}")
    rate = num_new / max(time.monotonic() - started, 1e-9)
    log.info("%s %s: %d tokens, %.0f tokens/s", verb, scorer.name, counts.num_tokens, rate)
    num_rows = concatenate(written, workdir / SCORES_FILE, ScoredTrace)
    return Summary(num_rows=num_rows, dropped=counts.dropped, facts=counts.facts(scorer.name))


@dataclass(frozen=True, slots=True)
class _Shard:
    """Training traces that are scored and written together: the next `num_traces` in the order of the file."""

    num_traces: int
    num_characters: int


def _plan_shards(path: Path) -> Iterator[_Shard]:
    """The same in every call, so the shards of an interrupted call are found again."""
    num_traces = num_characters = 0
    with pq.ParquetFile(path, memory_map=True) as file:
        for batch in file.iter_batches(columns=["thinking", "split"]):
            train = batch.filter(pc.equal(batch.column("split"), TRAIN))
            for length in pc.utf8_length(train.column("thinking")).to_pylist():
                num_traces, num_characters = num_traces + 1, num_characters + length
                if num_characters >= SHARD_CHARACTERS:
                    yield _Shard(num_traces, num_characters)
                    num_traces = num_characters = 0
    if num_traces:
        yield _Shard(num_traces, num_characters)


def _holds(path: Path, admitted: Sequence[Trace]) -> bool:
    """True if an earlier call finished this very shard; one that is damaged is scored again."""
    if not path.is_file():
        return False
    try:
        return [record.id for record in read_records(path, ScoredTrace)] == [trace.id for trace in admitted]
    except ArtifactError as error:
        log.warning("%s; it is scored again", error)
        return False


def _score_shard(scorer: Scorer, shard: Sequence[Trace], path: Path, progress: Progress) -> None:
    scored = []
    try:
        for trace, record in zip(shard, scorer.score(shard), strict=True):
            _check(record, scorer.name)
            scored.append(record)
            progress.advance(len(trace.thinking))
    except (MemoryError, RuntimeError, MemoryLimitError) as error:  # batches have been made as small as they can be
        if not isinstance(error, MemoryLimitError) and not is_out_of_memory(error):
            raise
        why = error if isinstance(error, MemoryLimitError) else f"out of memory. {MEMORY_FIX}"
        raise MemoryLimitError(
            f"scorer {scorer.name}, at trace '{shard[len(scored)].id}' or soon after: {why}. Finished shards are kept"
        ) from error
    write_records(path, scored, ScoredTrace)


def _check(record: ScoredTrace, scorer: str) -> None:
    shapes = (record.scores.shape, record.token_ids.shape, record.offsets.shape[:1])
    assert len(set(shapes)) == 1, f"{scorer} gave {shapes} for trace {record.id}"
    bad = int((~np.isfinite(record.scores)).sum())
    if bad:
        raise ModelError(
            f"scorer {scorer}: {bad} of {len(record.scores)} scores of trace '{record.id}' are not finite. "
            "Fix: model.dtype=float32, or retrain the reference model with a lower learning rate"
        )
