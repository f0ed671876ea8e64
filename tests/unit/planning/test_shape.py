"""Parameter counts are those of the real models."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cotpress.errors import ModelError
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_model
from cotpress.planning.setting import Setting
from cotpress.planning.shape import ModelShape, shape_from_config
from cotpress.planning.shapes import PUBLISHED, shape_of
from cotpress.store.artifacts import ArtifactStore
from cotpress.training.config import Method
from support.measured_memory import empty_model, trained_model

KNOWN = {
    "Qwen/Qwen2.5-7B-Instruct": 7.62e9,
    "Qwen/Qwen2.5-14B-Instruct": 14.77e9,
    "Qwen/Qwen2.5-32B-Instruct": 32.76e9,
    "Qwen/Qwen2.5-72B-Instruct": 72.71e9,
    "meta-llama/Llama-3.1-8B-Instruct": 8.03e9,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134.5e6,
}
"""Parameters as the model cards give them."""


@pytest.mark.parametrize("name", KNOWN)
def test_presets_have_the_published_number_of_parameters(name: str) -> None:
    assert PUBLISHED[name].num_parameters == pytest.approx(KNOWN[name], rel=1e-3)


@pytest.mark.parametrize("name", KNOWN)
def test_presets_have_the_parameters_of_transformers_models(name: str) -> None:
    assert empty_model(PUBLISHED[name], torch.bfloat16).num_parameters() == PUBLISHED[name].num_parameters


@settings(max_examples=15, deadline=None)
@given(
    shape=st.builds(
        ModelShape,
        num_layers=st.integers(1, 3),
        hidden_size=st.sampled_from([16, 48]),
        intermediate_size=st.integers(1, 64),
        num_heads=st.just(4),
        num_kv_heads=st.sampled_from([1, 2, 4]),
        head_dim=st.sampled_from([4, 8]),
        vocab_size=st.integers(8, 99),
        tied_embeddings=st.booleans(),
    ),
    kind=st.sampled_from(["llama", "biased llama", "qwen2", "qwen3"]),
    rank=st.integers(1, 9),
)
def test_parameters_of_model_and_adapter_are_those_that_transformers_and_peft_make(
    shape: ModelShape, kind: str, rank: int
) -> None:
    match kind:
        case "biased llama":
            shape = replace(shape, qkv_bias=True, output_bias=True, mlp_bias=True)
        case "qwen2":
            shape = replace(shape, qkv_bias=True, head_dim=shape.hidden_size // shape.num_heads)
        case "qwen3":
            shape = replace(shape, qk_norm=True)
    model = trained_model(shape, Setting(method=Method.lora, lora_rank=rank))
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    assert trained == shape.num_adapter_parameters(rank)
    assert sum(p.numel() for p in parameters) - trained == shape.num_parameters
    base = model.get_base_model()
    assert shape_from_config(json.loads(base.config.to_json_string()), "x") == shape


def test_tiny_model_has_the_parameters_of_its_weights(tmp_path: Path) -> None:
    config = ModelConfig(name="tiny", source=ModelSource.tiny, path="llama")
    model = load_model(config, ArtifactStore(tmp_path))
    assert shape_of(config).num_parameters == model.num_parameters()


def test_local_folder_is_known_from_its_config_alone(tmp_path: Path, llama: ModelShape) -> None:
    empty_model(llama, torch.float32).config.save_pretrained(tmp_path)
    assert shape_of(ModelConfig(name="mine", path=str(tmp_path))) == llama


def test_package_is_known_by_its_hub_id() -> None:
    packaged = ModelConfig(name="s", source=ModelSource.package, path="p", hub_id="HuggingFaceTB/SmolLM2-135M-Instruct")
    assert shape_of(packaged) == PUBLISHED["HuggingFaceTB/SmolLM2-135M-Instruct"]
    with pytest.raises(ModelError, match=r"package 'p' carries .* Fix: model.hub_id=ID"):
        shape_of(replace(packaged, hub_id=None))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model_type": "mixtral"}', r"type 'mixtral', whose memory is not known here. Allowed: llama, mistral"),
        ('{"model_type": "llama", "hidden_size": 8}', r"no whole number for num_hidden_layers, intermediate_size"),
        ("[]", r"is no JSON object"),
        ("{", r"cannot be read"),
    ],
)
def test_model_that_cannot_be_planned_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        shape_of(ModelConfig(name="mine", path=str(tmp_path)))


def test_folder_without_config_and_hub_that_does_not_answer_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"has no config.json .* Fix: give model.path=DIR"):
        shape_of(ModelConfig(name="mine", path=str(tmp_path)))
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ModelError, match=r"'some/model': .*hub cannot be reached"):
        shape_of(ModelConfig(name="other", path="some/model"))
