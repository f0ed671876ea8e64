"""Profile of the time of cotpress, for missed targets."""

import logging

from experiments.speed.bench import Bench
from experiments.speed.processes import System, alternate
from experiments.speed.scoring import OURS
from experiments.speed.settings import RATIOS

log = logging.getLogger(__name__)


def profile(bench: Bench) -> None:
    """Write the torch profiler's table of scoring and selecting one trace of each length, best settings."""
    for length in bench.settings.lengths:
        job = bench.job(bench.texts.rows(1, length), ratios=list(RATIOS[-1:]))
        system = bench.ours(job, best=True)
        table = bench.settings.output / f"profile-{length}.txt"
        profiled = System(module=system.module, job={**system.job, "profile": str(table)})
        alternate({OURS: profiled}, 1, bench.settings.output / "logs" / "profile")
        log.info("profile of %d tokens: %s", length, table)
