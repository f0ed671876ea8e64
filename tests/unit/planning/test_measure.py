"""Plans agree with the memory of real runs, and with the operations that follow from the sizes of a model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from cotpress.devices.config import HeadLoss
from cotpress.modeling.config import Attention, Dtype, ModelConfig
from cotpress.modeling.loading import split_head
from cotpress.modeling.packing import pack, packed_states
from cotpress.planning.measure import reading_pass, training_flops, training_pass, writing_pass
from cotpress.planning.models import PRESETS
from cotpress.training.config import Method, TuneConfig
from support.measured_memory import LiveMemory, real_model, training_peak

Make = Callable[..., ModelConfig]
Tune = Callable[[Method], TuneConfig]
LENGTHS = (128,) * 4
QWEN7B = ModelConfig(name="qwen7b", path="Qwen/Qwen2.5-7B-Instruct")
METHODS = pytest.mark.parametrize("method", [Method.lora, Method.full])


@METHODS
@pytest.mark.parametrize("dtype", [Dtype.bfloat16, pytest.param(Dtype.float32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_peak_is_within_15_percent_of_a_real_run(
    method: Method, dtype: Dtype, checkpointing: bool, small: Make, tune: Tune, tmp_path: Path
) -> None:
    model = replace(small(), dtype=dtype)
    real = training_peak(model, tune(method), LENGTHS, tmp_path / "run", checkpointing=checkpointing)
    usage = training_pass(model, tune(method), LENGTHS, checkpointing=checkpointing)
    assert usage.total == pytest.approx(real, rel=0.15)


def test_single_sequence_needs_no_mask(small: Make, tune: Tune, tmp_path: Path) -> None:
    real = training_peak(small(), tune(Method.lora), (512,), tmp_path / "run")
    assert training_pass(small(), tune(Method.lora), (512,)).total == pytest.approx(real, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@pytest.mark.parametrize(("attention", "head_loss"), [("eager", "chunked"), ("sdpa", "plain")])
def test_training_peak_follows_architecture_attention_and_head_loss(
    kind: str, attention: str, head_loss: str, small: Make, tune: Tune, tmp_path: Path
) -> None:
    model, loss = replace(small(kind), attention=Attention(attention)), HeadLoss(head_loss)
    real = training_peak(model, tune(Method.lora), LENGTHS, tmp_path / "run", head_loss=loss)
    usage = training_pass(model, tune(Method.lora), LENGTHS, head_loss=loss)
    assert usage.total == pytest.approx(real, rel=0.15)


@METHODS
def test_weights_gradients_and_moments_are_those_of_the_parameters(method: Method, small: Make, tune: Tune) -> None:
    config = small()
    usage = training_pass(config, tune(method), LENGTHS)
    count = sum(p.numel() for p in real_model(config).parameters())
    trained = count if method is Method.full else usage.gradients / 4
    assert usage.gradients == 4 * trained
    assert usage.optimizer == pytest.approx(8 * trained, rel=1e-2)
    assert usage.weights == pytest.approx(4 * trained if method is Method.full else 2 * count + 4 * trained, rel=1e-2)


@METHODS
@pytest.mark.parametrize("computed", [Dtype.bfloat16, pytest.param(Dtype.float32, marks=pytest.mark.slow)])
def test_fsdp2_divides_what_lasts_over_the_devices(method: Method, computed: Dtype, small: Make, tune: Tune) -> None:
    model = replace(small(), dtype=computed)
    alone, cut = (training_pass(model, tune(method), LENGTHS, devices=n) for n in (1, 4))
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(cut, part) == pytest.approx(getattr(alone, part) / 4, rel=0.02)
    assert cut.total < alone.total


def test_operations_are_six_four_and_two_per_weight_and_token(tune: Tune) -> None:
    weights = 7.07e9  # of Qwen2.5-7B, without the embedding table, which multiplies nothing
    full, lora = (training_flops(QWEN7B, tune(m), 100, head_loss=HeadLoss.chunked) for m in (Method.full, Method.lora))
    assert full == pytest.approx(600 * weights, rel=0.02)
    assert lora == pytest.approx(400 * weights, rel=0.03)
    assert reading_pass(QWEN7B, [100])[1] == pytest.approx(200 * weights, rel=0.02)


def test_checkpointing_costs_about_a_third(small: Make, tune: Tune) -> None:
    once, again = (
        training_flops(small(), tune(Method.full), 64, checkpointing=repeated, head_loss=HeadLoss.chunked)
        for repeated in (False, True)
    )
    assert 1.15 < again / once < 1.34


def test_attention_is_counted_with_every_kernel(small: Make, tune: Tune) -> None:
    model = small()
    fused, eager = (
        reading_pass(replace(model, attention=attention), [256])[1] for attention in (Attention.sdpa, Attention.eager)
    )
    # A single text is measured as two, of 255 tokens and one, whose pairs only the fused kernel leaves out.
    config = AutoConfig.from_pretrained(model.path)
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    left_out = 256**2 - 255**2 - 1
    assert eager - fused == 4 * left_out * width * config.num_hidden_layers


def test_body_of_a_scorer_takes_the_memory_of_a_real_one(small: Make) -> None:
    config = small(vocab_size=8)  # so that the head, which is not measured, is the smaller part
    model = real_model(config).eval()
    with LiveMemory() as memory, torch.inference_mode():
        memory.note([*model.parameters(), *model.buffers()])
        memory.peak = memory.live
        packed_states(split_head(model).decoder, pack([[1] * n for n in LENGTHS]))
    assert reading_pass(config, LENGTHS)[0].total == pytest.approx(memory.peak, rel=0.15)


def test_writing_takes_the_memory_of_a_real_run(small: Make, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from support.generation import generate

    config, rows = small(), 6
    model = real_model(config).eval()
    tokenizer = SimpleNamespace(eos_token_id=None, decode=lambda *_, **__: "")
    model.generation_config.eos_token_id = None
    with LiveMemory() as memory:
        memory.note([*model.parameters(), *model.buffers()])
        prompts = [[row, *[1] * 49] for row in range(rows)]
        generate(model, tokenizer, prompts, max_new_tokens=400, batch_size=rows)
    writing = writing_pass(config, 50, 400)
    assert writing.weights + rows * writing.row == pytest.approx(memory.peak, rel=0.15)
    assert writing.cache == 2 * 5 * 2 * 32 * 2  # keys and values, layers, heads, width, bytes


def test_a_token_reads_keys_and_values_of_all_layers() -> None:
    writing = writing_pass(QWEN7B, 20, 40)
    assert writing.cache == 2 * 28 * 4 * 128 * 2
    assert writing.weights == pytest.approx(2 * 7.62e9, rel=1e-3)


@pytest.mark.slow
@METHODS
def test_peak_of_smollm2_is_within_15_percent_of_a_real_run(method: Method, tune: Tune, tmp_path: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.for_model(**PRESETS["HuggingFaceTB/SmolLM2-135M-Instruct"]).save_pretrained(tmp_path / "model")
    model = ModelConfig(name="smollm2", path=str(tmp_path / "model"), dtype=Dtype.float32)
    lengths = (256,) * 4
    real = training_peak(model, tune(method), lengths, tmp_path / "run")
    planned = training_pass(model, tune(method), lengths).total
    assert planned == pytest.approx(real, rel=0.15)
