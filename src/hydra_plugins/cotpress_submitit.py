"""Hydra's submitit launchers as cotpress uses them: a job that dies takes no other with it.

The plugin's own launchers stop waiting at the first job without a result, killed by the scheduler for example, and
leave the others running unseen. These wait for all of them, note in the job's folder why there is no result, and cancel
what is left on Ctrl-C. Hydra finds them here because plugins have to live in this namespace; without the extra `slurm`
there is nothing to find.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

with suppress(ImportError):
    from hydra.core.utils import JobReturn, JobStatus
    from hydra_plugins.hydra_submitit_launcher import submitit_launcher as plugin

    class _Waiting(plugin.BaseSubmititLauncher):  # type: ignore[misc]
        """Waits for every job, whatever becomes of the others."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            """What the jobs returned; NaN for those that died, whose note then says how."""
            import submitit

            submit: Callable[..., list[Any]] = submitit.AutoExecutor.map_array
            sweep_dir = Path(self.config.hydra.sweep.dir)
            jobs: list[Any] = []

            def map_array(executor: Any, function: Any, *arguments: Any) -> list[_Waited]:
                jobs.extend(submit(executor, function, *arguments))
                folders = [sweep_dir / str(initial_job_idx + i) for i in range(len(jobs))]
                return [_Waited(*one) for one in zip(jobs, folders, job_overrides, strict=True)]

            # The plugin submits and waits in one function: what it gets to wait for is exchanged.
            try:
                with mock.patch.object(submitit.AutoExecutor, "map_array", map_array):
                    returned: Sequence[JobReturn] = super().launch(job_overrides, initial_job_idx)
            except KeyboardInterrupt:
                for job in jobs:
                    job.cancel(check=False)
                raise
            return returned

    class LocalLauncher(_Waiting):
        """Jobs as processes of this machine."""

        _EXECUTOR = "local"

    class SlurmLauncher(_Waiting):
        """Jobs of a SLURM cluster, as one array."""

        _EXECUTOR = "slurm"

    class _Waited:
        """A submitted job whose result is NaN if it has none."""

        def __init__(self, job: Any, folder: Path, overrides: Sequence[str]) -> None:
            self._job, self._folder, self._overrides = job, folder, tuple(overrides)

        def results(self) -> list[JobReturn]:
            """Waits for it."""
            from submitit.core.utils import FailedJobError, UncompletedJobError

            try:
                results: list[JobReturn] = self._job.results()
                return results
            except (FailedJobError, UncompletedJobError):
                self._note()
                return [JobReturn(overrides=self._overrides, status=JobStatus.COMPLETED, _return_value=math.nan)]

        def _note(self) -> None:
            from cotpress.store.sweeps import JobNote, JobState, read_note, write_note

            note = read_note(self._folder) or JobNote(overrides=self._overrides, state=JobState.running)
            if note.state is JobState.running:
                log = self._job.paths.stderr
                error = f"the job ended without a result (state {self._job.state}); what it wrote: {log}"
                write_note(self._folder, replace(note, state=JobState.failed, error=error))
