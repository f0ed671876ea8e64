"""Operations are those that torch counts."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cotpress.modeling.config import Attention
from cotpress.modeling.loading import split_head
from cotpress.modeling.packing import pack, packed_states
from cotpress.planning.arithmetic import forward_flops, training_flops
from cotpress.planning.setting import Setting
from cotpress.planning.shape import ModelShape
from cotpress.planning.shapes import PUBLISHED
from cotpress.training.adapters import checkpointed_activations
from cotpress.training.config import Method
from cotpress.training.head_loss import plain_loss
from support.measured_memory import fill, trained_model

LENGTH = 96


def _counted(shape: ModelShape, setting: Setting, *, backward: bool) -> int:
    model = trained_model(shape, setting)
    fill(model)
    packed = pack([[1] * LENGTH])
    predicting = torch.arange(LENGTH - 1)
    counter = FlopCounterMode(display=False)
    with counter, checkpointed_activations(model, enabled=setting.checkpointing), torch.set_grad_enabled(backward):
        split = split_head(model)
        states = packed_states(split.decoder, packed).index_select(0, predicting)
        head: Any = split.head
        loss = plain_loss(states, head.weight, head.bias, torch.ones_like(predicting))
        if backward:
            loss.backward()  # type: ignore[no-untyped-call]
    return counter.get_total_flops()


@pytest.mark.parametrize("method", [Method.full, Method.lora])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_takes_the_operations_that_torch_counts(
    method: Method, checkpointing: bool, llama: ModelShape
) -> None:
    # Eager attention is made of matrix products, all of which the counter knows.
    setting = Setting(method=method, value_bytes=4, checkpointing=checkpointing, attention=Attention.eager)
    planned = training_flops(llama, setting, [LENGTH], LENGTH - 1)
    assert planned == pytest.approx(_counted(llama, setting, backward=True), rel=2e-3)


def test_reading_takes_the_operations_that_torch_counts(llama: ModelShape) -> None:
    setting = Setting(method=Method.full, value_bytes=4, attention=Attention.eager)
    assert forward_flops(llama, [LENGTH], LENGTH - 1) == _counted(llama, setting, backward=False)


def test_six_and_two_operations_per_weight_and_token_where_attention_is_short() -> None:
    shape = PUBLISHED["Qwen/Qwen2.5-7B-Instruct"]
    weights = shape.num_parameters - shape.num_head_parameters  # the embedding table multiplies nothing
    full, lora = Setting(method=Method.full), Setting(method=Method.lora)
    assert training_flops(shape, full, [100], 100) == pytest.approx(600 * weights, rel=0.01)
    assert training_flops(shape, lora, [100], 100) == pytest.approx(400 * weights, rel=0.02)
    assert forward_flops(shape, [100], 100) == pytest.approx(200 * weights, rel=0.01)


def test_checkpointing_costs_about_a_third(llama: ModelShape) -> None:
    setting = Setting(method=Method.full)
    once = training_flops(llama, setting, [64], 64)
    again = training_flops(llama, replace(setting, checkpointing=True), [64], 64)
    assert 1.15 < again / once < 1.34
