"""The tasks of the entry scripts, one module of the same name for each, and what they share.

Importing a task imports torch, which takes seconds. The command line only needs the table below, whose functions import
their task when a job runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cotpress.config import EvaluateConfig

Result = tuple[float | None, Path | None]
"""The metric that a sweeper optimises, and the directory with the results."""
Run = Callable[[Any, Path], Result]
"""Does the work of one job, given the checked configuration and the job's log folder."""


def _needs_nothing(config: Any) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsJob:
    """`evaluate.py runs=DIR`: its configuration, and the keys that the command line gives, which replace the runs'."""

    config: "EvaluateConfig"
    given: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The work of one entry script.

    Attributes:
        name: Primary configuration, e.g. `train`.
        load: Imports the function that does the work. It can be pickled.
        preload: Module with the imports of that function, which the server of a sweep's jobs loads once.
        check: Raises an error for a configuration that lacks something, before the work begins. It can be pickled.
    """

    name: str
    load: Callable[[], Run]
    preload: str
    check: Callable[[Any], None] = _needs_nothing


def _check(config: Any) -> None:
    from cotpress.tasks.checks import check

    check(config)


def _train() -> Run:
    from cotpress.tasks.train import train

    return train


def _compress() -> Run:
    from cotpress.tasks.compress import compress

    return compress


def _evaluate() -> Run:
    from cotpress.tasks.evaluate import evaluate

    return evaluate


def _evaluate_runs() -> Run:
    from cotpress.tasks.evaluate_runs import evaluate_runs

    return evaluate_runs


def _check_runs(job: Any) -> None:
    from cotpress.tasks.evaluate_runs import check_runs

    check_runs(job)


def _fidelity() -> Run:
    from cotpress.tasks.fidelity import fidelity

    return fidelity


def _report() -> Run:
    from cotpress.tasks.report import report

    return report


def _plan() -> Run:
    from cotpress.tasks.plan import plan

    return plan


TRAIN = Task(name="train", load=_train, preload="cotpress.tasks.train", check=_check)
COMPRESS = Task(name="compress", load=_compress, preload="cotpress.tasks.compress", check=_check)
EVALUATE = Task(name="evaluate", load=_evaluate, preload="cotpress.tasks.evaluate", check=_check)
FIDELITY = Task(name="fidelity", load=_fidelity, preload="cotpress.tasks.fidelity", check=_check)
REPORT = Task(name="report", load=_report, preload="cotpress.tasks.report")
PLAN = Task(name="train", load=_plan, preload="cotpress.tasks.plan", check=_check)
"""The task of `train.py plan=true`."""
RUNS = Task(name="evaluate", load=_evaluate_runs, preload="cotpress.tasks.evaluate_runs", check=_check_runs)
"""The task of `evaluate.py runs=DIR`."""
BENCHMARK_OF_RUNS = "benchmark=of_runs"
"""The choice that the command line makes where it gives only keys of the runs' benchmark; no setting of the user."""
PLAN_FIX = (
    "Fix: leave out -m and sweep, and give the settings of one job, e.g. "
    "experiment=cts_long_cot model=qwen7b data.path=FILE plan=true"
)
"""End of the messages that refuse to plan several jobs."""
RUNS_ALONE = (
    "runs: got a folder in a multirun. Fix: leave out -m; one command asks all runs of a folder, once for each "
    "benchmark=NAME"
)
"""The message that refuses `evaluate.py runs=DIR` in a multirun."""
