"""What is said at the end of a command: the table of a run or of a whole sweep, and what is missing in it."""

import sys
import textwrap
from collections import Counter
from pathlib import Path

from cotpress.errors import ArtifactError
from cotpress.report.collect import WITH_RUNS, Collection, Run, collect_sweep
from cotpress.report.columns import percent_interval
from cotpress.report.comparison import compare
from cotpress.report.results import read_results
from cotpress.report.stage import write_collection
from cotpress.report.table import show
from cotpress.store.sweeps import JobNote, JobState, Sweep

REASON_WIDTH = 160
"""Characters of the reason why a run has no results; all of it is in the page and in the job's log."""


def show_run(run_dir: Path) -> None:
    """Show the table of one finished run and where it lies.

    Raises:
        ArtifactError: The run has no usable results.
    """
    results = read_results(run_dir)
    (comparison,) = compare([Run(path=run_dir, results=results)])
    title = f"{comparison.title}, seed {results.seed}"
    show(comparison.rows, title, confidence=results.confidence, published=comparison.published)
    sys.stdout.write(f"run directory: {run_dir}\n")


def show_collection(found: Collection, output: Path) -> None:
    """Show the tables of all runs, then what is not in them and why, then where the report lies."""
    for comparison in compare(found.runs):
        show(comparison.rows, comparison.title, confidence=comparison.confidence, published=comparison.published)
    if found.unfinished:
        sys.stdout.write(f"not in the table: {len(found.unfinished)}\n")
        for missing in found.unfinished:
            reason = textwrap.shorten(missing.reason, REASON_WIDTH, placeholder=" …")
            sys.stdout.write(f"  {reason} ({missing.path})\n")
        sys.stdout.write("\n")
    sys.stdout.write(f"report: {output / 'report.html'}\n")


def report_sweep(sweep: Sweep) -> None:
    """Show the table over the jobs of a sweep and what is missing in it; the same and a plot go into its folder.

    Jobs that evaluate nothing have no table: where each has put its files is shown instead.
    """
    if sweep.entry in WITH_RUNS:
        found = collect_sweep(sweep)
        write_collection(found, sweep.folder)
        show_collection(found, sweep.folder)
    else:
        notes = (job.note for job in sweep.jobs if job.note is not None and job.note.succeeded)
        for output in dict.fromkeys(note.run_dir for note in notes if note.run_dir is not None):  # shards share one
            sys.stdout.write(f"output: {output}\n")
    sys.stdout.write(f"sweep: {summary(sweep)}\n")


def summary(sweep: Sweep) -> str:
    """`7 jobs finished, 1 failed, 1 interrupted, 2 not run yet`."""
    states = Counter(None if job.note is None else job.note.state for job in sweep.jobs)
    finished, failed = states[JobState.finished] + states[JobState.found], states[JobState.failed]
    stopped, waiting = states[JobState.interrupted] + states[JobState.running], states[None]
    more = [f"{n} {what}" for n, what in ((stopped, "interrupted"), (waiting, "not run yet")) if n]
    return ", ".join([f"{finished} jobs finished", f"{failed} failed", *more])


def outcome(note: JobNote) -> str:
    """What a finished job gave: accuracy and generated tokens of its last system, else its metric."""
    try:
        row = None if note.run_dir is None else read_results(note.run_dir).rows[-1]
    except (ArtifactError, IndexError):  # the output of a command that evaluates nothing
        row = None
    if row is not None:
        return f"accuracy {percent_interval(row.accuracy)} %, {row.mean_tokens.value:.1f} tokens"
    return "done" if note.metric is None else f"{note.metric:.3f}"
