"""A server gives the same records as a model in this process; errors of servers."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch

from cotpress.devices.config import TrainerConfig
from cotpress.errors import ConfigError, GenerationError
from cotpress.evaluation.protocol import Answer, Protocol
from cotpress.evaluation.stage import Candidate, evaluate
from cotpress.generation.backends import Sampling
from cotpress.generation.config import ServerGenerationConfig, TransformersGenerationConfig
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.loading import load_tokenizer
from cotpress.modeling.tiny import tiny_model
from cotpress.records import Prediction, Problem
from cotpress.store.artifacts import ArtifactStore, Summary
from cotpress.store.tables import read_records, write_records
from support.openai_server import Reply, openai_server
from support.served_model import ServedModel, save_adapter, save_model

BUDGET = 24
WORDS = ("how many apples", "books", "what is", "total", "each day", "so the answer", "7 + 8 is it 3")
GREEDY = Protocol(max_new_tokens=BUDGET, context_tokens=512)
SAMPLED = Protocol(
    max_new_tokens=8, context_tokens=512, samples=2, sampling=Sampling(temperature=0.9, top_p=0.9, seed=3)
)
IN_PROCESS = TransformersGenerationConfig()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    torch.set_num_threads(1)
    return ArtifactStore(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def problems(store):
    def produce(workdir):
        rows = [
            Problem(id=f"p{i}", question=f"{words} in {i} boxes of {i + 2}", answer="3")
            for i, words in enumerate(WORDS)
        ]
        write_records(workdir / "problems.parquet", rows, Problem)
        return Summary(num_rows=7)

    return store.build("benchmark", {"test": 1}, produce)


@pytest.fixture(scope="module")
def folder(store, tmp_path_factory):
    """A model that ends some of its answers, and an adapter beside it."""
    made = save_model(tmp_path_factory.mktemp("model") / "weights", tiny_model(store).path)
    save_adapter(made.parent / "adapter", made)
    return made


def _config(folder):
    return ModelConfig(name="copy", path=str(folder), context_tokens=512)


def _evaluate(folder, problems, store, generation, student=None, protocol=GREEDY):
    (made,) = evaluate(
        [Candidate(system="s", ratio=1.0, student=student, protocol=protocol)],
        model=_config(folder), problems=problems, generation=generation,
        trainer=TrainerConfig(accelerator="cpu", generation_tokens=200), store=store,
    )  # fmt: skip
    return made


def _server(server, **more):
    return ServerGenerationConfig(base_url=server.base_url, **{"model": "served", "max_retries": 0, **more})


def _records(made):
    return [replace(p, latency_s=0.0) for p in read_records(made.file("predictions.parquet"), Prediction)]


@pytest.mark.parametrize("adapted", [False, True], ids=["model", "adapter"])
def test_server_gives_the_records_of_the_model_in_this_process(folder, problems, store, adapted):
    student = str(folder.parent / "adapter") if adapted else None
    here = _evaluate(folder, problems, store, IN_PROCESS, student=student)
    with openai_server(ServedModel(folder)) as server:
        there = _evaluate(folder, problems, store, _server(server), student=student)
        assert {c.path for c in server.calls} == {"/v1/completions", *(["/v1/load_lora_adapter"] if adapted else [])}
    assert here.key != there.key
    assert _records(there) == _records(here)
    if not adapted:
        assert {p.finish_reason for p in _records(here)} == {"stop", "length"}


def test_adapter_is_named_by_its_content_and_a_loaded_one_is_used_again(folder, problems, store, tmp_path):
    first, second = folder.parent / "adapter", save_adapter(tmp_path / "other", folder, seed=1)
    short = [replace(GREEDY, max_new_tokens=budget) for budget in (5, 6)]
    with openai_server(ServedModel(folder)) as server:
        made = [
            _records(_evaluate(folder, problems, store, _server(server), student=str(adapter), protocol=protocol))
            for adapter, protocol in ((first, short[0]), (second, short[0]), (first, short[1]))
        ]
        loads = [c.body for c in server.calls if c.path.endswith("load_lora_adapter")]
        names = {c.body["model"] for c in server.calls if c.path.endswith("completions")}
    assert [p.output for p in made[0]] != [p.output for p in made[1]]
    assert all(b.output.startswith(a.output) for a, b in zip(made[0], made[2], strict=True))
    assert [load["lora_path"] for load in loads] == [str(a.resolve()) for a in (first, second, first)]
    assert loads[0]["lora_name"] == loads[2]["lora_name"] != loads[1]["lora_name"]
    assert {load["lora_name"] for load in loads} == names


def test_adapter_loaded_at_the_start_of_the_server_is_used_by_its_name(folder, problems, store):
    adapter = folder.parent / "adapter"
    served = ServedModel(folder)
    served._load_adapter("mine", str(adapter))
    with openai_server(served) as server:
        there = _evaluate(folder, problems, store, _server(server, model="mine"))
    assert _records(there) == _records(_evaluate(folder, problems, store, IN_PROCESS, student=str(adapter)))


def test_server_that_loads_no_adapters_is_explained(folder, problems, tmp_path):
    def script(call, seen):
        return Reply(text="Not Found", status=404) if call.path.endswith("adapter") else Reply(text="x")

    with openai_server(script) as server, pytest.raises(GenerationError, match=r"404.*--enable-lora.*--lora-modules"):
        _evaluate(folder, problems, ArtifactStore(tmp_path), _server(server), student=str(folder.parent / "adapter"))


def test_whole_model_on_a_server_is_refused(folder, problems, store):
    def produce(workdir):
        shutil.copytree(folder, workdir / "model")
        return Summary(num_rows=0)

    student = store.build("sft", {"test": 1}, produce)
    with pytest.raises(ConfigError, match=r"whole model.*no server loads"):
        _evaluate(folder, problems, store, ServerGenerationConfig(base_url="http://x/v1", model="m"), student=student)


@pytest.mark.parametrize("protocol", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_after_a_server_error_only_missing_answers_are_requested(folder, problems, tmp_path, protocol):
    served, whole = ServedModel(folder), ArtifactStore(tmp_path / "whole")
    broken = ArtifactStore(tmp_path / "broken")
    with openai_server(served) as server:
        expected = _records(_evaluate(folder, problems, whole, _server(server), protocol=protocol))
        num_asked = len(server.calls)
    with (
        openai_server(lambda c, seen: served(c, seen) if len(server.calls) <= 3 else Reply(status=500)) as server,
        pytest.raises(GenerationError),
    ):
        _evaluate(folder, problems, broken, _server(server, concurrency=1), protocol=protocol)
    with openai_server(served) as server:
        resumed = _records(_evaluate(folder, problems, broken, _server(server), protocol=protocol))
        assert len(server.calls) == num_asked - 3
    assert resumed == expected


def test_samples_of_a_question_are_requests_with_different_seeds(folder, problems, tmp_path):
    with openai_server(ServedModel(folder)) as server:
        made = _evaluate(folder, problems, ArtifactStore(tmp_path), _server(server), protocol=SAMPLED)
        seeds = [c.body["seed"] for c in server.calls]
    assert len(set(seeds)) == len(seeds) == 14
    assert [(p.id, p.sample) for p in _records(made)] == [(f"p{i}", k) for i in range(7) for k in range(2)]


def test_identity_has_the_model_of_a_server_but_not_its_address_or_speed(folder, problems, tmp_path):
    store = ArtifactStore(tmp_path)
    with openai_server(ServedModel(folder)) as server:
        first = _evaluate(folder, problems, store, _server(server))
    elsewhere = ServerGenerationConfig(base_url="http://elsewhere:1/v1", model="served", concurrency=2, timeout_s=9.0)
    assert _evaluate(folder, problems, store, elsewhere).key == first.key
    with pytest.raises(GenerationError, match="elsewhere"):
        _evaluate(folder, problems, store, replace(elsewhere, model="other", max_retries=0))


def test_tokens_are_counted_here_if_the_server_returns_no_token_ids(folder, problems, store, tmp_path, caplog):
    with openai_server(ServedModel(folder, tells_ids=False)) as server:
        made = _evaluate(folder, problems, ArtifactStore(tmp_path), _server(server))
    tokenizer = load_tokenizer(_config(folder), store)
    for p in _records(made):
        assert p.num_tokens == len(tokenizer(p.output, add_special_tokens=False)["input_ids"])
    (manifest,) = tmp_path.glob("artifacts/answer/*/manifest.json")
    assert json.loads(manifest.read_text())["facts"]["retokenized"] == 7
    answers = read_records(manifest.parent / "answers.parquet", Answer)
    assert all(asdict(a)["retokenized"] for a in answers)
    assert "counted again" in caplog.text


def test_server_needs_no_weights_on_this_machine(folder, problems, store, tmp_path):
    bare = tmp_path / "tokenizer"
    bare.mkdir()
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, bare)
    with openai_server(ServedModel(folder)) as server:
        there = _evaluate(bare, problems, ArtifactStore(tmp_path / "out"), _server(server))
    assert _records(there) == _records(_evaluate(folder, problems, store, IN_PROCESS))
