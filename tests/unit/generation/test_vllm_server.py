import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from cotpress.errors import ConfigError, GenerationError
from cotpress.generation import vllm_server, watchdog
from cotpress.generation.config import VllmGenerationConfig
from cotpress.generation.vllm_server import Installed, Served, VllmServer, command, division, installed
from support.fake_vllm import commands, fake_vllm, pids
from support.waiting import wait_until, wait_until_gone

SERVED = Served(folder=Path("/model"), name="cotpress-x", dtype="bfloat16", context_tokens=64)
CPU = Installed(version="1", platform="cpu")
GB = 10**9


def config(tmp_path, **behaviour):
    return VllmGenerationConfig(python=str(fake_vllm(tmp_path / "fake", **behaviour)), start_timeout_s=20.0)


def options(line):
    return dict(pairwise(line))


def test_command_has_the_model_its_context_and_the_arguments_of_the_user_last():
    line = command(VllmGenerationConfig(python="/v/bin/python", arguments=["--enforce-eager"]), SERVED, CPU, 8011)
    assert line[:3] == ["/v/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    got = options(line)
    assert (got["--model"], got["--served-model-name"], got["--port"]) == ("/model", "cotpress-x", "8011")
    assert (got["--max-model-len"], got["--dtype"], got["--host"]) == ("64", "bfloat16", "127.0.0.1")
    assert line[-1] == "--enforce-eager"
    assert not {"--enable-lora", "--trust-remote-code", "--reasoning-config", "--tensor-parallel-size"} & set(line)


@pytest.mark.parametrize(("rank", "allowed"), [(1, "8"), (16, "16"), (17, "32"), (512, "512")])
def test_rank_of_adapters_is_rounded_up_to_one_that_vllm_allows(rank, allowed):
    line = command(VllmGenerationConfig(), replace(SERVED, lora_rank=rank), CPU, 1)
    assert "--enable-lora" in line
    assert options(line)["--max-lora-rank"] == allowed


def test_tags_of_a_thinking_are_told_to_the_server():
    line = command(VllmGenerationConfig(), replace(SERVED, thinking=("<think>", "</think>")), CPU, 1)
    assert json.loads(options(line)["--reasoning-config"]) == {
        "reasoning_start_str": "<think>",
        "reasoning_end_str": "</think>",
    }


@pytest.mark.parametrize(
    ("gpus", "size", "heads", "parts"),
    [
        ([80 * GB], 15 * GB, 28, (1, 1)),
        ([80 * GB] * 8, 15 * GB, 28, (8, 1)),
        ([80 * GB] * 8, 66 * GB, 40, (4, 2)),
        ([80 * GB] * 8, 145 * GB, 64, (2, 4)),
        ([24 * GB] * 4, 30 * GB, 28, (2, 2)),
        ([24 * GB] * 6, 50 * GB, 28, (3, 2)),  # 3 would do, but does not divide the heads; 6 neither
        ([24 * GB] * 4, 10**13, 28, (1, 4)),
        ([], 15 * GB, 28, (1, 1)),
    ],
)
def test_weights_are_divided_among_as_few_gpus_as_hold_them(gpus, size, heads, parts):
    assert division(VllmGenerationConfig(), gpus, size, heads) == parts


def test_given_tensor_parallel_divides_the_gpus():
    assert division(VllmGenerationConfig(tensor_parallel=4), [80 * GB] * 8, GB, 28) == (2, 4)
    with pytest.raises(ConfigError, match="a divisor of the number of devices, 8"):
        division(VllmGenerationConfig(tensor_parallel=3), [80 * GB] * 8, GB, 28)


def test_gpus_of_the_interpreter_are_all_used(tmp_path):
    (tmp_path / "config.json").write_text('{"num_attention_heads": 8}')
    (tmp_path / "model.safetensors").write_bytes(b"0" * 1000)
    two = Installed(version="1", platform="cuda", gpu_bytes=(1000, 1000))
    got = options(command(VllmGenerationConfig(), replace(SERVED, folder=tmp_path), two, 1))
    assert (got["--data-parallel-size"], got["--tensor-parallel-size"]) == ("1", "2")
    assert got["--gpu-memory-utilization"] == "0.9"


def test_interpreter_without_vllm_is_an_error_that_names_it(tmp_path):
    program = fake_vllm(tmp_path / "none", error="ModuleNotFoundError: No module named 'vllm'")
    with pytest.raises(ConfigError, match=rf"python: '{program}' cannot import vllm \(ModuleNotFoundError"):
        installed(str(program))
    with pytest.raises(ConfigError, match=r"cannot be run .*Fix: give DIR/bin/python"):
        installed(str(tmp_path / "missing"))


def test_build_for_gpus_without_a_gpu_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"is a build for GPUs and sees none"):
        installed(str(fake_vllm(tmp_path / "blind", platform="cuda")))


def test_server_is_kept_for_what_it_holds_and_started_again_for_more(tmp_path):
    server, settings = VllmServer(), config(tmp_path)
    try:
        server.serve(settings, replace(SERVED, lora_rank=16), tmp_path / "logs")
        server.serve(settings, SERVED, tmp_path / "logs")
        server.serve(replace(settings, seed=7, concurrency=3), replace(SERVED, lora_rank=8), tmp_path / "logs")
        assert len(commands(tmp_path / "fake")) == 1
        server.serve(settings, replace(SERVED, lora_rank=32), tmp_path / "logs")
        server.serve(settings, replace(SERVED, folder=Path("/other")), tmp_path / "logs")
        _, second, third = commands(tmp_path / "fake")
        assert (options(second)["--max-lora-rank"], options(third)["--model"]) == ("32", "/other")
    finally:
        server.end()
    wait_until_gone(pids(tmp_path / "fake"))


def test_key_of_the_server_is_in_no_command_line_and_no_log(tmp_path):
    server = VllmServer()
    server.serve(config(tmp_path), SERVED, tmp_path / "logs")
    assert len(server.api_key) == 32
    assert server.api_key not in str(commands(tmp_path / "fake")) + server.log_file.read_text()
    server.end()


def test_end_also_ends_a_server_that_ignores_sigterm(tmp_path, monkeypatch):
    monkeypatch.setattr("cotpress.generation.watchdog.STOP_AFTER_S", 0.2)
    server = VllmServer()
    server.serve(config(tmp_path, unkillable=True), SERVED, tmp_path / "logs")
    server.end()
    wait_until_gone(pids(tmp_path / "fake"), 2)


def test_forgotten_server_is_ended(tmp_path):
    server = VllmServer()
    server.serve(config(tmp_path), SERVED, tmp_path / "logs")
    del server
    wait_until_gone(pids(tmp_path / "fake"))


def test_server_that_ends_in_its_start_is_an_error_with_its_cause_and_its_log(tmp_path):
    text = "INFO loading\nERROR 01-02 ValueError: no such head size\nRuntimeError: Engine core initialization failed."
    server = VllmServer()
    with pytest.raises(GenerationError, match=r"ValueError: no such head size\. Its output is .*logs/vllm-") as raised:
        server.serve(config(tmp_path, start_error=text), SERVED, tmp_path / "logs")
    assert "Engine core" not in str(raised.value)
    wait_until_gone(pids(tmp_path / "fake"))


def test_server_that_does_not_answer_in_time_is_ended(tmp_path, monkeypatch):
    server, answers = VllmServer(), VllmServer._answers

    def answers_once_it_runs(asked):
        wait_until(lambda: commands(tmp_path / "fake"), 60, "the start of the server")
        return answers(asked)

    monkeypatch.setattr(VllmServer, "_answers", answers_once_it_runs)
    with pytest.raises(GenerationError, match=r"did not answer within 0\.6 s"):
        server.serve(replace(config(tmp_path, hangs=True), start_timeout_s=0.6), SERVED, tmp_path / "logs")
    wait_until_gone(pids(tmp_path / "fake"), 1)


def watched(*command):
    return subprocess.Popen(
        [sys.executable, "-I", watchdog.__file__, str(os.getpid()), *command],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def test_processes_that_an_ended_server_leaves_behind_are_ended():
    with watched("sh", "-c", "sleep 600 & echo $!") as process:
        assert process.stdout is not None
        left = int(process.stdout.readline())
        assert process.wait(20) == -signal.SIGKILL
    wait_until_gone([left])


def test_server_has_time_to_end_in_order(tmp_path):
    script = f"trap 'sleep 0.5; touch {tmp_path}/ended; exit 0' TERM; echo runs; while :; do sleep 0.1; done"
    with watched("sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        vllm_server._end_group(process)
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_server_ends_with_the_process_that_started_it_however_that_ends(tmp_path, number):
    settings = config(tmp_path)
    program = (
        "import signal, time\n"
        "from pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a test in the background starts with it ignored
        "from cotpress.generation.config import VllmGenerationConfig\n"
        "from cotpress.generation.vllm_server import Served, VllmServer\n"
        "served = Served(folder=Path('/model'), name='x', dtype='bfloat16', context_tokens=64)\n"
        "server = VllmServer()\n"
        f"server.serve(VllmGenerationConfig(python={settings.python!r}), served, Path({str(tmp_path)!r}))\n"
        "print('started', flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"started\n"
        starter.send_signal(number)
        starter.wait(20)
    wait_until_gone(pids(tmp_path / "fake"))


def test_place_in_a_parallel_launch_is_not_handed_to_the_server(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("PYTHONPATH", "/ours")
    server = VllmServer()
    server.serve(config(tmp_path), SERVED, tmp_path / "logs")
    variables = Path(f"/proc/{pids(tmp_path / 'fake')[0]}/environ").read_bytes().split(b"\0")
    server.end()
    assert not [v for v in variables if v.startswith((b"RANK=", b"PYTHONPATH="))]
