"""The tasks of the entry scripts, one module of the same name for each, and what they share.

Importing a task imports torch, which takes seconds. The command line only needs the table below, whose functions import
their task when a job runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Result = tuple[float | None, Path | None]
"""The metric that a sweeper optimises, and the directory with the results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The work of one entry script.

    Attributes:
        name: Primary configuration, e.g. `train`.
        run: Does the work of one job; gets the checked configuration and the job's log folder. It can be pickled.
        preload: Module with the imports of `run`, which the server of a sweep's jobs loads once.
    """

    name: str
    run: Callable[[Any, Path], Result]
    preload: str


def _train(config: Any, folder: Path) -> Result:
    from cotpress.tasks.train import train

    return train(config, folder)


def _compress(config: Any, folder: Path) -> Result:
    from cotpress.tasks.compress import compress

    return compress(config, folder)


def _evaluate(config: Any, folder: Path) -> Result:
    from cotpress.tasks.evaluate import evaluate

    return evaluate(config, folder)


def _fidelity(config: Any, folder: Path) -> Result:
    from cotpress.tasks.fidelity import fidelity

    return fidelity(config, folder)


def _report(config: Any, folder: Path) -> Result:
    from cotpress.tasks.report import report

    return report(config, folder)


def _plan(config: Any, folder: Path) -> Result:
    from cotpress.tasks.plan import plan

    return plan(config, folder)


TRAIN = Task(name="train", run=_train, preload="cotpress.tasks.train")
COMPRESS = Task(name="compress", run=_compress, preload="cotpress.tasks.compress")
EVALUATE = Task(name="evaluate", run=_evaluate, preload="cotpress.tasks.evaluate")
FIDELITY = Task(name="fidelity", run=_fidelity, preload="cotpress.tasks.fidelity")
REPORT = Task(name="report", run=_report, preload="cotpress.tasks.report")
PLAN = Task(name="train", run=_plan, preload="cotpress.tasks.plan")
"""The task of `train.py plan=true`."""
