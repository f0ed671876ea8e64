"""The table of one multirun: each job left a note that says where its run directory is, or why there is none."""

import json
import logging
import sys
from pathlib import Path

from cotpress.report.collect import Collection, Run, Unfinished, compare
from cotpress.report.results import read_results
from cotpress.report.stage import write_collection
from cotpress.report.table import show

log = logging.getLogger(__name__)


def report_jobs(sweep_dir: Path, note_name: str) -> Collection:
    """Write tables, plot and page over the jobs of a sweep into its folder and show the table.

    Args:
        sweep_dir: Folder with one folder per job.
        note_name: File in each of them with the keys `overrides`, `run_dir` and `error`.
    """
    runs: dict[Path, Run] = {}
    unfinished: list[Unfinished] = []
    for path in sorted(sweep_dir.glob(f"*/{note_name}"), key=lambda p: (len(p.parent.name), p.parent.name)):
        note = json.loads(path.read_text(encoding="utf-8"))
        if note["error"] is None:
            run_dir = Path(note["run_dir"])
            runs[run_dir] = Run(path=run_dir, results=read_results(run_dir))
        else:
            reason = f"{' '.join(note['overrides'])} failed: {note['error']}"
            unfinished.append(Unfinished(path=path.parent, reason=reason))
    found = Collection(folder=sweep_dir, runs=tuple(runs.values()), unfinished=tuple(unfinished))
    write_collection(found, sweep_dir)
    for comparison in compare(found.runs):
        show(comparison.rows, comparison.title, confidence=comparison.confidence, published=comparison.published)
    sys.stdout.write(f"sweep: {len(found.runs)} jobs finished, {len(unfinished)} failed: {sweep_dir / 'report.html'}\n")
    return found
