import sys
import types

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from cotpress.devices.config import HeadLoss
from cotpress.errors import ConfigError, MissingExtraError
from cotpress.training import config
from cotpress.training.head_loss import ROWS_PER_CHUNK, chunked_loss, pick_head_loss, plain_loss

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize("choice", [HeadLoss.chunked, HeadLoss.plain, HeadLoss.linear_cross_entropy])
@pytest.mark.parametrize("num_rows", [1, ROWS_PER_CHUNK, 2 * ROWS_PER_CHUNK + 3])
@pytest.mark.parametrize("trained", ["states", "all"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_every_choice_gives_the_loss_and_gradients_of_plain_cross_entropy(choice, num_rows, trained, with_bias):
    draw = torch.Generator().manual_seed(num_rows)
    shapes = [(num_rows, 8), (30, 8), (30,)][: 2 + with_bias]
    targets = torch.randint(0, 30, (num_rows,), generator=draw)
    values = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    outcomes = []
    for loss_of in (pick_head_loss(choice, CPU), lambda s, w, b, t: cross_entropy(linear(s, w, b), t, reduction="sum")):
        inputs = [v.clone().requires_grad_(trained == "all" or i == 0) for i, v in enumerate(values)]
        loss = loss_of(inputs[0], inputs[1], inputs[2] if with_bias else None, targets) / 7
        loss.backward()
        outcomes.append([loss.detach().double(), *(x.grad for x in inputs)])
    for got, expected in zip(*outcomes, strict=True):
        assert (got is None) == (expected is None)
        if got is not None:
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("choice", [HeadLoss.chunked, HeadLoss.plain])
@pytest.mark.parametrize("with_bias", [True, False])
def test_weighted_loss_and_its_gradients_are_those_of_a_weighted_sum(choice, with_bias):
    num_rows, draw = ROWS_PER_CHUNK + 3, torch.Generator().manual_seed(1)
    shapes = [(num_rows, 8), (30, 8), (30,)][: 2 + with_bias]
    targets, factors = torch.randint(0, 30, (num_rows,), generator=draw), torch.rand(num_rows, generator=draw)
    values = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]

    def naive(states, weight, bias, targets, factors):
        losses = [cross_entropy(linear(s, weight, bias), t) for s, t in zip(states, targets, strict=True)]
        return sum(loss * factor for loss, factor in zip(losses, factors, strict=True))

    outcomes = []
    for loss_of in (pick_head_loss(choice, CPU, weighted=True), naive):
        inputs = [v.clone().requires_grad_() for v in values]
        loss = loss_of(inputs[0], inputs[1], inputs[2] if with_bias else None, targets, factors) / 7
        loss.backward()
        outcomes.append([loss.detach().double(), *(x.grad for x in inputs)])
    for got, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("choice", [HeadLoss.auto, HeadLoss.liger, HeadLoss.linear_cross_entropy])
def test_chunked_loss_takes_the_place_of_one_that_cannot_weigh(choice, caplog):
    caplog.set_level("INFO")
    assert pick_head_loss(choice, GPU, weighted=True) is chunked_loss
    assert f"trainer.head_loss={choice.value}: chunked, as it weighs the losses of tokens" in caplog.text
    with pytest.raises(AssertionError, match="weighs no losses"):
        pick_head_loss(HeadLoss.linear_cross_entropy, CPU)(
            torch.zeros(1, 2), torch.zeros(3, 2), None, torch.zeros(1, dtype=torch.int64), torch.ones(1)
        )


def test_auto_takes_liger_only_on_a_gpu_that_has_it(monkeypatch):
    assert pick_head_loss(HeadLoss.auto, CPU) is chunked_loss
    monkeypatch.setattr(config, "liger_is_installed", lambda: False)
    assert pick_head_loss(HeadLoss.auto, GPU) is chunked_loss


def test_liger_needs_a_gpu_and_the_extra(monkeypatch):
    with pytest.raises(ConfigError, match=r"needs a GPU.*trainer=gpu"):
        pick_head_loss(HeadLoss.liger, CPU)
    monkeypatch.setattr(config, "liger_is_installed", lambda: False)
    with pytest.raises(MissingExtraError, match=r"pip install 'liger-kernel>=0\.8' \(the extra gpu"):
        pick_head_loss(HeadLoss.liger, GPU)


def test_liger_sums_over_the_same_values(monkeypatch):
    class Kernel:
        """Liger 0.8's order of arguments, without its kernel."""

        def __init__(self, *, reduction, accum_dtype):
            assert reduction == "sum"
            assert accum_dtype == torch.float32

        def __call__(self, lin_weight, _input, target, bias=None):
            return plain_loss(_input, lin_weight, bias, target)

    fake = types.ModuleType("liger_kernel.transformers")
    fake.LigerFusedLinearCrossEntropyLoss = Kernel
    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", fake)
    monkeypatch.setattr(config, "liger_is_installed", lambda: True)
    states, weight, bias = torch.randn(3, 8), torch.randn(30, 8), torch.randn(30)
    values = (states, weight, bias, torch.tensor([4, 0, 29]))
    assert torch.equal(pick_head_loss(HeadLoss.auto, GPU)(*values), plain_loss(*values))
