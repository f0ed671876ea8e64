"""The order of training: a pure function of lengths and seed, so a resumed run sees exactly what was left.

An optimizer step takes `sequences_per_step` sequences in shuffled order: that is the recipe's. Inside a step they are
cut into micro-batches of at most `tokens_per_batch` tokens: that is the hardware's. A micro-batch is one packed row
without padding, in which every sequence gets what it gets alone, so without dropout the budget changes rounding only.
Dropout (`lora_dropout`) draws its mask for the row; with it, another budget is another draw.

Several devices share the micro-batches of a step like cards that are dealt. Where they do not come out even, who has
none left gets one without targets: every device makes the same number of passes, which collective calls rely on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cotpress.devices.place import Place
from cotpress.modeling.packing import Packed, pack, plan_packs
from cotpress.training.examples import Example

Plan = list[list[list[int]]]
"""Per optimizer step its micro-batches, each a list of example indices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """One forward pass.

    Attributes:
        packed: The sequences as one row of T tokens.
        predicting: int64 `[N]`, places in the row whose next token has a loss; known here, they need not be looked for
            on the device, which would have to be waited for. N is 0 if it only keeps other devices company.
        targets: int64 `[N]`, the tokens that come there.
        number: Its place among those of its step, over all devices.
        rows: What the sequences were made of, for messages.
    """

    packed: Packed
    predicting: torch.Tensor
    targets: torch.Tensor
    number: int
    rows: tuple[str, ...] = ()

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on another device."""
        return replace(
            self,
            packed=self.packed.to(device),
            predicting=self.predicting.to(device),
            targets=self.targets.to(device),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The micro-batches of one optimizer step that one device has to do.

    Attributes:
        batches: Forward passes, on every device as many.
        num_targets: Tokens with a loss, over all batches of all devices.
        num_tokens: Tokens, prompts included, over all of them too.
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
            members = order[start : start + sequences_per_step]
            packs = plan_packs([lengths[i] for i in members], tokens_per_batch)
            plan.append([[members[i] for i in one] for one in packs])
    return plan


class StepDataset(torch.utils.data.Dataset[Step]):
    """One device's share of the optimizer steps, in the order of the plan."""

    def __init__(self, examples: Sequence[Example], plan: Plan, place: Place | None = None) -> None:
        self._examples, self._plan, self._place = examples, plan, place or Place()

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> Step:
        step, place = self._plan[index], self._place
        members = [self._examples[i] for batch in step for i in batch]
        rounds = -(-len(step) // place.num_workers)
        numbers = [place.rank + place.num_workers * k for k in range(rounds)]
        return Step(
            batches=[
                collate([self._examples[i] for i in step[n]], n) if n < len(step) else company(members[0], n)
                for n in numbers
            ],
            num_targets=sum(e.num_targets for e in members),
            num_tokens=sum(len(e.ids) for e in members),
        )


def collate(examples: Sequence[Example], number: int = 0) -> MicroBatch:
    """Examples one after the other; only completion tokens are targets."""
    packed = pack([e.ids for e in examples])
    places = [
        np.arange(start + e.num_prompt - 1, start + len(e.ids) - 1)
        for start, e in zip(packed.starts, examples, strict=True)
    ]
    predicting = torch.from_numpy(np.concatenate(places))
    return MicroBatch(
        packed=packed,
        predicting=predicting,
        targets=packed.ids[0, predicting + 1],
        number=number,
        rows=tuple(e.row for e in examples),
    )


def company(example: Example, number: int) -> MicroBatch:
    """A micro-batch of one token and no target, whose gradients are zero."""
    none = torch.zeros(0, dtype=torch.int64)
    return MicroBatch(packed=pack([example.ids[:1]]), predicting=none, targets=none, number=number)
