from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from cotpress.tracking import sweep_name

FOLDER = Path("outputs/multirun/2026-11-21/10-20-30/3")


@pytest.mark.parametrize(
    ("chosen", "mode", "name"),
    [
        ("scorers", RunMode.MULTIRUN, "scorers"),
        (None, RunMode.MULTIRUN, "2026-11-21 10-20-30"),
        ("null", RunMode.MULTIRUN, "2026-11-21 10-20-30"),
        (None, RunMode.RUN, None),
    ],
)
def test_a_sweep_is_named_by_its_command_or_by_when_it_began(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, mode: RunMode, name: str | None
) -> None:
    hydra = SimpleNamespace(runtime=SimpleNamespace(choices={"sweep": chosen}), mode=mode)
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    assert sweep_name(FOLDER) == name


def test_without_hydra_there_is_no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HydraConfig, "initialized", lambda: False)
    assert sweep_name(FOLDER) is None
