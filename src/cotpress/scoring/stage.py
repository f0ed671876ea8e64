"""The score stage: one finite importance per thinking token of every training trace."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cotpress.artifacts import SCRATCH, Artifact, ArtifactStore, Summary
from cotpress.errors import DataError, ModelError
from cotpress.modeling_config import ModelConfig
from cotpress.progress import Progress
from cotpress.records import ScoredTrace, Trace
from cotpress.scoring.base import NO_TOKENS, Scorer
from cotpress.scoring.config import ScorerConfig
from cotpress.scoring.plan import plan_scorer
from cotpress.tables import read_records, write_records
from cotpress.trainer_config import TrainerConfig

log = logging.getLogger(__name__)

TRACES_FILE = "traces.parquet"
SCORES_FILE = "scores.parquet"
SHARD_CHARACTERS = 200_000
"""Thinking characters per shard: what an interrupted job may have to score again (a minute or two on a CPU)."""


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
        ModelError: A model cannot be loaded, gives scores that are not finite, or does not fit the memory.
    """
    plan = plan_scorer(config, distilled, reference, base, trainer, store)
    identity = {"scorer": config, "traces": traces.key, **plan.identity}
    return store.build("score", identity, lambda workdir: produce(plan.make(), traces, workdir))


def produce(scorer: Scorer, traces: Artifact, workdir: Path, verb: str = "score") -> Summary:
    """Write the scores of the training traces into `workdir`, shard by shard; finished shards are found again.

    Args:
        scorer: What to score with.
        traces: Output of the data stage.
        workdir: Folder of the artifact in the making.
        verb: What is done, for progress and log.

    Raises:
        DataError: There is no training trace that can be scored.
        ModelError: A score is not finite, or the memory does not suffice.
    """
    rows = [t for t in read_records(traces.file(TRACES_FILE), Trace) if t.split == "train"]
    sizes, dropped = _admit(scorer, rows)
    if not sizes:
        reasons = ", ".join(f"{n} {why}" for why, n in dropped.items()) or "the train split is empty"
        raise DataError(f"scorer {scorer.name}: none of {len(rows)} training traces can be scored: {reasons}")
    num_tokens = sum(sizes.values())
    # Longest first: little padding within a batch, and a lack of memory shows at once. The order is the same in
    # every call, so the shards of an interrupted call are found again.
    order = sorted((t for t in rows if t.id in sizes), key=lambda t: (-len(t.thinking), t.id))
    shards = _shards(order)
    paths = [workdir / SCRATCH / f"scores-{number:05d}.parquet" for number in range(len(shards))]
    paths[0].parent.mkdir(exist_ok=True)
    finished = [path.is_file() for path in paths]
    done = sum(sizes[t.id] for shard, there in zip(shards, finished, strict=True) if there for t in shard)
    with Progress(f"{verb} {scorer.name}", num_tokens, "tokens", done=done) as progress:
        for shard, path, there in zip(shards, paths, finished, strict=True):
            if not there:
                _score_shard(scorer, shard, path, progress)
        log.info("%s %s: %d tokens, %.0f tokens/s", verb, scorer.name, num_tokens, progress.per_second)
    place = {t.id: i for i, t in enumerate(rows)}
    merged = sorted(read_records(paths, ScoredTrace), key=lambda s: place[s.id])
    write_records(workdir / SCORES_FILE, merged, ScoredTrace)
    return Summary(num_rows=len(merged), dropped=dropped, facts={"num_tokens": num_tokens, "scorer": scorer.name})


def _admit(scorer: Scorer, rows: Sequence[Trace]) -> tuple[dict[str, int], Counter[str]]:
    """Number of tokens of each trace that can be scored, and how many cannot, by reason."""
    sizes: dict[str, int] = {}
    dropped: Counter[str] = Counter()
    for trace in rows:
        num_tokens = scorer.num_tokens(trace)
        reason = scorer.refusal(trace) if num_tokens else NO_TOKENS
        if reason is None:
            sizes[trace.id] = num_tokens
        else:
            dropped[reason] += 1
    return sizes, dropped


def _shards(order: Sequence[Trace]) -> list[list[Trace]]:
    shards: list[list[Trace]] = []
    room = 0
    for trace in order:
        if room <= 0:
            shards.append([])
            room = SHARD_CHARACTERS
        shards[-1].append(trace)
        room -= len(trace.thinking)
    return shards


def _score_shard(scorer: Scorer, shard: Sequence[Trace], path: Path, progress: Progress) -> None:
    scored = []
    try:
        for record in scorer.score(shard):
            _check(record, scorer.name)
            scored.append(record)
            progress.advance(len(record.scores))
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"scorer {scorer.name}: out of memory on texts of up to {len(shard[0].thinking)} characters. "
            "Fix: lower trainer.tokens_per_batch or model.context_tokens; finished shards are kept"
        ) from error
    temporary = path.with_suffix(".tmp")
    write_records(temporary, scored, ScoredTrace)
    temporary.replace(path)


def _check(record: ScoredTrace, scorer: str) -> None:
    shapes = (record.scores.shape, record.token_ids.shape, record.offsets.shape[:1])
    assert len(set(shapes)) == 1, f"{scorer} gave {shapes} for trace {record.id}"
    bad = int((~np.isfinite(record.scores)).sum())
    if bad:
        raise ModelError(
            f"scorer {scorer}: {bad} of {len(record.scores)} scores of trace '{record.id}' are not finite. "
            "Fix: model.dtype=float32, or retrain the reference model with a lower learning rate"
        )
