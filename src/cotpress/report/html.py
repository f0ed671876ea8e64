"""One self-contained page per run or collection: no script, no network, light and dark."""

from collections.abc import Iterable, Sequence
from html import escape

from cotpress.progress import duration
from cotpress.records import SystemResult
from cotpress.report.collect import Comparison, Unfinished
from cotpress.report.columns import Column, columns, detail_columns
from cotpress.report.plots import svg_plot
from cotpress.report.results import StageRecord
from cotpress.report.table import notes

_STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --soft: #666; --line: #ddd; --page: #fff; --card: #f6f6f4 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8e8e6; --soft: #a0a0a0; --line: #3a3a3a; --page: #17181a; --card: #212326 }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 70rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p.note { color: var(--soft); margin: .3rem 0 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--soft); font-weight: 600; vertical-align: bottom }
th:first-child, td:first-child, .left td, .left th { text-align: left }
.plot { background: #fff; border-radius: 6px; padding: .5rem; max-width: 52rem } .plot svg { width: 100%; height: auto }
pre { background: var(--card); padding: 1rem; border-radius: 6px; overflow-x: auto; font-size: 13px }
"""


def page(title: str, note: str, sections: Iterable[str]) -> str:
    """A whole HTML document around finished sections."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="note">{escape(note)}</p>\n' + "\n".join(sections) + "\n</body>\n</html>\n"
    )


def results_section(comparison: Comparison) -> str:
    """Table, notes, plot and details of the systems of one comparison."""
    rows, confidence = comparison.rows, comparison.confidence
    main = _rows_table(rows, columns(confidence, rows, comparison.published))
    below = "".join(f'<p class="note">{escape(note)}</p>\n' for note in notes(rows, comparison.published))
    details = _rows_table(rows, detail_columns(rows))
    plot = f'<div class="plot">{svg_plot(rows, comparison.title, confidence=confidence)}</div>'
    return f"<h2>{escape(comparison.title)}</h2>\n{main}\n{below}{plot}\n<h2>Details</h2>\n{details}"


def stages_section(stages: Sequence[StageRecord]) -> str:
    """What ran, how long it took, and under which artifact it lies."""
    if not stages:
        return ""
    rows = [(s.label, duration(s.seconds), "computed" if s.fresh else "found", s.artifact) for s in stages]
    return "<h2>Stages</h2>\n" + _table(("stage", "time", "this run", "artifact"), rows, kind="wide left")


def unfinished_section(unfinished: Sequence[Unfinished]) -> str:
    """Runs that are missing above, and why."""
    if not unfinished:
        return ""
    rows = [(str(u.path), u.reason) for u in unfinished]
    return f"<h2>Not in the table: {len(rows)} of the runs</h2>\n" + _table(("run", "why"), rows, kind="wide left")


def text_section(title: str, text: str) -> str:
    """Text such as the configuration, folded away."""
    return f"<h2>{escape(title)}</h2>\n<details><summary>show</summary><pre>{escape(text)}</pre></details>"


def _rows_table(rows: Sequence[SystemResult], shown: Sequence[Column]) -> str:
    # the name in full: a page has room for it
    cells = [[row.system, *(column.cell(row) for column in shown[1:])] for row in rows]
    return _table([column.name for column in shown], cells, kind="wide")


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], kind: str) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in headings)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="{kind}"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
