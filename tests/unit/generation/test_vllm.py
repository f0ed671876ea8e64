import json
import logging
import shutil
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from cotpress.devices.config import TrainerConfig
from cotpress.errors import ConfigError, GenerationError, MemoryLimitError
from cotpress.generation import vllm
from cotpress.generation.backends import KeptBackend, Sampling, generation_identity, open_backend
from cotpress.generation.config import ServerGenerationConfig, TransformersGenerationConfig, VllmGenerationConfig
from cotpress.generation.vllm import Agreement, VllmBackend, check_context
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.foreign import ADAPTER_CONFIG
from cotpress.modeling.loading import end_ids, load_model, load_tokenizer, model_folder
from cotpress.prompts import conversation_ids
from cotpress.settings import check_settings
from cotpress.store.artifacts import ArtifactStore
from support.fake_vllm import OTHER, commands, fake_vllm, pids, requests_of
from support.generation import requests
from support.served_model import save_adapter, save_model
from support.waiting import wait_until_gone

CPU = TrainerConfig(accelerator="cpu", generation_tokens=400)
PROMPTS = [[20 + i, 30 + i, 40 + 2 * i] for i in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def store(folder):
    return ArtifactStore(folder / "outputs")


@pytest.fixture(scope="module")
def model(folder, store):
    tiny = ModelConfig(name="tiny", source=ModelSource.tiny, path="llama")
    return ModelConfig(
        name="served", path=str(save_model(folder / "model", model_folder(tiny, store))), context_tokens=64
    )


@pytest.fixture(scope="module")
def adapter(folder, model):
    return str(save_adapter(folder / "adapter", folder / "model"))


@pytest.fixture(scope="module")
def expected(model, adapter, store):
    """Greedy answers of the model in this process, as the server would write them, without and with the adapter."""
    ends = end_ids(model, store)
    tables = {}
    for name, path in (("base", None), ("adapter", adapter)):
        backend = open_backend(TransformersGenerationConfig(), model, CPU, store, adapter=path)
        done = backend.complete(requests(PROMPTS, 16))
        tables[name] = {
            ",".join(map(str, p)): [*g.token_ids, *([ends[0]] if g.finish_reason == "stop" else [99])]
            for p, g in zip(PROMPTS, done, strict=True)
        }
    return tables


def config(tmp_path, expected, *, probe_prompts=8, **behaviour):
    program = fake_vllm(tmp_path / "fake", answers=expected, **behaviour)
    return VllmGenerationConfig(python=str(program), start_timeout_s=20.0, probe_prompts=probe_prompts)


def test_answers_are_those_of_the_server_after_a_probe_that_agrees(tmp_path, model, store, expected, caplog):
    caplog.set_level(logging.INFO)
    with KeptBackend() as kept:
        done = kept(config(tmp_path, expected), model, CPU, store).complete(requests(PROMPTS, 5))
    assert [list(g.token_ids) for g in done] == [
        ids[:-1][:5] for p in PROMPTS for ids in [expected["base"][",".join(map(str, p))]]
    ]
    assert "8 of 8 first greedy tokens" in caplog.text
    assert "tokens/s" in caplog.text
    wait_until_gone(pids(tmp_path / "fake"))  # the server ends with the block


def test_server_of_another_model_is_an_error_with_the_agreement(tmp_path, model, store, adapter, expected):
    wrong = {"base": expected["adapter"], "adapter": expected["base"]}
    with KeptBackend() as kept, pytest.raises(GenerationError, match=r"does not serve .* of 8 first greedy tokens"):
        kept(config(tmp_path, wrong), model, CPU, store).complete(requests(PROMPTS, 5))
    assert {r["max_tokens"] for r in requests_of(tmp_path / "fake")} == {vllm.PROBE_TOKENS}, "nothing else was asked"


@pytest.mark.parametrize(("num_wrong", "is_refused"), [(1, False), (2, True)])
def test_nine_of_ten_first_tokens_have_to_agree(tmp_path, model, store, expected, num_wrong, is_refused):
    wrong = {key: [ids[0] + 1, 99] for key, ids in [*expected["base"].items()][:num_wrong]}
    settings = config(tmp_path, {"base": {**expected["base"], **wrong}}, probe_prompts=10)
    refused = pytest.raises(GenerationError, match=rf"it writes {10 - num_wrong} of 10 .* at least 90% of the first")
    with KeptBackend() as kept, refused if is_refused else nullcontext():
        kept(settings, model, CPU, store).complete(requests(PROMPTS, 5))


def test_adapter_without_effect_is_an_error_that_names_it(tmp_path, model, store, adapter, expected):
    without = {"base": expected["base"], "adapter": expected["base"]}
    with KeptBackend() as kept, pytest.raises(GenerationError, match=r"with the adapter '.*adapter'"):
        kept(config(tmp_path, without), model, CPU, store, adapter=adapter).complete(requests(PROMPTS, 5))


def test_adapters_and_their_base_share_one_server(tmp_path, model, store, adapter, expected):
    settings = config(tmp_path, expected)
    with KeptBackend() as kept:
        for path in (adapter, None, adapter):
            kept(settings, model, CPU, store, adapter=path).complete(requests(PROMPTS, 5))
    (line,) = commands(tmp_path / "fake")
    assert line[line.index("--max-lora-rank") + 1] == "8"


def test_another_backend_ends_the_server_first(tmp_path, model, store, expected):
    with KeptBackend() as kept:
        kept(config(tmp_path, expected), model, CPU, store).complete(requests(PROMPTS, 5))
        kept(TransformersGenerationConfig(), model, CPU, store)
        wait_until_gone(pids(tmp_path / "fake"), 1)


def test_server_that_dies_is_started_again_for_the_missing_answers(
    tmp_path, model, store, expected, caplog, monkeypatch
):
    monkeypatch.setattr(vllm, "_MAX_RETRIES", 0)
    settings, seen = config(tmp_path, expected, probe_prompts=0, dies_after=4), []
    settings = replace(settings, concurrency=1)
    with KeptBackend() as kept:
        done = kept(settings, model, CPU, store).complete(requests(PROMPTS, 5), on_done=lambda i, _: seen.append(i))
    assert sorted(seen) == list(range(10))
    assert len(requests_of(tmp_path / "fake")) == len(done) == 10
    assert len(commands(tmp_path / "fake")) == 2
    assert "the card fell off" in caplog.text
    assert "started again for 6 of 10" in caplog.text


def test_server_that_dies_again_and_again_is_an_error(tmp_path, model, store, expected, monkeypatch):
    monkeypatch.setattr(vllm, "_MAX_RETRIES", 0)
    settings = config(tmp_path, expected, probe_prompts=0, dies_after=0, deaths=9)
    with KeptBackend() as kept, pytest.raises(GenerationError, match="Started again, it ended before another answer"):
        kept(replace(settings, concurrency=1), model, CPU, store).complete(requests(PROMPTS, 5))
    assert len(commands(tmp_path / "fake")) == 2


def test_smaller_context_of_the_server_is_an_error_with_both_limits(tmp_path, model, store, expected):
    settings = config(tmp_path, expected, max_model_len=32)
    with KeptBackend() as kept, pytest.raises(GenerationError, match=r"holds 32 tokens .*model\.context_tokens=64"):
        kept(settings, model, CPU, store).complete(requests(PROMPTS, 5))


def test_other_name_of_the_model_is_an_error(tmp_path, model, store, expected):
    with KeptBackend() as kept, pytest.raises(GenerationError, match=r"lists the models \['mine'\], not 'cotpress-"):
        kept(config(tmp_path, expected, name="mine"), model, CPU, store).complete(requests(PROMPTS, 5))


def test_requests_end_at_the_tokens_of_the_model_in_this_process(tmp_path, model, store, expected):
    with KeptBackend() as kept:
        kept(config(tmp_path, expected, probe_prompts=0), model, CPU, store).complete(requests(PROMPTS[:1], 5))
    ends = open_backend(TransformersGenerationConfig(), model, CPU, store)._end_ids()
    assert set(requests_of(tmp_path / "fake")[0]["stop_token_ids"]) == ends
    assert len(ends) > 20


def test_seeds_are_sent_unless_the_platform_has_none_which_is_said_once(
    tmp_path, model, store, expected, caplog, monkeypatch
):
    monkeypatch.setattr(vllm, "_told_seeds", False)
    sampled = Sampling(temperature=0.6, top_p=0.9, seed=3)
    for platform, gpus in (("cpu", []), ("cuda", [10**12])):
        settings = config(tmp_path / platform, expected, probe_prompts=0, platform=platform, gpus=gpus)
        with KeptBackend() as kept:
            for _ in range(2):
                kept(settings, model, CPU, store).complete(requests(PROMPTS[:2], 5), sampling=sampled)
        sent = requests_of(tmp_path / platform / "fake")
        assert all((r["temperature"], r["top_p"]) == (0.6, 0.9) for r in sent)
        assert all(("seed" in r) == (platform == "cuda") for r in sent)
    assert caplog.text.count("takes no seed") == 1


def test_budget_of_the_thinking_is_passed_but_not_in_the_probe(tmp_path, model, store, expected):
    settings = replace(config(tmp_path, expected, probe_prompts=2), thinking_token_budget=7)
    with KeptBackend() as kept:
        kept(settings, model, CPU, store).complete(requests(PROMPTS, 5))
    sent = requests_of(tmp_path / "fake")
    assert [r.get("thinking_token_budget") for r in sent] == [None] * 2 + [7] * 10
    assert "--reasoning-config" in commands(tmp_path / "fake")[0]


def test_conversation_is_sent_as_the_tokens_that_this_process_would_read(tmp_path, model, store, expected):
    turns = [{"role": "user", "content": "how many?"}]
    with KeptBackend() as kept:
        kept(config(tmp_path, expected, probe_prompts=0), model, CPU, store).complete(requests([turns], 4))
    (sent,) = requests_of(tmp_path / "fake")
    assert sent["prompt"] == list(conversation_ids(load_tokenizer(model, store), turns))


def test_prompt_beyond_the_context_is_refused_without_a_request(tmp_path, model, store, expected):
    with KeptBackend() as kept:
        done = kept(config(tmp_path, expected, probe_prompts=0), model, CPU, store).complete(
            requests([[20] * 60, [9]], 5)
        )
    assert [g.finish_reason for g in done] == ["refused", "stop"]
    assert list(done[1].token_ids) == OTHER[:-1]


def test_probe_takes_different_prompts_from_all_of_them(tmp_path, model, store, expected):
    settings = config(tmp_path, expected, probe_prompts=3)
    with KeptBackend() as kept:
        kept(settings, model, CPU, store).complete(requests([p for p in PROMPTS for _ in range(4)], 5))
    probes = [r["prompt"] for r in requests_of(tmp_path / "fake") if r["max_tokens"] == vllm.PROBE_TOKENS]
    assert sorted(probes) == [PROMPTS[0], PROMPTS[3], PROMPTS[6]]


def test_probe_is_made_once_and_leaves_out_prompts_that_fill_the_context(tmp_path, model, store, expected):
    long = [[token] * (model.context_tokens - vllm.PROBE_TOKENS + 1) for token in (20, 21)]
    with KeptBackend() as kept:
        backend = kept(config(tmp_path, expected, probe_prompts=99), model, CPU, store)
        for _ in range(2):
            backend.complete(requests([*PROMPTS, *long], 5))
    sent = [r["prompt"] for r in requests_of(tmp_path / "fake") if r["max_tokens"] == vllm.PROBE_TOKENS]
    assert sorted(sent) == PROMPTS


def test_server_of_other_weights_has_ended_before_the_model_of_this_process_is_loaded(
    tmp_path, model, store, expected, monkeypatch
):
    settings, reference, ended = config(tmp_path, expected), VllmBackend._expected, []

    def noted(backend, probes, device):
        if commands(tmp_path / "fake"):
            wait_until_gone(pids(tmp_path / "fake"), 2)
            ended.append(True)
        return reference(backend, probes, device)

    monkeypatch.setattr(VllmBackend, "_expected", noted)
    with KeptBackend() as kept:
        kept(settings, model, CPU, store).complete(requests(PROMPTS, 5))
        kept(settings, replace(model, context_tokens=60), CPU, store).complete(requests(PROMPTS, 5))
    assert ended == [True]


def test_reference_is_computed_on_the_cpu_where_a_gpu_is_too_small(tmp_path, model, store, expected, monkeypatch):
    backend, devices, asked = open_backend(config(tmp_path, expected), model, CPU, store), [], requests(PROMPTS[:1], 3)
    in_process = VllmBackend._in_process

    def small(backend, device):
        devices.append(device.type)
        if device.type == "cuda":
            raise MemoryLimitError("too small")
        return in_process(backend, device)

    monkeypatch.setattr(VllmBackend, "_in_process", small)
    assert backend._expected(asked, torch.device("cuda"))[0].num_tokens == 3
    assert devices == ["cuda", "cpu"]


def test_server_that_runs_on_after_an_error_is_not_started_again(tmp_path, model, store, expected, monkeypatch):
    class Failing:
        def complete(self, *_, **__):
            raise GenerationError("the network is down")

    monkeypatch.setattr(vllm, "_DEATH_S", 0.2)
    with KeptBackend() as kept:
        backend = kept(config(tmp_path, expected, probe_prompts=0), model, CPU, store)
        client = backend._client
        monkeypatch.setattr(backend, "_client", lambda served, *given: Failing() if given else client(served))
        with pytest.raises(GenerationError, match=r"^the network is down$"):
            backend.complete(requests(PROMPTS, 5))
    assert len(commands(tmp_path / "fake")) == 1


@pytest.mark.parametrize(("ranks", "largest"), [({"q_proj": 24, "k_proj": 2}, 24), ({}, 12)])
def test_largest_rank_of_the_matrices_of_an_adapter_counts(tmp_path, model, store, adapter, expected, ranks, largest):
    copy = shutil.copytree(adapter, tmp_path / "adapter")
    settings = json.loads((copy / ADAPTER_CONFIG).read_text())
    (copy / ADAPTER_CONFIG).write_text(json.dumps({**settings, "r": 12, "rank_pattern": ranks}))
    backend = open_backend(config(tmp_path, expected), model, CPU, store, adapter=str(copy))
    assert backend._served().lora_rank == largest


def test_identity_has_the_content_and_the_engine_but_no_interpreter(model, adapter):
    plain = generation_identity(VllmGenerationConfig(), model, CPU)
    others = VllmGenerationConfig(python="/x", arguments=["--a"], tensor_parallel=2, concurrency=3, probe_prompts=0)
    assert generation_identity(others, model, CPU) == plain
    assert (
        plain["model"]["source"] == generation_identity(TransformersGenerationConfig(), model, CPU)["model"]["source"]
    )
    assert plain["model"]["engine"] == "vllm"
    limited = generation_identity(VllmGenerationConfig(thinking_token_budget=9), model, CPU)
    assert limited["model"]["thinking_token_budget"] == 9
    assert "adapter" in generation_identity(VllmGenerationConfig(), model, CPU, adapter=adapter)["model"]
    served = ServerGenerationConfig(base_url="http://x/v1", model="m", thinking_token_budget=9)
    assert generation_identity(served, model, CPU)["model"]["thinking_token_budget"] == 9


def test_context_beyond_the_positions_of_the_model_is_refused(model, store):
    positions = json.loads((model_folder(model, store) / "config.json").read_text())["max_position_embeddings"]
    check_context(replace(model, context_tokens=positions), store, 5)
    with pytest.raises(GenerationError, match=rf"has positions for {positions} tokens.*Fix: model\.context_tokens"):
        check_context(replace(model, context_tokens=positions + 1), store, 5)
    with pytest.raises(GenerationError, match="max_new_tokens=64 leaves no room"):
        check_context(model, store, 64)


def test_end_of_an_answer_counts_as_a_token_of_the_agreement(model, store):
    ended, cut = open_backend(TransformersGenerationConfig(), model, CPU, store).complete(requests(PROMPTS[:2], 3))
    first = replace(ended, token_ids=(1, 2), finish_reason="stop")
    second = replace(cut, token_ids=(1, 2, 3), finish_reason="length")
    assert Agreement.of([first, second], [second, second]) == Agreement(prompts=2, first=2, tokens=5, most=6)


def test_settings_choose_vllm_which_starts_nothing_before_it_is_asked(tmp_path, model, store, expected):
    backend = open_backend(config(tmp_path, expected), model, CPU, store)
    assert isinstance(backend, VllmBackend)
    assert not commands(tmp_path / "fake")


@pytest.mark.parametrize(
    ("field", "value"), [("gpu_memory_utilization", 1.0), ("start_timeout_s", 0), ("concurrency", 0)]
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ConfigError, match=rf"generation\.{field}"):
        check_settings(VllmGenerationConfig(**{field: value}), "generation")


def test_end_tokens_from_the_files_are_those_of_the_loaded_model(model, store):
    loaded = load_model(model, store)
    listed = loaded.generation_config.eos_token_id
    assert set(end_ids(model, store)) == {*listed, load_tokenizer(model, store).eos_token_id}
