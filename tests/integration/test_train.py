"""`train.py` on the tiny model: first and repeated run, multirun, mixed ratios, every baseline, bad files."""

import csv
import json
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from support.commands import SMALL, Command

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def first(command: Command) -> "subprocess.CompletedProcess[str]":
    done = command.fresh("train.py", "scorer=cts", "ratio=0.7", *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def folder(command: Command, first: object) -> Path:
    return command.folder / "outputs"


def _run_dir(folder: Path, prefix: str) -> Path:
    (directory,) = (folder / "runs").glob(f"{prefix}*")
    return directory


def test_run_ends_with_the_table_and_the_run_directory(first: "subprocess.CompletedProcess[str]", folder: Path) -> None:
    lines = first.stdout.splitlines()
    assert any(line.startswith("Original") for line in lines)
    assert any(line.startswith("cts") and "0.7" in line for line in lines)
    assert lines[-1].startswith("run directory: ")
    assert "Warning" not in first.stderr


def test_run_directory_holds_the_documented_files(folder: Path) -> None:
    run_dir = _run_dir(folder, "cts-0.7-tiny")
    for name in ("config.yaml", "results.json", "predictions.parquet", "metrics.csv", "report.html"):
        assert (run_dir / name).stat().st_size > 0, name
    rows = json.loads((run_dir / "results.json").read_text())["rows"]
    assert [row["system"] for row in rows] == ["Original", "cts"]
    assert rows[1]["accuracy"]["n"] == 6
    assert 0.6 < rows[1]["actual_ratio"] < 0.8
    assert pq.read_metadata(run_dir / "predictions.parquet").num_rows == 12
    with (run_dir / "metrics.csv").open() as handle:
        metrics = {(row["stage"], row["name"]) for row in csv.DictReader(handle)}
    assert {"reference", "sft", "sft_original", "evaluate"} <= {stage for stage, _ in metrics}
    assert {("evaluate", "accuracy"), ("evaluate", "mean_generated_tokens")} <= metrics  # what sweeps/wandb/ optimises


def test_repeated_command_computes_nothing(command: Command, folder: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (folder / "artifacts").rglob("*") if p.is_file()}
    again = command("train.py", "scorer=cts", "ratio=0.7", *SMALL)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "computing" not in again.stderr
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "artifacts").rglob("*") if p.is_file()}


def test_every_row_keeps_exactly_the_asked_share_of_its_tokens(folder: Path) -> None:
    tables = [pq.read_table(p).to_pylist() for p in (folder / "artifacts" / "compress").glob("*/compressed.parquet")]
    cut = [row for table in tables for row in table if row["target_ratio"] == 0.7]
    assert cut
    for row in cut:
        assert row["num_kept_tokens"] == round(0.7 * row["num_tokens"]) == sum(row["keep_mask"])
        assert row["num_tokens"] == len(row["keep_mask"])


def test_adapter_is_plain_peft(folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    (base,) = (folder / "artifacts" / "model").iterdir()
    adapters = [*(folder / "artifacts" / "sft").glob("*/adapter")]
    assert adapters
    for adapter in adapters:
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
        weights = [p for n, p in model.named_parameters() if "lora_B" in n]
        assert weights
        assert any(float(w.detach().abs().max()) > 0 for w in weights)


def test_multirun_shares_stages_and_ends_with_one_table_and_one_plot(command: Command, folder: Path) -> None:
    done = command("train.py", "-m", "scorer=cts,random", "ratio=0.5,0.7", *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    table = done.stdout[done.stdout.rindex("System") :]
    names = [line.split()[0] for line in table.splitlines()[2:] if line.strip()]
    assert names.count("Original") == 1
    assert names.count("cts") == 2
    assert names.count("random") == 2
    (sweep,) = (folder / "multirun").glob("*/*")
    assert (sweep / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert (sweep / "report.html").exists()
    assert len(list((folder / "artifacts" / "score").iterdir())) == 2
    assert len(list((folder / "artifacts" / "reference").iterdir())) == 1


def test_failed_job_does_not_stop_the_sweep(command: Command, folder: Path) -> None:
    done = command("train.py", "-m", "scorer=random", "ratio=0.7,1.2", *SMALL)
    assert done.returncode == 1
    assert "ratio: got 1.2" in done.stderr
    assert "1 jobs finished, 1 failed" in done.stdout
    logs = [p.read_text() for p in (folder / "multirun").glob("*/*/1/job.log")]
    assert any("Traceback" in text for text in logs)


def test_mixed_ratio_student_is_trained_once_for_all_ratios(command: Command, folder: Path) -> None:
    before = len(list((folder / "artifacts" / "sft").iterdir()))
    done = command(
        "train.py", "-m", "scorer=random", "compression=mixed", "ratio=0.5,0.9", "evaluation.ratios=[0.7]", *SMALL
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((folder / "artifacts" / "sft").iterdir())) == before + 1
    (run_dir,) = (folder / "runs").glob("random-0.5-mixed-tiny-*")
    original, one, further, half = json.loads((run_dir / "results.json").read_text())["rows"]
    assert (original["generated_against"], one["target_ratio"], one["generated_ratio"]) == ("Original", 1.0, 1.0)
    assert (half["target_ratio"], half["generated_against"]) == (0.5, "ratio 1")
    assert (further["target_ratio"], further["system"], half["system"]) == (0.7, "random (mixed)", "random (mixed)")
    assert pq.read_metadata(run_dir / "predictions.parquet").num_rows == 24
    reached = [row["actual_ratio"] for row in (one, further, half)]
    assert reached == [1.0, pytest.approx(0.7, abs=0.02), pytest.approx(0.5, abs=0.02)]
    assert len({row["training_reduction"] for row in (one, further, half)}) == 1
    assert 0.1 < half["training_reduction"] < 0.4


def test_full_evaluation_shows_every_baseline_and_trains_no_further_student(command: Command, folder: Path) -> None:
    before = len(list((folder / "artifacts" / "sft").iterdir()))
    done = command("train.py", "scorer=cts", "ratio=0.7", "name=full", *SMALL[:-1], "evaluation=papers")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((_run_dir(folder, "full") / "results.json").read_text())["rows"]
    assert [(row["system"], row["target_ratio"]) for row in rows] == [
        ("Base", 1.0), ("Original", 1.0), ("BeConcise", 1.0), ("OnlyNumbers", 1.0), ("AbbreWords", 1.0),
        ("LC-Prompt", 0.7), ("Truncation", 0.7), ("cts", 0.7),
    ]  # fmt: skip
    assert [row["system"] for row in rows if row["accuracy_difference"] is None] == ["Original"]
    assert len(list((folder / "artifacts" / "sft").iterdir())) == before


def test_bad_file_is_an_error_before_a_model_is_loaded(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"  # other kinds of bad files: tests/unit/data/test_rows.py
    path.write_text('{"id": "1", "question": "q", "thinking": "", "response": "", "answer": ""}\n')
    done = command(
        "train.py", "data=jsonl", f"data.path={path}", "distill=overlap", *SMALL[:1], *SMALL[2:], cwd=tmp_path
    )
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "thinking" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "outputs" / "artifacts" / "model").exists()


def test_labels_extractor_on_unlabelled_data_names_the_fix(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"id": "1", "question": "q", "thinking": "1 + 1 = 2", "response": "2", "answer": "2"}
    path.write_text("".join(json.dumps({**row, "id": str(i)}) + "\n" for i in range(20)))
    done = command("train.py", "data=jsonl", f"data.path={path}", "evaluation.baselines=[]", *SMALL[:1], *SMALL[2:])
    assert done.returncode == 1
    assert "overlap" in done.stderr
