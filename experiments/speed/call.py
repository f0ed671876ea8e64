"""Measures one function of `training.py` or `generation.py`, in a process of its own."""

import importlib
from pathlib import Path
from typing import Any

from experiments.speed.texts import read_rows
from experiments.speed.worker import Job, Measurement, serve, use_threads


def prepare(job: Job) -> Any:
    """One repetition is one call of `function(checkpoint, rows, settings)`, which times itself."""
    use_threads(job)
    function = getattr(importlib.import_module(job["module"]), job["function"])
    rows = read_rows(Path(job["traces"]))

    def repeat() -> Measurement:
        found = function(Path(job["checkpoint"]), rows, job["settings"])
        facts = {k: v for k, v in found.items() if k not in ("seconds", "tokens", "peak_rss_bytes")}
        return Measurement(
            seconds=found["seconds"], tokens=int(found["tokens"]), peak_bytes=found.get("peak_rss_bytes"), facts=facts
        )

    return repeat


if __name__ == "__main__":
    serve(prepare)
