"""A tracked sweep, read back from its offline W&B files, and the hub folder of its student."""

import json
import subprocess
import sys

import pytest

from support.commands import SMALL, Command, environment
from support.wandb_files import offline_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_tracked_sweep_is_one_group_with_a_run_per_stage_and_shares_what_jobs_share(command: Command) -> None:
    done = command(
        "train.py", "-m", "scorer=random", "ratio=0.5,0.7", "tracker=wandb", "tracker.table_rows=40", "reference=none",
        *SMALL, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    runs = offline_runs(command.folder / "outputs" / "runs")
    assert {run.exit_code for run in runs} == {0}
    assert len({run.group for run in runs}) == 1
    kinds = sorted((run.job_type, run.config["system"], run.config["ratio"]) for run in runs)
    once = {(kind, system) for kind, system, _ in kinds}
    assert {("score", "random"), ("sft", "Original"), ("evaluate", "Original")} <= once
    assert sum(kind == "score" for kind, *_ in kinds) == 1
    assert sum((kind, system) == ("evaluate", "Original") for kind, system, _ in kinds) == 1
    assert [ratio for kind, system, ratio in kinds if (kind, system) == ("evaluate", "random")] == [0.5, 0.7]
    for run in runs:
        assert {"tiny", "planted", run.config["system"]} <= run.tags
        if (run.job_type, run.config["system"]) == ("evaluate", "random"):
            assert f"ratio={run.config['ratio']:g}" in run.tags
            summary = run.summary()
            assert summary["evaluate/target_ratio"] == run.config["ratio"]
            assert 0 <= summary["evaluate/accuracy"] <= 1
            assert summary["evaluate/mean_generated_tokens"] <= 24
            assert len(run.tables["evaluate/predictions"]["data"]) == 6
        if (run.job_type, run.config["system"]) == ("compress", "random"):
            assert len(run.tables["compress/tokens"]["data"]) == 40
            assert [a.type for a in run.artifacts if a.type != "run_table"] == ["compressed"]
        if run.job_type == "sft":
            assert any("sft/loss" in row for row in run.history)
            assert [a.type for a in run.artifacts] == ["adapter"]


def test_the_students_folder_for_the_hub_loads_as_a_peft_adapter(command: Command) -> None:
    run_dir = next((command.folder / "outputs" / "runs").glob("random-0.5-*"))
    done = subprocess.run(
        [sys.executable, "-m", "cotpress.hub", f"run={run_dir}", "repo=me/x", "--dry-run", "output=hub",
         "base_model=a/b"],
        capture_output=True, text=True, timeout=120, cwd=command.folder, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    from huggingface_hub import ModelCard
    from peft import PeftConfig

    assert PeftConfig.from_pretrained(command.folder / "hub").base_model_name_or_path == "a/b"
    card = ModelCard.load(command.folder / "hub" / "README.md")
    row = json.loads((run_dir / "results.json").read_text())["rows"][-1]
    assert {r.metric_value for r in card.data.eval_results if r.metric_type == "accuracy"} == {row["accuracy"]["value"]}
