"""Random: the baseline every scorer has to beat.

Computes  s_i = u(seed, trace id, i),  uniform in [0, 1), independent of everything else.
Source    the `random` row of the ablations in arXiv 2403.12968 and 2505.17827; no released code to deviate from.

The value of a token follows from the seed, the trace's id and the token's index only, so it is the same alone, in a
batch, in any order and on any machine: the numbers are raw Philox output, whose stream is part of its definition.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.loading import tokenizer_fingerprint
from cotpress.records import ScoredTrace, Trace
from cotpress.scoring.config import RandomConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RandomScorer:
    """Uniform scores over the tokens of a given tokenizer."""

    def __init__(self, config: RandomConfig, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.name = config.name
        self._seed, self._tokenizer = config.seed, tokenizer
        self._fingerprint = tokenizer_fingerprint(tokenizer)

    def num_tokens(self, trace: Trace) -> int:
        """See `Scorer`."""
        return len(tokenize_with_offsets(self._tokenizer, trace.thinking)[0])

    def refusal(self, trace: Trace) -> str | None:
        """Every trace can be scored."""
        return None

    def score(self, traces: Sequence[Trace]) -> Iterator[ScoredTrace]:
        """See `Scorer`."""
        for trace in traces:
            ids, offsets = tokenize_with_offsets(self._tokenizer, trace.thinking)
            yield ScoredTrace(
                id=trace.id,
                token_ids=ids,
                offsets=offsets,
                scores=stable_uniform(self._seed, trace.id, len(ids)),
                tokenizer=self._fingerprint,
                scorer=self.name,
            )


def stable_uniform(seed: int, name: str, num_values: int) -> NDArray[np.float32]:
    """The first `num_values` numbers of the stream that belongs to `(seed, name)`, float32 in [0, 1)."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    raw = np.random.Philox(key=int.from_bytes(digest[:16], "big")).random_raw(num_values)
    # 24 bits are what a float32 holds exactly; more would round up to 1.0 now and then.
    return ((raw >> np.uint64(40)).astype(np.float64) * 2.0**-24).astype(np.float32)
