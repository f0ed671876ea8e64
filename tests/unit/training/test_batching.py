import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotpress.training.batching import Example, at_most, collate, plan_steps
from cotpress.training.config import Method, TuneConfig

LENGTHS = st.lists(st.integers(2, 60), min_size=1, max_size=40)


def _plan(lengths, size=4, budget=100, seed=1, epochs=2):
    tune = TuneConfig(method=Method.lora, learning_rate=1.0, epochs=epochs, sequences_per_step=size, seed=seed)
    return plan_steps(lengths, tune, budget)


@given(LENGTHS, st.integers(1, 9), st.integers(10, 200))
def test_every_epoch_visits_every_sequence_once(lengths, size, budget):
    plan = _plan(lengths, size, budget)
    per_epoch = -(-len(lengths) // size)
    assert len(plan) == 2 * per_epoch
    for epoch in (plan[:per_epoch], plan[per_epoch:]):
        assert sorted(i for step in epoch for batch in step for i in batch) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 9), st.integers(10, 200))
def test_micro_batches_fit_the_budget_unless_one_sequence_does_not(lengths, size, budget):
    for step in _plan(lengths, size, budget):
        for batch in step:
            assert batch
            assert len(batch) == 1 or sum(lengths[i] for i in batch) <= budget


def test_memory_budget_does_not_change_which_sequences_share_a_step():
    lengths = list(range(5, 45))
    members = [[{i for b in step for i in b} for step in _plan(lengths, budget=budget)] for budget in (50, 5000)]
    assert members[0] == members[1]


def test_order_follows_the_seed_and_changes_with_the_epoch():
    lengths = list(range(5, 45))
    assert _plan(lengths) == _plan(lengths)
    assert _plan(lengths) != _plan(lengths, seed=2)
    assert _plan(lengths)[:10] != _plan(lengths)[10:]


def test_only_completion_tokens_are_targets():
    batch = collate([Example(ids=(5, 6, 7, 8), num_prompt=2), Example(ids=(9, 4), num_prompt=1)])
    assert batch.packed.ids.tolist() == [[5, 6, 7, 8, 9, 4]]
    assert batch.packed.positions.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert batch.predicting.tolist() == [1, 2, 4]
    assert batch.targets.tolist() == [7, 8, 4]


def test_tokens_without_weight_are_no_targets():
    masked = Example(ids=(5, 6, 7, 8), num_prompt=1, weights=(1.0, 0.0, 1.0))
    batch = collate([masked, Example(ids=(9, 4), num_prompt=1)])
    assert batch.packed.ids.tolist() == [[5, 6, 7, 8, 9, 4]]  # they are read all the same
    assert (batch.predicting.tolist(), batch.targets.tolist(), batch.weights) == ([0, 2, 4], [6, 8, 4], None)
    assert (masked.num_targets, masked.weight, masked.has_soft_weights) == (2, 2.0, False)


def test_weights_stand_beside_their_targets():
    soft = Example(ids=(5, 6, 7, 8), num_prompt=1, weights=(0.25, 0.0, 1.0))
    batch = collate([soft, Example(ids=(9, 4), num_prompt=1)])
    assert (batch.targets.tolist(), batch.weights.tolist()) == ([6, 8, 4], [0.25, 1.0, 1.0])
    assert (soft.num_targets, soft.weight, soft.has_soft_weights) == (2, 1.25, True)
    assert torch.equal(batch.to(torch.device("cpu")).weights, batch.weights)
    assert [part.weights if part.weights is None else part.weights.tolist() for part in at_most(batch, 4)] == [
        [0.25, 1.0],
        None,
    ]


@pytest.mark.parametrize("num_tokens", [1, 60, 200, None])
def test_split_micro_batches_hold_the_same_sequences_and_targets(examples, num_tokens):
    whole = collate(examples.kept[:9])
    parts = list(at_most(whole, num_tokens))
    assert sum((part.packed.lengths for part in parts), ()) == whole.packed.lengths
    assert [example for part in parts for example in part.examples] == examples.kept[:9]
    assert torch.equal(torch.cat([part.packed.ids for part in parts], 1), whole.packed.ids)
    assert torch.equal(torch.cat([part.packed.positions for part in parts], 1), whole.packed.positions)
    assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)
    for part in parts:
        assert torch.equal(part.packed.ids[0, part.predicting + 1], part.targets)
        assert num_tokens is None or len(part.packed.lengths) == 1 or sum(part.packed.lengths) <= num_tokens
