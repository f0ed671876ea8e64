"""Random: the baseline that every scorer has to beat.

Computes  s_i = u(seed, trace id, i),  uniform in [0, 1), independent of everything else.
Source    the `random` row of the ablations in arXiv 2403.12968 and 2505.17827; no released code to deviate from.

The value of a token follows from the seed, the trace's id and the token's index only, so it is the same alone, in a
batch, in any order and on any machine: the numbers are raw Philox output, whose stream is part of its definition.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from omegaconf import MISSING

from cotpress.records import Trace
from cotpress.scoring.base import TokenScorer
from cotpress.scoring.config import ScorerConfig
from cotpress.settings import Natural


@dataclass(kw_only=True, slots=True)
class RandomConfig(ScorerConfig):
    """Uniform random scores, stable per token."""

    seed: Natural = MISSING
    """Seed of the scores."""


class RandomScorer(TokenScorer[RandomConfig]):
    """Uniform scores over the tokens of a given tokenizer."""

    def token_values(self, trace: Trace) -> NDArray[np.float32]:
        """See `TokenScorer`."""
        return stable_uniform(self.config.seed, trace.id, self.num_tokens(trace))


def stable_uniform(seed: int, name: str, num_values: int) -> NDArray[np.float32]:
    """The first `num_values` numbers of the stream of `(seed, name)`, float32 in [0, 1)."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    raw = np.random.Philox(key=int.from_bytes(digest[:16], "big")).random_raw(num_values)
    # 24 bits are what a float32 holds exactly; more would round up to 1.0 now and then.
    return ((raw >> np.uint64(40)).astype(np.float64) * 2.0**-24).astype(np.float32)
