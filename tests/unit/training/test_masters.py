"""Training all weights of a bfloat16 model: float32 masters, and forward passes like those of the model itself."""

import dataclasses
import json

import pytest
import torch

from cotpress.devices.config import HeadLoss
from cotpress.modeling.config import Dtype
from cotpress.modeling.loading import load_model
from cotpress.store.artifacts import SCRATCH
from cotpress.training.adapters import checkpointed_activations
from cotpress.training.batching import collate
from cotpress.training.checkpoints import LAST
from cotpress.training.config import Method
from cotpress.training.head_loss import pick_head_loss
from cotpress.training.masters import in_format
from cotpress.training.module import LossOfModel
from cotpress.training.sharing import OneDevice
from support.training_jobs import losses, number_formats, weights

CPU = torch.device("cpu")


@pytest.fixture
def bfloat16(tiny_config):
    return dataclasses.replace(tiny_config, dtype=Dtype.bfloat16)


@pytest.fixture
def full(tune):
    tune.method, tune.learning_rate, tune.lora_dropout = Method.full, 1e-5, 0.0
    return tune


def _checkpoint(folder):
    checkpoint = torch.load(folder / SCRATCH / LAST, weights_only=True)
    return {name.removeprefix("loss_sum.model."): value for name, value in checkpoint["state_dict"].items()}


def test_updates_smaller_than_bfloat16_can_represent_are_kept(training, full, bfloat16, tiny_config, store):
    start = dict(load_model(bfloat16, store).named_parameters())
    trained = _checkpoint(training("bfloat16", base=bfloat16))
    exact = _checkpoint(training("float32", base=dataclasses.replace(tiny_config, dtype=Dtype.float32)))
    before = dict(load_model(tiny_config, store).named_parameters())
    for name, weight in trained.items():
        assert weight.dtype == torch.float32
        moved, expected = weight - start[name].float(), exact[name] - before[name]
        assert (expected[moved == 0].abs() < full.learning_rate).all(), name  # only what hardly moves in float32
        assert torch.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.9, name


def test_loss_falls_as_in_float32(training, full, bfloat16, tiny_config):
    full.learning_rate, full.epochs = 1e-3, 4
    rounded = [r[1] for r in losses(training("bfloat16", base=bfloat16))]
    exact = [r[1] for r in losses(training("float32", base=dataclasses.replace(tiny_config, dtype=Dtype.float32)))]
    assert rounded == pytest.approx(exact, rel=5e-3)
    assert rounded[-1] < rounded[0] - 0.2


def test_saved_weights_have_the_format_of_the_model(training, full, bfloat16):
    folder = training("saved", base=bfloat16)
    rounded = {name: value.to(torch.bfloat16) for name, value in _checkpoint(folder).items()}
    saved = weights(folder)
    assert saved.keys() == rounded.keys()
    for name, value in saved.items():
        assert torch.equal(value, rounded[name]), name
    assert json.loads((folder / "model" / "config.json").read_text())["dtype"] == "bfloat16"


def test_validation_problems_are_answered_by_the_model_as_it_will_be_saved(training, full, bfloat16):
    training("validated", base=bfloat16, validate=number_formats)
    answers = [item for _, metrics, _ in training.messages for item in metrics.items() if item[0].startswith("val/")]
    assert answers == [("val/bfloat16", 1.0), ("val/finite", 1.0)] * 2


@pytest.mark.parametrize("choice", [HeadLoss.chunked, HeadLoss.plain, HeadLoss.linear_cross_entropy])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_loss_and_gradients_are_those_of_the_bfloat16_model(choice, checkpointed, bfloat16, store, examples):
    batch, outcomes = collate(examples.kept[:5]), []
    for sharing in (OneDevice(), OneDevice(torch.bfloat16)):
        model = sharing.load(CPU, lambda _: load_model(bfloat16, store).requires_grad_(True).train())
        loss_sum = sharing.ready(LossOfModel(model, pick_head_loss(choice, CPU)))
        with checkpointed_activations(model, enabled=checkpointed):
            loss = loss_sum(batch)
            loss.backward()
        outcomes.append((loss.detach(), {name: p.grad for name, p in model.named_parameters()}))
    (expected_loss, expected), (loss, gradients) = outcomes
    assert torch.equal(loss, expected_loss)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert torch.equal(gradient, expected[name].float()), name


def test_gradients_of_micro_batches_add_up_in_float32(bfloat16, store, examples):
    sharing, batch = OneDevice(torch.bfloat16), collate(examples.kept[:2])
    model = sharing.load(CPU, lambda _: load_model(bfloat16, store).requires_grad_(True).train())
    loss_sum = sharing.ready(LossOfModel(model, pick_head_loss(HeadLoss.chunked, CPU)))
    loss_sum(batch).backward()
    once = {name: p.grad.clone() for name, p in model.named_parameters()}
    for _ in range(2):
        loss_sum(batch).backward()
    for name, p in model.named_parameters():
        assert torch.equal(p.grad, once[name] + once[name] + once[name]), name


def test_masters_come_back_after_a_context_and_after_an_error(bfloat16, store, examples):
    sharing = OneDevice(torch.bfloat16)
    model = sharing.load(CPU, lambda _: load_model(bfloat16, store).train())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def failing(*_):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        sharing.ready(LossOfModel(model, failing))(collate(examples.kept[:2]))
    with in_format(model, torch.bfloat16):
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with pytest.raises(RuntimeError, match="out of memory"), in_format(model, torch.bfloat16):
        failing()
    assert {name: p.dtype for name, p in model.named_parameters()} == dict.fromkeys(before, torch.float32)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
