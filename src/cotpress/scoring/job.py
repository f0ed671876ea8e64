"""Jobs that make the score artifact: one finite importance per thinking token of every training trace.

    ChunkJob     computes rows with models, chunk by chunk: readings, and scores of scorers that run models themselves
    DerivedJob   computes scores by arithmetic on artifacts of other jobs: readings, or the scores of a mix's parts

A `ChunkJob` streams: a chunk is written as soon as it is finished (parts.py), so memory does not grow with the number
of traces, an interrupted job goes on after its last chunk, and devices or machines share the chunks (predict.py).
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cotpress.devices.config import TrainerConfig
from cotpress.devices.launch import num_local_devices, run_on_devices
from cotpress.errors import ArtifactError, ConfigError, DataError
from cotpress.modeling.logprobs import WINDOW_OVERLAP
from cotpress.progress import Progress
from cotpress.records import SCORES_FILE, TRACES_FILE, ReadTrace, ScoredTrace, Trace
from cotpress.scoring.base import ReadingScorer, Scorer, pooled
from cotpress.scoring.config import Condition, ReadBy, ReadingConfig, ScorerConfig, Shard, TokenReadingConfig
from cotpress.scoring.models import Models
from cotpress.scoring.parts import Chunk, Parts, Tally, plan_chunks, read_chunks, rows_of
from cotpress.scoring.predict import Work, predict
from cotpress.scoring.reading import REASONS, SAME_WINDOWS, ConditionReading
from cotpress.scoring.scorers.mix import MixConfig, MixScorer
from cotpress.scoring.table import scorer_of
from cotpress.store.artifacts import SCRATCH, Artifact, ArtifactStore, Summary
from cotpress.store.tables import schema, to_table

log = logging.getLogger(__name__)

READINGS_FILE = "readings.parquet"
TEMPLATE_TOKENS = 256
"""More than a chat template adds around the texts of a trace."""


class Job(Protocol):
    """Makes one artifact."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the content."""

    def artifact(self) -> Artifact:
        """The artifact, computed if it is missing."""

    def shard(self, shard: Shard) -> bool:
        """Compute one share of the expensive work; True if no share of it is missing any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkJob:
    """Rows that are computed chunk by chunk; nothing is loaded yet.

    Attributes:
        stage: Name of the artifact's stage, also the verb in progress and log.
        label: Scorer or reading, for progress, log and manifest.
        identity: Everything that determines the rows.
        make: Loads models and builds the work. It is called in every process that computes, so it can be pickled.
        traces: Output of the data stage.
        trainer: The hardware.
        store: Place of the artifacts.
        record: Class of the rows.
        file: Name of the artifact's file.
    """

    stage: str
    label: str
    identity: dict[str, Any]
    make: Callable[[], Work]
    traces: Artifact
    trainer: TrainerConfig
    store: ArtifactStore
    record: type = ScoredTrace
    file: str = SCORES_FILE

    def artifact(self) -> Artifact:
        """The rows of all training traces; missing parts are computed.

        Raises:
            DataError: No training trace can be scored.
            ModelError: A model cannot be loaded, or gives numbers that are not finite.
            MemoryLimitError: A single text does not fit the memory.
            ConfigError: As `shard`.
        """
        if self.trainer.num_nodes > 1:
            self.shard(Shard(1, 1))

        def produce(workdir: Path) -> Summary:
            started = time.monotonic()
            parts, chunks, computed = self._compute(workdir)
            seconds = time.monotonic() - started
            num_rows, tally = parts.merge(chunks, workdir / self.file)
            if num_rows == 0:
                raise nothing_scored(self.label, tally)
            share = computed / sum(chunk.num_characters for chunk in chunks)
            rate = share * tally.num_tokens / max(seconds, 1e-9)
            log.info("%s %s: %d tokens, %.0f tokens/s", self.stage, self.label, tally.num_tokens, rate)
            return Summary(num_rows=num_rows, dropped=tally.dropped, facts=_facts(tally, self.label))

        return self.store.build(self.stage, self.identity, produce)

    def shard(self, shard: Shard) -> bool:
        """Compute the parts of one shard, beside jobs that compute others; True if no part is missing any more.

        Several machines that run the same command (`trainer.num_nodes`) take a share of the shard each.

        Raises:
            ModelError: As `artifact`.
            ConfigError: There are several machines, and no variable tells the number of this one.
        """
        if self.trainer.num_nodes > 1:
            shard = Shard(shard.number + shard.total * _machine(), shard.total * self.trainer.num_nodes)
        with self.store.sharing(self.stage, self.identity, f"{shard.number}-of-{shard.total}") as workdir:
            if workdir is None:
                return True
            parts, chunks, _ = self._compute(workdir, shard)
            left = sum(not parts.path(chunk).exists() for chunk in chunks)
        own = f"{self.stage} {self.label}: shard {shard} is done"
        log.info("%s; %s", own, f"{left} of {len(chunks)} chunks are still missing" if left else "it was the last")
        return left == 0

    def _compute(self, workdir: Path, shard: Shard = Shard(1, 1)) -> tuple[Parts, list[Chunk], int]:  # noqa: B008
        """Write the missing parts of one shard; returns parts, all chunks, and the characters of thinking computed."""
        traces = self.traces.file(TRACES_FILE)
        parts, chunks = Parts(traces, workdir / SCRATCH, self.record), plan_chunks(traces)
        own = chunks[shard.number - 1 :: shard.total]
        missing = parts.missing(own)
        total, todo = (sum(chunk.num_characters for chunk in some) for some in (own, missing))
        if missing:
            parts.folder.mkdir(parents=True, exist_ok=True)
            # No process without a chunk; machines that share the work are jobs of their own (`shard`).
            devices = min(num_local_devices(self.trainer), len(missing))
            trainer = replace(self.trainer, devices=devices, num_nodes=1)
            label = f"shard {shard} " if shard.total > 1 else ""
            with Progress(f"{label}{self.stage} {self.label}", total, "characters", done=total - todo) as progress:
                arguments = (self.make, parts, missing, trainer)
                run_on_devices(predict, arguments, trainer=trainer, on_message=progress.advance)
        return parts, chunks, todo


Combine = Callable[[Trace, Sequence[Any]], ScoredTrace | str]
"""Computes the scores of a trace from its rows in the sources (None for a missing one), or gives the reason not to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedJob:
    """Scores that follow from the artifacts of other jobs; no model is loaded.

    Attributes:
        scorer: Name of the scorer.
        identity: Everything that determines the scores.
        sources: Jobs whose rows they are computed from.
        record: Class of those rows.
        file: File of those rows in the artifacts of the sources.
        combine: Loads what is needed and returns the function that computes the scores of a trace.
        traces: Output of the data stage.
        store: Place of the artifacts.
    """

    scorer: str
    identity: dict[str, Any]
    sources: tuple[Job, ...]
    record: type
    file: str
    combine: Callable[[], Combine]
    traces: Artifact
    store: ArtifactStore

    def artifact(self) -> Artifact:
        """The scores of all training traces; their sources are only computed if the scores are missing.

        Raises:
            DataError: No training trace can be scored.
            CotpressError: As those of the sources.
        """
        made = []
        if not self._is_there():  # before the lock on the scores, so that machines can share this work
            made = [source.artifact() for source in self.sources]
        seconds = sum(artifact.seconds for artifact in made if artifact.fresh)
        return self.store.build("score", self.identity, lambda folder: self._produce(folder, seconds))

    def shard(self, shard: Shard) -> bool:
        """Compute one share of every source; True if no share is missing any more."""
        if self._is_there():
            return True
        done = [source.shard(shard) for source in self.sources]
        # Again if one is not done: whoever ends last has to see that all of them are, in whatever order they ended.
        return all(done) or all([source.shard(shard) for source in self.sources])  # noqa: C419 (no short cut)

    def _is_there(self) -> bool:
        try:
            return self.store.find("score", self.identity) is not None
        except ArtifactError:
            return False  # damaged: `build` sets it aside

    def _produce(self, workdir: Path, seconds: float) -> Summary:
        combine, tally = self.combine(), Tally()
        files = [source.artifact().file(self.file) for source in self.sources]
        traces = self.traces.file(TRACES_FILE)
        chunks = plan_chunks(traces)
        rows = zip(*(rows_of(file, self.record, _all_traces(traces, chunks)) for file in files), strict=True)
        num_rows = 0
        with (
            Progress(f"score {self.scorer}", len(chunks), "chunks") as progress,
            pq.ParquetWriter(workdir / SCORES_FILE, schema(ScoredTrace), compression="zstd") as writer,
        ):
            for _, members in read_chunks(traces, chunks):
                scored = []
                for trace in members:
                    tally.num_traces += 1
                    sources = next(rows)
                    result = combine(trace, sources)
                    if isinstance(result, str):
                        tally.dropped[result] += 1
                        continue
                    tally.num_tokens += len(result.scores)
                    tally.num_in_windows += any(getattr(row, "in_windows", False) for row in sources)
                    scored.append(result)
                if scored:
                    writer.write_table(to_table(scored, ScoredTrace))
                    num_rows += len(scored)
                progress.advance(1)
        if num_rows == 0:
            raise nothing_scored(self.scorer, tally)
        facts = _facts(tally, self.scorer)
        return Summary(num_rows=num_rows, dropped=tally.dropped, facts=facts, shared_seconds=seconds)


def _all_traces(path: Path, chunks: Sequence[Chunk]) -> Iterator[Trace]:
    for _, traces in read_chunks(path, chunks):
        yield from traces


def nothing_scored(scorer: str, tally: Tally) -> DataError:
    """The error of a job that has no row."""
    why = ", ".join(f"{n} {reason}" for reason, n in tally.dropped.items()) or "the train split is empty"
    return DataError(f"scorer {scorer}: none of {tally.num_traces} training traces can be scored: {why}")


def _machine() -> int:
    """Number of this machine among those that run the same command, from 0."""
    for name in ("SLURM_NODEID", "GROUP_RANK", "NODE_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    raise ConfigError(
        "trainer.num_nodes: several machines, but nothing says which of them this is. Fix: start the command with srun "
        "(one task per machine), or set NODE_RANK to 0, 1, ... on them"
    )


def _facts(tally: Tally, scorer: str) -> dict[str, Any]:
    """Facts of the manifest."""
    facts: dict[str, Any] = {"num_tokens": tally.num_tokens, "scorer": scorer}
    if tally.num_in_windows:
        facts["windows"] = {"num_traces": tally.num_in_windows, "overlap": WINDOW_OVERLAP}
    return facts


def scoring_job(config: ScorerConfig, *, traces: Artifact, models: Models) -> Job:
    """Build the job that scores all training traces.

    Args:
        config: Scorer and its settings.
        traces: Output of the data stage.
        models: The models that scorers use.

    Raises:
        ConfigError: The scorer cannot work with these settings and models.
        ModelError: A model cannot be found.
    """
    config.check(has_reference=models.reference is not None)
    return _Jobs(traces, models).scoring(config)


class _Jobs:
    """Builds the jobs of one scorer and of everything that it is computed from."""

    def __init__(self, traces: Artifact, models: Models) -> None:
        self._traces, self._models = traces, models
        self._may_be_longer: bool | None = None

    def scoring(self, config: ScorerConfig) -> Job:
        kind = scorer_of(config)
        identity: dict[str, Any] = {
            "scorer": config.identity(),
            "traces": self._traces.key,
            **kind.identity(config, self._models),
        }
        if kind.reads_windows(config):
            identity |= self._windows()
        derived: dict[str, Any] = {
            "scorer": config.name,
            "identity": identity,
            "traces": self._traces,
            "store": self._models.store,
        }
        if isinstance(config, MixConfig):
            parts = tuple(self.scoring(config.parts[name]) for name in config.weighted)
            make = partial(_mixing, config, self._models)
            return DerivedJob(sources=parts, record=ScoredTrace, file=SCORES_FILE, combine=make, **derived)
        if issubclass(kind, ReadingScorer):
            assert isinstance(config, ReadingConfig)
            scorer: ReadingScorer[Any] = kind(config)
            readings = [self.reading(config, *needed) for needed in scorer.readings()]
            conditions = {condition for _, condition in scorer.readings()}
            if len(conditions) > 1 and self._windows():
                readings += [self.reading(config, *needed, beside=conditions) for needed in scorer.readings()]
            make = partial(_deriving, scorer)
            return DerivedJob(sources=tuple(readings), record=ReadTrace, file=READINGS_FILE, combine=make, **derived)
        assert issubclass(kind, Scorer)
        return self._by_chunks("score", config.name, identity, partial(kind.build, config, self._models))

    def reading(
        self, config: ReadingConfig, read_by: ReadBy, condition: Condition, beside: set[Condition] | None = None
    ) -> ChunkJob:
        """Build the job that reads all training traces with one model under one condition."""
        compared = tuple(sorted(beside or (), key=lambda c: c.value))
        identity = {
            "traces": self._traces.key,
            "condition": condition,
            "template": config.template,
            **self._models.reading_identity(config.template, reference=read_by is ReadBy.reference),
            **self._windows(),
            **({"beside": compared} if compared else {}),
        }
        tuned = read_by is ReadBy.reference and self._models.reference is not None
        label = f"{condition.value} by {'reference' if tuned else 'base'} model"
        make = partial(_reading, label, config, read_by, condition, compared, self._models)
        return self._by_chunks("read", label, identity, make, record=ReadTrace, file=READINGS_FILE)

    def _by_chunks(
        self, stage: str, label: str, identity: dict[str, Any], make: Callable[[], Work], **rows: Any
    ) -> ChunkJob:
        return ChunkJob(
            stage=stage,
            label=label,
            identity=identity,
            make=make,
            traces=self._traces,
            trainer=self._models.trainer,
            store=self._models.store,
            **rows,
        )

    def _windows(self) -> dict[str, Any]:
        """The part of an identity that tells how thinking over the model's context is read; empty if none is."""
        if self._may_be_longer is None:
            self._may_be_longer = _may_be_longer(self._traces, self._models.config.context_tokens)
        return {"windows": {"overlap": WINDOW_OVERLAP}} if self._may_be_longer else {}


def _reading(
    label: str,
    config: ReadingConfig,
    read_by: ReadBy,
    condition: Condition,
    beside: Sequence[Condition],
    models: Models,
) -> ConditionReading:
    reader = models.reader(config.template, models.trainer.tokens_per_batch)
    return ConditionReading(label, reader, partial(models.model, read_by, forwards_only=True), condition, beside)


def _deriving(scorer: ReadingScorer[Any]) -> Combine:
    """The function that computes the scores of a trace from its readings.

    After one reading for each of `scorer.readings()` there may be the same again in the windows that they share.
    """
    config, number = scorer.config, len(scorer.readings())
    pooling = config.pooling if isinstance(config, TokenReadingConfig) else None

    def combine(trace: Trace, rows: Sequence[ReadTrace]) -> ScoredTrace | str:
        alone, beside = rows[:number], rows[number:]
        refusals = {row.refusal for row in rows} - {"", SAME_WINDOWS}
        if refusals:
            return min(refusals, key=REASONS.index)
        used = [again if again.refusal == "" else row for row, again in zip(alone, beside or alone, strict=True)]
        first, scores = used[0], scorer.score(trace, *used).astype(np.float32)
        assert scores.shape == first.token_ids.shape, f"{config.name} gave {scores.shape} for trace {trace.id}"
        return ScoredTrace(
            id=trace.id,
            token_ids=first.token_ids,
            offsets=first.offsets,
            scores=scores if pooling is None else pooled(pooling, scores, trace.thinking, first.offsets),
            tokenizer=first.tokenizer,
            scorer=config.name,
        )

    return combine


def _mixing(config: MixConfig, models: Models) -> Combine:
    """The function that computes the scores of a trace from those of a mix's parts."""
    mix = MixScorer(config, models)

    def combine(trace: Trace, rows: Sequence[ScoredTrace | None]) -> ScoredTrace | str:
        scored = []
        for name, row in zip(config.weighted, rows, strict=True):
            if row is None:
                return f"no score from part {name}"
            scored.append(row)
        ids, offsets = mix.tokens(trace)
        return ScoredTrace(
            id=trace.id,
            token_ids=ids,
            offsets=offsets,
            scores=mix.score(trace, *scored),
            tokenizer=mix.fingerprint,
            scorer=config.name,
        )

    return combine


def _may_be_longer(traces: Artifact, num_tokens: int) -> bool:
    """False only if every trace fits so many tokens: no token stands for less than a byte of text."""
    with pq.ParquetFile(traces.file(TRACES_FILE), memory_map=True) as file:
        for batch in file.iter_batches(columns=["question", "thinking", "response"]):
            texts = (pc.cast(pc.binary_length(column), "int64") for column in batch.columns)
            num_bytes = pc.max(pc.add(pc.add(next(texts), next(texts)), next(texts))).as_py()
            if num_bytes is not None and num_bytes + TEMPLATE_TOKENS > num_tokens:
                return True
    return False
