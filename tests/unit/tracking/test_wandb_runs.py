"""Contents of offline W&B runs, read back from their files."""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cotpress.records import TRAIN_LOG_FILE, VALIDATION_FILE
from cotpress.store.artifacts import Artifact
from cotpress.store.redaction import without_secrets
from cotpress.tracking import Job, Table, open_tracker, wandb_runs
from cotpress.tracking.config import ArtifactKind, TrackerConfig, TrackerKind
from cotpress.tracking.wandb_runs import wandb_mode
from support.metrics import read_metrics
from support.silent import silent_service
from support.wandb_files import KEY, OfflineRun, offline_runs

MakeJob = Callable[..., Job]


def forget_settings() -> None:
    """Let wandb read its settings files and variables again, as a new process does."""
    from wandb.sdk import wandb_setup

    wandb_setup.singleton()._settings = None


MakeArtifact = Callable[..., Artifact]


def config(**changes: Any) -> TrackerConfig:
    return TrackerConfig(kind=TrackerKind.wandb, **changes)


def tokens(limit: int) -> Table:
    return Table(columns=("token", "kept"), rows=[("Okay", False), ("2+2", True), ("ü", True)][:limit])


def by_system(folder: Path) -> dict[str, OfflineRun]:
    runs = {run.config["system"]: run for run in offline_runs(folder)}
    assert len(runs) == len(offline_runs(folder))
    return runs


def test_each_system_is_a_run_of_the_sweep_with_metrics_table_and_files(
    tmp_path: Path, job: MakeJob, artifact: MakeArtifact
) -> None:
    compressed, adapter = artifact("compress", actual_ratio=0.7), artifact("sft", final_loss=0.5)
    with open_tracker(config(table_rows=2), job(config={"model": {"name": "tiny"}, "api_key": KEY})) as tracker:
        tracker.of_system("Original").log("sft", {"loss": 3.0}, step=1)
        tracker.log("reference", {"loss": 1.5}, step=1)
        tracker.artifact(compressed)
        tracker.table("compress", "tokens", tokens)
        for step in (1, 2, 3):
            tracker.log("sft", {"loss": 3.0 - step}, step=step)
        tracker.log("sft", {"val/accuracy": 0.25}, step=3)
        tracker.artifact(adapter)
        tracker.of_system("Original").log("evaluate", {"accuracy": 0.8, "target_ratio": 1.0}, once="a")
        tracker.log("evaluate", {"accuracy": 0.5, "target_ratio": 0.7}, once="b")
    runs = by_system(tmp_path)
    assert {name: run.job_type for name, run in runs.items()} == {
        "cts": "system", "Original": "system", "reference": "reference",
    }  # fmt: skip
    assert {run.group for run in runs.values()} == {"scorers"}
    assert {run.exit_code for run in runs.values()} == {0}
    assert runs["cts"].tags == {"cts", "ratio=0.7", "tiny", "planted", "math500"}
    assert runs["Original"].tags == {"Original", "ratio=1", "tiny", "planted", "math500"}
    assert {run.name for run in runs.values()} == {
        "cts-0.7-tiny math500", "Original tiny math500", "reference tiny math500",
    }  # fmt: skip
    assert runs["Original"].summary().items() >= {"sft/loss": 3.0, "evaluate/accuracy": 0.8}.items()
    student = runs["cts"]
    assert student.config["model"] == {"name": "tiny"}
    assert student.config["api_key"] == "***"
    assert [(r["sft/step"], r["sft/loss"]) for r in student.history if "sft/loss" in r] == [
        (1, 2), (2, 1), (3, 0),
    ]  # fmt: skip
    (validation,) = [row for row in student.history if "sft/val/accuracy" in row]
    assert validation["sft/step"] == 3
    assert student.step_axes == {"sft/*": "sft/step"}
    assert student.summary()["sft/final_loss"] == 0.5
    assert student.summary()["evaluate/accuracy"] == 0.5
    table = student.tables["compress/tokens"]
    assert (table["columns"], table["data"]) == (["token", "kept"], [["Okay", False], ["2+2", True]])
    (sent,) = [a for a in student.artifacts if a.type == "adapter"]
    assert (sent.name, set(sent.aliases)) == ("sft-cts-tiny-planted", {"latest", adapter.fingerprint})
    about = json.loads(sent.metadata)
    assert (about["fingerprint"], about["facts"], about["system"]) == (adapter.fingerprint, {"final_loss": 0.5}, "cts")
    files = {entry.path: Path(entry.local_path) for entry in sent.manifest.contents}
    assert files["sft.bin"] == (adapter.path / "sft.bin").resolve()  # read in place: nothing is copied or uploaded
    assert "manifest.json" in files
    assert not any(KEY.encode() in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


def test_shared_system_is_sent_once_and_a_repeated_job_sends_nothing(
    tmp_path: Path, job: MakeJob, artifact: MakeArtifact, caplog: pytest.LogCaptureFixture
) -> None:
    scores, adapter = artifact("score"), artifact("sft")
    for name in ("first", "second", "second"):
        with caplog.at_level(logging.INFO), open_tracker(config(), job(name)) as tracker:
            tracker.of_system("Original").artifact(adapter)
            tracker.artifact(scores)
            tracker.of_system("Original").log("evaluate", {"accuracy": 0.9}, once="evaluate/original")
            tracker.log("evaluate", {"accuracy": 0.5}, once=f"evaluate/{name}")
            tracker.table("evaluate", "predictions", tokens)
    runs = offline_runs(tmp_path)
    assert sorted(run.name for run in runs) == ["Original tiny math500", "first math500", "second math500"]
    assert all("score/num_rows" in run.summary() for run in runs if run.config["system"] == "cts")
    assert sum(a.type == "scores" for run in runs for a in run.artifacts) == 1  # the file of the first job
    assert "systems were written offline before" in caplog.text
    with open_tracker(config(project="other"), job("second")) as tracker:
        tracker.artifact(scores)
    assert offline_runs(tmp_path)[-1].project == "other"


def test_student_of_an_earlier_job_has_its_curve_in_the_run_with_new_answers(
    tmp_path: Path, job: MakeJob, artifact: MakeArtifact
) -> None:
    log_file = "step,loss,lr,num_target_tokens\n1,2.5,0.1,9\n2,1.5,0.05,9\n"
    validation = "step,name,value\n1,val/accuracy,0.25\n1,val/tokens,30.0\n2,val/accuracy,0.5\n2,val/tokens,20.0\n"
    files = {TRAIN_LOG_FILE: log_file, VALIDATION_FILE: validation}
    adapter = artifact("sft", files=files, final_loss=1.5)
    for benchmark in ("math500", "gsm8k"):
        with open_tracker(config(), job(benchmark=benchmark)) as tracker:
            tracker.of_system("Original").artifact(adapter)
            tracker.of_system("Original").log("evaluate", {"accuracy": 0.9}, once=f"evaluate/{benchmark}")
    runs = {run.name: run for run in offline_runs(tmp_path)}
    assert runs.keys() == {"Original tiny math500", "Original tiny gsm8k"}
    for run in runs.values():
        assert [(r["sft/step"], r["sft/loss"]) for r in run.history if "sft/loss" in r] == [(1, 2.5), (2, 1.5)]
        validations = [r for r in run.history if "sft/val/accuracy" in r]
        assert [(r["sft/step"], r["sft/val/accuracy"], r["sft/val/tokens"]) for r in validations] == [
            (1, 0.25, 30.0), (2, 0.5, 20.0),
        ]  # fmt: skip
        assert run.summary()["sft/final_loss"] == 1.5


def test_answers_go_on_in_the_run_of_the_training_with_the_same_name_and_tags(
    tmp_path: Path, job: MakeJob, artifact: MakeArtifact
) -> None:
    """As `train.py until=sft`, then `evaluate.py runs=DIR` for two benchmarks."""
    adapter = artifact("sft", files={TRAIN_LOG_FILE: "step,loss,lr,num_target_tokens\n1,2.5,0.1,9\n"}, final_loss=2.5)
    own = artifact("sft", files={TRAIN_LOG_FILE: "step,loss,lr,num_target_tokens\n1,1.5,0.1,9\n"}, final_loss=1.5)
    with open_tracker(config(), job()) as tracker:
        for of_system, student in ((tracker.of_system("Original"), adapter), (tracker, own)):
            of_system.log("sft", {"loss": 2.5}, step=1)
            of_system.artifact(student)
    trained = {run.name: run for run in offline_runs(tmp_path)}
    for benchmark in ("math500", "gsm8k"):
        with open_tracker(config(), job(benchmark=benchmark)) as tracker:
            tracker.of_system("Original").artifact(adapter)
            tracker.artifact(own)
            tracker.of_system("Original").log(
                "evaluate", {"accuracy": 0.9, "target_ratio": 1.0}, once=f"evaluate/1{benchmark}"
            )
            tracker.log("evaluate", {"accuracy": 0.8, "target_ratio": 0.7}, once=f"evaluate/2{benchmark}")
    asked = offline_runs(tmp_path)[2:]
    assert {run.name for run in asked[:2]} == trained.keys() == {"Original tiny math500", "cts-0.7-tiny math500"}
    for run in asked[:2]:
        assert (run.id, run.tags) == (trained[run.name].id, trained[run.name].tags)
        assert not any("sft/loss" in row for row in run.history), "its curve is there"
        assert "evaluate/accuracy" in run.summary()
    assert {run.id for run in asked[2:]}.isdisjoint({run.id for run in trained.values()})
    assert all(any("sft/loss" in row for row in run.history) for run in asked[2:])


def test_only_selected_small_files_are_sent_and_no_table_at_zero_rows(
    tmp_path: Path, job: MakeJob, artifact: MakeArtifact, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(artifacts=[ArtifactKind.scores, ArtifactKind.adapter], max_artifact_mb=0.002, table_rows=0)
    with caplog.at_level(logging.INFO), open_tracker(settings, job()) as tracker:
        tracker.artifact(artifact("score", 100))
        tracker.artifact(artifact("sft", 4000))
        tracker.artifact(artifact("compress", 100))
        tracker.table("compress", "tokens", tokens)
    (run,) = offline_runs(tmp_path)
    assert [a.type for a in run.artifacts] == ["scores"]
    assert not run.tables
    assert "is not sent; tracker.max_artifact_mb=" in caplog.text


def test_sweep_agent_has_one_run_with_everything(
    tmp_path: Path, job: MakeJob, artifact: MakeArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    for _ in range(2):  # the optimiser needs the metric also of a job that was done before
        with open_tracker(config(), job()) as tracker:
            tracker.of_system("Original").log("sft", {"loss": 3.0}, step=1)
            tracker.log("sft", {"loss": 2.0}, step=1)
            tracker.artifact(artifact("sft"))
            tracker.log("evaluate", {"accuracy": 0.5}, once="same")
    runs = offline_runs(tmp_path)
    assert len(runs) == 2
    for run in runs:
        summary = run.summary()
        assert (summary["sft_original/loss"], summary["sft/loss"], summary["evaluate/accuracy"]) == (3, 2, 0.5)
    assert [len(run.artifacts) for run in runs] == [1, 0]


def test_failing_service_is_logged_once_without_the_key_and_the_csv_is_complete(
    job: MakeJob, artifact: MakeArtifact, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    def refuse(**_: Any) -> None:
        raise RuntimeError(f"no access with {KEY}")

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb, "init", refuse)
    with caplog.at_level(logging.WARNING), open_tracker(config(), job()) as tracker:
        tracker.log("sft", {"loss": 1.0}, step=1)
        tracker.artifact(artifact("sft"))
        tracker.table("sft", "tokens", tokens)
        tracker.log("sft", {"loss": 0.9}, step=2)
    assert len(caplog.records) == 1
    assert "W&B failed" in caplog.text
    assert KEY not in caplog.text
    assert [row[3] for row in read_metrics(job().run_dir) if row[2] == "loss"] == [1.0, 0.9]


def test_silent_service_costs_one_timeout_and_everything_is_kept_on_disk(
    tmp_path: Path, job: MakeJob, artifact: MakeArtifact, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_runs, "INIT_TIMEOUT_S", 1.0)
    with silent_service() as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        wandb.teardown()  # an earlier test has set up another address
        started = time.monotonic()
        with caplog.at_level(logging.WARNING), open_tracker(config(), job()) as tracker:
            tracker.log("sft", {"loss": 1.0}, step=1)
            tracker.artifact(artifact("sft"))
            tracker.log("evaluate", {"accuracy": 0.5})
        assert time.monotonic() - started < 40
    (message,) = [r.getMessage() for r in caplog.records if r.name.startswith("cotpress")]
    assert message.startswith("W&B does not answer (")
    assert address in message
    assert "wandb sync" in message
    assert KEY not in caplog.text
    assert [row[3] for row in read_metrics(job().run_dir) if row[2] in ("loss", "accuracy")] == [1.0, 0.5]
    kept = by_system(tmp_path)["cts"].summary()
    assert (kept["sft/loss"], kept["evaluate/accuracy"]) == (1.0, 0.5)


def test_run_whose_end_cannot_be_sent_is_not_noted_as_sent(
    job: MakeJob, artifact: MakeArtifact, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    def time_out(*_: Any, **__: Any) -> None:
        raise TimeoutError("finish_timeout expired")

    finish = wandb.Run.finish
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(wandb.Run, "finish", lambda run, **more: (finish(run, **more), time_out()))
        with open_tracker(config(), job()) as tracker:
            tracker.artifact(artifact("sft"))
            tracker.log("evaluate", {"accuracy": 0.5})
    assert "W&B does not answer" in caplog.text
    assert not list((job().output_root / "wandb/sent").rglob("sft-*.json"))


@pytest.mark.parametrize("broken", ["Table", "Artifact"])
def test_failed_table_or_file_does_not_stop_the_job_and_is_sent_again(
    tmp_path: Path, job: MakeJob, artifact: MakeArtifact, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    import wandb

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched, open_tracker(config(), job()) as tracker:
        patched.setattr(wandb, broken, refuse)
        tracker.artifact(artifact("compress"))
        tracker.table("compress", "tokens", tokens)
    with open_tracker(config(), job()) as tracker:
        tracker.artifact(artifact("compress"))
        tracker.table("compress", "tokens", tokens)
    assert "compress/tokens" in offline_runs(tmp_path)[-1].tables


def test_run_of_a_failed_job_has_exit_code_one_and_is_not_noted_as_sent(
    tmp_path: Path, job: MakeJob, artifact: MakeArtifact
) -> None:
    def fail() -> None:
        with open_tracker(config(), job()) as tracker:
            tracker.artifact(artifact("sft"))
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    with open_tracker(config(), job()) as tracker:
        tracker.artifact(artifact("sft"))
    assert [run.exit_code for run in offline_runs(tmp_path)] == [1, 0]


LOGINS = {
    "netrc": ("netrc", f"machine api.wandb.ai login user password {KEY}\n", {"NETRC": "netrc"}),
    "netrc of the home": (".netrc", f"machine api.wandb.ai login user password {KEY}\n", {"HOME": "", "NETRC": None}),
    "_netrc of the home": ("_netrc", f"machine api.wandb.ai login user password {KEY}\n", {"HOME": "", "NETRC": None}),
    "netrc of another server": ("netrc", f"machine my.host:8080 login user password {KEY}\n",
                                {"NETRC": "netrc", "WANDB_BASE_URL": "http://my.host:8080"}),
    "settings of the user": ("config/settings", f"[default]\napi_key = {KEY}\n", {"WANDB_CONFIG_DIR": "config"}),
    "settings of the folder": ("wandb/settings", f"[default]\napi_key = {KEY}\n", {}),
    "token file": ("token", "x.y.z", {"WANDB_IDENTITY_TOKEN_FILE": "token"}),
}  # fmt: skip


@pytest.mark.parametrize("login", LOGINS)
def test_a_login_is_found_where_wandb_finds_it(login: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert wandb_mode() == "offline"
    monkeypatch.chdir(tmp_path)
    file, text, variables = LOGINS[login]
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    (tmp_path / file).chmod(0o600)
    for name, value in variables.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value if value.startswith("http") else str(tmp_path / value))
    forget_settings()
    assert wandb_mode() == "online"
    if login != "token file":
        assert KEY not in without_secrets(f"failed with {KEY}")


@pytest.mark.parametrize(
    ("variables", "settings", "mode"),
    [
        ({"WANDB_API_KEY": KEY}, "", "online"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "", "offline"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, "", "offline"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, "", "disabled"),
        ({"WANDB_API_KEY": KEY, "WANDB_DISABLED": "true"}, "", "disabled"),
        ({"WANDB_API_KEY": KEY, "WANDB_DISABLED": "false"}, "", "online"),
        ({"WANDB_API_KEY": KEY}, "[default]\nmode = offline\n", "offline"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "online"}, "[default]\nmode = offline\n", "online"),
        ({"WANDB_API_KEY": "short"}, "", "online"),
        ({}, "[default]\nmode = disabled\n", "disabled"),
    ],
)
def test_the_mode_is_that_of_wandbs_variables_and_files(
    variables: dict[str, str], settings: str, mode: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "config").mkdir(exist_ok=True)
    (tmp_path / "config/settings").write_text(settings)
    forget_settings()
    assert wandb_mode() == mode


@pytest.mark.parametrize("variable", ["WANDB_MODE", "WANDB_DISABLED"])
def test_nothing_is_noted_or_called_sent_when_wandb_is_disabled(
    variable: str, tmp_path: Path, job: MakeJob, artifact: MakeArtifact, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    scores = artifact("score")
    with monkeypatch.context() as patched, caplog.at_level(logging.INFO):
        patched.setenv(variable, "disabled" if variable == "WANDB_MODE" else "true")
        forget_settings()
        with open_tracker(config(), job("first")) as tracker:
            tracker.artifact(scores)
            tracker.log("evaluate", {"accuracy": 0.5}, once="evaluate/first")
            tracker.table("evaluate", "predictions", tokens)
    assert "W&B is disabled; nothing was sent" in caplog.text
    assert "sent to" not in caplog.text
    assert "runs of project" not in caplog.text
    assert not (tmp_path / "wandb").exists()
    forget_settings()
    with open_tracker(config(), job("second")) as tracker:
        tracker.artifact(scores)
    (run,) = offline_runs(tmp_path)
    assert run.summary()["score/num_rows"] == 3


def test_what_was_written_offline_is_called_written_until_its_files_are_gone(
    tmp_path: Path, job: MakeJob, artifact: MakeArtifact, caplog: pytest.LogCaptureFixture
) -> None:
    scores = artifact("score")
    for name in ("first", "second"):
        with caplog.at_level(logging.INFO), open_tracker(config(), job(name)) as tracker:
            tracker.artifact(scores)
    files = job("first").run_dir / "wandb"
    assert f"1 runs of project 'cotpress', written offline; to send: wandb sync {files}/*run-*" in caplog.text
    assert f"systems were written offline before, and not again; to send: wandb sync {files}/*run-*" in caplog.text
    assert " sent to " not in caplog.text
    assert len(offline_runs(tmp_path)) == 1
    shutil.rmtree(files)
    with open_tracker(config(), job("third")) as tracker:
        tracker.artifact(scores)
    assert [run.name for run in offline_runs(tmp_path)] == ["third math500"]


def test_an_offline_run_opens_no_connection(tmp_path: Path) -> None:
    """Python's sockets are guarded, and W&B's own process, in Go, would use the proxies, which listen here."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.2)
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        variables = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), address)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
        done = subprocess.run(
            [sys.executable, "-c", GUARDED, str(tmp_path)], capture_output=True, text=True, timeout=120,
            env=kept | variables | {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        with pytest.raises(TimeoutError):
            proxy.accept()
    assert list(tmp_path.rglob("*.wandb"))


GUARDED = """
import socket, sys
from pathlib import Path
connect = socket.socket.connect
def guarded(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("connection to", address, file=sys.stderr)
        raise SystemExit(3)
    return connect(self, address)
socket.socket.connect = guarded
def lookup(host, *_, **__):
    print("lookup of", host, file=sys.stderr)
    raise SystemExit(4)
names = socket.getaddrinfo
socket.getaddrinfo = lambda host, *a, **k: names(host, *a, **k) if host in ("127.0.0.1", "localhost") else lookup(host)
from cotpress.tracking import Job, open_tracker
from cotpress.tracking.config import TrackerConfig, TrackerKind
root = Path(sys.argv[1])
job = Job(run_dir=root / "run", name="a", system="cts", output_root=root)
with open_tracker(TrackerConfig(kind=TrackerKind.wandb), job) as tracker:
    tracker.log("evaluate", {"accuracy": 0.5})
"""


def test_projects_with_similar_names_have_notes_of_their_own(
    tmp_path: Path, job: MakeJob, artifact: MakeArtifact
) -> None:
    scores = artifact("score")
    places = [(None, "p"), ("default", "p"), (None, "a b"), (None, "a-b"), ("x-y", "z"), ("x", "y-z"), ("x", "y/z")]
    notes = set()
    for entity, project in places:
        tracker = wandb_runs.WandbTracker(config(entity=entity, project=project), job())
        notes.add(tracker._note(scores.key))
    assert len(notes) == len(places)


def test_long_tags_and_names_of_artifacts_stay_apart(tmp_path: Path, job: MakeJob, artifact: MakeArtifact) -> None:
    adapter = artifact("sft")
    for end in "ab":
        with open_tracker(config(), job(end, system=f"{'x' * 130}{end}", data="t" * 70 + end)) as tracker:
            tracker.log("evaluate", {"accuracy": 0.5})
            tracker._wandb._note(adapter.key).unlink(missing_ok=True)  # type: ignore[union-attr]
            tracker.artifact(adapter)
    runs = offline_runs(tmp_path)
    assert len({a.name for run in runs for a in run.artifacts}) == 2
    assert runs[0].tags & runs[1].tags == {"ratio=0.7", "tiny", "math500"}
    assert max(len(tag) for run in runs for tag in run.tags) <= 64
