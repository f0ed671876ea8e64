"""No published file names a place of this machine, its user or the machine itself: students, merged models, data."""

import json
import re
import shutil
import socket
from pathlib import Path

import pytest

from cotpress.modeling.tiny import tiny_model
from cotpress.store.artifacts import ArtifactStore
from support.commands import FEW_PROBLEMS, Command

USER, HOST = "annabel-q", "annabels-laptop"
ABSOLUTE = re.compile(r"(?<![\w<:/.*\\-])/(?:[\w.-]+/)+[\w.-]+|(?<!\w)~/")
LARGE = ("tokenizer.json", "vocab.json")
"""Files of words and numbers, in which any sign may follow any other."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a user, below which all that a command reads and writes lies."""
    home = tmp_path_factory.mktemp("homes") / USER
    (home / "work").mkdir(parents=True)
    rows = [
        {"id": f"r{i}", "question": f"{i} + 1?", "thinking": f"Okay. {i} + 1 = {i + 1}. Wait, that is {i + 1}.",
         "response": f"It is {i + 1}.", "answer": f"{i + 1}"}
        for i in range(24)
    ]  # fmt: skip
    (home / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(tiny_model(ArtifactStore(home / "store")).path, home / "base")
    return home


class User:
    """Runs commands as the user."""

    def __init__(self, command: Command, home: Path) -> None:
        self._command, self.home = command, home
        self._variables = {
            "HOME": str(home), "USER": USER, "LOGNAME": USER, "HOSTNAME": HOST, "PWD": str(home / "work"),
        }  # fmt: skip

    def __call__(self, script: str, *arguments: str) -> None:
        done = self._command(script, *arguments, cwd=self.home / "work", variables=self._variables)
        assert done.returncode == 0, done.stderr[-3000:]

    def publish(self, run_dir: Path, name: str, *arguments: str) -> Path:
        output = self.home / "published" / name
        given = [f"run={run_dir}", "repo=someone/student", "base_model=open/base", "dry_run=true", f"output={output}"]
        self("-m cotpress.hub", *given, *arguments)
        return output


@pytest.fixture(scope="module")
def published(command: Command, home: Path) -> Path:
    """A folder with all that can be published."""
    user = User(command, home)
    data = ["data=jsonl", f"data.path={home / 'traces.jsonl'}", "scorer=random", "reference=none", "ratio=0.5"]
    model = ["model=tiny", "model.source=hub", "model.path=~/base"]
    train = ["evaluation=students", "sft.validation_problems=0", *FEW_PROBLEMS, "trainer.num_threads=1"]
    for method in ("lora", "full"):
        user("train.py", *data, *model, *train, f"sft={method}", f"output_root={home / method}")
    (lora,), (full,) = ([*(home / method / "runs").glob("random-0.5-*")] for method in ("lora", "full"))
    user.publish(lora, "adapter")
    user.publish(lora, "merged", "merge=true")
    user.publish(full, "whole")
    for kind in ("parquet", "trl", "openai", "llamafactory", "datasets"):
        user("compress.py", *data, *model, f"export={kind}", "output_root=~/out", f"output=~/published/{kind}")
    return home / "published"


@pytest.mark.timeout(400)
def test_no_published_file_names_a_place_of_this_machine_its_user_or_its_name(published: Path) -> None:
    files = [path for path in published.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".md", ".json", ".jsonl", ".parquet", ".arrow", ".safetensors", ".jinja"}
    assert {path.name for path in files} >= {
        "adapter_config.json", "training_config.json", "config.json", "generation_config.json", "tokenizer_config.json",
        "manifest.json", "state.json", "dataset_info.json", "README.md",
    }  # fmt: skip
    found = {
        (path, name)
        for path in files
        for name in (USER, HOST, str(published.parents[1]))
        if name.encode() in path.read_bytes()
    }
    assert not found
    texts = {
        path.relative_to(published): path.read_text(encoding="utf-8")
        for path in files if path.suffix in (".md", ".json", ".jinja") and path.name not in LARGE
    }  # fmt: skip
    host = re.compile(rf"(?<![\w-]){re.escape(socket.gethostname())}(?![\w-])")  # often two letters, as in weights
    traces = {(path, trace) for path, text in texts.items() for trace in ABSOLUTE.findall(text) + host.findall(text)}
    assert not traces


def test_settings_that_are_published_say_from_what_it_was_made(published: Path) -> None:
    run = json.loads((published / "adapter" / "training_config.json").read_text())["run"]
    assert (run["data"]["path"], run["model"]["path"], run["ratio"]) == ("traces.jsonl", "base", 0.5)
    assert not {"output_root", "tracker"} & {*run}
    assert (
        json.loads((published / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "open/base"
    )
    manifest = json.loads((published / "parquet" / "manifest.json").read_text())
    assert manifest["settings"]["data"]["path"] == "traces.jsonl"


def test_published_models_are_loaded_by_their_libraries(published: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for name in ("merged", "whole"):
        model = AutoModelForCausalLM.from_pretrained(published / name)
        assert AutoTokenizer.from_pretrained(published / name).eos_token
        assert model.config.vocab_size > 0
