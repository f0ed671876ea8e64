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
        top_p: Smallest set of likeliest tokens with this much probability, in (0, 1]; tokens as likely as the last of
            them are in it as well, since which of them comes first is nothing that the model said.

    Returns:
        int64 `[rows]`.
    """
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p < 1:
        # all tokens below this probability together hold less than 1 - top_p: none of them is in the set
        candidates = int((probabilities >= (1 - top_p) / logits.shape[-1]).sum(-1).max())
        ordered = probabilities.topk(candidates, dim=-1).values
        least = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 1.0).amin(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1]
    below = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))  # rounding reaches no end
    return torch.searchsorted(cumulative, below[:, None], right=True)[:, 0]  # right: no token of probability 0
