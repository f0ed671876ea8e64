"""A multirun as Hydra runs it: its launchers, and a callback that records the plan and shows the final table.

Hydra calls the end of the callback only without errors and without Ctrl-C, so `app.main` calls `end_sweep` as well. The
table is read from the disk; the callback has no state, because launchers send copies of it to their workers.
"""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import OmegaConf, open_dict, read_write

from cotpress.errors import MissingExtraError, install_extra
from cotpress.jobs.folders import occupy, release, remove
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
"""`hydra/launcher=joblib`: the plugin's own default, a job per core, needs more memory than most machines have."""

JOB_MINUTES = 24 * 60
"""Time limit of a submitted job; the plugin's own default is an hour."""
MAX_TIMEOUTS = 7
"""Number of times that a SLURM job is queued again after its time limit."""
EXTRAS = {
    "joblib": ("hydra_joblib_launcher", "parallel"),
    "submitit_local": ("hydra_submitit_launcher", "slurm"),
    "submitit_slurm": ("hydra_submitit_launcher", "slurm"),
}
"""Launchers that are plugins: the package of the plugin, and the extra that installs it."""

# Here, as Hydra imports this module in every process that resolves the folders of its logs.
OmegaConf.register_new_resolver("home", os.path.expanduser, replace=True)

_watching: "list[Watch]" = []
"""The running multirun of this process, if there is one."""
_ended: "list[Sweep]" = []
"""The finished multirun of this process, if there is one."""


class Multirun(Callback):
    """Watches the jobs of a multirun, and shows one table and one plot over all of them at its end."""

    def on_multirun_start(self, config: "DictConfig", **event: Any) -> None:
        """Record the planned jobs and start to watch them."""
        from cotpress.jobs.watch import Watch

        sweep_dir = _own_folder(config)
        named = config.hydra.runtime.choices.get("sweep")
        write_plan(sweep_dir, str(event.get("config_name")), planned_jobs(config), None if named == "null" else named)
        watch = Watch(sweep_dir)
        _watching.append(watch)
        watch.start()

    def on_multirun_end(self, config: "DictConfig", **event: Any) -> None:
        """Show the table."""
        end_sweep()


def _own_folder(config: "DictConfig") -> Path:
    """Lock the folder of a multirun until it ends; where another multirun has it, the configuration gets a new one."""
    from hydra.core.override_parser.types import Quote, QuotedString

    planned = Path(config.hydra.sweep.dir)
    folder = occupy(planned)
    if folder != planned:
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.sweep.dir = str(folder)
            # Hydra composes the configuration of each job anew, from the command line and these overrides.
            text = QuotedString(str(folder), Quote.single).with_quotes()
            config.hydra.overrides.hydra = [*config.hydra.overrides.hydra, f"hydra.sweep.dir={text}"]
    return folder


def register_launchers() -> None:
    """Register cotpress's versions of `hydra/launcher`, after the plugins have registered theirs."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()
    store = ConfigStore.instance()
    store.store(group="hydra/launcher", name="joblib", node=PARALLEL)
    try:
        from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf
    except ImportError:
        return  # `check_launcher` says how to install it
    usual: dict[str, Any] = {"name": "cotpress-${hydra.job.config_name}", "timeout_min": JOB_MINUTES}
    local = LocalQueueConf(_target_="hydra_plugins.cotpress_submitit.LocalLauncher", **usual)
    store.store(group="hydra/launcher", name="submitit_local", node=local)
    # Jobs resume where they were stopped, so a time limit costs only the restart.
    usual["max_num_timeout"] = MAX_TIMEOUTS
    slurm = SlurmQueueConf(_target_="hydra_plugins.cotpress_submitit.SlurmLauncher", **usual)
    store.store(group="hydra/launcher", name="submitit_slurm", node=slurm)


def check_launcher(arguments: Sequence[str]) -> None:
    """Raise a `MissingExtraError` for a launcher that is not installed."""
    for argument in arguments:
        option, _, name = argument.partition("=")
        if option == "hydra/launcher" and name in EXTRAS:
            package, extra = EXTRAS[name]
            if importlib.util.find_spec(f"hydra_plugins.{package}") is None:
                raise MissingExtraError(argument, package, install_extra(extra))


def planned_jobs(config: "DictConfig") -> list[list[str]] | None:
    """The overrides of every job that Hydra's own sweeper will run; None for sweepers that choose jobs as they run."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    sweeper = config.hydra.sweeper
    if not str(sweeper.get("_target_", "")).endswith(f".{BasicSweeper.__name__}"):
        return None
    texts = [f"{key}={value}" for key, value in (sweeper.params or {}).items()] + written(config.hydra.overrides.task)
    overrides = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(texts)
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    return jobs


def written(overrides: Any) -> list[str]:
    """Overrides as they were written, with their references: `name=${model.name}`."""
    texts: Any = OmegaConf.to_container(overrides, resolve=False)
    return [str(text) for text in texts]


def end_sweep(*, show: bool = True) -> "Sweep | None":
    """Stop watching the multirun of this process, show its table, and return it; None if there was no multirun.

    Only the first call for a multirun shows the table.
    """
    release()
    if _watching:
        watch = _watching.pop()
        watch.stop()
        for job in read_sweep(watch.sweep_dir).jobs:  # all have ended: those recorded as running were interrupted
            if job.note is not None and job.note.state is JobState.running:
                write_note(job.folder, replace(job.note, state=JobState.interrupted))
        _ended.append(read_sweep(watch.sweep_dir))
        if show:
            _show(_ended[-1])
    return _ended[-1] if _ended else None


def say(text: str) -> None:
    """Write a line about the running multirun; nothing without one."""
    for watch in _watching:
        watch.say(text)


def forget_sweep() -> None:
    """Remove all traces of a multirun that was refused before its first job: its plan, and the folder made for it."""
    if _watching:
        watch = _watching.pop()
        watch.stop()
        if not any(job.note for job in read_sweep(watch.sweep_dir).jobs):
            (watch.sweep_dir / PLAN_FILE).unlink(missing_ok=True)
            remove(watch.sweep_dir)
    release()


def _show(sweep: "Sweep") -> None:
    if sweep.entry == "fidelity":
        from cotpress.tasks.fidelity import show_jobs

        show_jobs(sweep)
    else:
        from cotpress.report.stage import report_sweep

        report_sweep(sweep)
