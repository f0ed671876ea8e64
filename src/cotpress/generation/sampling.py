"""Draws the next token of every row from the row's own stream of random numbers.

A generator shared by a batch would make each text depend on its neighbours, and a run that is resumed after a kill
would write others than one that was not. Here a row owns a counter-based generator (Philox), keyed by the seed and
the name of its stream; step `k` of a row takes the k-th number of that stream, whoever stands beside it.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch


class RowStreams:
    """Uniform random numbers, one independent stream per row.

    Args:
        seed: Seed of all streams.
        names: One name per row, e.g. `problem id/sample`; equal names give equal numbers.
    """

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self._streams = [np.random.Generator(np.random.Philox(key=_key(seed, name))) for name in names]

    def draw(self, rows: Sequence[int], device: torch.device) -> torch.Tensor:
        """The next number in [0, 1) of each of the given rows: float64 `[rows]`."""
        return torch.tensor([self._streams[row].random() for row in rows], dtype=torch.float64).to(device)


def _key(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little")


def sampled_tokens(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Next token per row by inverting the cumulative distribution at the row's number.

    The distribution is summed in the vocabulary's order and not from the likeliest down: two tokens of nearly equal
    probability would change places with the rounding of another batch size, and the text with them.

    Args:
        logits: `[rows, V]`.
        uniforms: float64 `[rows]` in [0, 1).
        temperature: Above 0.
        top_p: Smallest set of likeliest tokens with this much probability, in (0, 1].

    Returns:
        int64 `[rows]`.
    """
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p < 1:
        ordered, index = probabilities.sort(dim=-1, descending=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter_(1, index, ordered)
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1]
    below = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))  # rounding reaches no end
    return torch.searchsorted(cumulative, below[:, None], right=True)[:, 0]  # right: no token of probability 0
