"""Other tools in environments of their own (`make test-peers`), and what they read: exports, and a merged student."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pytest

from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer
from cotpress.prompts import ChatConfig, ChatFormat
from cotpress.records import CompressedTrace
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records
from support.commands import ROOT, Command, environment

PEERS = ROOT / ".peers"
PROGRAMS = Path(__file__).parent / "programs"
SYSTEM = "Think step by step."


@dataclass(frozen=True)
class Peer:
    """Programs of another environment, run without a network and without this project's code."""

    programs: Path
    stubs: Path | str = ""

    def __call__(self, program: str, *arguments: str, cwd: Path) -> str:
        """Run a program to its end and return what it printed."""
        done = subprocess.run(
            [str(self.programs / program), *arguments], capture_output=True, text=True, timeout=540, cwd=cwd,
            env={**environment(), "HF_HOME": str(cwd / "hf"), "PYTHONPATH": str(self.stubs)},
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-4000:]}"
        return done.stdout


def peer(name: str) -> Peer:
    if not (PEERS / name / ".ready").exists():
        pytest.skip(f".peers/{name} is not there: make test-peers makes it, which needs a package index")
    return Peer(PEERS / name / "bin")


@pytest.fixture(scope="session")
def current() -> Peer:
    """TRL, datasets and lm-evaluation-harness."""
    return peer("current")


@pytest.fixture(scope="session")
def llamafactory() -> Peer:
    return replace(peer("llamafactory"), stubs=Path(__file__).parent / "stubs")


@pytest.fixture(scope="session")
def peers_command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(tmp_path_factory.mktemp("peers"))


class Exports(NamedTuple):
    """Exports of the same rows in every format, and the model that they are for."""

    folder: Callable[[str], Path]
    rows: Sequence[CompressedTrace]
    model: Path
    chat: ChatFormat


@pytest.fixture(scope="session")
def exports(peers_command: Command) -> Exports:
    chat = ChatConfig(system=SYSTEM, ratio_marker="<|im_end|>{ratio}<|im_end|>")

    def folder(format_: str) -> Path:
        output = peers_command.folder / format_
        if not output.exists():
            done = peers_command(
                "compress.py", "model=smollm2", f"model.chat.system={SYSTEM}", "data.num_traces=24", "scorer=random",
                "compression=mixed", "compression.mixed_ratios=[0.5,0.9]", f"export={format_}", f"output={output}",
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-3000:]
        return output

    rows = read_records(folder("parquet") / "compressed.parquet", CompressedTrace)
    (model,) = (peers_command.folder / "outputs" / "artifacts" / "model").glob("*/")
    config = ModelConfig(name="smollm2", source=ModelSource.hub, path=str(model))
    return Exports(folder, rows, model, ChatFormat(load_tokenizer(config, ArtifactStore(peers_command.folder)), chat))
