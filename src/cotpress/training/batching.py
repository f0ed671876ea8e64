"""Training examples from records, and the order in which they are trained on.

The order is a pure function of lengths and seed, so a resumed run continues with the same steps. The recipe determines
the optimizer steps: `sequences_per_step` sequences in shuffled order. The hardware determines the micro-batches of a
step: at most `tokens_per_batch` tokens each. A micro-batch is one packed row without padding, in which every sequence
has the loss that it has alone, so another token budget changes rounding only; with dropout also its masks, and then
it is part of the identity.

Micro-batches go round-robin over the devices; a device without one gets a batch without targets, so that all make the
same number of passes and the same collective calls.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from cotpress.devices.launch import Place
from cotpress.modeling.alignment import spans_to_mask, tokenize_with_offsets
from cotpress.modeling.packing import Packed, pack, plan_packs
from cotpress.prompts import ChatFormat
from cotpress.records import CompressedTrace, ValuableTrace
from cotpress.training.config import TuneConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training sequence; the loss is over the tokens after the prompt, of which there are `num_completion`.

    `row` is the id of its record, `marker_ratio` the ratio that the marker in its prompt announces. `weights`, each in
    [0, 1], are those of the loss of the tokens after the prompt; None if all are 1. The prompt has at least one token,
    as nothing predicts the first one.
    """

    ids: tuple[int, ...]
    num_prompt: int
    row: str = ""
    marker_ratio: float | None = None
    weights: tuple[float, ...] | None = None

    @property
    def num_completion(self) -> int:
        """Number of tokens after the prompt."""
        return len(self.ids) - self.num_prompt

    @property
    def num_targets(self) -> int:
        """Number of tokens with a loss."""
        return self.num_completion if self.weights is None else sum(weight > 0 for weight in self.weights)

    @property
    def weight(self) -> float:
        """Sum of the weights of its tokens."""
        return float(self.num_completion) if self.weights is None else math.fsum(self.weights)

    @property
    def has_soft_weights(self) -> bool:
        """True if a token has another weight than 0 or 1."""
        return self.weights is not None and not set(self.weights) <= {0.0, 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Training examples, and the number of dropped records by reason."""

    kept: Sequence[Example]
    dropped: dict[str, int]
    num_cut: int = 0
    """Number of examples that are shorter than their records."""
    num_withheld: int = 0
    """Number of dropped records that this model could hold, but another system of the run could not."""

    @property
    def marker_ratios(self) -> tuple[float, ...]:
        """Ratios that control markers announce, ascending."""
        return tuple(sorted({e.marker_ratio for e in self.kept if e.marker_ratio is not None}))


def student_sequences(rows: Iterable[CompressedTrace], chat: ChatFormat, *, question: bool = True) -> list[Example]:
    """[question, compressed thinking, response] of the `train` split, with the ratio marker where a trace has one.

    Without `question`, the completion alone (QFFT, arXiv 2506.12860). The release (LWL-cpu/Question-Free-Fine-Tuning,
    the template `qwen_qfft` for LLaMA-Factory) leaves out system text, question and all tokens of the chat template,
    and so do we. Its template has no token that ends the turn either; here it stays, with a loss. Nothing predicts the
    first token of such a sequence, so that it has no loss.
    """
    examples = []
    for row in rows:
        if row.split == "train":
            completion = chat.completion_ids(row.token_ids.tolist(), row.response)
            prompt = chat.prompt_ids(row.question, row.marker_ratio) if question else chat.opening_ids()
            example = replace(_example(row.id, prompt, completion), marker_ratio=row.marker_ratio)
            if row.loss_weights is not None:
                weights = chat.completion_weights(row.loss_weights.tolist(), completion)
                example = replace(example, weights=weights[-example.num_completion :])
            examples.append(example)
    return examples


def reference_sequences(
    rows: Iterable[ValuableTrace], tokenizer: "PreTrainedTokenizerBase", chat: ChatFormat
) -> list[Example]:
    """[question, valuable thinking, response] of every trace (CTS, arXiv 2505.17827, section 3.1).

    The valuable thinking consists of the original tokens, so the reference model learns the tokens that it scores.
    """
    examples = []
    for row in rows:
        ids, offsets = tokenize_with_offsets(tokenizer, row.thinking)
        valuable = np.asarray(ids)[spans_to_mask(offsets, row.valuable)]
        completion = chat.completion_ids(valuable.tolist(), row.response)
        examples.append(_example(row.id, chat.prompt_ids(row.question), completion))
    return examples


def _example(row: str, prompt: Sequence[int], completion: Sequence[int]) -> Example:
    return Example(ids=(*prompt, *completion), num_prompt=max(len(prompt), 1), row=row)


Plan = list[list[list[int]]]
"""The micro-batches of every optimizer step, each a list of example indices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """One forward pass over examples; without any in a batch that only makes the passes of a device even."""

    packed: Packed
    """The examples as one row of T tokens."""
    predicting: torch.Tensor
    """int64 `[N]`, positions whose next token has a loss; made on the CPU, so that training does not wait for a GPU."""
    targets: torch.Tensor
    """int64 `[N]`, the tokens that follow these positions."""
    number: int
    """Index among the micro-batches of its step, over all devices."""
    examples: Sequence[Example] = ()
    weights: torch.Tensor | None = None
    """float32 `[N]`, weights of the losses, above 0; None if all are 1."""

    def to(self, device: torch.device) -> "MicroBatch":
        """A copy on another device."""
        packed, predicting = self.packed.to(device), self.predicting.to(device)
        weights = None if self.weights is None else self.weights.to(device)
        return replace(self, packed=packed, predicting=predicting, targets=self.targets.to(device), weights=weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The micro-batches of an optimizer step for one device, as many as for any other; sums over all devices."""

    batches: Sequence[MicroBatch]
    num_targets: int
    num_tokens: int
    weight: float
    """Sum of the weights of the losses: the number of targets if all are 1."""


def plan_steps(lengths: Sequence[int], tune: TuneConfig, tokens_per_batch: int) -> Plan:
    """Plan the optimizer steps and their micro-batches; the last step of an epoch may be smaller."""
    plan: Plan = []
    for epoch in range(tune.epochs):
        order = np.random.default_rng([tune.seed, epoch]).permutation(len(lengths)).tolist()
        for start in range(0, len(order), tune.sequences_per_step):
            members = order[start : start + tune.sequences_per_step]
            packs = plan_packs([lengths[i] for i in members], tokens_per_batch)
            plan.append([[members[i] for i in packed] for packed in packs])
    return plan


class StepDataset(torch.utils.data.Dataset[Step]):
    """The optimizer steps of the plan that are not `done`, each with the micro-batches of one device."""

    def __init__(self, examples: Sequence[Example], plan: Plan, place: Place | None = None, done: int = 0) -> None:
        self._examples, self._plan, self._place = examples, plan[done:], place or Place()

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> Step:
        step, place = [[self._examples[i] for i in batch] for batch in self._plan[index]], self._place
        members = [example for batch in step for example in batch]
        rounds = -(-len(step) // place.num_workers)
        numbers = [place.rank + place.num_workers * k for k in range(rounds)]
        return Step(
            batches=[collate(step[n], n) if n < len(step) else empty_batch(members[0], n) for n in numbers],
            num_targets=sum(e.num_targets for e in members),
            num_tokens=sum(len(e.ids) for e in members),
            weight=math.fsum(e.weight for e in members),
        )


def collate(examples: Sequence[Example], number: int = 0) -> MicroBatch:
    """Pack examples into a micro-batch; only completion tokens with a weight are targets."""
    packed = pack([e.ids for e in examples])
    positions = [
        np.arange(start + e.num_prompt - 1, start + len(e.ids) - 1)
        for start, e in zip(packed.starts, examples, strict=True)
    ]
    predicting, weights = torch.from_numpy(np.concatenate(positions)), None
    if any(e.weights is not None for e in examples):
        weights = torch.tensor([w for e in examples for w in (e.weights or (1.0,) * e.num_completion)])
        predicting, weights = predicting[weights > 0], weights[weights > 0]
        if bool((weights == 1).all()):
            weights = None
    targets = packed.ids[0, predicting + 1]
    return MicroBatch(
        packed=packed, predicting=predicting, targets=targets, number=number, examples=examples, weights=weights
    )


def empty_batch(example: Example, number: int) -> MicroBatch:
    """A micro-batch of one token and no target, whose gradients are zero."""
    none = torch.zeros(0, dtype=torch.int64)
    return MicroBatch(packed=pack([example.ids[:1]]), predicting=none, targets=none, number=number)


def at_most(batch: MicroBatch, num_tokens: int | None) -> Iterator[MicroBatch]:
    """Split a micro-batch between sequences into parts of at most `num_tokens` tokens; None leaves it whole."""
    lengths = batch.packed.lengths
    if num_tokens is None or len(lengths) == 1 or sum(lengths) <= num_tokens:
        yield batch
        return
    middle = len(lengths) // 2
    for examples in (batch.examples[:middle], batch.examples[middle:]):
        yield from at_most(collate(examples, batch.number).to(batch.targets.device), num_tokens)
