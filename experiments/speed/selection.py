"""Measures selection alone: what any further ratio costs once the scores are there. One core, no model.

Measured twice: the order of deletion and one cut, in memory; and all of the compress stage, from artifacts on disk to
rows on disk, tokenizing and writing included.
"""

import time
from typing import Any

import numpy as np

from experiments.speed.ours import Engine
from experiments.speed.worker import Job, Measurement, serve

RATIO = 0.7
TOKENS_PER_TRACE = 1000


def prepare(job: Job) -> Any:
    """One repetition selects `selected_tokens` tokens in memory, then those of the corpus through the stage."""
    num_tokens = int(job["selected_tokens"])
    rng = np.random.default_rng(1)
    scores = rng.normal(size=num_tokens).astype(np.float32)
    lengths = np.full(num_tokens // TOKENS_PER_TRACE, TOKENS_PER_TRACE, dtype=np.int64)
    starts = np.tile(np.arange(TOKENS_PER_TRACE, dtype=np.int32) * 4, len(lengths))
    offsets = np.stack([starts, starts + 4], axis=1)
    engine = Engine({**job, "scorer": ["scorer=random"]})
    scored = engine.score()

    def repeat() -> Measurement:
        seconds = _rank(scores, offsets, lengths)
        started = time.perf_counter()
        engine.compress(scored, RATIO)
        facts = {"stage_seconds": time.perf_counter() - started, "stage_tokens": int(scored.facts["num_tokens"])}
        engine.forget("compress")
        return Measurement(seconds=seconds, tokens=num_tokens, facts=facts)

    return repeat


def _rank(scores: Any, offsets: Any, lengths: Any) -> float:
    from cotpress.modeling.selection import rank_many

    started = time.perf_counter()
    rank_many(scores, offsets, lengths).cut(np.full(len(lengths), RATIO))
    return time.perf_counter() - started


if __name__ == "__main__":
    serve(prepare)
