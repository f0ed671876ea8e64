"""Students that start able: from Original, from the writer of their traces, from a folder; and the row Shortest."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_model, load_tokenizer
from cotpress.modeling.sources import directory_sha256
from cotpress.store.artifacts import ArtifactStore
from support.commands import FEW_PROBLEMS, SMALL, Command, Stop
from support.undisturbed import contents

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]
START = [*SMALL, "scorer=random", "ratio=0.5", "sft.start=original"]
KILLED = [
    "model=tiny", "scorer=random", "ratio=0.5", "data.num_traces=16", "benchmark.num_problems=2",
    "benchmark.max_new_tokens=8", "evaluation.baselines=[original]", "trainer.checkpoint_every_s=0",
    "sft.tune.sequences_per_step=2", "sft.start=original", "sft.start_adapter=merge",
]  # fmt: skip
CHECKPOINT = "outputs/artifacts/.partial/sft-*/scratch/checkpoint-*"


def _manifests(root: Path, stage: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (root / "artifacts" / stage).glob("*/manifest.json")]


def _rows(root: Path, prefix: str) -> list[dict[str, Any]]:
    (results,) = (root / "runs").glob(f"{prefix}*/results.json")
    rows: list[dict[str, Any]] = json.loads(results.read_text())["rows"]
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an end token that can be learnt; traces that all end in 5, and questions with this answer."""
    folder = tmp_path_factory.mktemp("able")
    tiny, store = ModelConfig(name="tiny", source=ModelSource.tiny, path="llama"), ArtifactStore(folder)
    model, tokenizer = load_model(tiny, store), load_tokenizer(tiny, store)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        model.get_input_embeddings().weight[tokenizer.eos_token_id].normal_(0, 0.02)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    taught = [
        {"id": f"k{i}", "question": f"What is {i} + 2?", "thinking": "so 5", "response": "The answer is 5.",
         "answer": "5"}
        for i in range(20)
    ]  # fmt: skip
    asked = [{"id": f"q{i}", "question": f"What is {i} + 2?", "answer": "5" if i < 46 else "6"} for i in range(30, 50)]
    for name, rows in (("taught", taught), ("asked", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_one_command_teaches_a_student_lets_it_write_and_tunes_it_further(command: Command, folder: Path) -> None:
    written = [
        "model=tiny", "model.source=hub", f"model.path={folder / 'model'}", "data=self_written", "data.writer=original",
        "data@data.taught=jsonl", f"data.taught.path={folder / 'taught.jsonl'}", "data.taught.validation_fraction=0",
        "questions@data.questions=jsonl", f"data.questions.path={folder / 'asked.jsonl'}", "data.max_new_tokens=40",
        "data.generation.temperature=0.01",
        "sft.start=original", "scorer=random", "ratio=0.5", "sft.tune.epochs=60", *FEW_PROBLEMS,
        "evaluation=students", "evaluation.baselines+=shortest", "evaluation.shortest.samples=2", "output_root=loop",
    ]  # fmt: skip
    done = command("train.py", *written)
    assert done.returncode == 0, done.stderr[-3000:]
    root = command.folder / "loop"
    rows = _rows(root, "random-0.5")
    assert [row["system"] for row in rows] == ["Original", "Shortest", "random"]
    students = _manifests(root, "sft")
    assert len(students) == 3, "the writer is Original"
    original = root / "artifacts" / rows[0]["artifacts"]["sft"]
    starts = [m["identity"].get("start") for m in students]
    started = {"content": directory_sha256(original / "adapter"), "trains_adapter": True}
    assert sorted(starts, key=str) == sorted([None, started, started], key=str)
    assert {m["facts"]["answers"]["kept"] for m in _manifests(root, "solve")} == {16}
    assert json.loads((original / "adapter/training_config.json").read_text())["names"]["data"] == "jsonl"
    names = {path.name for path in (root / "students").iterdir()}
    assert names == {"original", "shortest-start-original", "random-0.5-start-original"}
    again = command("train.py", *written)
    assert "computing" not in again.stderr
    base = ["model=tiny", "model.source=hub", f"model.path={folder / 'model'}", *FEW_PROBLEMS, "output_root=loop"]
    asked = command(
        "evaluate.py", *base, "adapter=loop/students/shortest-start-original",
        "evaluation.baselines=[budget_forcing]", "evaluation.budget_forcing.thinking_tokens=3",
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr[-3000:]
    assert [row["system"] for row in _rows(root, "evaluate-")] == ["BudgetForcing", "shortest-start-original"]


@pytest.mark.parametrize(
    ("more", "trains_adapter"),
    [([], True), (["sft.start_adapter=merge"], False), (["sft=full"], False)],
    ids=["further", "merge", "full"],
)
def test_student_of_original_is_evaluated_published_and_asked_later(
    command: Command, more: list[str], trains_adapter: bool, tmp_path: Path
) -> None:
    root = tmp_path / "out"
    arguments = [*START, *more, "sft.tune.sequences_per_step=4", f"output_root={root}"]
    done = command("train.py", *arguments, "evaluation.baselines+=budget_forcing,chain_of_draft")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = _rows(root, "random-0.5")
    assert [row["system"] for row in rows] == ["Original", "BudgetForcing", "Chain-of-Draft", "random"]
    assert rows[1]["target_ratio"] == 0.5
    identities = {m["identity"]["compressed"]: m["identity"].get("start") for m in _manifests(root, "sft")}
    assert sorted(start is None for start in identities.values()) == [False, True]
    assert {start["trains_adapter"] for start in identities.values() if start} == {trains_adapter}
    (run,) = (root / "runs").glob("random-0.5*")
    later = command("evaluate.py", f"runs={run}", "benchmark.num_problems=3", f"output_root={root}")
    assert later.returncode == 0, later.stderr[-3000:]
    merge = [] if "sft=full" in more else ["merge=true"]
    published = command.module(
        "cotpress.hub", f"run={run}", "repo=u/n", "dry_run=true", f"output={root / 'card'}", "base_model=u/base", *merge
    )
    assert published.returncode == 0, published.stderr[-3000:]
    assert (root / "card" / "model.safetensors").is_file()


def test_killed_run_of_a_start_ends_with_the_same_students(command: Command, tmp_path: Path) -> None:
    disturbed, whole = tmp_path / "disturbed", tmp_path / "whole"
    disturbed.mkdir()
    whole.mkdir()
    for pattern in (r"sft: computing", r"sft: going on from[\s\S]*sft: computing"):
        stopped = command("train.py", *KILLED, cwd=disturbed, stop=Stop(pattern=pattern, exists=CHECKPOINT))
        assert stopped.returncode == -9, stopped.stderr[-3000:]
    done = command("train.py", *KILLED, cwd=disturbed)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "sft: going on from the last checkpoint" in done.stderr
    assert command("train.py", *KILLED, cwd=whole).returncode == 0
    assert contents(disturbed / "outputs") == contents(whole / "outputs")


def test_start_that_cannot_be_used_is_refused_before_any_work(command: Command, tmp_path: Path) -> None:
    missing = command("train.py", *START[:-1], f"sft.start={tmp_path / 'none'}", cwd=tmp_path)
    assert "sft.start: there is no folder" in missing.stderr
    compressed = command("compress.py", "model=tiny", "data=self_written", "data.writer=original", cwd=tmp_path)
    assert "data.writer: got original, a student, and only train.py trains students" in compressed.stderr
    refused = command("evaluate.py", "model=tiny", "evaluation=all", cwd=tmp_path)
    assert "got original, a student that has to be trained" in refused.stderr
    assert {missing.returncode, compressed.returncode, refused.returncode} == {2}
    assert not (tmp_path / "outputs/artifacts").exists()
