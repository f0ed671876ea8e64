"""Measures one function of `training.py` or `generation.py`, in a process of its own."""

import importlib
from pathlib import Path
from typing import Any

from experiments.speed.worker import Job, Measurement, serve, use_threads


def prepare(job: Job) -> Any:
    """One repetition is one call of `function(checkpoint, **arguments)`, which loads, warms up and times itself."""
    use_threads(job)
    module = importlib.import_module(job["module"])
    arguments = dict(job["arguments"])
    if "settings" in arguments:
        arguments["settings"] = module.Settings(**arguments["settings"])

    def repeat() -> Measurement:
        result = getattr(module, job["function"])(Path(job["checkpoint"]), **arguments)
        facts = {k: v for k, v in result.items() if k not in ("seconds", "tokens")}
        return Measurement(seconds=result["seconds"], tokens=int(result["tokens"]), facts=facts)

    return repeat


if __name__ == "__main__":
    serve(prepare)
