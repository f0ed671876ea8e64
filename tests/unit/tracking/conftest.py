import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.tracking import Job


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_SWEEP_ID", "WANDB_DISABLED", "WANDB_DIR", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name.lower()))
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib.wbauth import unauthenticate_session

    unauthenticate_session(update_settings=False)  # and forget the login and the settings of the test before
    wandb_setup.singleton()._settings = None


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    def make(name: str = "cts-0.7-tiny", **changes: Any) -> Job:
        usual: dict[str, Any] = {
            "run_dir": tmp_path / "runs" / name, "name": name, "system": "cts", "model": "tiny",
            "data": "planted", "benchmark": "math500",
            "ratio": 0.7, "sweep": "scorers", "config": {"scorer": {"name": "cts"}}, "output_root": tmp_path,
        }  # fmt: skip
        return Job(**{**usual, **changes})

    return make


@pytest.fixture
def artifact(tmp_path: Path) -> Callable[..., Artifact]:
    store = ArtifactStore(tmp_path)

    def make(stage: str, num_bytes: int = 10, files: Mapping[str, str] = {}, **facts: Any) -> Artifact:
        def produce(folder: Path) -> Summary:
            (folder / f"{stage}.bin").write_bytes(b"x" * num_bytes)
            for name, text in files.items():
                (folder / name).write_text(text)
            return Summary(num_rows=3, dropped={"no answer": 2}, facts=facts)

        return store.build(stage, {"facts": json.dumps(facts), "size": num_bytes}, produce)

    return make
