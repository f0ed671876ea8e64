"""A tracked sweep, read back from its offline W&B files, and the hub folder of its student."""

import json

import pytest

from support.commands import SMALL, Command
from support.wandb_files import offline_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_tracked_sweep_is_one_group_with_a_run_per_system_and_shares_what_jobs_share(command: Command) -> None:
    done = command(
        "train.py", "-m", "scorer=random", "ratio=0.5,0.7", "tracker=wandb", "tracker.table_rows=40", "reference=none",
        *SMALL, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    runs = offline_runs(command.folder / "outputs" / "runs")
    assert {run.exit_code for run in runs} == {0}
    assert len({run.group for run in runs}) == 1
    systems = [(run.config["system"], run.config["ratio"]) for run in runs]
    assert [ratio for system, ratio in sorted(systems) if system == "random"] == [0.5, 0.7]
    assert sum(system == "Original" for system, _ in systems) == 1
    for run in runs:
        assert {"tiny", "planted", run.config["system"]} <= run.tags
        assert run.name.endswith(" planted")
        if run.config["system"] == "random":
            assert f"ratio={run.config['ratio']:g}" in run.tags
            summary = run.summary()
            assert summary["evaluate/target_ratio"] == run.config["ratio"]
            assert 0 <= summary["evaluate/accuracy"] <= 1
            assert summary["evaluate/mean_generated_tokens"] <= 24
            assert len(run.tables["evaluate/predictions"]["data"]) == 6
            assert len(run.tables["compress/tokens"]["data"]) == 40
            assert {"compressed", "adapter"} <= {a.type for a in run.artifacts}
        if run.config["system"] in ("random", "Original"):
            steps = [row["sft/step"] for row in run.history if "sft/loss" in row]
            assert steps == [*range(1, len(steps) + 1)]
            assert {row["sft/step"] for row in run.history if "sft/val/accuracy" in row} == {steps[-1]}


def test_the_students_folder_for_the_hub_loads_as_a_peft_adapter(command: Command) -> None:
    run_dir = next((command.folder / "outputs" / "runs").glob("random-0.5-*"))
    done = command.module("cotpress.hub", f"run={run_dir}", "repo=me/x", "--dry-run", "output=hub", "base_model=a/b")
    assert done.returncode == 0, done.stderr[-3000:]
    from huggingface_hub import ModelCard
    from peft import PeftConfig

    assert PeftConfig.from_pretrained(command.folder / "hub").base_model_name_or_path == "a/b"
    card = ModelCard.load(command.folder / "hub" / "README.md")
    row = json.loads((run_dir / "results.json").read_text())["rows"][-1]
    assert {r.metric_value for r in card.data.eval_results if r.metric_type == "accuracy"} == {row["accuracy"]["value"]}


def test_students_that_are_asked_later_have_their_curves_beside_their_answers(command: Command) -> None:
    trained = command("train.py", "scorer=random", "ratio=0.6", "until=sft", "reference=none", *SMALL)
    assert trained.returncode == 0, trained.stderr[-3000:]
    (run_dir,) = (command.folder / "outputs" / "runs").glob("random-0.6-*")
    done = command("evaluate.py", f"runs={run_dir}", "tracker=wandb", "tracker.project=later")
    assert done.returncode == 0, done.stderr[-3000:]
    runs = {run.config["system"]: run for run in offline_runs(run_dir)}
    assert runs.keys() == {"Original", "random"}
    for run in runs.values():
        steps = [row["sft/step"] for row in run.history if "sft/loss" in row]
        assert steps == [*range(1, len(steps) + 1)]
        assert [row["sft/step"] for row in run.history if "sft/val/accuracy" in row] == [len(steps)]
        assert "evaluate/accuracy" in run.summary()


def test_students_that_are_asked_later_go_on_in_the_runs_of_their_training(command: Command) -> None:
    tracker = ["tracker=wandb", "tracker.project=on"]
    trained = command("train.py", "scorer=random", "ratio=0.8", "until=sft", "reference=none", *tracker, *SMALL)
    assert trained.returncode == 0, trained.stderr[-3000:]
    (run_dir,) = (command.folder / "outputs" / "runs").glob("random-0.8-*")
    before = {run.config["system"]: run for run in offline_runs(run_dir)}
    done = command("evaluate.py", f"runs={run_dir}", *tracker)
    assert done.returncode == 0, done.stderr[-3000:]
    after = {run.config["system"]: run for run in offline_runs(run_dir)}
    assert before.keys() == after.keys() == {"Original", "random"}
    for system, run in after.items():
        assert (run.id, run.name, run.tags) == (before[system].id, before[system].name, before[system].tags)
        assert "sft/loss" in before[system].summary()
        assert "sft/loss" not in run.summary()
        assert "evaluate/accuracy" in run.summary()
