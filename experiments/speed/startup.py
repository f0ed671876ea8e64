"""Measures what a user waits for before anything happens, and the whole flow on the tiny model."""

import os
import subprocess
import sys
import time

from cotpress.errors import CotpressError
from experiments.speed.bench import Bench
from experiments.speed.processes import ROOT

HELP, FLOW = "train.py --help", "train.py model=tiny"
TRIES = 5
"""Starts of `--help`; cheap, and the first one reads cold files."""


def startup(bench: Bench) -> None:
    """Seconds of `python train.py --help`, and of `python train.py model=tiny` from nothing."""
    shown = tuple(_seconds(bench, "--help") for _ in range(TRIES))
    bench.add("startup", HELP, "seconds", "s", shown)
    if not bench.settings.quick:
        output = bench.work / "flow"
        flow = _seconds(bench, "model=tiny", "tracker=none", f"output_root={output}", f"hydra.run.dir={output}/log")
        bench.add("startup", FLOW, "seconds", "s", (flow,))


def _seconds(bench: Bench, *arguments: str) -> float:
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    done = subprocess.run(  # noqa: S603
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=bench.work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CotpressError(f"benchmark: train.py {' '.join(arguments)} failed:\n{done.stderr[-1000:]}")
    return time.perf_counter() - started
