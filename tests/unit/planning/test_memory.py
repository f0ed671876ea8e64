"""The plan of a training holds against a count of every tensor that is alive in one."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from cotpress.devices.config import HeadLoss, Strategy
from cotpress.modeling.config import Attention
from cotpress.planning.memory import training_usage
from cotpress.planning.setting import Place, Setting
from cotpress.planning.shape import ModelShape
from cotpress.planning.shapes import PUBLISHED
from cotpress.training.config import Method
from cotpress.training.head_loss import chunked_loss, plain_loss
from support.measured_memory import measure_training

LENGTHS = (200, 200, 112)
SMALL = Setting(method=Method.full, tokens=sum(LENGTHS))
BIG = (2048,) * 8
FAMILIES = ["llama", "qwen2", "qwen3"]


def _family(shape: ModelShape, family: str) -> ModelShape:
    """Qwen2 with tied embeddings, as its small ones have."""
    changes = {"qwen2": {"qkv_bias": True, "tied_embeddings": True}, "qwen3": {"qk_norm": True}}
    return replace(shape, **changes.get(family, {}))


def _settings() -> Iterator[object]:
    for method, value_bytes, checkpointing in product((Method.full, Method.lora), (2, 4), (False, True)):
        setting = replace(SMALL, method=method, value_bytes=value_bytes, checkpointing=checkpointing)
        yield pytest.param(setting, id=f"{method.value}-{8 * value_bytes} bit{'-checkpointed' * checkpointing}")


def _agrees(shape: ModelShape, setting: Setting, lengths: tuple[int, ...], *, peak: float, fake: bool = False) -> None:
    """States and stored activations within a thousandth, the peak never under and at most `peak` over."""
    loss = plain_loss if setting.head_loss is HeadLoss.plain else chunked_loss
    measured = measure_training(shape, setting, lengths, loss, fake=fake)
    planned = training_usage(shape, setting)
    assert planned.weights + planned.gradients + planned.optimizer == pytest.approx(measured.states, rel=1e-3)
    assert planned.activations == pytest.approx(measured.stored, rel=5e-3)
    assert 0.995 <= (planned.activations + planned.working) / measured.peak <= 1 + peak


@pytest.mark.parametrize("family", ["llama", *(pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES[1:])])
@pytest.mark.parametrize("setting", list(_settings()))
def test_plan_agrees_with_a_small_model_that_is_trained(setting: Setting, family: str, llama: ModelShape) -> None:
    _agrees(_family(llama, family), setting, LENGTHS, peak=0.12)


@pytest.mark.parametrize("method", [Method.full, Method.lora])
@pytest.mark.parametrize("value_bytes", [2, 4])
@pytest.mark.parametrize(
    "change", [{"attention": Attention.eager}, {"head_loss": HeadLoss.plain}], ids=["eager", "plain"]
)
def test_plan_knows_eager_attention_and_full_logits(
    method: Method, value_bytes: int, change: dict[str, object], llama: ModelShape
) -> None:
    _agrees(llama, replace(SMALL, method=method, value_bytes=value_bytes, **change), LENGTHS, peak=0.12)


def test_plan_agrees_with_two_layers_of_a_model_of_8_billion() -> None:
    shape = replace(PUBLISHED["meta-llama/Llama-3.1-8B-Instruct"], num_layers=2)
    setting = Setting(method=Method.lora, tokens=sum(BIG))
    _agrees(shape, setting, BIG, peak=0.1, fake=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in PUBLISHED if "135M" not in n])
@pytest.mark.parametrize("setting", list(_settings()))
def test_plan_agrees_with_every_preset_in_full_size(setting: Setting, name: str) -> None:
    _agrees(PUBLISHED[name], replace(setting, tokens=sum(BIG)), BIG, peak=0.1, fake=True)


def test_one_device_has_no_strategy(llama: ModelShape) -> None:
    plans = [training_usage(llama, SMALL, Place(devices=1, strategy=s)) for s in Strategy]
    assert plans == [training_usage(llama, SMALL)] * len(plans)


def test_ddp_needs_the_same_on_each_device_and_sharding_less(llama: ModelShape) -> None:
    shape = PUBLISHED["Qwen/Qwen2.5-7B-Instruct"]
    for method in (Method.full, Method.lora):
        setting = Setting(method=method, checkpointing=True)
        alone = training_usage(shape, setting)
        assert training_usage(shape, setting, Place(devices=8)) == alone
        cut = [training_usage(shape, setting, Place(devices=n, strategy=Strategy.fsdp2)) for n in (2, 4, 8)]
        assert [u.weights * n for u, n in zip(cut, (2, 4, 8), strict=True)] == pytest.approx([alone.weights] * 3)
        assert alone.total > cut[0].total > cut[1].total > cut[2].total
        assert all(u.activations == alone.activations for u in cut)


@pytest.mark.parametrize("value_bytes", [2, 4])
@pytest.mark.parametrize("strategy", Strategy)
def test_training_all_weights_takes_sixteen_bytes_of_each_with_every_strategy(
    strategy: Strategy, value_bytes: int, llama: ModelShape
) -> None:
    setting, devices = replace(SMALL, value_bytes=value_bytes), 4
    usage = training_usage(llama, setting, Place(devices=devices, strategy=strategy))
    states = llama.num_parameters * 16 // (1 if strategy is Strategy.ddp else devices)
    assert usage.weights + usage.gradients + usage.optimizer == pytest.approx(states, abs=3)


def test_copies_of_masters_are_kept_where_no_layer_runs_again() -> None:
    shape = PUBLISHED["Qwen/Qwen2.5-7B-Instruct"]
    copies = 2 * shape.num_layers * shape.num_layer_parameters
    setting, cut = Setting(method=Method.full), Place(devices=2, strategy=Strategy.fsdp2)
    assert training_usage(shape, setting).activations - training_usage(shape, setting, cut).activations == copies
    frugal = replace(setting, checkpointing=True)
    assert training_usage(shape, frugal).activations == training_usage(shape, frugal, cut).activations
    beside = training_usage(shape, frugal).working - training_usage(shape, frugal, cut).working
    assert beside == 2 * (
        shape.num_layer_parameters + shape.num_head_parameters
    )  # and the head's gradient, which waits
