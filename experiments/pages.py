"""Tables of the pages below experiments/, from the csv files beside them: python -m experiments.pages.

A page names the csv file of each table; the end of its name chooses the columns:

    <!-- table: bounds-seeds.csv -->
    <!-- end -->

What stands between the two lines is replaced. Where the file is missing, the page says so.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from experiments.drawing import read_rows

HERE = Path(__file__).parent
MISSING = "*Not measured yet.*"
_BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_Rows = Sequence[dict[str, str]]


def pages() -> dict[Path, str]:
    """Return every page with a table, with its tables filled."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(HERE.glob("*/README.md"))}
    return {path: filled(text, path.parent) for path, text in texts.items() if _BLOCK.search(text)}


def filled(text: str, folder: Path) -> str:
    """Replace the tables of a page by those of the csv files in its folder."""

    def block(match: re.Match[str]) -> str:
        path = folder / match[2]
        table = "\n".join(_table(match[2], read_rows(path))) if path.exists() else MISSING
        return f"{match[1]}\n{table}\n\n{match[3]}"

    return _BLOCK.sub(block, text)


def _table(name: str, rows: _Rows) -> Iterator[str]:
    """Yield the lines of a table in Markdown; the end of the file's name chooses its kind."""
    kind = next(kind for ending, kind in _KINDS.items() if name.endswith(ending))
    heading, *lines = kind(rows)
    texts = {i for i, cell in enumerate(heading) if cell in _LEFT}
    yield _line(heading)
    yield _line(["---" if i in texts else "---:" for i in range(len(heading))])
    yield from map(_line, lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


_LEFT = ("sweep", "system", "verdict", "change", "measure", "scorer", "unit", "statement", "ablation")
"""Columns of text."""


def _seeds(rows: _Rows) -> Iterator[list[str]]:
    """Systems over their seeds, as `NAME-seeds.csv` of a multirun holds them."""
    yield [
        "system", "ratio", "accuracy % [CI]", "each seed", "vs Original, points [CI]", "verdict",
        "generated tokens [CI]",
    ]  # fmt: skip
    for row in (r for r in rows if not r["seed"]):
        place = (row["system"], row["target_ratio"])
        each = [r for r in rows if r["seed"] and (r["system"], r["target_ratio"]) == place]
        yield [
            row["system"],
            f"{float(row['target_ratio']):g}",
            percent(row, "accuracy"),
            ", ".join(f"{100 * float(r['accuracy']):.1f}" for r in each),
            percent(row, "against_original", sign="+"),
            row["verdict"] or "-",
            _interval(row, "tokens", 1.0, ".0f"),
        ]


def _front(rows: _Rows) -> Iterator[list[str]]:
    """Methods by falling accuracy."""
    yield [
        "system", "ratio", "accuracy % [CI]", "vs Original, points [CI]", "verdict", "generated tokens [CI]",
        "on the front", "in % of the draws",
    ]  # fmt: skip
    for row in rows:
        yield [
            row["system"],
            f"{float(row['ratio']):g}",
            percent(row, "accuracy"),
            percent(row, "against_original", sign="+"),
            row["verdict"] or "-",
            _interval(row, "tokens", 1.0, ".0f"),
            "yes" if row["on_front"] == "1" else "",
            f"{100 * float(row['front_share']):.0f}",
        ]


def _contrasts(rows: _Rows) -> Iterator[list[str]]:
    """Planned differences between two students."""
    yield ["change", "ratio", "accuracy, points [CI]", "tokens"]
    for row in rows:
        star = "" if float(row["accuracy_low"]) <= 0 <= float(row["accuracy_high"]) else " *"
        tokens = f"{float(row['tokens']):+.0f}"
        yield [row["contrast"], f"{float(row['ratio']):g}", percent(row, "accuracy", sign="+") + star, tokens]


def _damage(rows: _Rows) -> Iterator[list[str]]:
    """Holes in the training texts, in percent, and the accuracy of the students."""
    yield [
        "sweep", "system", "ratio", "first equations whole %", "torn %", "repeated equations torn %",
        "sentences torn %", "openings gone %", "accuracy %", "thinking not closed %", "accuracy % if that is no error",
    ]  # fmt: skip
    measures = (
        "essential_whole",
        "essential_torn",
        "repeated_torn",
        "sentences_torn",
        "openings_gone",
        "accuracy",
        "unclosed",
        "accuracy_anywhere",
    )
    for row in sorted(rows, key=lambda row: -float(row["accuracy"])):
        shares = [f"{100 * float(row[name]):.0f}" for name in measures]
        yield [row["sweep"], row["system"], f"{float(row['ratio']):g}", *shares]


def _slopes(rows: _Rows) -> Iterator[list[str]]:
    """Slopes of measures over the ratio that the marker asks for."""
    yield ["measure", "ratios", "slope [CI]", "each seed"]
    for row in rows:
        each = ", ".join(f"{float(x):.2f}" for x in row["each_seed"].split())
        yield [row["measure"], row["ratios"], _interval(row, "slope", 1.0, "+.2f"), each]


def _fidelity(rows: _Rows) -> Iterator[list[str]]:
    """Scorers and trivial rules, as `fidelity.py` writes them: the main measure, and what is shown beside it."""
    main = rows[0]["measure"]
    shown = [main, *(name for name in _BESIDE if any(row["measure"] == name for row in rows))]
    yield ["scorer", "reference model", *(f"{name} [CI]" for name in shown)]
    by_scorer: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in (r for r in rows if not r["kind"]):
        by_scorer.setdefault((row["scorer"], row["reference"]), {})[row["measure"]] = row
    for (scorer, reference), own in by_scorer.items():
        cells = [_interval(own[name], "", 1.0, _SIGNED.get(name, ".3f")) if name in own else "" for name in shown]
        yield [f"*{scorer}*" if own[main]["rule"] == "True" else scorer, reference, *cells]


_BESIDE = ("minus position", "position partialled out", "kept@0.5")
_SIGNED = {"minus position": "+.3f"}


def _first_solution(rows: _Rows) -> Iterator[list[str]]:
    """Kept share and agreement of the first solution, by the kind of statement that counts as one."""
    yield ["statement", "measure", "traces", "questions", "value [CI]"]
    for row in rows:
        yield [row["statement"], row["measure"], row["traces"], row["n"], _interval(row, "", 1.0, ".3f")]


def _units(rows: _Rows) -> Iterator[list[str]]:
    """Deleted share of each kind of token by unit, in percent."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    yield ["ratio", "scorer", "unit", *kinds, "other decisions than by tokens, %"]
    shares: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows:
        shares.setdefault((row["asked"], row["scorer"], row["unit"]), []).append(row)
    for place, own in shares.items():
        changed = own[0]["changed"]
        deleted = [f"{100 * float(row['deleted']):.1f}" for row in own]
        yield [*place, *deleted, f"{100 * float(changed):.0f}" if changed else ""]


def _ablation(rows: _Rows) -> Iterator[list[str]]:
    """Cost of leaving out all steps of one trace."""
    yield ["ablation", "thinking tokens", "steps", "tokens read", "tokens/s", "seconds, all steps", "rank correlation"]
    for row in rows:
        read = f"{int(row['all_read_tokens']):,}"
        yield [
            row["ablation"], row["thinking_tokens"], row["steps"], read, row["tokens_per_second"], row["all_seconds"],
            row["rank_correlation"],
        ]  # fmt: skip


def percent(row: dict[str, str], name: str, sign: str = "") -> str:
    """Return a fraction with its interval in percent; a dash without one."""
    return _interval(row, name, 100.0, f"{sign}.1f") if row[name] else "-"


def _interval(row: dict[str, str], name: str, factor: float, form: str) -> str:
    names = [name + end for end in ("", "_low", "_high")] if name else ["value", "low", "high"]
    value, low, high = (format(factor * float(row[column]), form) for column in names)
    return f"{value} [{low}, {high}]"


_KINDS: dict[str, Callable[[_Rows], Iterator[list[str]]]] = {
    "seeds.csv": _seeds,
    "front.csv": _front,
    "contrasts.csv": _contrasts,
    "damage.csv": _damage,
    "slopes.csv": _slopes,
    "units.csv": _units,
    "ablation.csv": _ablation,
    "first_solution.csv": _first_solution,
    "thought_anchors.csv": _fidelity,
    "overlap.csv": _fidelity,
    "prmbench.csv": _fidelity,
}

if __name__ == "__main__":
    for page, content in pages().items():
        page.write_text(content, encoding="utf-8")
