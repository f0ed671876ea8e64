"""Weights & Biases: one run per system that is trained or asked and one per reference model, grouped by sweep.

The run of a system holds its training and its answers; that of the job's own system holds the stages before it as well.
Systems that several jobs share (Original, the reference model) are sent by the first job only; note files record what
was sent, and what was written offline to be sent later. A run that holds a training and no answers goes on with those
to its benchmark, also in a later command (`train.py until=sft`, then `evaluate.py runs=DIR`). A run begins with the
first number that only it has, so outputs of stages wait for it. A training of an earlier job is sent from its log, so
a run of Original has its curve whoever trained it. Under a W&B sweep agent, which makes one run per trial, everything
goes into that run.
"""

import csv
import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from cotpress.errors import MissingExtraError
from cotpress.records import ORIGINAL, TRAIN_LOG_FILE, VALIDATION_FILE
from cotpress.store.artifacts import MANIFEST, Artifact, fingerprint, write_text_atomic
from cotpress.store.paths import safe_name
from cotpress.store.redaction import masked, remember, without_secrets
from cotpress.tracking import METRICS_FILE, Job, Table, artifact_metrics, stage_of
from cotpress.tracking.config import ArtifactKind, TrackerConfig

log = logging.getLogger(__name__)

SENT_FOLDER = "wandb"
"""Folder below `output_root` for the notes about sent data, by project, and for W&B's staging area."""
AGENT_JOB = "sweep"
"""Job type of the runs of a W&B agent, which hold all stages."""
SYSTEM_JOB, REFERENCE_JOB = "system", "reference"
"""Job types of the other runs: of a system, and of a reference model."""
INIT_TIMEOUT_S = 60.0
"""Seconds that W&B may take to start a run; afterwards the job continues offline."""
FINISH_TIMEOUT_S = 600.0
"""Seconds that sending the rest of a run may take; data that is not sent by then stays on disk."""
_KINDS = {
    "sft": ArtifactKind.adapter,
    "reference": ArtifactKind.adapter,
    "score": ArtifactKind.scores,
    "compress": ArtifactKind.compressed,
}
_IN_RESULTS = ("evaluate", "answer")
"""Stages whose outputs are logged through the rows of the results table."""
_TAG_BYTES, _ARTIFACT_BYTES = 64, 128
"""Longest tag and longest name of an artifact that W&B takes, in characters."""
_Mode = Literal["online", "offline", "disabled", "shared"]
_ALIASES = {"dryrun": "offline", "run": "online"}


@dataclass(slots=True)
class _Run:
    """An open W&B run."""

    run: Any
    system: str
    offline: bool
    holds: list[str] = field(default_factory=list)
    """Identities that are noted when the run is finished."""
    stepped: set[str] = field(default_factory=set)
    """Prefixes with a step axis."""
    goes_on: str = ""
    """Artifact of the training that an earlier command has sent with this run."""
    answered: bool = False
    """True if it holds answers."""


class WandbTracker:
    """Sends a job to W&B; if the service does not answer, the job's runs are written to disk from then on.

    Any other failure is logged once and ends the sending. W&B writes its files to `wandb/` below the run directory.

    Raises:
        MissingExtraError: The package wandb is not installed.
    """

    def __init__(self, config: TrackerConfig, job: Job) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # no connection beside that to the service
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("tracker=wandb", "wandb", "pip install wandb, or tracker=csv") from error
        self._wandb = wandb
        self._config, self._job = config, job
        folder = (job.output_root / SENT_FOLDER).resolve()
        os.environ.setdefault("WANDB_DATA_DIR", str(folder / "staging"))  # the default is below the home directory
        os.environ.setdefault("WANDB_SILENT", "true")
        self._sent = folder / "sent" / safe_name(config.entity or "default/") / safe_name(config.project)
        self._agent = bool(os.environ.get("WANDB_SWEEP_ID"))
        self._open: dict[str, _Run] = {}
        self._waiting: dict[str, list[tuple[str, Callable[[_Run], None]]]] = defaultdict(list)
        self._known: set[str] = set()
        self._broken = False
        self._mode = wandb_mode()
        self._num_sent = self._num_written = 0
        self._unsent: set[str] = set()
        self._how_to_send = f"wandb sync {job.run_dir}/wandb/*run-*"

    def log(self, stage: str, metrics: Mapping[str, float], step: int | None, *, system: str, once: str) -> None:
        """Send the metrics; the W&B step axis of a stage is `stage/step`."""
        with self._guarded():
            current = self._run(self._holder(stage, system), once, ratio=metrics.get("target_ratio"))
            if current is not None:
                current.answered = current.answered or stage in _IN_RESULTS
                self._log(current, self._prefix(stage, system), metrics, step)

    def artifact(self, artifact: Artifact, *, system: str) -> None:
        """Send the numbers of the artifact, and its files if the settings select their kind and size."""
        if artifact.stage not in _IN_RESULTS:
            self._send(
                self._holder(artifact.stage, system), artifact.key, lambda r: self._artifact(r, artifact, system)
            )

    def table(self, stage: str, name: str, make: Callable[[int], Table], *, system: str) -> None:
        """Send a table with the run of its system; do nothing if that run was sent before."""

        def send(current: _Run) -> None:
            table = make(self._config.table_rows)
            sent = self._wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows])
            current.run.log({f"{self._prefix(stage, system)}/{name}": sent})

        if self._config.table_rows:
            self._send(self._holder(stage, system), "", send)

    def close(self, *, failed: bool = False) -> None:
        """Finish all runs, so that the next job of a multirun does not log into them."""
        with self._guarded():
            for holder, waiting in [*self._waiting.items()]:
                if new := next((key for key, _ in waiting if key and not self._is_known(key)), None):
                    self._run(holder, new)
                else:
                    self._note_known(holder, next((key for key, _ in waiting if key), ""))
        for current in self._open.values():
            self._finish(current, failed=failed)
        self._open.clear()
        if self._known:
            log.info(
                "W&B: %d systems were sent to project '%s' before and are not sent again (remove '%s' to do so)",
                len(self._known), self._config.project, self._sent,
            )  # fmt: skip
        for files in sorted(self._unsent):
            log.info("W&B: systems were written offline before, and not again; to send: wandb sync %s/*run-*", files)
        project = self._config.project
        if self._num_written:
            how = self._how_to_send
            log.info("W&B: %d runs of project '%s', written offline; to send: %s", self._num_written, project, how)
        if self._num_sent:
            log.info("W&B: %d runs of project '%s', sent", self._num_sent, project)
        if self._mode == "disabled":
            log.info("W&B is disabled; nothing was sent, and metrics are in %s only", METRICS_FILE)

    def _holder(self, stage: str, system: str) -> str:
        """Name of the run that holds a stage of a system; empty for that of the job's own, or of an agent."""
        return "" if self._agent else REFERENCE_JOB if stage == REFERENCE_JOB else system

    def _prefix(self, stage: str, system: str) -> str:
        """Prefix of metric names; separate runs omit the system, so that all systems share a panel."""
        return stage_of(stage, system) if self._agent else stage

    def _send(self, holder: str, key: str, send: Callable[[_Run], None]) -> None:
        """Send something with a run, or let it wait until the run begins; `key` is its identity, if it has one."""
        if self._broken or self._mode == "disabled":
            return
        with self._guarded():
            if current := self._open.get(holder):
                send(current)
            else:
                self._waiting[holder].append((key, send))

    def _run(self, holder: str, once: str, ratio: float | None = None) -> _Run | None:
        """The run of a system, started if necessary; None if it is known, or W&B is disabled or has failed."""
        if self._broken or self._mode == "disabled":
            return None
        current = self._open.get(holder)
        if current is None:
            if once and not self._agent and self._is_known(once):
                self._note_known(holder, once)
                return None
            current = self._open[holder] = self._start(holder, ratio if holder else self._job.ratio)
            for _, send in self._waiting.pop(holder, ()):
                send(current)
        elif holder and ratio is not None and (tag := _ratio_tag(ratio)) not in current.run.tags:
            current.run.tags += (tag,)
        if once:
            current.holds.append(once)
        return current

    def _note_known(self, holder: str, key: str) -> None:
        """Count a system that is not sent again, and note where its files are if they were not sent."""
        if key and (files := self._unsent_files(key)):
            self._unsent.add(files)
        elif key:
            self._known.add(holder)

    def _artifact(self, current: _Run, artifact: Artifact, system: str) -> None:
        prefix = self._prefix(artifact.stage, system)
        if prefix not in current.stepped and artifact.key != current.goes_on:  # trained by an earlier job
            for step, metrics in _train_log(artifact):
                self._log(current, prefix, metrics, step)
        self._log(current, prefix, artifact_metrics(artifact), None)
        if not self._is_known(artifact.key):
            self._send_files(current, artifact)
        current.holds.append(artifact.key)

    def _start(self, holder: str, ratio: float | None) -> _Run:
        job, config = self._job, self._config
        name = holder or job.system
        ratio = 1.0 if holder == ORIGINAL.label else ratio
        tags = [name, *([] if ratio is None else [_ratio_tag(ratio)]), job.model, job.data, job.benchmark]
        title = [job.name] if not holder else [holder, job.model]
        settings = self._wandb.Settings(
            silent=True, console="off", disable_git=True, x_disable_meta=True, init_timeout=INIT_TIMEOUT_S,
            finish_timeout=FINISH_TIMEOUT_S, finish_timeout_raises=True,
        )  # fmt: skip
        options: dict[str, Any] = {
            "project": config.project,
            "entity": config.entity,
            "dir": str(job.run_dir),
            "name": without_secrets(" ".join([*title, *([job.benchmark] if job.benchmark else [])])),
            "group": job.sweep,
            "job_type": AGENT_JOB if self._agent else REFERENCE_JOB if holder == REFERENCE_JOB else SYSTEM_JOB,
            "tags": [
                safe_name(without_secrets(t), unsafe="\n", num_bytes=_TAG_BYTES) for t in dict.fromkeys(tags) if t
            ],
            "config": {**masked(job.config), "system": name, "benchmark": job.benchmark},
            "reinit": None if self._agent else "create_new",  # the runs of all systems of a job are open side by side
            "settings": settings,
        }
        trained, run_id = self._unanswered(holder, options["name"])
        if trained:
            options |= {"id": run_id, "resume": "allow"}
        try:
            run = self._wandb.init(**options, mode=self._mode)
        except self._wandb.errors.CommError as error:
            if self._mode != "online" or self._agent:
                raise
            self._go_offline(error)
            run = self._wandb.init(**options, mode=self._mode)
        return _Run(run, name, offline=self._mode == "offline", goes_on=trained)

    def _unanswered(self, holder: str, name: str) -> tuple[str, str]:
        """Training that waits for a run, and id of the run of this name that holds it but no answers; empty if none."""
        for key in (key for key, _ in self._waiting.get(holder, ()) if key.startswith("sft/") and not self._agent):
            note = self._noted(key)
            if note.get("unanswered") == name and isinstance(run_id := note.get("run"), str) and self._is_known(key):
                return key, run_id
        return "", ""

    def _go_offline(self, error: Exception) -> None:
        self._mode = "offline"
        first = without_secrets(str(error)).partition("\n")[0]
        log.warning(
            "W&B does not answer (%s); runs are kept on disk from here on, to send: %s", first, self._how_to_send
        )

    def _log(self, current: _Run, prefix: str, metrics: Mapping[str, float], step: int | None) -> None:
        if step is not None and prefix not in current.stepped:
            current.run.define_metric(f"{prefix}/step")
            current.run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/step")
            current.stepped.add(prefix)
        row = {f"{prefix}/{name}": float(value) for name, value in metrics.items()}
        current.run.log(row if step is None else {**row, f"{prefix}/step": step})

    def _send_files(self, current: _Run, artifact: Artifact) -> None:
        kind = _KINDS.get(artifact.stage)
        if kind is None or kind not in self._config.artifacts:
            return
        files = [*artifact.manifest["files"], MANIFEST]
        megabytes = sum((artifact.path / name).stat().st_size for name in files) / 10**6
        if megabytes > self._config.max_artifact_mb:
            log.info(
                "W&B: %s has %.0f MB and is not sent; tracker.max_artifact_mb=%.0f would send it",
                artifact.key, megabytes, megabytes + 1,
            )  # fmt: skip
            return
        job, system = self._job, current.system
        about = {"key": artifact.key, "system": system, "ratio": job.ratio, "model": job.model, "data": job.data}
        manifest = {k: artifact.manifest[k] for k in ("fingerprint", "num_rows", "dropped", "facts", "identity")}
        parts = [artifact.stage, system, job.model, job.data]
        name = safe_name("-".join(part for part in dict.fromkeys(parts) if part), num_bytes=_ARTIFACT_BYTES)
        sent = self._wandb.Artifact(name, kind.value, metadata=masked({**about, **manifest}))
        for file in files:  # artifacts never change, so that W&B may read the files in place, also much later
            sent.add_file(str((artifact.path / file).resolve()), name=file, policy="immutable")
        current.run.log_artifact(sent, aliases=["latest", artifact.fingerprint])

    def _finish(self, current: _Run, *, failed: bool) -> None:
        if self._broken:  # W&B ends what is open with the process
            return
        with self._guarded():
            try:
                current.run.finish(exit_code=1 if failed else 0)
            except TimeoutError as error:
                self._num_written += 1
                self._go_offline(error)
                return
            self._num_written += current.offline
            self._num_sent += not current.offline
            if not failed:
                self._sent.mkdir(parents=True, exist_ok=True)
                for identity in current.holds:
                    note = {"identity": identity, "run": str(current.run.id)}
                    if not current.answered:
                        note["unanswered"] = str(current.run.name)
                    if current.offline:
                        note["offline"] = str((self._job.run_dir / "wandb").resolve())
                    write_text_atomic(self._note(identity), json.dumps(note) + "\n")

    def _is_known(self, identity: str) -> bool:
        """True if the thing was sent, or written offline to a folder that still has runs to send."""
        if not self._note(identity).exists():
            return False
        files = self._unsent_files(identity)
        return files is None or any(Path(files).glob("offline-run-*"))

    def _unsent_files(self, identity: str) -> str | None:
        """Folder of the offline runs that hold the thing; None if it was sent."""
        files = self._noted(identity).get("offline")
        return files if isinstance(files, str) else None

    def _noted(self, identity: str) -> dict[str, Any]:
        try:
            note = json.loads(self._note(identity).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}

    def _note(self, identity: str) -> Path:
        """File that notes what was sent or written; without it the thing is sent again."""
        return self._sent / f"{identity.partition('/')[0]}-{fingerprint({'identity': identity})}.json"

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # no failure of the service, the network or the account may stop a training run
            self._broken = True
            log.warning("W&B failed (%s); metrics are written to %s only", without_secrets(str(error)), METRICS_FILE)


def _ratio_tag(ratio: float) -> str:
    return f"ratio={ratio:g}"


def _train_log(artifact: Artifact) -> Iterator[tuple[int, dict[str, float]]]:
    """Loss and learning rate of a trained artifact by optimizer step, from 1, and its validations by the same steps;
    nothing for other artifacts."""
    rows: list[tuple[int, dict[str, float]]] = []
    for row in _csv_rows(artifact, TRAIN_LOG_FILE):
        rows.append((int(row["step"]), {name: float(row[name]) for name in ("loss", "lr")}))
    validations: dict[int, dict[str, float]] = defaultdict(dict)
    for row in _csv_rows(artifact, VALIDATION_FILE):
        validations[int(row["step"])][row["name"]] = float(row["value"])
    yield from sorted([*rows, *validations.items()], key=lambda row: row[0])


def _csv_rows(artifact: Artifact, name: str) -> Iterator[dict[str, str]]:
    """Rows of a file of an artifact; none if it has no such file."""
    if name in artifact.manifest["files"]:
        with artifact.file(name).open(encoding="utf-8", newline="") as handle:
            yield from csv.DictReader(handle)


def wandb_mode() -> _Mode:
    """The mode that W&B's variables and settings files choose, else `online` if W&B finds a login, else `offline`.

    Settings, netrc file and key are those that the installed wandb reads. `WANDB_DISABLED=true`, which transformers
    reads, disables it as well.
    """
    from wandb.errors import AuthenticationError
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib.wbauth import authenticate_session
    from wandb.sdk.lib.wbauth.auth import AuthApiKey

    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        return "disabled"
    settings = wandb_setup.singleton().settings
    if "mode" in settings.model_fields_set:
        mode = str(settings.mode)
        return cast("_Mode", _ALIASES.get(mode, mode))
    try:
        login = authenticate_session(host=settings.base_url, source="cotpress", prompt=False, update_session=False)
    except AuthenticationError:
        return "online"  # where W&B says what is wrong with the key
    if isinstance(login, AuthApiKey):
        remember(login.api_key)
    return "offline" if login is None else "online"
