import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from cotpress.store.artifacts import Artifact
from cotpress.tracking import Job, OfSystem, open_tracker, read_metrics
from cotpress.tracking.config import TrackerConfig, TrackerKind

CSV = TrackerConfig(kind=TrackerKind.csv)
MakeJob = Callable[..., Job]


def test_metrics_are_on_disk_as_soon_as_they_are_logged(job: MakeJob) -> None:
    with open_tracker(CSV, job()) as tracker:
        tracker.log("sft", {"loss": 1.5, "lr": 1e-4}, step=3)
        tracker.log("evaluate", {"accuracy": 0.5})
        assert read_metrics(job().run_dir) == [
            ("sft", 3, "loss", 1.5), ("sft", 3, "lr", 1e-4), ("evaluate", None, "accuracy", 0.5),
        ]  # fmt: skip


def test_none_writes_the_last_values_once_at_the_end(job: MakeJob) -> None:
    for _ in range(2):  # a repeated job replaces the file
        with open_tracker(TrackerConfig(kind=TrackerKind.none), job()) as tracker:
            for step in range(5):
                tracker.log("sft", {"loss": 5.0 - step}, step=step)
            tracker.log("evaluate", {"accuracy": 0.5})
            if _ == 0:
                assert read_metrics(job().run_dir) == []
    assert read_metrics(job().run_dir) == [("sft", 4, "loss", 1.0), ("evaluate", None, "accuracy", 0.5)]


@pytest.mark.parametrize("kind", [TrackerKind.csv, TrackerKind.none])
def test_other_systems_have_stages_of_their_own(
    job: MakeJob, kind: TrackerKind, artifact: Callable[..., Artifact]
) -> None:
    with open_tracker(TrackerConfig(kind=kind), job()) as tracker:
        tracker.log("sft", {"loss": 1.0}, step=1)
        OfSystem(tracker, "Original").log("sft", {"loss": 2.0}, step=1)
        tracker.log("evaluate", {"accuracy": 0.1}, system="LC-Prompt (Base)")
        tracker.artifact(artifact("compress", actual_ratio=0.5, name="cts"), system="Original")
    found = read_metrics(job().run_dir)
    assert found[:3] == [
        ("sft", 1, "loss", 1.0), ("sft_original", 1, "loss", 2.0), ("evaluate_lc_prompt_base", None, "accuracy", 0.1),
    ]  # fmt: skip
    numbers = {name: value for stage, _, name, value in found if stage == "compress_original"}
    assert numbers.keys() == {"seconds", "num_rows", "dropped/no answer", "actual_ratio"}
    assert (numbers["num_rows"], numbers["dropped/no answer"], numbers["actual_ratio"]) == (3, 2, 0.5)


def test_resumed_run_keeps_one_header_and_survives_a_torn_row(job: MakeJob) -> None:
    path = job().run_dir / "metrics.csv"
    with open_tracker(CSV, job()) as tracker:
        tracker.log("sft", {"loss": 1.0}, step=1)
    with path.open("a") as handle:
        handle.write("sft,2,lo")
    with open_tracker(CSV, job()) as tracker:
        tracker.log("sft", {"loss": 0.5}, step=2)
    rows = list(csv.reader(path.read_text().splitlines()))
    assert rows[0] == ["stage", "step", "name", "value"]
    assert sum(row[0] == "stage" for row in rows) == 1
    assert read_metrics(job().run_dir) == [("sft", 1, "loss", 1.0), ("sft", 2, "loss", 0.5)]


def test_names_with_commas_and_infinite_values_come_back(job: MakeJob) -> None:
    with open_tracker(CSV, job()) as tracker:
        tracker.log("evaluate", {"tokens, mean": float("inf")})
    assert read_metrics(job().run_dir) == [("evaluate", None, "tokens, mean", float("inf"))]


def test_missing_metrics_file_is_no_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
