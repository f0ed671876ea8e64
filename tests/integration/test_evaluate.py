"""`evaluate.py` over benchmarks and ratios: one table, and a killed sweep that goes on where it stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from cotpress.modeling.tiny import tiny_model
from cotpress.records import Prediction
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records
from support.commands import FEW_PROBLEMS, ROOT, Command, environment
from support.openai_server import openai_server
from support.served_model import ServedModel, save_adapter, save_model
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)
NUM_PROBLEMS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two benchmark files and a tiny model with an adapter."""
    made = tmp_path_factory.mktemp("evaluate")
    for name, what in (("sums", "plus"), ("products", "times")):
        rows = [{"id": i, "question": f"what is {i} {what} 3", "answer": str(i)} for i in range(NUM_PROBLEMS)]
        (made / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_model(made / "model", tiny_model(ArtifactStore(made / "made")).path)
    save_adapter(made / "adapter", made / "model")
    return made


def _arguments(folder: Path, *more: str) -> list[str]:
    return [
        "-m", "model=hub", f"model.path={folder / 'model'}", "model.name=tiny", f"adapter={folder / 'adapter'}",
        "name=mine", "benchmark=jsonl", f"benchmark.path={folder / 'sums.jsonl'},{folder / 'products.jsonl'}",
        "ratio=0.5,0.7", "marker=true", "n=2", "benchmark.max_new_tokens=24", "trainer=cpu",
        "model.dtype=float32",  # answers are compared across batches and servers
        *more,
    ]  # fmt: skip


def _predictions(outputs: Path) -> dict[tuple[str, ...], list[tuple[object, ...]]]:
    """Predictions of every run by the name of its directory, without their durations."""
    return {
        (path.parent.name,): [
            (p.id, p.sample, p.system, p.ratio, p.output, p.predicted, p.correct)
            for p in read_records(path, Prediction)
        ]
        for path in outputs.glob("runs/*/predictions.parquet")
    }


def _answered(cwd: Path) -> int:
    return sum(p.read_bytes().count(b"\n") for p in cwd.glob("outputs/artifacts/.partial/answer-*/scratch/*.jsonl"))


@pytest.fixture(scope="module")
def whole(command: Command, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("whole")
    done = command("evaluate.py", *_arguments(folder), cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    (cwd / "stdout.txt").write_text(done.stdout)
    return cwd


def test_multirun_ends_with_a_table_per_benchmark_over_all_ratios(whole: Path) -> None:
    text = (whole / "stdout.txt").read_text()
    last = text[text.rindex("tiny on", 0, text.rindex("tiny on")) :]
    titles = [line for line in last.splitlines() if line.startswith("tiny on")]
    assert sorted(titles) == ["tiny on products", "tiny on sums"]
    for part in last.split("tiny on ")[1:]:
        rows = [line.split() for line in part.splitlines() if line.startswith("mine")]
        assert [row[1].split("/")[0] for row in rows] == ["1", "0.7", "0.5"]
        assert all(f"{NUM_PROBLEMS}x2" in row for row in rows)
    assert "4 jobs finished, 0 failed" in text


@pytest.mark.slow
def test_killed_sweep_resumes_within_a_question_with_the_same_result(
    command: Command, folder: Path, whole: Path, tmp_path: Path
) -> None:
    one_by_one = _arguments(folder, "trainer.generation_tokens=1")
    job = subprocess.Popen(
        [sys.executable, str(ROOT / "evaluate.py"), *one_by_one], cwd=tmp_path, env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    wait_until(lambda: _answered(tmp_path) >= 3, 120, "three answers", job=job, every_s=0.002)
    os.killpg(job.pid, signal.SIGKILL)  # a job alone would answer the rest in the second until it misses its parent
    job.communicate()
    kept = _answered(tmp_path)
    assert 3 <= kept < 2 * NUM_PROBLEMS, "killed in the middle of the answers to one benchmark"
    done = command("evaluate.py", *one_by_one, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert _predictions(tmp_path / "outputs") == _predictions(whole / "outputs")
    assert len(_predictions(whole / "outputs")) == 4


@pytest.mark.slow
def test_server_with_adapter_gives_the_answers_of_the_model_in_this_process(
    command: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    arguments = [a for a in _arguments(folder, "evaluation=full_checkpoint") if a not in ("-m", "n=2")]
    arguments = [a.split(",")[0] for a in arguments]
    assert command("evaluate.py", *arguments, cwd=tmp_path).returncode == 0
    with openai_server(ServedModel(folder / "model")) as server:
        arguments = [
            *arguments, "generation@evaluation.generation=server", "evaluation.generation.model=served",
            f"evaluation.generation.base_url={server.base_url}",
        ]  # fmt: skip
        done = command("evaluate.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    here, there = _predictions(tmp_path / "outputs").values()
    assert here == there
    systems = ["Base", "BeConcise", "OnlyNumbers", "AbbreWords", "LC-Prompt", "Truncation", "mine", "mine"]
    assert [row[2] for row in here[::NUM_PROBLEMS]] == systems


def _model(folder: Path) -> list[str]:
    return ["model=hub", f"model.path={folder / 'model'}", "model.name=tiny", f"adapter={folder / 'adapter'}"]


def _run_dir(command: Command, prefix: str) -> Path:
    (directory,) = (command.folder / "outputs" / "runs").glob(f"{prefix}*")
    return directory


def test_evaluate_takes_any_adapter(command: Command, folder: Path) -> None:
    done = command("evaluate.py", *_model(folder), "name=one", *FEW_PROBLEMS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert any(line.startswith("one") for line in done.stdout.splitlines())
    (row,) = json.loads((_run_dir(command, "one") / "results.json").read_text())["rows"]
    assert row["actual_ratio"] is None  # nobody knows what an adapter from elsewhere was trained on


def test_evaluate_draws_samples_beside_baselines_and_counts_in_another_tokenizer(
    command: Command, folder: Path
) -> None:
    done = command(
        "evaluate.py", *_model(folder), "name=drawn", "n=2", "ratio=0.5", "marker=true",
        "evaluation.baselines=[base,ratio_one]",
        f"evaluation.reference_tokenizer={folder / 'model'}", "evaluation.budgets=[8,24]", *FEW_PROBLEMS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((_run_dir(command, "drawn") / "results.json").read_text())["rows"]
    assert [(row["system"], row["target_ratio"]) for row in rows] == [("Base", 1.0), ("drawn", 1.0), ("drawn", 0.5)]
    predictions = pq.read_table(_run_dir(command, "drawn") / "predictions.parquet").to_pylist()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    for row in rows:
        assert (row["num_samples"], row["accuracy"]["n"], len(row["pass_at_k"])) == (2, 6, 2)
        own = [p["output"] for p in predictions if (p["system"], p["ratio"]) == (row["system"], row["target_ratio"])]
        counts = [len(tokenizer(output, add_special_tokens=False)["input_ids"]) for output in own]
        assert row["mean_reference_tokens"]["value"] == pytest.approx(sum(counts) / len(counts))
        assert [b["budget"] for b in row["accuracy_at_budgets"]] == [8, 24]
    assert "6x2" in done.stdout
    assert len(predictions) == 36
