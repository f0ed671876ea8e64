import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from cotpress.errors import ModelError
from cotpress.modeling.architecture import keeps_state
from cotpress.modeling.config import Attention, ModelConfig
from cotpress.modeling.loading import (
    architecture_of,
    check_architecture,
    load_model,
    load_tokenizer,
    model_identity,
    split_head,
)
from cotpress.modeling.logprobs import ScoreInput, token_readings
from cotpress.modeling.packing import packing_obstacle
from support.hybrid import CACHED, STATEFUL, build, plain_logits


@pytest.mark.parametrize("name", [*STATEFUL, *CACHED])
def test_layers_with_a_state_are_known_before_weights_are_loaded(name, tokenizer, store, tmp_path):
    model = build(name)
    assert keeps_state(model, model.config) is (name in STATEFUL)
    assert (packing_obstacle(model.get_decoder()) is not None) is (name in STATEFUL)
    model.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    known = architecture_of(ModelConfig(name="m", path=str(tmp_path)), store)
    assert known[0] is type(model)
    assert keeps_state(*known) is (name in STATEFUL)


@pytest.mark.parametrize("name", [*STATEFUL, *CACHED])
def test_texts_of_every_architecture_are_scored_as_if_alone(name):
    model, draw = build(name), np.random.default_rng(0)
    try:
        split_head(model)
    except ModelError:
        pytest.skip("its head is refused at load")
    texts = [draw.integers(3, 640, size=n).tolist() for n in (25, 13, 31)]
    inputs = [ScoreInput(context_ids=text[:3], target_ids=text[3:]) for text in texts]
    for text, got in zip(texts, token_readings(model, inputs, 1000), strict=True):
        expected = plain_logits(model, text)[2:-1].log_softmax(-1).gather(1, torch.tensor(text[3:])[:, None])[:, 0]
        np.testing.assert_allclose(got[:, 0], expected, atol=2e-5)


@pytest.mark.parametrize("name", ["Bert", "Roberta", "XLMRoberta", "Electra", "ModernBert", "Albert", "DistilBert"])
def test_encoder_is_refused_before_its_weights_are_loaded(name, tokenizer, store, tmp_path):
    _save(name, tokenizer, tmp_path)
    with pytest.raises(ModelError, match=r"is (an encoder|no causal language model).*Fix: another model\.path"):
        load_model(ModelConfig(name="m", path=str(tmp_path)), store)


@pytest.mark.parametrize("name", ["T5", "Bart", "MBart", "Pegasus", "Whisper", "CLIP", "ViT"])
def test_models_that_are_no_decoders_are_refused_in_one_message(name, tokenizer, store, tmp_path):
    _save(name, tokenizer, tmp_path)
    with pytest.raises(ModelError, match=r"(an encoder with a decoder|no causal language model).*Fix: ") as error:
        load_model(ModelConfig(name="m", path=str(tmp_path)), store)
    assert len(str(error.value)) < 500


def _save(name, tokenizer, folder):
    getattr(transformers, f"{name}Config")().save_pretrained(folder)
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    tokenizer.save_pretrained(folder)


def test_bidirectional_model_without_a_setting_that_says_so_is_refused_for_split_models(tokenizer, store, tmp_path):
    from transformers import XLNetConfig, XLNetLMHeadModel

    torch.manual_seed(0)
    model = XLNetLMHeadModel(XLNetConfig(vocab_size=640, d_model=32, n_layer=1, n_head=2, d_inner=32))
    model.transformer.word_embedding.weight.data.mul_(30)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = ModelConfig(name="m", path=str(tmp_path), attention=Attention.eager)
    with pytest.raises(ModelError, match=r"XLNetLMHeadModel is no causal language model: its logits change .*Fix"):
        load_model(config, store, split=True)


@pytest.fixture
def checkpoint(tiny_config, model, tokenizer, tmp_path):
    """A folder with the tiny model, and its weights."""
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return ModelConfig(name="m", path=str(tmp_path)), tmp_path, load_file(tmp_path / "model.safetensors")


def _write(folder, weights):
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "name", ["model.layers.2.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.bias", "score.weight", "value_head.bias"]
)
def test_checkpoint_with_weights_without_a_place_is_refused(checkpoint, store, name):
    config, folder, weights = checkpoint
    _write(folder, {**weights, name: torch.zeros(4)})
    with pytest.raises(ModelError, match=rf"1 of the weights .* have no place in LlamaForCausalLM .*{name}\. Fix"):
        load_model(config, store)


@pytest.mark.parametrize("name", ["Mamba2", "GptOss"])
def test_implementation_of_attention_that_a_model_lacks_is_an_error_that_names_the_other(name, store, tmp_path):
    build(name).save_pretrained(tmp_path)
    config = ModelConfig(name="m", path=str(tmp_path))
    with pytest.raises(ModelError, match=r"does not support this implementation of .*Fix: model\.attention=eager$"):
        load_model(config, store)
    assert load_model(replace(config, attention=Attention.eager), store, split=True) is not None


@pytest.mark.parametrize("change", [{"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"hidden_size": 32}])
def test_checkpoint_with_the_settings_of_another_model_is_refused(checkpoint, store, change):
    config, folder, _ = checkpoint
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **change}))
    with pytest.raises(ModelError, match=r"no place in|are not in|weights have other sizes than.*Fix"):
        load_model(config, store)


def test_checkpoint_with_the_head_that_is_tied_to_the_embedding_loads(checkpoint, store, model):
    config, folder, weights = checkpoint
    _write(folder, {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()})
    assert torch.equal(load_model(config, store).lm_head.weight, model.lm_head.weight)


def test_checkpoint_with_old_buffers_of_rotary_embeddings_loads(checkpoint, store):
    config, folder, weights = checkpoint
    _write(folder, {**weights, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)})
    assert load_model(config, store) is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight"])
def test_weights_that_are_not_finite_are_an_error_at_load(checkpoint, store, name, value):
    config, folder, weights = checkpoint
    weights[name][3, 5] = value
    _write(folder, weights)
    with pytest.raises(ModelError, match=rf"the weight {name} holds 1 numbers that are NaN or infinite\. Fix"):
        load_model(config, store)


@pytest.mark.parametrize("token", ["a plain word", "<|im_end|>"])
def test_tokenizer_with_words_beyond_the_embedding_is_refused(checkpoint, store, tokenizer, token):
    config, folder, _ = checkpoint
    settings = json.loads((folder / "config.json").read_text())
    rows = len(tokenizer) - 8 if token == "a plain word" else tokenizer.eos_token_id
    (folder / "config.json").write_text(json.dumps({**settings, "vocab_size": rows}))
    with pytest.raises(ModelError, match=r"tokens without an embedding, e\.g\. .*the model knows the ids 0 to .*Fix"):
        load_tokenizer(config, store)


def test_text_with_an_added_token_beyond_the_embedding_is_an_error_before_it_is_read(checkpoint, store, tokenizer):
    config, folder, _ = checkpoint
    stored = transformers.AutoTokenizer.from_pretrained(folder)
    stored.add_special_tokens({"additional_special_tokens": ["<image>"]})
    stored.save_pretrained(folder)
    loaded, model = load_tokenizer(config, store), load_model(config, store)
    ids = loaded("the <image>", add_special_tokens=False)["input_ids"]
    assert max(ids) == model.config.vocab_size
    for item in (ScoreInput(context_ids=[3], target_ids=ids), ScoreInput(context_ids=ids, target_ids=[3])):
        with pytest.raises(
            ModelError, match=r"reading texts: the token id \d+ has no embedding; LlamaForCausalLM .*Fix"
        ):
            list(token_readings(model, [item], 100))


@pytest.mark.parametrize("look", [model_identity, check_architecture, load_model])
def test_folder_without_the_settings_of_a_model_is_one_message(checkpoint, store, look):
    config, folder, _ = checkpoint
    (folder / "config.json").unlink()
    arguments = (config,) if look is model_identity else (config, store)
    with pytest.raises(ModelError, match=r"has no config\.json, which describes the model: .*model\.safetensors.*Fix"):
        look(*arguments)


def test_adapter_in_place_of_a_model_names_the_setting_for_it(store, tmp_path):
    settings = {"base_model_name_or_path": "o/base", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    save_file({"w": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    message = r"reference\.base\.path: .* is a PEFT adapter.*adapter=.* that it was trained on \('o/base'\)"
    with pytest.raises(ModelError, match=message):
        model_identity(ModelConfig(name="m", path=str(tmp_path)), key="reference.base.path")


@pytest.mark.parametrize("left", ["nothing", "settings only", "an empty tokenizer.json", "a damaged tokenizer.json"])
def test_folder_without_a_tokenizer_is_one_message(checkpoint, store, left):
    config, folder, _ = checkpoint
    (folder / "tokenizer.json").unlink()
    if left == "nothing":
        (folder / "tokenizer_config.json").unlink()
        (folder / "chat_template.jinja").unlink(missing_ok=True)
    elif left != "settings only":
        (folder / "tokenizer.json").write_text("" if "empty" in left else "{}")
    with pytest.raises(ModelError, match=r"no tokenizer can be loaded from"):
        load_tokenizer(config, store)


def test_tokenizer_without_a_fast_form_is_one_message(checkpoint, store):
    config, folder, _ = checkpoint
    settings = {"vocab_size": 640, "n_positions": 64, "n_embd": 8, "dff": 8, "n_layer": 1, "n_head": 2}
    transformers.CTRLConfig(**settings).save_pretrained(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CTRLTokenizer"}))
    (folder / "vocab.json").write_text(json.dumps({"a</w>": 0, "<unk>": 1}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ModelError, match=r"(CTRLTokenizer gives no character offsets.*Fix: |no tokenizer can be)"):
        load_tokenizer(config, store)


def test_sentencepiece_model_alone_is_one_message(checkpoint, store):
    config, folder, _ = checkpoint
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    with pytest.raises(ModelError, match=r"no tokenizer can be loaded from"):
        load_tokenizer(config, store)


def test_weights_of_four_bits_are_loaded_in_the_number_format_of_the_model(tokenizer, store, tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 32, "head_dim": 16, "num_hidden_layers": 1, "vocab_size": 640}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    settings = transformers.GptOssConfig(**sizes, **experts, pad_token_id=0)
    transformers.GptOssForCausalLM(settings).to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        num, rows, columns = weights.pop(name).shape
        weights[f"{name}_blocks"] = torch.full((num, columns, rows // 32, 16), 0x22, dtype=torch.uint8)  # twice 1.0
        weights[f"{name}_scales"] = torch.full((num, columns, rows // 32), 128, dtype=torch.uint8)  # 2 ** (128 - 127)
    _write(tmp_path, weights)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "mxfp4"}}))
    loaded = load_model(ModelConfig(name="m", path=str(tmp_path), attention=Attention.eager), store)
    for weight in (loaded.model.layers[0].mlp.experts.gate_up_proj, loaded.model.layers[0].mlp.experts.down_proj):
        assert weight.is_floating_point()
        assert (weight == 2).all()
