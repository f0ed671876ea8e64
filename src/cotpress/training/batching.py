"""Which sequences make up which optimizer step, planned before training begins.

The plan is a pure function of lengths and settings: epochs are shuffled by seed, cut into optimizer steps, and each
step into micro-batches that fit the memory. Micro-batches are padded on the right without an attention mask: under
causal attention no real token sees the padding behind it, and the loss ignores what the padding predicts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cotpress.training.examples import Example

IGNORED = -100
"""Target of positions without a loss."""

MicroBatch = tuple[torch.Tensor, torch.Tensor]
"""Input ids int64 `[B, L]` and targets int64 `[B, L]`: the token that follows each position, or `IGNORED`."""

Step = list[list[int]]
"""One optimizer step of one rank: indices of examples, by micro-batch. An empty micro-batch only keeps pace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """What determines the plan beside the lengths.

    Attributes:
        epochs: Passes over the data.
        sequences_per_step: Sequences per optimizer step, over all ranks.
        tokens_per_batch: Padded tokens per micro-batch; one longer sequence is a micro-batch of its own.
        seed: Seed of the order.
    """

    epochs: int
    sequences_per_step: int
    tokens_per_batch: int
    seed: int


def plan_steps(lengths: Sequence[int], settings: PlanSettings, *, rank: int = 0, world_size: int = 1) -> list[Step]:
    """The optimizer steps of one rank; every rank gets as many steps, and as many micro-batches in each."""
    steps = []
    for epoch in range(settings.epochs):
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(lengths)).tolist()
        for start in range(0, len(order), settings.sequences_per_step):
            members = sorted(order[start : start + settings.sequences_per_step], key=lambda i: (lengths[i], i))
            shares = [_micro_batches(members[r::world_size], lengths, settings) for r in range(world_size)]
            mine, longest = shares[rank], max(map(len, shares))
            steps.append(mine + [[] for _ in range(longest - len(mine))])
    return steps


def _micro_batches(members: list[int], lengths: Sequence[int], settings: PlanSettings) -> Step:
    batches: Step = []
    for index in members:  # ascending lengths: the newcomer sets the padded width
        if batches and (len(batches[-1]) + 1) * lengths[index] <= settings.tokens_per_batch:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def collate(examples: Sequence[Example]) -> MicroBatch:
    """Right-padded input ids and next-token targets; only completion tokens are targets."""
    width = max((len(e.input_ids) - 1 for e in examples), default=1)
    inputs = torch.zeros(max(len(examples), 1), width, dtype=torch.int64)
    targets = torch.full_like(inputs, IGNORED)
    for row, example in enumerate(examples):
        ids = torch.from_numpy(example.input_ids.astype(np.int64))
        inputs[row, : len(ids) - 1] = ids[:-1]  # the last token is only a target
        first = max(example.num_prompt, 1)
        targets[row, first - 1 : len(ids) - 1] = ids[first:]
    return inputs, targets


class StepLoader:
    """Iterates over the planned steps; Lightning stores its position, so a resumed run goes on in mid-epoch.

    One Lightning epoch is the whole run: data epochs are part of the plan.
    """

    def __init__(self, examples: Sequence[Example], steps: Sequence[Step]) -> None:
        self._examples, self._steps = examples, steps
        self._next = 0

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        while self._next < len(self._steps):
            step = self._steps[self._next]
            self._next += 1
            yield [collate([self._examples[i] for i in indices]) for indices in step]

    def state_dict(self) -> dict[str, Any]:
        """The position, in optimizer steps."""
        return {"next_step": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a stored position."""
        self._next = int(state["next_step"])
