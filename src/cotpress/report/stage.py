"""Tables, figures and page of finished runs, made from the disk alone, so that unfinished sweeps have a report too.

The same tables are shown at the end of a command, with the runs that are missing in them.
"""

import json
import logging
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cotpress.errors import ArtifactError
from cotpress.records import CONFIG_FILE
from cotpress.report import page as pages
from cotpress.report.comparison import Comparison, answers_of, compare
from cotpress.report.differences import (
    Difference,
    SeedsRow,
    compared,
    differences_csv,
    differences_grid,
    differences_note,
    over_seeds,
    seeds_csv,
    seeds_grid,
    seeds_note,
)
from cotpress.report.figure import Drawing, Picture, accuracy_picture, ratio_picture
from cotpress.report.results import WITH_RUNS, Collection, Run, Sources, collect, collect_sweep, read_results
from cotpress.report.table import csv_table, markdown_table, percent_interval, show
from cotpress.report.token_kinds import TokenKind
from cotpress.report.tokens import (
    DEFAULT_TRACES,
    Deletions,
    Viewed,
    by_kind,
    by_label,
    deletion_picture,
    encoded,
    readable,
)
from cotpress.report.work import curves, loss_picture, time_picture, work
from cotpress.store.artifacts import write_text_atomic
from cotpress.store.sweeps import JobNote, JobState, Sweep

log = logging.getLogger(__name__)

REPORT_FILE = "report.html"
RUN_TRACES = 50
"""Maximum number of traces in the token viewer of one run's page, of which a sweep writes many."""


def report_run(run_dir: Path, *, viewer_traces: int = RUN_TRACES) -> Path:
    """Write `report.html` of one finished run into its directory and return its path.

    Raises:
        ArtifactError: The run has no usable results.
    """
    results = read_results(run_dir)
    run = Run(path=run_dir, results=results)
    (comparison,) = compare([run])
    texts = [("This run's settings", json.dumps(dict(results.essentials), indent=1, ensure_ascii=False))]
    config = run_dir / CONFIG_FILE
    if config.exists():
        texts.append(("Whole configuration", config.read_text(encoding="utf-8")))
    note = f"{comparison.title}, seed {results.seed}"
    page = _page(results.name, note, [run], viewer_traces, None, texts=tuple(texts))
    path = run_dir / REPORT_FILE
    write_text_atomic(path, pages.render(page))
    return path


def report_collection(folder: Path, output: Path | None = None, *, viewer_traces: int = DEFAULT_TRACES) -> Collection:
    """Write tables, figures and `report.html` over all runs at or below a folder, and return the runs.

    Into `output` (default: the folder itself): `report.html`, per student and benchmark `results-NAME.csv`,
    `results-NAME.md`, `differences-NAME.csv` and `.md` (paired, where two systems have the same ratio),
    `seeds-NAME.csv` and `.md` (each system over its seeds, where there are several), and the page's figures as PNG and
    SVG: `plot-NAME` (accuracy against tokens), `ratios-NAME`; without NAME if there is only one; `losses`, `time` and
    `deletions` over all runs.

    Raises:
        DataError: There is no run directory.
    """
    collection = collect(folder)
    write_collection(collection, output or folder, viewer_traces=viewer_traces)
    return collection


def write_collection(collection: Collection, output: Path, *, viewer_traces: int = DEFAULT_TRACES) -> None:
    """Write tables, figures and page of some runs; see `report_collection` for the files."""
    output.mkdir(parents=True, exist_ok=True)
    finished = f"{len(collection.runs)} finished run{'' if len(collection.runs) == 1 else 's'}"
    note = f"{finished}, {len(collection.unfinished)} without results"
    unfinished = pages.unfinished_table(collection.unfinished)
    page = _page("Results", note, collection.runs, viewer_traces, output, unfinished=unfinished)
    write_text_atomic(output / REPORT_FILE, pages.render(page))
    log.info("report: %s, written to '%s'", note, output)


def _page(
    title: str, note: str, runs: Sequence[Run], viewer_traces: int, output: Path | None, **more: Any
) -> pages.Page:
    """Return the page of some runs, and write its tables and figures into a folder if there is one."""
    sources, comparisons, shelf = Sources(), compare(runs), _Shelf(output)
    sections = []
    for comparison in comparisons:
        suffix = _suffix(comparison) if len(comparisons) > 1 else ""
        drawn = [
            (accuracy_picture(comparison.rows, comparison.title, confidence=comparison.confidence), _ACCURACY),
            (ratio_picture(comparison.rows, comparison.title), _RATIO),
        ]
        answers = answers_of(comparison)
        pairs, seeds = compared(comparison, answers), over_seeds(comparison, answers)
        if output is not None:
            for name, text in _files(comparison, pairs, seeds).items():
                stem, _, kind = name.partition(".")
                write_text_atomic(output / f"{stem}{suffix}.{kind}", text)
        sections.append(pages.results(comparison, shelf.put(drawn, suffix), pairs, seeds))
    artifacts = work(runs, sources)
    figures = shelf.put([(loss_picture(curves(runs, sources)), _LOSS), (time_picture(artifacts), _TIME)])
    tokens = _tokens(readable(runs, sources, viewer_traces), _first_percent(runs), shelf)
    return pages.Page(
        title=title, note=note, comparisons=tuple(sections), figures=figures, work=pages.work_table(artifacts),
        **tokens, **more,
    )  # fmt: skip


def _files(comparison: Comparison, pairs: Sequence[Difference], seeds: Sequence[SeedsRow]) -> dict[str, str]:
    """Return the tables of a comparison by file name."""
    rows, confidence, published = comparison.rows, comparison.confidence, comparison.published
    files = {
        "results.csv": csv_table(rows, published=published),
        "results.md": markdown_table(rows, confidence=confidence, published=published),
    }
    if pairs:
        note = differences_note(len(pairs), confidence)
        files["differences.csv"] = differences_csv(pairs)
        files["differences.md"] = f"{differences_grid(pairs).markdown()}\n{note}\n"
    if seeds:
        files["seeds.csv"] = seeds_csv(seeds)
        files["seeds.md"] = f"{seeds_grid(seeds).markdown()}\n{seeds_note(confidence)}\n"
    return files


def _tokens(viewed: Viewed, percent: int, shelf: "_Shelf") -> dict[str, Any]:
    """Return the parts of a page about tokens, with the initial kept percentage, one of `PERCENTS`."""
    groups: list[tuple[str, str, list[Deletions]]] = []
    for data in viewed.data:
        where = f", {data.label}" if len(viewed.data) > 1 else ""
        groups.append((f"By kind of token{where}", "kind", by_kind(data)))
        groups.append((f"By planted label{where}", "label", by_label(data)))
    groups = [group for group in groups if group[2]]
    viewer = {
        "percent": percent,
        "kinds": [kind.label for kind in TokenKind],
        "data": [encoded(data) for data in viewed.data],
        "deletions": [
            {"totals": [d.totals.tolist() for d in group], "deleted": [d.deleted.tolist() for d in group]}
            for _, _, group in groups
        ],
    }
    picture = deletion_picture([(heading, group) for heading, _, group in groups[:2]], percent)
    return {
        "viewer": viewer if viewed.data else None,
        "missing": viewed.missing,
        "num_viewed": sum(len(data.traces) for data in viewed.data),
        "percent": percent,
        "deletion_figures": shelf.put([(picture, _DELETIONS)]),
        "deletion_tables": tuple(pages.deletion_table(*group, percent) for group in groups),
    }


_ACCURACY = "Up and to the left is better. Bars are intervals, numbers at the points the asked ratio."
_RATIO = "Filled: generated tokens relative to those without compression. Open: thinking tokens kept for training."
_LOSS = "Thin: every step. Bold: running mean."
_TIME = "Every artifact once, whoever made it. Filled: computed by these runs; hatched: found done."
_DELETIONS = "Right of the dotted line: deleted more often than the average token."


class _Shelf:
    """Pictures drawn for the page, and into files beside it if there is a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._count = folder, 0

    def put(self, drawn: Sequence[tuple[Picture | None, str]], suffix: str = "") -> tuple[pages.Figure, ...]:
        shown = []
        for picture, caption in drawn:
            if picture is None:
                continue
            self._count += 1
            drawing = Drawing(picture)
            saved = [] if self._folder is None else drawing.save(self._folder, suffix)
            svg = drawing.inline_svg(f"figure{self._count}")
            shown.append(pages.Figure(svg=svg, caption=caption, files=tuple(p.name for p in saved)))
        return tuple(shown)


def _first_percent(runs: Sequence[Run]) -> int:
    """Return the most frequent ratio below 1 in percent, of equally frequent ones that nearest to 50; 30 to 100."""
    ratios = [row.target_ratio for run in runs for row in run.results.rows]
    requested = Counter(round(100 * ratio) for ratio in ratios if ratio < 1)
    most = max(requested.values(), default=0)
    usual = min((p for p, n in requested.items() if n == most), key=lambda p: (abs(p - 50), p), default=50)
    return min(max(usual, 30), 100)


def _suffix(comparison: Comparison) -> str:
    level = "" if comparison.confidence == 0.95 else f"-{comparison.confidence:g}"
    return re.sub(r"[^\w.-]", "_", f"-{comparison.model}-{comparison.benchmark}{level}")


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
