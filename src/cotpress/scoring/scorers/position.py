"""Position alone: the baselines head, tail and stride, which read nothing.

Computes  head    s_i = -i                  keep the beginning
          tail    s_i = i                   keep the end
          stride  s_i = -v(i)               keep evenly spread tokens
          where v(i) is the place of i when 0..n-1 is ordered by the van der Corput sequence in base 2
Source    truncation and uniform sampling, the usual floor of prompt compression (e.g. arXiv 2403.12968, table 1).

The ratio is not known to a scorer, so stride cannot take every k-th token. Any first part of the van der Corput order
is spread over the whole text with gaps that differ by a factor of two at most, whatever its length.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from omegaconf import MISSING

from cotpress.records import Trace
from cotpress.scoring.base import TokenScorer
from cotpress.scoring.config import ScorerConfig


class Position(Enum):
    """Positions that are kept first."""

    head = "head"
    tail = "tail"
    stride = "stride"
    """Evenly spread over the text at every ratio."""


@dataclass(kw_only=True, slots=True)
class PositionConfig(ScorerConfig):
    """Scores by position alone."""

    keep: Position = MISSING
    """Positions that are kept first."""


class PositionScorer(TokenScorer[PositionConfig]):
    """Scores that depend on the index and the number of tokens."""

    def token_values(self, trace: Trace) -> NDArray[np.float32]:
        """See `TokenScorer`."""
        return positional(self.config.keep, self.num_tokens(trace))


def positional(keep: Position, num_tokens: int) -> NDArray[np.float32]:
    """Scores of `num_tokens` positions, float32 `[n]`, all different."""
    index = np.arange(num_tokens)
    match keep:
        case Position.head:
            return -index.astype(np.float32)
        case Position.tail:
            return index.astype(np.float32)
        case Position.stride:
            # Counting with reversed bits visits 0, 1/2, 1/4, 3/4, ... of the next power of two.
            bits = max(num_tokens - 1, 1).bit_length()
            order = np.sum([((np.arange(2**bits) >> bit) & 1) << (bits - 1 - bit) for bit in range(bits)], axis=0)
            return -np.argsort(order[order < num_tokens]).astype(np.float32)
