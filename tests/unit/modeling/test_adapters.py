"""Adapters on the model that they were trained on, and on others."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cotpress.errors import ModelError
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.foreign import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from cotpress.modeling.loading import check_ids, is_trained_on, load_model, model_identity
from cotpress.modeling.weights import TrainedWeights

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),
]
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 640,
}


def save_base(tokenizer, folder, **changes):
    """Save a random Llama with its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    shape = {**SHAPE, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, **changes}
    LlamaForCausalLM(LlamaConfig(initializer_range=0.2, **shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelConfig(name="base", path=str(folder))


def save_adapter(base, store, folder, settings=None, **saving):
    """Save an adapter whose numbers are random, as if it was trained."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    wrapped = get_peft_model(load_model(base, store), settings or LoraConfig(r=4, target_modules="all-linear"))
    with torch.no_grad():
        for weight in (p for p in wrapped.parameters() if p.requires_grad):
            weight.add_(torch.randn_like(weight) * 0.1)
    wrapped.save_pretrained(folder, **saving)
    return wrapped.eval()


@pytest.fixture(scope="module")
def base(tokenizer, tmp_path_factory):
    return save_base(tokenizer, tmp_path_factory.mktemp("bases") / "base")


@pytest.fixture(scope="module")
def adapter(base, store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(base, store, folder)
    return folder


def _logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(12)[None]).logits


def _kinds():
    from peft import AdaLoraConfig, IA3Config, LoHaConfig, LoraConfig

    every = {"target_modules": "all-linear", "r": 4}
    return {
        "lora": LoraConfig(**every),
        "attention only": LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
        "mlp by a pattern": LoraConfig(r=4, target_modules=r".*\.mlp\..*_proj"),
        "one layer": LoraConfig(r=4, target_modules=["q_proj"], layers_to_transform=[1]),
        "rank pattern": LoraConfig(**every, rank_pattern={"q_proj": 2, "down_proj": 6}, alpha_pattern={"q_proj": 3}),
        "rslora": LoraConfig(**every, use_rslora=True),
        "dora": LoraConfig(**every, use_dora=True),
        "lora on embeddings": LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"]),
        "saved modules": LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
        "saved norms": LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["norm"]),
        "new tokens": LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices=[5, 7]),
        "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
        "loha": LoHaConfig(r=4, target_modules=["q_proj", "o_proj"]),
        "adalora": AdaLoraConfig(init_r=4, target_r=4, target_modules=["q_proj"], total_step=10),
    }


@pytest.mark.parametrize("kind", _kinds())
def test_adapter_of_every_kind_gives_its_own_logits_on_its_own_base(base, store, tmp_path, kind):
    own = _logits(save_adapter(base, store, tmp_path, _kinds()[kind]))
    assert not torch.allclose(own, _logits(load_model(base, store)), atol=1e-3)
    for merge in (False, True):
        loaded = load_model(base, store, adapter=tmp_path, merge_adapter=merge)
        torch.testing.assert_close(_logits(loaded), own, atol=1e-4, rtol=1e-4)
        check_ids(loaded, [639], "a text")
        with pytest.raises(ModelError, match=r"a text: the token id 640 has no embedding"):
            check_ids(loaded, [5, 640], "a text")


def test_adapter_with_saved_embeddings_loads_them(base, store, tmp_path):
    own = _logits(save_adapter(base, store, tmp_path, save_embedding_layers=True))
    assert any("embed_tokens" in name for name in load_file(tmp_path / ADAPTER_WEIGHTS))
    torch.testing.assert_close(_logits(load_model(base, store, adapter=tmp_path)), own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 1},
        {"num_hidden_layers": 3},
        {"hidden_size": 64},
        {"intermediate_size": 64},
        {"num_key_value_heads": 4},
    ],
    ids=str,
)
def test_adapter_of_another_shape_is_refused(tokenizer, adapter, store, tmp_path, changes):
    other = save_base(tokenizer, tmp_path / "base", **changes)
    with pytest.raises(
        ModelError, match=r"adapter '.*' does not load onto LlamaForCausalLM .*Fix: give the model that"
    ):
        load_model(other, store, adapter=adapter, merge_adapter=True)


@pytest.mark.parametrize("saved", ["modules_to_save", "save_embedding_layers", "lm_head alone"])
def test_adapter_with_another_vocabulary_is_refused(tokenizer, base, store, tmp_path, saved):
    from peft import LoraConfig

    larger = save_base(tokenizer, tmp_path / "base", vocab_size=656)
    modules = {"modules_to_save": ["embed_tokens", "lm_head"], "lm_head alone": ["lm_head"]}.get(saved)
    settings = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=modules)
    save_adapter(larger, store, tmp_path / "adapter", settings, save_embedding_layers=saved == "save_embedding_layers")
    with pytest.raises(ModelError, match=r"size mismatch .*Fix: give the model that it was trained on"):
        load_model(base, store, adapter=tmp_path / "adapter")


@pytest.mark.parametrize("change", ["one more", "one less", "another prefix", "of a classifier"])
def test_adapter_with_weights_too_many_or_too_few_is_refused(adapter, base, store, tmp_path, change):
    weights = load_file(adapter / ADAPTER_WEIGHTS)
    first = sorted(weights)[0]
    match change:
        case "one more":
            weights[first.replace("layers.0", "layers.7")] = weights[first].clone()
        case "one less":
            del weights[first]
        case "another prefix":
            weights = {name.replace("model.layers", "transformer.h"): weight for name, weight in weights.items()}
        case _:
            weights["base_model.model.score.weight"] = torch.zeros(2, 32)
    save_file(weights, tmp_path / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (tmp_path / ADAPTER_CONFIG).write_text((adapter / ADAPTER_CONFIG).read_text())
    with pytest.raises(ModelError, match=r"does not load onto .*Fix: give the model that it was trained on"):
        load_model(base, store, adapter=tmp_path)


def test_adapter_of_another_architecture_is_refused(base, store, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    other = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=640))
    get_peft_model(other, LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"does not load onto LlamaForCausalLM .*c_attn"):
        load_model(base, store, adapter=tmp_path)


def test_adapter_of_the_first_layers_loads_if_its_settings_say_so(tokenizer, adapter, store, tmp_path):
    deeper = save_base(tokenizer, tmp_path / "base", num_hidden_layers=3)
    folder = _name_base(adapter, tmp_path / "adapter", "base")
    settings = json.loads((folder / ADAPTER_CONFIG).read_text())
    (folder / ADAPTER_CONFIG).write_text(json.dumps({**settings, "layers_to_transform": [0, 1]}))
    assert not torch.allclose(_logits(load_model(deeper, store, adapter=folder)), _logits(load_model(deeper, store)))


def _name_base(adapter, folder, name):
    settings = json.loads((adapter / ADAPTER_CONFIG).read_text())
    folder.mkdir(exist_ok=True)
    (folder / ADAPTER_CONFIG).write_text(json.dumps({**settings, "base_model_name_or_path": name}))
    (folder / ADAPTER_WEIGHTS).write_bytes((adapter / ADAPTER_WEIGHTS).read_bytes())
    return folder


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-7B-Instruct", "/models/other", "other/base-bnb-4bit"])
def test_adapter_that_names_another_base_model_warns(adapter, base, store, tmp_path, caplog, name):
    load_model(base, store, adapter=_name_base(adapter, tmp_path, name))
    assert f"names '{name}' as its base model, but it is put on '{base.path}'" in caplog.text


@pytest.mark.parametrize(
    "name", ["base", "/elsewhere/base/", "owner/Base", "hub/models--owner--base/snapshots/0123abc", "", None]
)
def test_adapter_that_names_its_base_by_another_path_does_not_warn(adapter, base, store, tmp_path, caplog, name):
    with caplog.at_level(logging.WARNING):
        load_model(base, store, adapter=_name_base(adapter, tmp_path, name))
    assert "base model" not in caplog.text


@pytest.mark.parametrize(("content", "warns"), [("of another model", True), (None, False)])
def test_adapter_on_a_base_of_the_same_name_and_other_content_warns(
    adapter, base, store, tmp_path, caplog, content, warns
):
    weights = _name_base(adapter, tmp_path / "adapter", base.path)
    trained = {"directory": content or model_identity(base)["directory"], "dtype": "float32"}
    (tmp_path / "manifest.json").write_text(json.dumps({"identity": {"model": trained}}))
    with caplog.at_level(logging.WARNING):
        load_model(base, store, adapter=weights)
    assert ("it was trained on a model of other content" in caplog.text) is warns


def test_base_of_an_adapter_is_known_by_content_where_its_manifest_says_so(base, tmp_path):
    weights = tmp_path / "artifact" / "adapter"
    weights.mkdir(parents=True)
    assert is_trained_on(weights, base) is None

    def told(**identity):
        (tmp_path / "artifact" / "manifest.json").write_text(json.dumps({"identity": {"model": identity}}))
        return is_trained_on(weights, base)

    assert told(**{**model_identity(base), "dtype": "of the training"}) is True
    assert told(directory="0" * 64) is False
    assert told(hub="o/base", commit=Path(base.path).name) is True
    assert told(hub="o/base", commit="0123abc") is None


@pytest.mark.parametrize("kind", ["prompt", "p-tuning", "prefix"])
def test_adapter_of_learned_prompts_is_refused_before_anything_is_loaded(base, store, tmp_path, kind, monkeypatch):
    from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model

    kinds = {"prompt": PromptTuningConfig, "p-tuning": PromptEncoderConfig, "prefix": PrefixTuningConfig}
    settings = kinds[kind](task_type="CAUSAL_LM", num_virtual_tokens=4)
    get_peft_model(load_model(base, store), settings).save_pretrained(tmp_path)
    match = r"peft_type '(PROMPT_TUNING|P_TUNING|PREFIX_TUNING)', which does not change .*Fix: train a LoRA adapter"
    with pytest.raises(ModelError, match=rf"adapter: .*{match}"):
        load_model(base, store, adapter=tmp_path)
    with pytest.raises(ModelError, match=rf"reference\.path: .*{match}"):
        TrainedWeights.saved(tmp_path, "reference.path")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("merge", [False, True])
def test_adapter_with_numbers_that_are_not_finite_is_refused(adapter, base, store, tmp_path, value, merge):
    weights = load_file(adapter / ADAPTER_WEIGHTS)
    weights[sorted(weights)[3]][0, 0] = value
    save_file(weights, tmp_path / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (tmp_path / ADAPTER_CONFIG).write_text((adapter / ADAPTER_CONFIG).read_text())
    with pytest.raises(ModelError, match=r"with adapter '.*': the weight .* NaN or infinite\. Fix"):
        load_model(base, store, adapter=tmp_path, merge_adapter=merge)
