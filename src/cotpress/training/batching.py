"""The order of training: a pure function of lengths and seed, so a resumed run sees exactly what was left.

An optimizer step takes `sequences_per_step` sequences in shuffled order. Inside a step they are sorted by length and
cut into micro-batches of at most `tokens_per_batch` tokens, padding included. Sequences are padded on the right and
no attention mask is passed: with causal attention no token sees the padding behind it, so a batch gives exactly what
its sequences give alone, and the fast causal attention kernel is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cotpress.training.examples import Example

IGNORED = -100
"""Target of a position that has no loss."""

Plan = list[list[list[int]]]
"""Per optimizer step its micro-batches, each a list of example indices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """One forward pass.

    Attributes:
        ids: int64 `[B, L]`, padded on the right.
        targets: int64 `[B, L]`; `targets[b, i]` is the token after `ids[b, i]`, or `IGNORED`.
    """

    ids: torch.Tensor
    targets: torch.Tensor

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on another device."""
        return MicroBatch(ids=self.ids.to(device), targets=self.targets.to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """All micro-batches of one optimizer step.

    Attributes:
        batches: Forward passes.
        num_targets: Tokens with a loss, over all batches.
        num_tokens: Tokens without padding.
    """

    batches: Sequence[MicroBatch]
    num_targets: int
    num_tokens: int


def plan_steps(
    lengths: Sequence[int], *, sequences_per_step: int, epochs: int, tokens_per_batch: int, seed: int
) -> Plan:
    """Which sequences go into which micro-batch of which optimizer step; the last step of an epoch may be smaller."""
    plan: Plan = []
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(lengths)).tolist()
        for start in range(0, len(order), sequences_per_step):
            plan.append(_micro_batches(order[start : start + sequences_per_step], lengths, tokens_per_batch))
    return plan


def _micro_batches(indices: list[int], lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    batches: list[list[int]] = [[]]
    for index in sorted(indices, key=lambda i: (-lengths[i], i)):
        longest = lengths[batches[-1][0]] if batches[-1] else lengths[index]
        if batches[-1] and longest * (len(batches[-1]) + 1) > tokens_per_batch:
            batches.append([])
        batches[-1].append(index)
    return batches


class StepDataset(torch.utils.data.Dataset[Step]):
    """Optimizer steps as items, in the order of the plan."""

    def __init__(self, examples: Sequence[Example], plan: Plan) -> None:
        self._examples, self._plan = examples, plan

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> Step:
        members = [self._examples[i] for batch in self._plan[index] for i in batch]
        return Step(
            batches=[collate([self._examples[i] for i in batch]) for batch in self._plan[index]],
            num_targets=sum(e.num_targets for e in members),
            num_tokens=sum(len(e.ids) for e in members),
        )


def collate(examples: Sequence[Example]) -> MicroBatch:
    """Examples side by side, padded on the right with token 0, which nothing looks at."""
    width = max(len(e.ids) for e in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    targets = torch.full((len(examples), width), IGNORED, dtype=torch.long)
    for row, example in enumerate(examples):
        tokens = torch.tensor(example.ids)
        ids[row, : len(tokens)] = tokens
        targets[row, example.num_prompt - 1 : len(tokens) - 1] = tokens[example.num_prompt :]
    return MicroBatch(ids=ids, targets=targets)
