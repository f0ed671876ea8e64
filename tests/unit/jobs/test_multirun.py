"""The folder of a multirun belongs to one command at a time."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cotpress.jobs import multirun
from support.commands import ROOT


def _config(folder: Path) -> object:
    hydra = {"sweep": {"dir": str(folder)}, "runtime": {"choices": {}}, "sweeper": {"_target_": "another"}}
    return OmegaConf.create({"hydra": hydra})


def test_two_multiruns_never_share_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = multirun.Multirun()
    first.on_multirun_start(_config(tmp_path), config_name="train")  # type: ignore[arg-type]
    try:
        with pytest.raises(SystemExit, match=r"another multirun writes to .*Fix: start this one again"):
            multirun.Multirun().on_multirun_start(_config(tmp_path), config_name="train")  # type: ignore[arg-type]
    finally:
        multirun.end_sweep(show=False)
    multirun.Multirun().on_multirun_start(_config(tmp_path), config_name="train")  # type: ignore[arg-type]
    multirun.forget_sweep()


def test_folder_of_a_multirun_is_named_to_the_microsecond() -> None:
    text = (ROOT / "conf/hydra/cotpress.yaml").read_text()
    assert text.count("%H-%M-%S-%f") == 2
