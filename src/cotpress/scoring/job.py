"""Jobs that make the score artifact: one finite importance per thinking token of every training trace.

    ChunkJob     computes rows with models, chunk by chunk: readings, and scores of scorers that run models themselves
    DerivedJob   computes scores by arithmetic on artifacts of other jobs: readings, or the scores of a mix's parts

The rows are computed chunk by chunk and merged at the end (`store/parts.py`).

Every device runs `predict`, Lightning's `Trainer.predict` over every n-th of the missing chunks, in a process of its
own. The processes exchange nothing, so each has a trainer of one device: no collective call can block on a slower one.
"""

import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow.compute as pc
import pytorch_lightning as pl
import torch

from cotpress.devices.config import Shard, TrainerConfig
from cotpress.devices.launch import Alike, here, num_local_devices, pick_device, report, run_on_devices
from cotpress.devices.lightning import ctrl_c_stops, lightning_trainer, quiet_lightning
from cotpress.devices.memory import MEMORY_FIX, is_out_of_memory
from cotpress.errors import ArtifactError, DataError, MemoryLimitError, ModelError
from cotpress.modeling.logprobs import WINDOW_OVERLAP
from cotpress.progress import Progress
from cotpress.records import SCORES_FILE, TRACES_FILE, ReadTrace, ScoredTrace, Trace
from cotpress.scoring.base import ReadingScorer, TokenScorer
from cotpress.scoring.config import Condition, ReadBy, ReadingConfig, ScorerConfig, Template
from cotpress.scoring.models import Models
from cotpress.scoring.reader import ConditionReading
from cotpress.scoring.scorers.mix import MixConfig, MixScorer
from cotpress.scoring.table import model_to_read, scorer_identity, scorer_of
from cotpress.store.artifacts import SCRATCH, Artifact, ArtifactStore, Summary
from cotpress.store.parts import Chunk, ChunkRows, FinishedRows, Parts, Tally, plan_chunks, read_chunks, rows_of
from cotpress.store.source import Identity, identified
from cotpress.store.tables import RecordWriter, iter_tables

log = logging.getLogger(__name__)

READINGS_FILE = "readings.parquet"
TEMPLATE_TOKENS = 256
"""More than a chat template adds around the texts of a trace."""
_WINDOWS = {"windows": {"overlap": WINDOW_OVERLAP}}
"""Part of an identity: thinking over the model's context is read in windows."""

Work = TokenScorer[Any] | ConditionReading
"""Computes the rows of some traces."""


_Batch = tuple[Chunk, list[Trace]]


@dataclass(frozen=True, slots=True)
class ChunkJob:
    """Rows that are computed chunk by chunk; nothing is loaded yet.

    Attributes:
        stage: Name of the artifact's stage, also the verb in progress and log.
        label: Scorer or reading, for progress, log and manifest.
        identity: Everything that determines the rows.
        make: Loads models and builds the work. It is called in every process that computes, so it can be pickled.
        alike: The models that it loads, which have to be the same on all machines; None if it loads none.
    """

    stage: str
    label: str
    identity: Identity
    make: Callable[[], Work]
    traces: Artifact
    trainer: TrainerConfig
    store: ArtifactStore
    record: type = ScoredTrace
    file: str = SCORES_FILE
    alike: Alike | None = None

    @property
    def key(self) -> str:
        """Key of the artifact."""
        return self.store.key(self.stage, self.identity)

    @contextmanager
    def rows(self, reader: str) -> Iterator[ChunkRows]:
        """See `RowSource`; chunks without a part are an `ArtifactError`."""
        traces = self.traces.file(TRACES_FILE)
        with self.store.sharing(self.stage, self.identity, reader) as workdir:
            if workdir is not None:
                yield Parts(traces, workdir / SCRATCH, self.record).rows
                return
            artifact = self.artifact()
        with FinishedRows(artifact, self.file, self.record, traces).rows(reader) as rows:
            yield rows

    @property
    def formats(self) -> tuple[str, ...]:
        """Number formats of the models that read, by name."""
        dtype = self.identity.get("model", {}).get("dtype")
        return () if dtype is None else (dtype,)

    def artifact(self) -> Artifact:
        """The rows of all training traces; missing parts are computed.

        Raises:
            DataError: No training trace can be scored.
            ModelError: A model cannot be loaded, or gives numbers that are not finite.
            MemoryLimitError: A single text does not fit the memory.
        """
        with self.store.making(self.stage, self.identity) as making:
            if making.artifact is not None:
                return making.artifact
            started = time.monotonic()
            parts, chunks, computed = self._compute(making.folder)
            seconds = time.monotonic() - started
            tally = parts.merge(chunks, making.folder / self.file)
            summary = _summary(self.label, tally, self.formats)
            share = computed / sum(chunk.num_characters for chunk in chunks)
            rate = share * tally.num_tokens / max(seconds, 1e-9)
            inside = f" in {' and '.join(self.formats)}" if self.formats else ""
            log.info("%s %s: %d tokens, %.0f tokens/s%s", self.stage, self.label, tally.num_tokens, rate, inside)
            return making.finish(summary)

    def shard(self, shard: Shard) -> bool:
        """Compute the parts of one shard, beside jobs that compute others; True if no part is missing any more.

        Raises:
            ModelError: As `artifact`.
        """
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
            needed = -(-len(missing) // self.trainer.num_nodes)  # no process without a chunk
            devices = min(num_local_devices(self.trainer), needed)
            trainer = replace(self.trainer, devices=devices)
            label = f"shard {shard} " if shard.total > 1 else ""
            with Progress(f"{label}{self.stage} {self.label}", total, "characters", done=total - todo) as progress:
                if devices == 1 and trainer.num_nodes == 1:
                    predict(self.make, parts, missing, trainer, progress.advance)
                else:
                    arguments = (self.make, parts, missing, trainer, report)
                    run_on_devices(predict, arguments, trainer=trainer, on_message=progress.advance, alike=self.alike)
        return parts, chunks, todo


@dataclass(frozen=True, slots=True)
class DerivedJob:
    """Scores that follow from the artifacts of other jobs; no model is loaded.

    Attributes:
        scorer: Name of the scorer.
        identity: Everything that determines the scores.
        sources: Jobs whose rows they are computed from, all of one kind.
        combine: Computes the scores of a trace from its row in each source (None for a missing one), or gives the
            reason not to.
    """

    record: ClassVar[type] = ScoredTrace
    file: ClassVar[str] = SCORES_FILE
    scorer: str
    identity: Identity
    sources: "tuple[Job, ...]"
    combine: Callable[[Trace, Any], ScoredTrace | str]
    traces: Artifact
    store: ArtifactStore

    @property
    def key(self) -> str:
        """Key of the artifact."""
        return self.store.key("score", self.identity)

    @contextmanager
    def rows(self, reader: str) -> Iterator[ChunkRows]:
        """See `RowSource`; unless the scores are finished, they are computed from the rows of the sources."""
        traces = self.traces.file(TRACES_FILE)
        with ExitStack() as stack:
            if self._is_there():
                finished = FinishedRows(self.artifact(), self.file, self.record, traces)
                yield stack.enter_context(finished.rows(reader))
                return
            # A source may be among the sources of another one, so each has a name of its own.
            read = [stack.enter_context(source.rows(f"{reader}-{i}")) for i, source in enumerate(self.sources)]

            def rows(chunks: Iterable[Chunk]) -> Iterator[list[Any]]:
                chunks = list(chunks)
                for (_, members), *of_sources in zip(
                    read_chunks(traces, chunks), *(of_source(chunks) for of_source in read), strict=True
                ):
                    results = map(self.combine, members, zip(*of_sources, strict=True))
                    yield [None if isinstance(result, str) else result for result in results]

            yield rows

    @property
    def formats(self) -> tuple[str, ...]:
        """See `ChunkJob`."""
        return tuple(sorted({name for source in self.sources for name in source.formats}))

    def artifact(self) -> Artifact:
        """The scores of all training traces; their sources are only computed if the scores are missing.

        Raises:
            DataError: No training trace can be scored.
            CotpressError: As those of the sources.
        """
        # Before the lock on the scores, so that machines can share this work.
        made = [] if self._is_there() else [source.artifact() for source in self.sources]
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
        with suppress(ArtifactError):  # damaged: `build` sets it aside
            return self.store.find("score", self.identity) is not None
        return False

    def _produce(self, workdir: Path, seconds: float) -> Summary:
        tally, record = Tally(), self.sources[0].record
        files = [source.artifact().file(source.file) for source in self.sources]
        traces = self.traces.file(TRACES_FILE)
        chunks = plan_chunks(traces)
        rows = zip(*(rows_of(file, record, traces) for file in files), strict=True)
        with (
            Progress(f"score {self.scorer}", len(chunks), "chunks") as progress,
            RecordWriter(workdir / SCORES_FILE, ScoredTrace) as writer,
        ):
            for _, members in read_chunks(traces, chunks):
                scored = []
                for trace in members:
                    sources = next(rows)
                    result = self.combine(trace, sources)
                    tally.count(result, *sources)
                    if not isinstance(result, str):
                        scored.append(result)
                writer.write(scored)
                progress.advance(1)
        return _summary(self.scorer, tally, self.formats, seconds)


Job = ChunkJob | DerivedJob
"""Makes one artifact."""


def scoring_job(config: ScorerConfig, *, traces: Artifact, models: Models) -> Job:
    """Build the job that scores all training traces of the data artifact `traces`.

    Raises:
        ConfigError: The scorer cannot work with these settings and models.
        ModelError: A model cannot be found.
    """
    config.check(has_reference=models.reference is not None)
    kind = scorer_of(config)
    if isinstance(config, ReadingConfig):
        models = models.reading_with(model_to_read(config, models.config))
    settings: dict[str, Any] = {"scorer": config.identity(), "traces": traces.key, **scorer_identity(config, models)}
    if issubclass(kind, TokenScorer):
        make = partial(kind.build, config, models)
        identity = identified(settings, ChunkJob, kind)
        path = getattr(config, "path", models.config.path)  # some read with a small model of their own
        alike = Alike(partial(scorer_identity, config, models), path)
        return ChunkJob("score", config.name, identity, make, traces, models.trainer, models.store, alike=alike)
    scorer: ReadingScorer[Any] | MixScorer
    sources: Sequence[Job]
    if isinstance(config, MixConfig):
        scorer = MixScorer(config, models)
        sources = [scoring_job(part, traces=traces, models=models) for part in config.weighted.values()]
    else:
        assert issubclass(kind, ReadingScorer)
        assert isinstance(config, ReadingConfig)
        scorer = kind(config)
        sources = _reading_jobs(config.template, scorer.readings(), traces, models)
    if any("windows" in source.identity for source in sources):
        settings |= _WINDOWS
    identity = identified(settings, DerivedJob, kind, ConditionReading)
    return DerivedJob(config.name, identity, tuple(sources), scorer.combine, traces, models.store)


def _reading_jobs(
    template: Template, readings: Sequence[tuple[ReadBy, Condition]], traces: Artifact, models: Models
) -> list[ChunkJob]:
    """Build the jobs of some readings; if windows are needed, then each again in those that the conditions share."""
    windows = _WINDOWS if _may_be_longer(traces, models.config.context_tokens) else {}
    jobs = []
    for reading in readings_of(readings, in_windows=bool(windows)):
        facts = partial(models.reading_identity, template, reference=reading.read_by is ReadBy.reference)
        settings = {
            "traces": traces.key,
            "condition": reading.condition,
            "template": template,
            **facts(),
            **windows,
            **({"beside": reading.beside} if reading.beside else {}),
        }
        identity, label = identified(settings, ChunkJob, ConditionReading), reading.label(models)
        make = partial(reading.open, template, models)
        output = (ReadTrace, READINGS_FILE, Alike(facts, models.config.path))
        jobs.append(ChunkJob("read", label, identity, make, traces, models.trainer, models.store, *output))
    return jobs


class Reading(NamedTuple):
    """A reading that a formula needs: model, condition, and the conditions whose windows it shares."""

    read_by: ReadBy
    condition: Condition
    beside: tuple[Condition, ...] = ()

    def label(self, models: Models) -> str:
        """Name for progress and log."""
        tuned = self.read_by is ReadBy.reference and models.reference is not None
        return f"{self.condition.value} by {'reference' if tuned else 'base'} model"

    def open(self, template: Template, models: Models) -> ConditionReading:
        """Make what reads, in the process that reads."""
        return ConditionReading(self.label(models), template, self.read_by, self.condition, self.beside, models)


def readings_of(readings: Sequence[tuple[ReadBy, Condition]], *, in_windows: bool) -> list[Reading]:
    """The readings of a formula; if windows may be needed, then each again in those that the conditions share."""
    alone = [Reading(read_by, condition) for read_by, condition in readings]
    conditions = tuple(sorted({condition for _, condition in readings}, key=lambda condition: condition.value))
    if not in_windows or len(conditions) == 1:
        return alone
    return [*alone, *(reading._replace(beside=conditions) for reading in alone)]


def predict(
    make: Callable[[], Work],
    parts: Parts,
    chunks: Sequence[Chunk],
    trainer: TrainerConfig,
    advance: Callable[[int], None],
) -> None:
    """Write the parts of this process's share of `chunks`; `advance` gets the characters of every finished trace."""
    own = chunks[here().rank :: here().num_workers]
    module = PredictModule(make(), parts, advance)
    with quiet_lightning():
        warnings.filterwarnings("ignore", module=r"pytorch_lightning\.")  # hints about workers and batch indices
        # Some scorers take gradients; the others switch them off themselves.
        lightning = lightning_trainer(pick_device(trainer), inference_mode=False)
        with ctrl_c_stops(lightning):
            lightning.predict(module, read_chunks(parts.traces, own), return_predictions=False)


class PredictModule(pl.LightningModule):
    """Writes the part of each chunk; the work chooses its own forward passes and has put its models on the device.

    Lightning's handler of SIGTERM notes the signal for training loops and goes on, so the process's own is put back.
    """

    def __init__(self, work: Work, parts: Parts, advance: Callable[[int], None]) -> None:
        super().__init__()
        self._work, self._parts, self._advance = work, parts, advance
        self._on_sigterm = signal.getsignal(signal.SIGTERM)

    def on_predict_start(self) -> None:
        """Put the handler back."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def predict_step(self, batch: _Batch, batch_idx: int) -> None:
        """Compute the rows of one chunk and the counts of its traces, and write them."""
        tally = Tally()
        try:
            results = computed(self._work, batch[1], self._advance)
        except MemoryLimitError as error:
            raise MemoryLimitError(f"{error}. Finished chunks are kept") from error
        for result in results:
            tally.count(result)
        self._parts.write(batch[0], [row for row in results if not isinstance(row, str)], tally)

    def transfer_batch_to_device(self, batch: _Batch, device: torch.device, dataloader_idx: int) -> _Batch:
        """Leave the traces, which are texts."""
        return batch


def computed(work: Work, traces: Sequence[Trace], advance: Callable[[int], None] = lambda _: None) -> list[Any]:
    """Compute the rows of some traces, in order; a refused trace has the reason in place of a row.

    `advance` gets the characters of every finished trace.

    Raises:
        ModelError: Numbers are not finite.
        MemoryLimitError: A single text does not fit the memory.
    """
    results: list[Any] = []
    for trace in traces:
        results.append(work.refusal(trace))
        if results[-1] is not None:
            advance(len(trace.thinking))
    admitted, num_done = [i for i, reason in enumerate(results) if reason is None], 0
    try:
        for i, row in zip(admitted, work.score([traces[i] for i in admitted]), strict=True):
            _check(row, work.name)
            results[i] = row
            advance(len(traces[i].thinking))
            num_done += 1
    except (MemoryError, RuntimeError, MemoryLimitError) as error:  # batches are as small as they can be made
        if not isinstance(error, MemoryLimitError) and not is_out_of_memory(error):
            raise
        why = error if isinstance(error, MemoryLimitError) else f"out of memory. {MEMORY_FIX}"
        named = traces[admitted[num_done]].id
        raise MemoryLimitError(f"{work.name}, at trace '{named}' or soon after: {why}") from error
    return results


def _check(row: Any, name: str) -> None:
    arrays = [value for value in (getattr(row, f.name) for f in fields(row)) if isinstance(value, np.ndarray)]
    assert len({len(array) for array in arrays}) == 1, f"{name}: arrays of different length for trace {row.id}"
    for array in arrays:
        if bad := int((~np.isfinite(array)).sum()):
            raise ModelError(
                f"{name}: {bad} of {len(array)} scores of trace '{row.id}' are not finite. "
                "Fix: model.dtype=float32, or retrain the reference model with a lower learning rate"
            )


def _summary(scorer: str, tally: Tally, formats: Sequence[str], shared_seconds: float = 0.0) -> Summary:
    """Summary of an artifact; raises DataError if it has no rows."""
    num_rows = tally.num_traces - tally.dropped.total()
    if num_rows == 0:
        why = ", ".join(f"{n} {reason}" for reason, n in tally.dropped.items()) or "the train split is empty"
        raise DataError(f"scorer {scorer}: none of {tally.num_traces} training traces can be scored: {why}")
    facts: dict[str, Any] = {"num_tokens": tally.num_tokens, "scorer": scorer}
    if formats:
        facts["dtype"] = ", ".join(formats)
    if tally.num_in_windows:
        facts["windows"] = {"num_traces": tally.num_in_windows, **_WINDOWS["windows"]}
    return Summary(num_rows=num_rows, dropped=tally.dropped, facts=facts, shared_seconds=shared_seconds)


def _may_be_longer(traces: Artifact, num_tokens: int) -> bool:
    """False only if every trace fits so many tokens: no token stands for less than a byte of text."""
    for table in iter_tables(traces.file(TRACES_FILE), ["question", "thinking", "response"]):
        lengths = [pc.cast(pc.binary_length(column), "int64") for column in table.columns]
        num_bytes = pc.max(reduce(pc.add, lengths)).as_py()
        if num_bytes is not None and num_bytes + TEMPLATE_TOKENS > num_tokens:
            return True
    return False
