import csv
import logging
from pathlib import Path
from typing import Any

import pytest

from cotpress import tracking
from cotpress.tracking import open_tracker, read_metrics
from cotpress.tracking_config import TrackerConfig, TrackerKind

KEY = "0123456789abcdef0123456789abcdef01234567"


def start(run_dir: Path, kind: TrackerKind = TrackerKind.wandb, **config: Any) -> Any:
    return open_tracker(
        TrackerConfig(kind=kind), run_dir, run_name=run_dir.name, group="sweep", tags=["cts"], resolved_config=config
    )


@pytest.fixture
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", [TrackerKind.csv, TrackerKind.none])
def test_metrics_are_on_disk_as_soon_as_they_are_logged(tmp_path: Path, kind: TrackerKind) -> None:
    with start(tmp_path, kind) as tracker:
        tracker.log("sft", {"loss": 1.5, "lr": 1e-4}, step=3)
        tracker.log("evaluate", {"accuracy": 0.5})
        assert read_metrics(tmp_path) == [
            ("sft", 3, "loss", 1.5), ("sft", 3, "lr", 1e-4), ("evaluate", None, "accuracy", 0.5),
        ]  # fmt: skip


def test_resumed_run_keeps_one_header_and_survives_a_torn_row(tmp_path: Path) -> None:
    with start(tmp_path, TrackerKind.csv) as tracker:
        tracker.log("sft", {"loss": 1.0}, step=1)
    with (tmp_path / "metrics.csv").open("a") as handle:
        handle.write("sft,2,lo")
    with start(tmp_path, TrackerKind.csv) as tracker:
        tracker.log("sft", {"loss": 0.5}, step=2)
    rows = list(csv.reader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert rows[0] == ["stage", "step", "name", "value"]
    assert sum(row[0] == "stage" for row in rows) == 1
    assert read_metrics(tmp_path) == [("sft", 1, "loss", 1.0), ("sft", 2, "loss", 0.5)]


def test_names_with_commas_and_infinite_values_come_back(tmp_path: Path) -> None:
    with start(tmp_path, TrackerKind.csv) as tracker:
        tracker.log("evaluate", {"tokens, mean": float("inf")})
    assert read_metrics(tmp_path) == [("evaluate", None, "tokens, mean", float("inf"))]


def test_missing_metrics_file_is_no_metrics(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


@pytest.mark.usefixtures("no_account")
def test_wandb_without_account_gives_every_job_its_own_offline_run(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with start(tmp_path / name, ratio=0.5, wandb_api_key=KEY) as tracker:
            tracker.log("sft", {"loss": 1.0}, step=1)
            tracker.log("evaluate", {"accuracy": 1.0})
        assert len(list((tmp_path / name / "wandb").glob("offline-run-*/*.wandb"))) == 1
        assert len(read_metrics(tmp_path / name)) == 2
    written = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    assert not any(KEY.encode() in content for content in written)


@pytest.mark.usefixtures("no_account")
def test_wandb_failure_is_reported_once_without_the_key_and_the_csv_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    def refuse(**_: Any) -> None:
        raise RuntimeError(f"no access with {KEY}")

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb, "init", refuse)
    with caplog.at_level(logging.WARNING), start(tmp_path) as tracker:
        tracker.log("sft", {"loss": 1.0}, step=1)
        tracker.log("sft", {"loss": 0.9}, step=2)
    assert len(caplog.records) == 1
    assert "W&B failed" in caplog.text
    assert KEY not in caplog.text
    assert len(read_metrics(tmp_path)) == 2


@pytest.mark.usefixtures("no_account")
def test_run_is_finished_when_the_job_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    finished: list[bool] = []

    class Run:
        def finish(self) -> None:
            finished.append(True)

    monkeypatch.setattr(wandb, "init", lambda **_: Run())
    with pytest.raises(ZeroDivisionError), start(tmp_path):
        _ = 1 / 0
    assert finished == [True]


@pytest.mark.usefixtures("no_account")
def test_mode_follows_the_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert tracking._mode() == "offline"
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert tracking._mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert tracking._mode() == "disabled"
