"""Models without weights have the parameters of the real ones; others are refused with the reason."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cotpress.errors import ModelError
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_model
from cotpress.planning.measure import training_pass
from cotpress.planning.models import PRESETS, empty_model, over_depth
from cotpress.store.artifacts import ArtifactStore
from cotpress.training.config import Method, TuneConfig

Make = Callable[..., ModelConfig]
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


def test_folder_without_config_and_hub_that_does_not_answer_are_told(
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
