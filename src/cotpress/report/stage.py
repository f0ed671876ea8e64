"""Finished runs to table, plot and page; reads the disk only, so a half-finished sweep reports as well."""

import json
import logging
import re
from pathlib import Path

from cotpress.artifacts import write_text_atomic
from cotpress.report import html
from cotpress.report.collect import Collection, Comparison, Run, collect, compare
from cotpress.report.paired import compared, differences_csv, differences_markdown
from cotpress.report.plots import save_plot
from cotpress.report.results import CONFIG_FILE, read_results
from cotpress.report.table import csv_table, markdown_table

log = logging.getLogger(__name__)

REPORT_FILE = "report.html"


def report_run(run_dir: Path) -> Path:
    """Write `report.html` of one finished run into its directory and return its path.

    Raises:
        ArtifactError: The run has no usable results.
    """
    results = read_results(run_dir)
    (comparison,) = compare([Run(path=run_dir, results=results)])
    config = run_dir / CONFIG_FILE
    sections = [
        html.results_section(comparison),
        html.stages_section(results.stages),
        html.text_section("Settings", json.dumps(dict(results.essentials), indent=1, ensure_ascii=False)),
    ]
    if config.exists():
        sections.append(html.text_section("Whole configuration", config.read_text(encoding="utf-8")))
    path = run_dir / REPORT_FILE
    write_text_atomic(path, html.page(results.name, f"{comparison.title}, seed {results.seed}", sections))
    return path


def report_collection(folder: Path, output: Path | None = None) -> Collection:
    """Write tables, plots and `report.html` over all runs at or below a folder, and return what was found.

    Into `output` (default: the folder itself): `report.html`, and per student and benchmark `results-NAME.csv`,
    `results-NAME.md`, `plot-NAME.png` and `plot-NAME.svg`, and `differences-NAME.csv` and `.md` where two systems were
    asked for the same ratio; without NAME if there is only one.

    Raises:
        DataError: There is no run directory.
    """
    found = collect(folder)
    write_collection(found, output or folder)
    return found


def write_collection(found: Collection, output: Path) -> None:
    """Write tables, plots and page of runs that were found; see `report_collection` for the files."""
    output.mkdir(parents=True, exist_ok=True)
    comparisons = compare(found.runs)
    for comparison in comparisons:
        suffix = _suffix(comparison) if len(comparisons) > 1 else ""
        rows, confidence, published = comparison.rows, comparison.confidence, comparison.published
        write_text_atomic(output / f"results{suffix}.csv", csv_table(rows, published=published))
        markdown = markdown_table(rows, confidence=confidence, published=published)
        write_text_atomic(output / f"results{suffix}.md", markdown)
        save_plot(rows, comparison.title, output / f"plot{suffix}", confidence=confidence)
        if pairs := compared(comparison):
            write_text_atomic(output / f"differences{suffix}.csv", differences_csv(pairs))
            write_text_atomic(output / f"differences{suffix}.md", differences_markdown(pairs, confidence))
    sections = [html.results_section(c) for c in comparisons]
    note = f"{len(found.runs)} finished runs, {len(found.unfinished)} without results"
    page = html.page("Results", note, [*sections, html.unfinished_section(found.unfinished)])
    write_text_atomic(output / REPORT_FILE, page)
    log.info("report: %s, written to '%s'", note, output)


def _suffix(comparison: Comparison) -> str:
    text = f"-{comparison.model}-{comparison.benchmark}"
    if comparison.confidence != 0.95:
        text += f"-{comparison.confidence:g}"
    return re.sub(r"[^\w.-]", "_", text)
