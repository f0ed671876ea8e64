"""`fidelity.py` on the tiny model, as a whole command."""

import csv
import json
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from cotpress.config import FidelityConfig, register_schemas, to_objects
from cotpress.tasks.fidelity import fidelity
from support.commands import ROOT, Command, environment

pytestmark = pytest.mark.timeout(300)
SMALL = ["model=tiny", "data.num_traces=24", "truth.num_traces=30", "num_resamples=400"]


@pytest.fixture(scope="module")
def sweep(command: Command) -> "subprocess.CompletedProcess[str]":
    done = command("fidelity.py", "-m", "scorer=random,cts", "reference=none,lora", *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def folder(command: Command, sweep: object) -> Path:
    return command.folder / "outputs" / "fidelity"


def test_multirun_ends_with_one_table_over_all_jobs(sweep: "subprocess.CompletedProcess[str]") -> None:
    assert sweep.stdout.count("Agreement with planted") == 1
    table = sweep.stdout[sweep.stdout.index("Agreement") :].split("\n\n")[0].splitlines()
    rows = [line.split() for line in table[3:]]
    assert sorted((r[0], r[1]) for r in rows if r[0] in ("cts", "random")) == [
        ("cts", "lora"), ("cts", "none"), ("random", "-"),
    ]  # fmt: skip
    assert sum(r[0] in ("position", "length", "digit", "new") for r in rows) == 4
    assert sweep.stdout.rstrip().endswith("4 jobs finished, 0 failed")


def test_jobs_write_results_and_tables(folder: Path) -> None:
    jobs = sorted(p.parent.name.rpartition("-")[0] for p in folder.glob("*/results.json"))
    assert jobs == ["cts-planted", "cts-planted", "random-planted"]  # random reads with no reference model
    assert all((p.parent / "config.yaml").exists() for p in folder.glob("*/results.json"))
    (markdown,), (table,) = folder.glob("planted-*.md"), folder.glob("planted-*.csv")
    assert markdown.read_text().count("| cts | lora |") == 2  # once by measure, once by kind of token
    with table.open() as handle:
        kinds = {row["kind"] for row in csv.DictReader(handle)}
    assert {"operand", "operator", "result", "restatement", "hesitation", "double_check", "event"} <= kinds


def test_interval_of_random_scores_covers_one_half(folder: Path) -> None:
    (path,) = folder.glob("random-*/results.json")
    row = json.loads(path.read_text())["rows"][0]
    auc = row["metrics"]["ROC AUC"]
    assert auc["low"] < 0.5 < auc["high"]
    assert auc["n"] == 30


def test_repeated_job_computes_nothing_and_shows_the_table_of_all_jobs(
    sweep: "subprocess.CompletedProcess[str]",
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", environment()["COLUMNS"])  # the width of the commands' tables
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        overrides = ["scorer=random", f"output_root={folder.parent}", *SMALL]
        config = to_objects(compose("fidelity", overrides=overrides))
    assert isinstance(config, FidelityConfig)
    before = sorted(p for p in folder.parent.rglob("*/manifest.json"))
    fidelity(config, folder.parent / "logs" / "again")
    assert before == sorted(p for p in folder.parent.rglob("*/manifest.json"))
    assert capsys.readouterr().out.split("results:")[0].strip() in sweep.stdout


def test_table_is_shown_in_spite_of_a_failed_job(command: Command, folder: Path) -> None:
    done = command("fidelity.py", "-m", "scorer=rho1_excess,head", "reference=none", *SMALL)
    assert done.returncode == 1
    assert "1 jobs finished, 1 failed" in done.stdout
    assert "\nhead " in done.stdout
