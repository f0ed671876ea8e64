"""Plans agree with the memory of real runs, and with the operations that follow from the sizes of a model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from cotpress.devices.config import HeadLoss
from cotpress.errors import ModelError
from cotpress.modeling.config import Attention, Dtype, ModelConfig, ModelSource
from cotpress.modeling.loading import load_model, split_head
from cotpress.modeling.packing import pack, packed_inputs
from cotpress.planning import measure
from cotpress.planning.measure import (
    PRESETS,
    empty_model,
    over_depth,
    reading_pass,
    training_flops,
    writing_pass,
)
from cotpress.store.artifacts import ArtifactStore
from cotpress.training.config import Method, TuneConfig
from support.measured_memory import LiveMemory, real_model, training_peak
from support.remembered import remembered

pytestmark = pytest.mark.usefixtures("usual_garbage_collection")
training_pass = remembered(measure.training_pass)
Make = Callable[..., ModelConfig]
Tune = Callable[[Method], TuneConfig]
LENGTHS = (128,) * 4
QWEN7B = ModelConfig(name="qwen7b", path="Qwen/Qwen2.5-7B-Instruct")
METHODS = pytest.mark.parametrize("method", [Method.lora, Method.full])
KNOWN = {
    "Qwen/Qwen2.5-7B-Instruct": 7.62e9,
    "Qwen/Qwen2.5-14B-Instruct": 14.77e9,
    "Qwen/Qwen2.5-32B-Instruct": 32.76e9,
    "Qwen/Qwen2.5-72B-Instruct": 72.71e9,
    "meta-llama/Llama-3.1-8B-Instruct": 8.03e9,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134.5e6,
}
"""Parameters as the model cards give them."""
HYBRID = {
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 32,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}


@pytest.mark.parametrize(
    ("method", "checkpointing"),
    [
        (Method.lora, True),
        (Method.full, False),
        pytest.param(Method.lora, False, marks=pytest.mark.slow),
        pytest.param(Method.full, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("dtype", [Dtype.bfloat16, pytest.param(Dtype.float32, marks=pytest.mark.slow)])
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
        decoder = split_head(model).decoder
        decoder(**packed_inputs(decoder, pack([[1] * n for n in LENGTHS])))
    assert reading_pass(config, LENGTHS)[0].total == pytest.approx(memory.peak, rel=0.15)


def test_writing_takes_the_memory_of_a_real_run(small: Make, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from support.generation import generate

    config, rows = small(), 6
    model = real_model(config).eval()
    tokenizer = SimpleNamespace(eos_token_id=10**6, decode=lambda *_, **__: "")
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


def _count(model: Any) -> list[float]:
    return [sum(p.numel() for p in model.parameters())]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_number_of_parameters(name: str) -> None:
    config = ModelConfig(name=name, path=name)
    whole = _count(empty_model(config))
    assert whole == [pytest.approx(KNOWN[name], rel=1e-3)]
    assert over_depth(config, _count) == whole


@pytest.mark.parametrize(
    ("types", "measured"),
    [
        (["full_attention"] * 6, [2, 3]),
        (["sliding_attention"] * 5 + ["full_attention"], [6]),
        (["sliding_attention", "full_attention"] * 4, [2, 4]),
        (["full_attention"] * 3, [3]),
    ],
)
def test_layers_that_repeat_are_measured_with_two_depths(types: list[str], measured: list[int], small: Make) -> None:
    config = small("gemma3_text", layer_types=types, num_hidden_layers=len(types), head_dim=32)
    depths = []

    def measure(model: Any) -> list[float]:
        depths.append(len(model.model.layers))
        return _count(model)

    assert over_depth(config, measure) == _count(empty_model(config))
    assert depths == measured


def test_tiny_model_has_the_parameters_of_its_weights(tmp_path: Path) -> None:
    config = ModelConfig(name="tiny", source=ModelSource.tiny, path="llama")
    assert _count(empty_model(config)) == [load_model(config, ArtifactStore(tmp_path)).num_parameters()]


def test_local_folder_needs_its_config_alone(small: Make) -> None:
    model = empty_model(small("qwen3", head_dim=16))
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_package_is_known_by_its_hub_id() -> None:
    packaged = ModelConfig(name="s", source=ModelSource.package, path="p", hub_id="HuggingFaceTB/SmolLM2-135M-Instruct")
    assert _count(empty_model(packaged)) == [pytest.approx(134.5e6, rel=1e-3)]
    with pytest.raises(ModelError, match=r"package 'p' are not known .* Fix: model.hub_id=ID"):
        empty_model(replace(packaged, hub_id=None))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model_type": "no_such_type"}', r"no model can be built from the config.json of .*no_such_type"),
        ('{"model_type": "t5"}', r"no model can be built"),
        ("[]", r"no model can be built"),
        ("{", r"no model can be built"),
    ],
)
def test_model_that_cannot_be_built_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        empty_model(ModelConfig(name="mine", path=str(tmp_path)))


def test_folder_without_config_and_hub_that_does_not_answer_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"has no config.json .* Fix: give model.path=DIR"):
        empty_model(ModelConfig(name="mine", path=str(tmp_path)))
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ModelError, match=r"'some/model': .*hub cannot be reached"):
        empty_model(ModelConfig(name="other", path="some/model"))


def test_hybrid_model_is_measured_or_refused_as_training_would(small: Make) -> None:
    config = small("qwen3_5_text", **HYBRID)
    tune = TuneConfig(method=Method.lora, learning_rate=1e-3, epochs=1, sequences_per_step=8, seed=0)
    assert training_pass(config, tune, [100]).activations > 0
    with pytest.raises(ModelError, match=r"several texts cannot go through it as one row.*tokens_per_batch=1"):
        training_pass(config, tune, [100, 100])


def test_code_that_depends_on_values_is_refused(small: Make) -> None:
    def measure(model: Any) -> list[float]:
        raise RuntimeError("needs a value\nand more")

    with pytest.raises(ModelError, match=r"'llama' cannot be planned, .* \(RuntimeError: needs a value\)\. It may"):
        over_depth(small(), measure)
