"""A program that is started in place of the interpreter that has vLLM: answers from a table, or fails as told.

Its behaviour stands in `behaviour.json` beside it:

    version, platform, gpus: what the vLLM of the interpreter tells of itself
    error: text that it prints when vLLM is imported, before it ends
    start_error: text that the server prints before it ends
    max_model_len, name: what the server lists in place of its arguments
    answers: token ids with their end by model (`base` or `adapter`) and prompt; other prompts get `OTHER`
    dies_after: completions after which the server kills itself, `deaths` times in all
    hangs: the server never answers
    unkillable: the server ignores SIGTERM
"""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

COMMANDS, DEATHS = "commands.jsonl", "deaths"
OTHER = [5, 6, 7, 8]


def fake_vllm(folder: Path, **behaviour: Any) -> Path:
    """Make the program in a folder, which is made; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"version": "0.99", "platform": "cpu", "gpus": [], **behaviour}
    (folder / "behaviour.json").write_text(json.dumps(told), encoding="utf-8")
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__)} {folder} "$@"\n', encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def commands(folder: Path) -> list[list[str]]:
    """The arguments of all servers that were started."""
    file = folder / COMMANDS
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line)["arguments"] for line in lines]


def requests_of(folder: Path) -> list[dict[str, Any]]:
    """The bodies of all requests for completions."""
    return [json.loads(line) for line in (folder / "requests.jsonl").read_text(encoding="utf-8").splitlines()]


def pids(folder: Path) -> list[int]:
    """The processes of all servers that were started, and their children."""
    lines = (folder / COMMANDS).read_text(encoding="utf-8").splitlines()
    return [pid for line in lines for pid in json.loads(line)["pids"]]


def _serve(folder: Path, told: dict[str, Any], arguments: list[str]) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    if told.get("unkillable"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "600"])
    with (folder / COMMANDS).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"arguments": arguments, "pids": [os.getpid(), child.pid]}) + "\n")
    if "start_error" in told:
        sys.exit(told["start_error"])
    if told.get("hangs"):
        time.sleep(600)
    from support.openai_server import Call, Reply, openai_server

    values = dict(pairwise(arguments))
    name, completed = told.get("name", values["--served-model-name"]), 0
    deaths = folder / DEATHS

    def script(call: Call, seen: int) -> Reply:
        nonlocal completed
        if call.headers.get("authorization") != f"Bearer {os.environ['VLLM_API_KEY']}":
            return Reply(text="Unauthorized", status=401)
        if call.path == "/v1/load_lora_adapter":
            return Reply(raw=b"Success: LoRA adapter added successfully.", content_type="text/plain")
        completed += 1
        died = len(deaths.read_text(encoding="utf-8")) if deaths.exists() else 0
        if completed > told.get("dies_after", 10**9) and died < told.get("deaths", 1):
            deaths.write_text("x" * (died + 1), encoding="utf-8")
            print("torch.AcceleratorError: the card fell off", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        with (folder / "requests.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(call.body) + "\n")
        table = told.get("answers", {}).get("base" if call.body["model"] == name else "adapter", {})
        ids = table.get(",".join(map(str, call.body["prompt"])), OTHER)
        written = ids[: call.body["max_tokens"]]
        return Reply(text="x", token_ids=written, finish_reason="stop" if written == ids else "length")

    listed = [{"id": name, "max_model_len": told.get("max_model_len", int(values["--max-model-len"]))}]
    with openai_server(script, listed, port=int(values["--port"])):
        time.sleep(600)


if __name__ == "__main__":
    place, options = Path(sys.argv[1]), sys.argv[2:]
    settings = json.loads((place / "behaviour.json").read_text(encoding="utf-8"))
    if options[0] == "-c":
        if "error" in settings:
            sys.exit(settings["error"])
        print(json.dumps([settings["version"], settings["platform"], settings["gpus"]]))
    else:
        _serve(place, settings, options[2:])
