"""Tables, figures and page of finished runs, made from the disk alone, so that unfinished sweeps have a report too.

The same tables are shown at the end of a command, with the runs that are missing in them.
"""

import json
import logging
import shlex
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cotpress.errors import ArtifactError
from cotpress.invocation import as_typed
from cotpress.records import CONFIG_FILE, RESULTS_FILE
from cotpress.report import page as pages
from cotpress.report.advice import advice, is_less_accurate, runs_beside
from cotpress.report.comparison import MARGIN, Comparison, answers_of, compare
from cotpress.report.differences import over_seeds, verdict_lines
from cotpress.report.results import WITH_RUNS, Collection, Run, Sources, collect, collect_sweep, read_results
from cotpress.report.students import student_lines, until_lines, without_answered
from cotpress.report.table import percent_interval, show
from cotpress.report.token_kinds import TokenKind
from cotpress.report.tokens import DEFAULT_TRACES, Deletions, by_kind, by_label, deletion_picture, encoded, viewed
from cotpress.report.work import curves, loss_picture, time_picture, work
from cotpress.store.artifacts import write_text_atomic
from cotpress.store.paths import safe_name
from cotpress.store.redaction import print_lines
from cotpress.store.sweeps import JobNote, JobState, Sweep
from cotpress.terminal import text_width, wrapped

log = logging.getLogger(__name__)

REPORT_FILE = "report.html"
RUN_TRACES = 50
"""Maximum number of traces in the token viewer of one run's page, of which a sweep writes many."""


def report_run(run_dir: Path) -> Path:
    """Write `report.html` of one finished run into its directory and return its path.

    Raises:
        ArtifactError: The run has no usable results.
    """
    results = read_results(run_dir)
    texts = [("This run's settings", json.dumps(dict(results.essentials), indent=1, ensure_ascii=False))]
    config = run_dir / CONFIG_FILE
    if config.exists():
        texts.append(("Whole configuration", config.read_text(encoding="utf-8")))
    note = f"{results.model} on {results.benchmark}, seed {results.seed}"
    page = _page(results.name, note, [Run(path=run_dir, results=results)], RUN_TRACES, texts=texts)
    path = run_dir / REPORT_FILE
    write_text_atomic(path, pages.render(page))
    return path


def report_collection(
    folder: Path,
    output: Path | None = None,
    *,
    viewer_traces: int = DEFAULT_TRACES,
    margin: float = MARGIN,
    further: Sequence[Path] = (),
) -> Collection:
    """Write tables, figures and `report.html` over all runs at or below a folder or in `further`, and return the runs.

    Into `output` (default: the folder itself): `report.html`, per student and benchmark `results-NAME.csv`,
    `results-NAME.md`, `differences-NAME.csv` and `.md` (paired, where two systems have the same ratio),
    `seeds-NAME.csv` and `.md` (each system over its seeds, where there are several), and the page's figures as PNG and
    SVG: `plot-NAME` (accuracy against tokens), `ratios-NAME`; without NAME if there is only one; `losses`, `time` and
    `deletions` over all runs.

    Raises:
        DataError: There is no run directory.
    """
    collection = without_answered(collect(folder, further))
    _write_collection(collection, output or folder, viewer_traces, margin)
    return collection


def _write_collection(
    collection: Collection, output: Path, viewer_traces: int = DEFAULT_TRACES, margin: float = MARGIN
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    finished = f"{len(collection.runs)} finished run{'' if len(collection.runs) == 1 else 's'}"
    note = f"{finished}, {len(collection.unfinished)} without results"
    unfinished = pages.unfinished_table(collection.unfinished)
    page = _page("Results", note, collection.runs, viewer_traces, output, margin, unfinished=unfinished)
    write_text_atomic(output / REPORT_FILE, pages.render(page))
    log.info("report: %s, written to '%s'", note, output)


def _page(
    title: str,
    note: str,
    runs: Sequence[Run],
    viewer_traces: int,
    output: Path | None = None,
    margin: float = MARGIN,
    **more: Any,
) -> pages.Page:
    """Return the page of some runs, and write its tables and figures into a folder if there is one."""
    sources, comparisons = Sources(), compare(runs, margin)
    sections = [pages.section(c, suffix) for c, suffix in zip(comparisons, _suffixes(comparisons), strict=True)]
    artifacts = work(runs, sources)
    tokens, missing = viewed(runs, sources, viewer_traces)
    percent = _first_percent(runs)
    deletions: list[Deletions] = []
    for data in tokens:
        place = f", {data.label}" if len(tokens) > 1 else ""
        deletions += filter(None, [by_kind(data, place), by_label(data, place)])
    viewer = {
        "percent": percent,
        "kinds": [kind.label for kind in TokenKind],
        "data": [encoded(data) for data in tokens],
        "deletions": [{"totals": d.totals.tolist(), "deleted": d.deleted.tolist()} for d in deletions],
    }
    pictures = list(filter(None, [loss_picture(curves(runs, sources)), time_picture(artifacts)]))
    deleted = deletion_picture(deletions[:2], percent)
    page = pages.Page(
        title=title, note=note, with_files=output is not None, sections=sections, pictures=pictures,
        work=pages.work_table(artifacts), viewer=viewer if tokens else None, missing=missing,
        deletion_picture=deleted, deletions=deletions, **more,
    )  # fmt: skip
    if output is not None:
        for section in sections:
            for name, text in section.files.items():
                write_text_atomic(output / name, text)
        for picture in (*(p for section in sections for p in section.pictures), *pictures, deleted):
            if picture is not None:
                picture.save(output)
    return page


def _first_percent(runs: Sequence[Run]) -> int:
    """Return the most frequent ratio below 1 in percent, of equally frequent ones that nearest to 50; 30 to 100."""
    ratios = [row.target_ratio for run in runs for row in run.results.rows]
    requested = Counter(round(100 * ratio) for ratio in ratios if ratio < 1)
    usual = min(requested, key=lambda percent: (-requested[percent], abs(percent - 50), percent), default=50)
    return min(max(usual, 30), 100)


def _suffixes(comparisons: Sequence[Comparison]) -> list[str]:
    """Return an end for the file names of each comparison; empty for a single one."""
    if len(comparisons) == 1:
        return [""]
    parts = [(c.model, c.benchmark, *([] if c.confidence == 0.95 else [f"{c.confidence:g}"])) for c in comparisons]
    joined = Counter(map("-".join, parts))
    # `a-b` on `c` and `a` on `b-c` join to the same name; a sign that no name has is replaced, which adds a hash.
    names = (("\0" if joined["-".join(part)] > 1 else "-").join(part) for part in parts)
    return [f"-{safe_name(name, replacement='_')}" for name in names]


REASON_WIDTH = 160
"""Longest shown reason for a run without results; page and job log have it in full."""


def show_run(run_dir: Path) -> None:
    """Show the table of one finished run and its directory.

    Raises:
        ArtifactError: The run has no usable results.
    """
    results = read_results(run_dir)
    (comparison,) = compare([Run(path=run_dir, results=results)])
    further = advice(comparison, runs_beside(run_dir)) if any(map(is_less_accurate, comparison.rows)) else []
    show(comparison, f"{comparison.title}, seed {results.seed}", further)
    print_lines(*student_lines(run_dir), f"run directory: {run_dir}")


def show_ended(run_dir: Path, until: str) -> None:
    """Show the outcome of a run that ended after a stage, and the commands that go on."""
    made = until_lines(run_dir, until)
    students = [] if made else student_lines(run_dir)
    print_lines(*_ended(made, students, run_dir), f"run directory: {run_dir}")


def _ended(made: Sequence[str], students: Sequence[str], folder: Path) -> list[str]:
    """Lines about runs that ended after a stage; `folder` is the place that holds them all."""
    command = f"{as_typed('evaluate')} runs={shlex.quote(str(folder))}"
    asked = [f"their answers and the table: {command}"] if students else []
    return [*made, *students, *asked, "go on: the same command without until"]


def show_collection(collection: Collection, output: Path, margin: float = MARGIN) -> None:
    """Show the tables of all runs, the verdicts over several seeds, the runs without results with their reasons, and
    the path of the report."""
    width = text_width()
    for comparison in compare(collection.runs, margin):
        show(comparison, comparison.title, advice(comparison))
        print_lines(*verdict_lines(over_seeds(comparison, answers_of(comparison)), comparison, width))
    if collection.unfinished:
        print_lines(f"not in the table: {len(collection.unfinished)}")
        for missing in collection.unfinished:
            reason = textwrap.shorten(missing.reason, REASON_WIDTH, placeholder=" …")
            print_lines(*wrapped(f"{reason} ({missing.path})", width, "  "))
        print_lines("")
    print_lines(f"report: {output / 'report.html'}")


def report_sweep(sweep: Sweep) -> None:
    """Write table, plot and page over the jobs of a sweep into its folder, and show the table.

    For jobs that evaluate nothing, the folders of their output are shown instead.
    """
    if sweep.entry in WITH_RUNS and (ended := _ended_early(sweep)):
        lines = [[line for run_dir in ended for line in of(run_dir)] for of in (until_lines, student_lines)]
        made, students = (list(dict.fromkeys(line)) for line in lines)
        print_lines(*_ended(made, students, sweep.folder))
    elif sweep.entry in WITH_RUNS:
        collection = collect_sweep(sweep)
        _write_collection(collection, sweep.folder)
        show_collection(collection, sweep.folder)
    else:
        notes = (job.note for job in sweep.jobs if job.note is not None and job.note.succeeded)
        for output in dict.fromkeys(note.run_dir for note in notes if note.run_dir is not None):  # shards share one
            print_lines(f"output: {output}")
    print_lines(f"sweep: {summary(sweep)}")


def _ended_early(sweep: Sweep) -> list[Path]:
    """Run directories of the jobs that have succeeded, if none of them has results, as with `until`."""
    notes = [job.note for job in sweep.jobs if job.note is not None and job.note.succeeded]
    ended = [note.run_dir for note in notes if note.run_dir is not None]
    return [] if any((run_dir / RESULTS_FILE).exists() for run_dir in ended) else ended


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
