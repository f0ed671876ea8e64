"""Hydra's submitit launchers for cotpress: a job that dies does not stop the others.

The plugin's own launchers stop waiting at the first job without a result, for example one that the scheduler killed,
and leave the others running unobserved. These wait for all jobs, write the reason of a missing result into the job's
folder, and cancel unfinished jobs on Ctrl-C. Hydra finds plugins in this namespace; without the extra `slurm` this
module defines nothing.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

with suppress(ImportError):
    from hydra.core.singleton import Singleton
    from hydra.core.utils import JobReturn, JobStatus
    from hydra_plugins.hydra_submitit_launcher import submitit_launcher as plugin
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from omegaconf import OmegaConf

    _ELSEWHERE = (
        "start it on a machine of the cluster that submits jobs, or hydra/launcher=joblib for jobs on this machine"
    )
    _NO_CLUSTER = ("configuration source", "Unable to contact slurm controller", "Unable to contact SLURM controller")
    """Texts of sbatch on a machine that belongs to no cluster, or whose cluster is down."""

    class _Waiting(plugin.BaseSubmititLauncher):  # type: ignore[misc]
        """Submits jobs as the plugin does, and waits for each of them."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            """Submit the jobs and wait for all, see `_result`; cancel them on Ctrl-C."""
            from cotpress.jobs.queue import watched_queue

            sweep_dir = Path(self.config.hydra.sweep.dir)
            sweep_dir.mkdir(parents=True, exist_ok=True)
            numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
            calls = [  # arguments of `BaseSubmititLauncher.__call__`, which runs in the job
                (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
                for number, overrides in zip(numbers, job_overrides, strict=True)
            ]
            jobs = self._submitted(calls)
            try:
                with watched_queue([job.job_id for job in jobs] if self._EXECUTOR == "slurm" else []):
                    return [
                        _result(job, sweep_dir / str(number), overrides)
                        for job, number, overrides in zip(jobs, numbers, job_overrides, strict=True)
                    ]
            except KeyboardInterrupt:
                for job in jobs:
                    job.cancel(check=False)
                raise

        def _submitted(self, calls: Sequence[Any]) -> Any:
            """Submit the jobs.

            Raises:
                ConfigError: The time limit is no time.
                CotpressError: The scheduler is missing or refuses them, with its text, which submitit would also print.
            """
            from submitit.core.utils import FailedJobError, FailedSubmissionError

            from cotpress.errors import ConfigError, CotpressError

            minutes = self.params["timeout_min"]
            if minutes < 1:
                raise ConfigError(f"hydra.launcher.timeout_min: got {minutes}, allowed: a whole number of at least 1")
            printed = io.StringIO()
            try:
                with redirect_stderr(printed):
                    return self._executor().map_array(self, *zip(*calls, strict=True))
            except (FailedJobError, FailedSubmissionError) as error:
                told = str(error).strip() or str(getattr(error.__cause__, "stdout", "") or "").strip() or "no reason"
                fix = "the settings hydra.launcher.KEY=VALUE that it names, such as partition, account or qos"
                if any(text in told for text in _NO_CLUSTER):
                    fix = _ELSEWHERE
                raise CotpressError(
                    f"sbatch refuses the jobs of this multirun: {' '.join(told.split())}. Nothing was submitted. Fix: "
                    f"{fix}"
                ) from error
            except (FileNotFoundError, RuntimeError) as error:
                missing = next((program for program in ("sbatch", "srun") if program in str(error)), None)
                if missing is None:
                    raise
                raise CotpressError(
                    f"hydra/launcher=submitit_slurm: the program '{missing}' is not found. Fix: {_ELSEWHERE}"
                ) from error

        def _executor(self) -> Any:
            """The executor of submitit with the settings of `hydra.launcher`."""
            import submitit

            shared = set(OmegaConf.structured(BaseQueueConf).keys())  # other settings are those of one kind of executor
            settings = {k if k in shared else f"{self._EXECUTOR}_{k}": v for k, v in self.params.items()}
            folder, at_start = settings.pop("submitit_folder"), f"{self._EXECUTOR}_max_num_timeout"
            first = {at_start: settings.pop(at_start)} if at_start in settings else {}
            executor = submitit.AutoExecutor(folder=folder, cluster=self._EXECUTOR, **first)
            executor.update_parameters(**settings)
            return executor

    class LocalLauncher(_Waiting):
        """Runs jobs as processes of this machine."""

        _EXECUTOR = "local"

    class SlurmLauncher(_Waiting):
        """Runs jobs on a SLURM cluster, as one array."""

        _EXECUTOR = "slurm"

    def _result(job: Any, folder: Path, overrides: Sequence[str]) -> JobReturn:
        """Wait for a job and return its result; NaN for one that died, whose note then gives the reason."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        from cotpress.store.sweeps import JobNote, JobState, read_note, write_note

        try:
            result: JobReturn = job.results()[0]
            return result
        except (FailedJobError, UncompletedJobError):
            note = read_note(folder) or JobNote(overrides=tuple(overrides), state=JobState.running)
            if note.state is JobState.running:
                error = f"the job ended without a result (state {job.state}); what it wrote: {job.paths.stderr}"
                write_note(folder, replace(note, state=JobState.failed, error=error))
            return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=math.nan)
