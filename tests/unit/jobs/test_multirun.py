"""The folder of a multirun belongs to one command at a time."""

from pathlib import Path

import pytest
from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from cotpress.jobs import multirun
from cotpress.jobs.folders import LOCK_FILE, occupy
from support.commands import ROOT


def _started(folder: Path) -> tuple[Path, list[str]]:
    """Folder and overrides of the jobs of a multirun that is started for a folder."""
    hydra = {"sweep": {"dir": str(folder)}, "runtime": {"choices": {}}, "sweeper": {"_target_": "another"}}
    config = OmegaConf.create({"hydra": {**hydra, "overrides": {"hydra": ["hydra.job.name=x"]}}})
    OmegaConf.set_readonly(config.hydra, True)
    multirun.Multirun().on_multirun_start(config, config_name="train")
    return Path(config.hydra.sweep.dir), list(config.hydra.overrides.hydra)


def test_a_multirun_gets_a_new_folder_while_another_one_has_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "it's"
    with FileLock(tmp_path / "other"):  # of no command
        assert _started(folder) == (folder, ["hydra.job.name=x"])
        multirun.forget_sweep()
    with FileLock(folder / LOCK_FILE):
        own, overrides = _started(folder)
        multirun.forget_sweep()
    assert own == tmp_path / "it's-2"
    assert OverridesParser.create().parse_overrides(overrides)[-1].value() == str(own)
    assert _started(folder)[0] == folder
    multirun.forget_sweep()


def test_a_folder_whose_disk_takes_no_lock_is_used_as_it_is() -> None:
    assert occupy(Path("/proc/none")) == Path("/proc/none")


def test_a_refused_multirun_removes_all_folders_that_were_made_for_it_and_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "outputs/multirun/DATE/TIME"
    _started(folder)
    (folder / ".submitit").mkdir()
    multirun.forget_sweep()
    assert not list(tmp_path.iterdir())
    other = tmp_path / "outputs/multirun/EARLIER"
    other.mkdir(parents=True)
    _started(folder)
    multirun.forget_sweep()
    assert [path.name for path in other.parent.iterdir()] == ["EARLIER"]
    folder.mkdir(parents=True)
    (folder / "mine").touch()
    _started(folder)
    multirun.forget_sweep()
    assert (folder / "mine").is_file()


def test_folder_of_a_multirun_is_named_to_the_microsecond() -> None:
    text = (ROOT / "conf/hydra/cotpress.yaml").read_text()
    assert text.count("%H-%M-%S-%f") == 2
