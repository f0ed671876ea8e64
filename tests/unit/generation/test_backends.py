import pytest
import torch

from cotpress.devices.config import TrainerConfig
from cotpress.errors import ConfigError
from cotpress.generation.backends import Sampling, generation_identity, open_backend
from cotpress.generation.config import GenerationConfig, ServerGenerationConfig, TransformersGenerationConfig
from cotpress.generation.hf import TransformersBackend
from cotpress.generation.server import ServerBackend
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer
from cotpress.settings import check_settings
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.source import code_of
from support.generation import requests

TINY = ModelConfig(name="tiny", source=ModelSource.tiny, path="tiny", context_tokens=64)
CPU = TrainerConfig(accelerator="cpu", generation_tokens=100)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    torch.set_num_threads(1)
    return ArtifactStore(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def backend(store):
    return open_backend(TransformersGenerationConfig(), TINY, CPU, store)


def test_completions_are_those_of_each_prompt_alone_and_reported_once(backend):
    prompts, seen = [[20, 21], [30, 31, 32, 33], [40]], []
    completions = backend.complete(requests(prompts, 6), on_done=lambda i, g: seen.append((i, g)))
    alone = [backend.complete(requests([prompt], 6))[0] for prompt in prompts]
    assert [g.token_ids for g in completions] == [g.token_ids for g in alone]
    assert sorted(seen, key=lambda pair: pair[0]) == list(enumerate(completions))


def test_prompts_of_a_batch_have_their_own_budgets(backend):
    prompts, budgets, ended = [[20, 21], [30, 31, 32], [40]], [2, 7, 60], []
    long = backend.complete(requests(prompts, 7))
    completions = backend.complete(requests(prompts, budgets), on_done=lambda i, _: ended.append(i))
    assert sorted(ended) == [0, 1, 2]
    for made, whole, budget in zip(completions, long, budgets, strict=True):
        assert made.token_ids[:7] == whole.token_ids[:budget]
        assert (made.num_tokens, made.finish_reason) == (budget, "length")


def test_conversation_is_rendered_by_the_template_of_the_model(backend, store):
    tokenizer = load_tokenizer(TINY, store)
    text = "<|im_start|>system\nbe short<|im_end|>\n<|im_start|>user\nhow many?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    messages = [{"role": "system", "content": "be short"}, {"role": "user", "content": "how many?"}]
    (chatted,) = backend.complete(requests([messages], 4))
    (completed,) = backend.complete(requests([ids], 4))
    assert chatted.token_ids == completed.token_ids


def test_prompt_beyond_the_context_is_refused_and_the_others_are_completed(backend):
    completions = backend.complete(requests([[20] * 60, [20] * 59, [21]], 5))  # 64 tokens are the context
    assert [g.finish_reason == "refused" for g in completions] == [True, False, False]
    assert (completions[0].num_tokens, completions[0].text) == (0, "")


def test_named_streams_draw_the_same_beside_other_prompts(backend):
    sampling = Sampling(temperature=1.0, seed=3)
    names, prompts = ["a/0", "a/1", "b/0"], [[20, 21], [20, 21], [30]]
    whole = backend.complete(requests(prompts, 6, names), sampling=sampling)
    rest = backend.complete(requests(prompts[1:], 6, names[1:]), sampling=sampling)
    assert [g.token_ids for g in rest] == [g.token_ids for g in whole[1:]]
    assert whole[0].token_ids != whole[1].token_ids


def test_streams_stay_with_their_prompts_when_one_is_refused(backend):
    sampling = Sampling(temperature=1.0, seed=3)
    completions = backend.complete(requests([[20] * 62, [30]], 5, ["long", "short"]), sampling=sampling)
    (alone,) = backend.complete(requests([[30]], 5, ["short"]), sampling=sampling)
    assert completions[1].token_ids == alone.token_ids


def test_adapter_is_part_of_the_identity(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"1")
    plain, first = (generation_identity(GenerationConfig(), TINY, CPU, adapter=a) for a in (None, str(tmp_path)))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"22")
    second = generation_identity(GenerationConfig(), TINY, CPU, adapter=str(tmp_path))
    assert "adapter" not in plain["model"]
    assert first != second


def test_settings_choose_the_backend(store):
    served = ServerGenerationConfig(base_url="http://localhost:1/v1", model="m")
    assert isinstance(open_backend(served, TINY, CPU, store), ServerBackend)
    assert isinstance(open_backend(TransformersGenerationConfig(), TINY, CPU, store), TransformersBackend)
    with pytest.raises(ConfigError, match="no backend for GenerationConfig"):
        open_backend(GenerationConfig(), TINY, CPU, store)


def test_identity_has_the_model_and_the_sampling_only():
    served = ServerGenerationConfig(base_url="http://localhost:1/v1", model="m", api_key_env="X", seed=3)
    assert generation_identity(served, TINY, CPU) == {
        "model": {"served": "m", "code": code_of(ServerBackend)},
        "sampling": Sampling(),
    }
    own = generation_identity(TransformersGenerationConfig(temperature=0.5, seed=3), TINY, CPU)
    assert own["sampling"] == Sampling(temperature=0.5, seed=3)
    assert own["model"]["source"]["model"] == "tiny"


@pytest.mark.parametrize(
    ("settings", "message"), [({"temperature": -1}, r"generation\.temperature"), ({"top_p": 0}, r"generation\.top_p")]
)
def test_sampling_out_of_range_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        check_settings(GenerationConfig(**settings), "generation")
