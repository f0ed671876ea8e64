"""One scoring job: an artifact whose parts are computed on one device, several, or by jobs that know nothing of each
other but the folder they share.

The score stage: one finite importance per thinking token of every training trace.

Traces stream: they are read in chunks, scored, and written as a chunk is finished (parts.py), so memory does not grow
with their number, an interrupted job goes on from its last chunk, and devices or jobs can share the chunks (job.py).
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from cotpress.devices.config import TrainerConfig
from cotpress.devices.launch import num_local_devices, run_on_devices
from cotpress.errors import ConfigError, DataError
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.logprobs import WINDOW_OVERLAP
from cotpress.progress import Progress
from cotpress.records import SCORES_FILE, TRACES_FILE
from cotpress.scoring.base import Scorer
from cotpress.scoring.config import ScorerConfig, Shard
from cotpress.scoring.parts import Chunk, Parts, Tally, plan_chunks
from cotpress.scoring.plan import plan_scorer
from cotpress.scoring.predict import predict
from cotpress.store.artifacts import SCRATCH, Artifact, ArtifactStore, Summary

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringJob:
    """What is to be scored, and with what; nothing is loaded yet.

    Attributes:
        stage: Name of the artifact's stage, also what is done, for progress and log.
        scorer: Name of the scorer.
        identity: What determines the scores.
        make: Loads what the scorer needs and builds it. It is called in every process that scores, so it can be
            pickled.
        traces: Output of the data stage.
        trainer: The hardware.
        store: Where artifacts are kept.
    """

    stage: str
    scorer: str
    identity: dict[str, Any]
    make: Callable[[], Scorer]
    traces: Artifact
    trainer: TrainerConfig
    store: ArtifactStore

    def artifact(self) -> Artifact:
        """The scores of all training traces. What is missing is computed; parts that are there are not.

        Raises:
            DataError: There is no training trace that can be scored.
            ModelError: A model cannot be loaded, or gives scores that are not finite.
            MemoryLimitError: A single text does not fit the memory.
            ConfigError: As `shard`.
        """
        if self.trainer.num_nodes > 1:
            self.shard(Shard(1, 1))
        return self.store.build(self.stage, self.identity, self._produce)

    def shard(self, shard: Shard) -> bool:
        """Compute the parts of one shard, beside jobs that compute others; True if no part is missing any more.

        Several machines that run the same command (`trainer.num_nodes`) take a share of the shard each.

        Raises:
            ModelError: As `artifact`.
            ConfigError: There are several machines, and nothing says which of them this is.
        """
        if self.trainer.num_nodes > 1:
            shard = Shard(shard.number + shard.total * _machine(), shard.total * self.trainer.num_nodes)
        with self.store.sharing(self.stage, self.identity, f"{shard.number}-of-{shard.total}") as workdir:
            if workdir is None:
                return True
            parts, chunks = self._parts(workdir)
            self._compute(parts, chunks[shard.number - 1 :: shard.total], f"shard {shard} ")
            left = sum(not parts.path(chunk).exists() for chunk in chunks)
        own = f"{self.stage} {self.scorer}: shard {shard} is done"
        log.info("%s; %s", own, f"{left} of {len(chunks)} chunks are still missing" if left else "it was the last")
        return left == 0

    def _produce(self, workdir: Path) -> Summary:
        parts, chunks = self._parts(workdir)
        started = time.monotonic()
        computed = self._compute(parts, chunks)
        seconds = time.monotonic() - started
        num_rows, tally = parts.merge(chunks, workdir / SCORES_FILE)
        if num_rows == 0:
            why = ", ".join(f"{n} {reason}" for reason, n in tally.dropped.items()) or "the train split is empty"
            raise DataError(f"scorer {self.scorer}: none of {tally.num_traces} training traces can be scored: {why}")
        share = computed / sum(chunk.num_characters for chunk in chunks)
        rate = share * tally.num_tokens / max(seconds, 1e-9)
        log.info("%s %s: %d tokens, %.0f tokens/s", self.stage, self.scorer, tally.num_tokens, rate)
        return Summary(num_rows=num_rows, dropped=tally.dropped, facts=_facts(tally, self.scorer))

    def _parts(self, workdir: Path) -> tuple[Parts, list[Chunk]]:
        traces = self.traces.file(TRACES_FILE)
        return Parts(traces, workdir / SCRATCH), plan_chunks(traces)

    def _compute(self, parts: Parts, chunks: Sequence[Chunk], label: str = "") -> int:
        """Write those of the parts that are missing; returns how many characters of thinking that were."""
        missing = parts.missing(chunks)
        if not missing:
            return 0
        parts.folder.mkdir(parents=True, exist_ok=True)
        # No process without a chunk; machines that share the work are jobs of their own (`shard`).
        devices = min(num_local_devices(self.trainer), len(missing))
        trainer = replace(self.trainer, devices=devices, num_nodes=1)
        total, todo = (sum(chunk.num_characters for chunk in some) for some in (chunks, missing))
        with Progress(f"{label}{self.stage} {self.scorer}", total, "characters", done=total - todo) as progress:
            arguments = (self.make, parts, missing, trainer)
            run_on_devices(predict, arguments, trainer=trainer, on_message=progress.advance)
        return todo


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
    """For the manifest."""
    facts: dict[str, Any] = {"num_tokens": tally.num_tokens, "scorer": scorer}
    if tally.num_in_windows:
        facts["windows"] = {"num_traces": tally.num_in_windows, "overlap": WINDOW_OVERLAP}
    return facts


TEMPLATE_TOKENS = 256
"""More than a chat template adds around the texts of a trace."""


def scoring_job(
    config: ScorerConfig,
    *,
    traces: Artifact,
    distilled: Artifact | None,
    reference: Artifact | None,
    base: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
) -> ScoringJob:
    """What `ScoringJob.artifact` makes the scores of the training traces of.

    Args:
        config: Which scorer, with its settings.
        traces: Output of the data stage.
        distilled: Output of the distill stage; needed by scorers that train on its labels.
        reference: Output of the reference stage; None scores with the base model itself.
        base: The model that the reference model was made from.
        trainer: Hardware; does not change the result.
        store: Where artifacts are kept.

    Raises:
        ConfigError: The scorer cannot work with what it is given.
        ModelError: A model cannot be found.
    """
    plan = plan_scorer(config, distilled, reference, base, trainer, store)
    identity: dict[str, Any] = {"scorer": config.identity(), "traces": traces.key, **plan.identity}
    if plan.window_context is not None and _may_be_longer(traces, plan.window_context):
        identity["windows"] = {"overlap": WINDOW_OVERLAP}
    return ScoringJob(
        stage="score",
        scorer=config.name,
        identity=identity,
        make=plan.make,
        traces=traces,
        trainer=trainer,
        store=store,
    )


def _may_be_longer(traces: Artifact, num_tokens: int) -> bool:
    """False only if every trace fits so many tokens: no token stands for less than a byte of text."""
    with pq.ParquetFile(traces.file(TRACES_FILE), memory_map=True) as file:
        for batch in file.iter_batches(columns=["question", "thinking", "response"]):
            texts = (pc.cast(pc.binary_length(column), "int64") for column in batch.columns)
            num_bytes = pc.max(pc.add(pc.add(next(texts), next(texts)), next(texts))).as_py()
            if num_bytes is not None and num_bytes + TEMPLATE_TOKENS > num_tokens:
                return True
    return False
