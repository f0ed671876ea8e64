"""Output at the end of a command: the table of a run or sweep, and the runs that are missing in it."""

import sys
import textwrap
from collections import Counter
from pathlib import Path

from cotpress.errors import ArtifactError
from cotpress.report.collect import WITH_RUNS, Collection, Run, collect_sweep
from cotpress.report.comparison import compare
from cotpress.report.results import read_results
from cotpress.report.stage import write_collection
from cotpress.report.table import percent_interval, show
from cotpress.store.sweeps import JobNote, JobState, Sweep

REASON_WIDTH = 160
"""Longest shown reason for a run without results; page and job log have it in full."""


def show_run(run_dir: Path) -> None:
    """Show the table of one finished run and its directory.

    Raises:
        ArtifactError: The run has no usable results.
    """
    results = read_results(run_dir)
    (comparison,) = compare([Run(path=run_dir, results=results)])
    title = f"{comparison.title}, seed {results.seed}"
    show(comparison.rows, title, confidence=results.confidence, published=comparison.published)
    sys.stdout.write(f"run directory: {run_dir}\n")


def show_collection(collection: Collection, output: Path) -> None:
    """Show the tables of all runs, the runs without results with their reasons, and the path of the report."""
    for comparison in compare(collection.runs):
        show(comparison.rows, comparison.title, confidence=comparison.confidence, published=comparison.published)
    if collection.unfinished:
        sys.stdout.write(f"not in the table: {len(collection.unfinished)}\n")
        for missing in collection.unfinished:
            reason = textwrap.shorten(missing.reason, REASON_WIDTH, placeholder=" …")
            sys.stdout.write(f"  {reason} ({missing.path})\n")
        sys.stdout.write("\n")
    sys.stdout.write(f"report: {output / 'report.html'}\n")


def report_sweep(sweep: Sweep) -> None:
    """Write table, plot and page over the jobs of a sweep into its folder, and show the table.

    For jobs that evaluate nothing, the folders of their output are shown instead.
    """
    if sweep.entry in WITH_RUNS:
        collection = collect_sweep(sweep)
        write_collection(collection, sweep.folder)
        show_collection(collection, sweep.folder)
    else:
        notes = (job.note for job in sweep.jobs if job.note is not None and job.note.succeeded)
        for output in dict.fromkeys(note.run_dir for note in notes if note.run_dir is not None):  # shards share one
            sys.stdout.write(f"output: {output}\n")
    sys.stdout.write(f"sweep: {summary(sweep)}\n")


def summary(sweep: Sweep) -> str:
    """Return `7 jobs finished, 1 failed, 1 interrupted, 2 not run yet`."""
    states = Counter(None if job.note is None else job.note.state for job in sweep.jobs)
    finished, failed = states[JobState.finished] + states[JobState.found], states[JobState.failed]
    stopped, waiting = states[JobState.interrupted] + states[JobState.running], states[None]
    more = [f"{n} {state}" for n, state in ((stopped, "interrupted"), (waiting, "not run yet")) if n]
    return ", ".join([f"{finished} jobs finished", f"{failed} failed", *more])


def outcome(note: JobNote) -> str:
    """Return accuracy and generated tokens of the last system of a finished job, else its metric."""
    try:
        row = None if note.run_dir is None else read_results(note.run_dir).rows[-1]
    except (ArtifactError, IndexError):  # the output of a command that evaluates nothing
        row = None
    if row is not None:
        return f"accuracy {percent_interval(row.accuracy)} %, {row.mean_tokens.value:.1f} tokens"
    return "done" if note.metric is None else f"{note.metric:.3f}"
