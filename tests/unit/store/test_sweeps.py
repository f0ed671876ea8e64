import json
import shutil
from pathlib import Path

import pytest

from cotpress.store.sweeps import (
    JobNote,
    JobState,
    read_note,
    read_sweep,
    sweep_name,
    sweeps_below,
    write_note,
    write_plan,
)
from support.disks import as_user

JOBS = [["scorer=cts", "ratio=0.5", "model=tiny"], ["scorer=cts", "ratio=0.7", "model=tiny"]]


def test_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    note = JobNote(
        overrides=("a=1",), state=JobState.failed, run_dir=tmp_path / "runs" / "x", error="ä\nb", started_at=1.5,
        seconds=2.0, pid=3,
    )  # fmt: skip
    write_note(tmp_path / "multirun" / "0", note)
    assert read_note(tmp_path / "multirun" / "0") == note


def test_note_is_valid_after_the_output_folder_is_moved(tmp_path: Path) -> None:
    note = JobNote(overrides=(), state=JobState.finished, run_dir=tmp_path / "outputs" / "runs" / "x")
    write_note(tmp_path / "outputs" / "multirun" / "0", note)
    shutil.move(tmp_path / "outputs", tmp_path / "elsewhere")
    moved = read_note(tmp_path / "elsewhere" / "multirun" / "0")
    assert moved is not None
    assert moved.run_dir == tmp_path / "elsewhere" / "runs" / "x"


def test_torn_note_is_read_as_none(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"state": "run')
    assert read_note(tmp_path) is None


def test_plan_lists_jobs_before_they_start_and_labels_distinguish_them(tmp_path: Path) -> None:
    write_plan(tmp_path / "s", "train", JOBS)
    write_note(tmp_path / "s" / "1", JobNote(overrides=tuple(JOBS[1]), state=JobState.finished))
    (sweep,) = sweeps_below(tmp_path)
    assert [job.note is None for job in sweep.jobs] == [True, False]
    assert [sweep.label(job) for job in sweep.jobs] == ["ratio=0.5", "ratio=0.7"]
    assert (sweep.entry, sweep.planned, sweep.succeeded, sweep.failed) == ("train", True, 1, 0)


def test_sweep_without_a_plan_lists_the_started_jobs(tmp_path: Path) -> None:
    write_plan(tmp_path, "train", None)
    write_note(tmp_path / "0", JobNote(overrides=("a=1",), state=JobState.running))
    sweep = read_sweep(tmp_path)
    assert (len(sweep.jobs), sweep.planned) == (1, False)
    assert sweep.label(sweep.jobs[0]) == "a=1"


@pytest.mark.parametrize(("chosen", "name"), [("scorers", "scorers"), (None, "2026-11-21 10-20-30")])
def test_sweep_is_named_by_its_name_or_its_start_time(tmp_path: Path, chosen: str | None, name: str) -> None:
    sweep_dir = tmp_path / "2026-11-21" / "10-20-30"
    write_plan(sweep_dir, "train", JOBS, chosen)
    assert sweep_name(sweep_dir / "3") == name


def test_single_command_has_no_sweep_name(tmp_path: Path) -> None:
    assert sweep_name(tmp_path / "2026-11-21" / "10-20-30") is None


SHAPES = ["[]", "3", "null", '"x"', "{}", "[" * 100_000, '{"jobs": 3}', '{"entry": "train", "jobs": "abc", "more": 1}']


@pytest.mark.parametrize(
    "text",
    [*SHAPES, '{"entry": 3, "jobs": []}', '{"entry": "train", "jobs": [[1]]}', '{"entry": "train", "jobs": [3]}',
     '{"entry": "train", "jobs": {"a": 1}}', '{"entry": "train", "jobs": [], "name": ["x"]}'],
)  # fmt: skip
def test_plan_of_another_shape_is_one_message(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_note(tmp_path / "0", JobNote(overrides=("a=1",), state=JobState.finished))
    (tmp_path / "sweep.json").write_text(text)
    for _ in range(3):
        sweep = read_sweep(tmp_path)
        assert (sweep.entry, sweep.planned, len(sweep.jobs)) == ("", False, 1)
        assert sweep.label(sweep.jobs[0]) == "a=1"
        assert sweep_name(tmp_path / "0") is None
    assert caplog.text.count("sweep.json' is not used") == 1


@pytest.mark.parametrize(
    "change",
    [{"overrides": [1]}, {"overrides": 3}, {"overrides": "ab"}, {"state": []}, {"state": "gone"}, {"run_dir": 3},
     {"error": 3}, {"seconds": "x"}, {"started_at": None}, {"metric": "x"}, {"metric": [1]}, {"pid": 0.5}, {"more": 1}],
    ids=str,
)  # fmt: skip
def test_note_of_another_shape_is_one_message(
    change: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_plan(tmp_path, "train", JOBS)
    write_note(tmp_path / "1", JobNote(overrides=tuple(JOBS[1]), state=JobState.finished, metric=1))
    path = tmp_path / "1" / "job.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    for _ in range(3):
        assert [job.note for job in read_sweep(tmp_path).jobs] == [None, None]
    assert caplog.text.count("job.json' is not used") == 1


@pytest.mark.parametrize("text", SHAPES)
def test_note_that_is_no_object_is_read_as_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(text)
    assert read_note(tmp_path) is None


@pytest.mark.parametrize("name", ["\u00b2", "\u0967\u0968", "00", "-1"])
def test_folder_with_an_odd_number_is_no_traceback(name: str, tmp_path: Path) -> None:
    write_plan(tmp_path, "train", JOBS)
    write_note(tmp_path / name, JobNote(overrides=("a=1",), state=JobState.finished))
    assert len(read_sweep(tmp_path).jobs) in (2, 3)


def test_files_of_a_sweep_that_cannot_be_read_are_told(public_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_plan(public_folder, "train", JOBS)
    write_note(public_folder / "0", JobNote(overrides=("a=1",), state=JobState.finished))
    for path in (public_folder / "sweep.json", public_folder / "0/job.json"):
        path.chmod(0o600)
        with as_user():
            read_sweep(public_folder)
        assert f"{path.name}' cannot be read: Permission denied" in caplog.text
