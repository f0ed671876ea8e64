"""Finished runs to tables, figures and page; reads the disk only, so a half-finished sweep reports as well.

The part of a page that is about tokens: the viewer's data, and tables and picture of what is deleted.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotpress.report import page as pages
from cotpress.report.collect import Collection, Run, Sources, collect
from cotpress.report.comparison import Comparison, answers_of, compare
from cotpress.report.deletions import Deletions, by_kind, by_label, deletion_picture
from cotpress.report.figure import Drawing, Picture
from cotpress.report.page import DeletionRow, DeletionTable
from cotpress.report.paired import compared, differences_csv, differences_markdown
from cotpress.report.plots import accuracy_picture, ratio_picture
from cotpress.report.results import CONFIG_FILE, read_results
from cotpress.report.seeds import over_seeds, seeds_csv, seeds_markdown
from cotpress.report.table import csv_table, markdown_table
from cotpress.report.token_kinds import TokenKind
from cotpress.report.viewer_data import DEFAULT_TRACES, encoded, readable
from cotpress.report.work import curves, loss_picture, time_picture, work
from cotpress.store.artifacts import write_text_atomic

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSection:
    """What the page shows about tokens.

    Attributes:
        data: For `viewer.js`; None if there is nothing to be shown.
        missing: Why something is missing.
        num_traces: Traces in the viewer.
        percent: Kept percentage to begin with.
        picture: What each ranker deletes at that percentage; None without data.
        tables: The same in numbers.
    """

    data: dict[str, Any] | None
    missing: tuple[str, ...]
    num_traces: int
    percent: int
    picture: Picture | None
    tables: tuple[DeletionTable, ...]


def token_section(runs: Sequence[Run], sources: Sources, limit: int, percent: int) -> TokenSection:
    """Collect it from the artifacts of some runs.

    Args:
        runs: Finished runs.
        sources: Finds their artifacts.
        limit: Most traces of each data set.
        percent: Kept percentage to begin with, one of `PERCENTS`.
    """
    found = readable(runs, sources, limit)
    groups: list[tuple[str, str, list[Deletions]]] = []
    for data in found.data:
        where = f", {data.label}" if len(found.data) > 1 else ""
        groups.append((f"By kind of token{where}", "kind", by_kind(data)))
        groups.append((f"By planted label{where}", "label", by_label(data)))
    groups = [group for group in groups if group[2]]
    pack = {
        "percent": percent,
        "kinds": [kind.label for kind in TokenKind],
        "data": [encoded(data) for data in found.data],
        "deletions": [
            {"totals": [d.totals.tolist() for d in group], "deleted": [d.deleted.tolist() for d in group]}
            for _, _, group in groups
        ],
    }
    return TokenSection(
        data=pack if found.data else None,
        missing=found.missing,
        num_traces=sum(len(data.traces) for data in found.data),
        percent=percent,
        picture=deletion_picture([(heading, group) for heading, _, group in groups[:2]], percent),
        tables=tuple(_table(i, *group, percent) for i, group in enumerate(groups)),
    )


def _table(place: int, title: str, heading: str, group: Sequence[Deletions], percent: int) -> DeletionTable:
    shares = [d.share(percent) for d in group]
    rows = [
        DeletionRow(name=name, total=int(max(d.totals[k] for d in group)), shares=tuple(_percent(s[k]) for s in shares))
        for k, name in enumerate(group[0].names)
    ]
    rankers = tuple(d.ranker for d in group)
    return DeletionTable(title=title, heading=heading, group=place, rankers=rankers, rows=tuple(rows))


def _percent(share: float) -> int:
    """As the page's script rounds it: halves up."""
    return int(100 * share + 0.5)


REPORT_FILE = "report.html"
RUN_TRACES = 50
"""Most traces in the token viewer of one run's page: a sweep writes many of them."""


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
    page = _page(
        results.name, f"{comparison.title}, seed {results.seed}", [run], viewer_traces, None, texts=tuple(texts)
    )
    path = run_dir / REPORT_FILE
    write_text_atomic(path, pages.render(page))
    return path


def report_collection(folder: Path, output: Path | None = None, *, viewer_traces: int = DEFAULT_TRACES) -> Collection:
    """Write tables, figures and `report.html` over all runs at or below a folder, and return what was found.

    Into `output` (default: the folder itself): `report.html`, per student and benchmark `results-NAME.csv`,
    `results-NAME.md`, `differences-NAME.csv` and `.md` (paired, where two systems were asked for the same ratio),
    `seeds-NAME.csv` and `.md` (each system over its seeds, where there are several), and the page's figures as PNG and
    SVG: `plot-NAME` (accuracy against tokens), `ratios-NAME`; without NAME if there is only one; `losses`, `time` and
    `deletions` over all runs.

    Raises:
        DataError: There is no run directory.
    """
    found = collect(folder)
    write_collection(found, output or folder, viewer_traces=viewer_traces)
    return found


def write_collection(found: Collection, output: Path, *, viewer_traces: int = DEFAULT_TRACES) -> None:
    """Write tables, figures and page of runs that were found; see `report_collection` for the files."""
    output.mkdir(parents=True, exist_ok=True)
    comparisons = compare(found.runs)
    for comparison in comparisons:
        suffix = _suffix(comparison) if len(comparisons) > 1 else ""
        rows, published = comparison.rows, comparison.published
        write_text_atomic(output / f"results{suffix}.csv", csv_table(rows, published=published))
        markdown = markdown_table(rows, confidence=comparison.confidence, published=published)
        write_text_atomic(output / f"results{suffix}.md", markdown)
    finished = f"{len(found.runs)} finished run{'' if len(found.runs) == 1 else 's'}"
    note = f"{finished}, {len(found.unfinished)} without results"
    unfinished = pages.unfinished_table(found.unfinished)
    page = _page("Results", note, found.runs, viewer_traces, output, unfinished=unfinished)
    write_text_atomic(output / REPORT_FILE, pages.render(page))
    log.info("report: %s, written to '%s'", note, output)


def _page(
    title: str,
    note: str,
    runs: Sequence[Run],
    viewer_traces: int,
    output: Path | None,
    *,
    unfinished: pages.Table | None = None,
    texts: tuple[tuple[str, str], ...] = (),
) -> pages.Page:
    """The page of some runs; its figures and paired differences are files too if there is a folder for them."""
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
        if pairs and output is not None:
            write_text_atomic(output / f"differences{suffix}.csv", differences_csv(pairs))
            write_text_atomic(output / f"differences{suffix}.md", differences_markdown(pairs, comparison.confidence))
        if seeds and output is not None:
            write_text_atomic(output / f"seeds{suffix}.csv", seeds_csv(seeds))
            write_text_atomic(output / f"seeds{suffix}.md", seeds_markdown(seeds, comparison.confidence))
        sections.append(pages.results(comparison, shelf.put(drawn, suffix), pairs, seeds))
    spent = work(runs, sources)
    seen = token_section(runs, sources, viewer_traces, _first_percent(runs))
    return pages.Page(
        title=title,
        note=note,
        comparisons=tuple(sections),
        figures=shelf.put([(loss_picture(curves(runs, sources)), _LOSS), (time_picture(spent), _TIME)]),
        work=pages.work_table(spent),
        viewer=seen.data,
        missing=seen.missing,
        num_viewed=seen.num_traces,
        percent=seen.percent,
        deletion_figures=shelf.put([(seen.picture, _DELETIONS)]),
        deletion_tables=seen.tables,
        unfinished=unfinished,
        texts=texts,
    )


_ACCURACY = "Up and to the left is better. Bars are intervals, numbers at the points the asked ratio."
_RATIO = "Filled: generated tokens relative to those without compression. Open: thinking tokens kept for training."
_LOSS = "Thin: every step. Bold: running mean."
_TIME = "Every artifact once, whoever made it. Filled: computed by these runs; hatched: found done."
_DELETIONS = "Right of the dotted line: deleted more often than the average token."


class _Shelf:
    """Draws pictures for the page, and into files beside it if there is a folder."""

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
    """The kept percentage that most rows below 1 ask for, of equally frequent ones that nearest to 50; 30 to 100."""
    asked = Counter(round(100 * row.target_ratio) for run in runs for row in run.results.rows if row.target_ratio < 1)
    most = max(asked.values(), default=0)
    usual = min((p for p, n in asked.items() if n == most), key=lambda p: (abs(p - 50), p), default=50)
    return min(max(usual, 30), 100)


def _suffix(comparison: Comparison) -> str:
    text = f"-{comparison.model}-{comparison.benchmark}"
    if comparison.confidence != 0.95:
        text += f"-{comparison.confidence:g}"
    return re.sub(r"[^\w.-]", "_", text)
