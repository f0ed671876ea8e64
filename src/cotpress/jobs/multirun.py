"""Hydra's view of a multirun: a callback that notes the plan at the start and shows the table at the end.

Hydra calls the end only if nothing went wrong and nobody pressed Ctrl-C, so `app.main` calls `end_sweep` as well. What
is shown comes from the disk; the callback itself holds nothing, because launchers send a copy of it to their workers.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from cotpress.errors import MissingExtraError
from cotpress.store.sweeps import PLAN_FILE, JobState, read_sweep, write_note, write_plan

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from cotpress.jobs.watch import Watch
    from cotpress.store.sweeps import Sweep

PARALLEL = {
    "_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "n_jobs": 2,
    "batch_size": 1,
    "pre_dispatch": "n_jobs",
}
"""`hydra/launcher=joblib`: the plugin's own default is a job per core, which no GPU and few memories hold."""

JOB_MINUTES = 24 * 60
"""Time limit of a submitted job; the plugin's own default is an hour."""
MAX_TIMEOUTS = 7
"""How often a SLURM job that met its time limit is queued again."""
EXTRAS = {
    "joblib": ("hydra_joblib_launcher", "parallel"),
    "submitit_local": ("hydra_submitit_launcher", "slurm"),
    "submitit_slurm": ("hydra_submitit_launcher", "slurm"),
}
"""Launchers that are plugins, with the plugin and our extra that brings it."""

_watching: "list[Watch]" = []
"""The multirun of this process, while it runs."""
_ended: "list[Sweep]" = []
"""The same, when it has ended."""


class Multirun(Callback):
    """Follows the jobs of a multirun, and ends it with one table and one plot over all of them."""

    def on_multirun_start(self, config: "DictConfig", **event: Any) -> None:
        """Note what is ahead and begin to follow it."""
        from cotpress.jobs.watch import Watch

        sweep_dir = Path(config.hydra.sweep.dir)
        named = config.hydra.runtime.choices.get("sweep")
        write_plan(sweep_dir, str(event.get("config_name")), planned_jobs(config), None if named == "null" else named)
        watch = Watch(sweep_dir)
        _watching.append(watch)
        watch.start()

    def on_multirun_end(self, config: "DictConfig", **event: Any) -> None:
        """Show the table."""
        end_sweep()


def register_launchers() -> None:
    """Make our versions of `hydra/launcher` known, after the plugins have registered their own."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()
    store = ConfigStore.instance()
    store.store(group="hydra/launcher", name="joblib", node=PARALLEL)
    try:
        from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf
    except ImportError:
        return  # `check_launcher` says how to install it
    for name, kind, launcher in (
        ("submitit_local", LocalQueueConf, "LocalLauncher"),
        ("submitit_slurm", SlurmQueueConf, "SlurmLauncher"),
    ):
        # Jobs resume where they were stopped, so time limits only cost a start.
        resumed = {"max_num_timeout": MAX_TIMEOUTS} if kind is SlurmQueueConf else {}
        node = kind(
            _target_=f"hydra_plugins.cotpress_submitit.{launcher}",
            name="cotpress-${hydra.job.config_name}",
            timeout_min=JOB_MINUTES,
            **resumed,
        )
        store.store(group="hydra/launcher", name=name, node=node)


def check_launcher(arguments: Sequence[str]) -> None:
    """Say how to install the launcher that a command line asks for.

    Raises:
        MissingExtraError: It is not installed.
    """
    chosen = [argument.partition("=")[2] for argument in arguments if argument.startswith("hydra/launcher=")]
    for name in chosen:
        if name in EXTRAS:
            package, extra = EXTRAS[name]
            try:
                found = importlib.util.find_spec(f"hydra_plugins.{package}")
            except ModuleNotFoundError:
                found = None
            if found is None:
                raise MissingExtraError(f"hydra/launcher={name}", package, f"pip install 'cotpress[{extra}]'")


def planned_jobs(config: "DictConfig") -> list[list[str]] | None:
    """The overrides of every job that Hydra's own sweeper will run; None for sweepers that decide as they go."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    sweeper = config.hydra.sweeper
    if not str(sweeper.get("_target_", "")).endswith(f".{BasicSweeper.__name__}"):
        return None
    texts = [*(f"{key}={value}" for key, value in (sweeper.params or {}).items()), *config.hydra.overrides.task]
    overrides = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(texts)
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    return jobs


def end_sweep(*, show: bool = True) -> "Sweep | None":
    """Stop following the multirun of this process, and show what it gave; None if there was none.

    Only the first call for a multirun shows anything.
    """
    if _watching:
        watch = _watching.pop()
        watch.stop()
        _ended.append(_settled(watch.sweep_dir))
        if show:
            _show(_ended[-1])
    return _ended[-1] if _ended else None


def _settled(sweep_dir: Path) -> "Sweep":
    """The sweep of a folder, now that nobody works on it any more: what was running has been interrupted."""
    for job in read_sweep(sweep_dir).jobs:
        if job.note is not None and job.note.state is JobState.running:
            write_note(job.folder, replace(job.note, state=JobState.interrupted))
    return read_sweep(sweep_dir)


def forget_sweep() -> None:
    """Take back the plan of a multirun that Hydra refused before its first job."""
    if _watching:
        watch = _watching.pop()
        watch.stop()
        sweep = read_sweep(watch.sweep_dir)
        if not any(job.note for job in sweep.jobs):
            (sweep.folder / PLAN_FILE).unlink(missing_ok=True)


def _show(sweep: "Sweep") -> None:
    if sweep.entry == "fidelity":
        from cotpress.tasks.fidelity import show_jobs

        show_jobs(sweep)
    else:
        from cotpress.report.sweep import report_sweep

        report_sweep(sweep)
