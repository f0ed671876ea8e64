"""Records of the end of a single job in its run directory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from cotpress.config import register_schemas, to_objects
from cotpress.devices.nodes import NotJoinedError
from cotpress.errors import DataError
from cotpress.jobs import job
from cotpress.jobs.job import perform, run_alone
from cotpress.report.results import collect
from cotpress.store.sweeps import JobState, read_note
from cotpress.tasks import PLAN, Task
from cotpress.tasks.run_directory import run_directory
from support.commands import ROOT


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def _fail(config: Any, folder: Path) -> Any:
    run_directory(config)
    raise DataError("row 3 has no answer")


def test_a_failed_run_is_shown_as_failed_with_its_reason(tmp_path: Path) -> None:
    config = compose("train", overrides=[f"output_root={tmp_path}", "model=tiny"])
    task = Task(name="train", load=lambda: _fail, preload="cotpress.tasks.train")
    with pytest.raises(DataError):
        run_alone(config, task, tmp_path / "log", ["model=tiny"])
    (unfinished,) = collect(tmp_path / "runs").unfinished
    assert unfinished.reason == "failed: row 3 has no answer"
    note = read_note(tmp_path / "log")
    assert note is not None
    assert (note.state, note.error) == (JobState.failed, "row 3 has no answer")


def test_a_run_that_failed_before_its_directory_was_made_leaves_none(tmp_path: Path) -> None:
    def fail(config: Any, folder: Path) -> Any:
        raise DataError("no file")

    config = compose("train", overrides=[f"output_root={tmp_path}", "model=tiny"])
    with pytest.raises(DataError):
        run_alone(config, Task(name="train", load=lambda: fail, preload=""), tmp_path / "log", [])
    assert not (tmp_path / "runs").exists()


def test_machine_that_has_not_joined_leaves_the_run_of_the_others_as_it_is(tmp_path: Path) -> None:
    def surplus(config: Any, folder: Path) -> Any:
        run_directory(config)
        raise NotJoinedError("found no first machine")

    config = compose("train", overrides=[f"output_root={tmp_path}", "model=tiny"])
    with pytest.raises(NotJoinedError):
        run_alone(config, Task(name="train", load=lambda: surplus, preload=""), tmp_path / "log", [])
    assert list((tmp_path / "runs").rglob("*"))
    assert not list((tmp_path / "runs").rglob("failure.json"))


def test_plan_for_several_machines_is_made_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_perform", lambda task, config, folder: (0.5, None))
    config = compose("train", overrides=[f"output_root={tmp_path}", "model=tiny", "trainer.num_nodes=2", "plan=true"])
    assert perform(PLAN, to_objects(config), tmp_path) == (0.5, None)
