"""`make bench`: measure, print the tables, write results.json, figures.csv and table.txt."""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from cotpress.errors import CotpressError
from cotpress.store.artifacts import plain, write_text_atomic
from experiments.speed import parts, scoring
from experiments.speed.bench import Bench
from experiments.speed.figures import figures_csv
from experiments.speed.machine import machine, versions
from experiments.speed.profiling import profile
from experiments.speed.settings import Settings, parse
from experiments.speed.startup import startup
from experiments.speed.table import show, text
from experiments.speed.targets import verdicts

FORMAT = 1
"""Raised when results.json changes its meaning."""
_PLACES = ("traces", "output", "cache")
"""Settings that say where things lie on the machine, nothing about the result."""

PARTS: dict[str, Callable[[Bench], None]] = {
    "scoring": scoring.by_length,
    "sweep": scoring.sweep,
    "readings": scoring.readings,
    "corpus": scoring.corpus,
    "selection": parts.selection,
    "training": parts.training,
    "generation": parts.generation,
    "startup": startup,
    "agreement": parts.agreement,
    "format": parts.number_format,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts that were asked for; a missed target is a result, not an error."""
    settings = parse(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("experiments").setLevel(logging.INFO)
    settings.output.mkdir(parents=True, exist_ok=True)
    bench, started = Bench(settings), time.monotonic()
    facts = {"machine": machine(settings.device, settings.threads), "versions": versions()}
    try:
        for name in settings.groups:
            PARTS[name](bench)
            write(bench, facts, (time.monotonic() - started) / 60)  # after every part: a killed run leaves it
        if settings.profile:
            profile(bench)
    except KeyboardInterrupt:
        write(bench, facts, (time.monotonic() - started) / 60)
        sys.stderr.write(f"\ninterrupted. What was measured until then: {settings.output}\n")
        sys.exit(130)
    except CotpressError as error:
        sys.stderr.write(f"\nerror: {error}\n")
        sys.exit(1)
    finally:
        bench.close()
    show(bench.figures, verdicts(bench.figures, settings.device, settings.groups), bench.skipped)
    sys.stdout.write(f"results: {settings.output}\n")


def write(bench: Bench, facts: dict[str, Any], minutes: float) -> None:
    """Write everything measured so far to the output folder."""
    settings: Settings = bench.settings
    judged = verdicts(bench.figures, settings.device, settings.groups)
    results = {
        "format": FORMAT,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "minutes": round(minutes, 2),
        **facts,
        "dtypes": {"plain": "float32", "best": bench.best_dtype},
        "settings": {k: v for k, v in plain(asdict(settings)).items() if k not in _PLACES},
        "targets": [verdict.row() for verdict in judged],
        "figures": [figure.row() for figure in bench.figures],
        "measurements": bench.measurements,
        "skipped": bench.skipped,
    }
    write_text_atomic(settings.output / "results.json", json.dumps(results, indent=1) + "\n")
    write_text_atomic(settings.output / "figures.csv", figures_csv(bench.figures))
    write_text_atomic(settings.output / "table.txt", text(bench.figures, judged, bench.skipped))


if __name__ == "__main__":
    main()
