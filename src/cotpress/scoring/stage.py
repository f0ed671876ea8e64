"""The score stage: one finite importance per thinking token of every training trace.

Traces stream: they are read in chunks, scored, and written as a chunk is finished (parts.py), so memory does not grow
with their number, an interrupted job goes on from its last chunk, and devices or jobs can share the chunks (job.py).
"""

from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from cotpress.artifacts import Artifact, ArtifactStore
from cotpress.modeling.logprobs import WINDOW_OVERLAP
from cotpress.modeling_config import ModelConfig
from cotpress.scoring.config import ScorerConfig
from cotpress.scoring.job import TRACES_FILE, ScoringJob
from cotpress.scoring.plan import plan_scorer
from cotpress.trainer_config import TrainerConfig

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
