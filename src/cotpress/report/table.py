"""Results table: its columns, its notes, and its forms for terminals, documents and CSV.

Every accuracy stands with its interval and its n. Three ratios have columns of their own: the one that was asked for,
the share of the thinking that was kept in training, and the tokens that the student has written, relative to Original.
Notes below the table say whether answers get longer with the ratio and never longer than without compression: students
may write more as the ratio falls, as in the table of the CTS paper, which a list of accuracies hides.

`_NARROWER` decides which columns a narrow terminal lacks; pages, Markdown and CSV have all of them.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from cotpress.records import AT_RATIO_ONE, Interval, Origin, SystemResult, TrainingSet
from cotpress.report.comparison import Comparison
from cotpress.report.published import COUNTS
from cotpress.report.results import INTERVALS
from cotpress.store.grid import DENSE, WIDTH, Grid, Narrower, csv_text, interval_cells, interval_columns
from cotpress.store.redaction import print_lines
from cotpress.terminal import line_width, one_line, text_width, wrapped

LONGER = "^"
"""Mark of the generated ratio of a student that writes more than the system it is compared with."""
_SCALARS = (
    "target_ratio", "actual_ratio", "generated_ratio", "generated_against", "generated_thinking_ratio", "num_samples",
    "standard_error", "training_reduction", "inference_reduction", "truncation_rate", "loop_rate", "unclosed_rate",
    "mean_thinking_tokens", "mean_answer_tokens", "seconds_per_sample", "num_training_rows", "loss_share",
)  # fmt: skip


class Column(NamedTuple):
    """One column: a heading of one or two lines, and the text of a row's cell."""

    heading: str
    cell: Callable[[SystemResult], str]


_NAMES = Column("System", lambda r: r.system)
_ASKED = Column("asked\nratio", lambda r: r.asked)
_COLUMNS = (
    Column("accuracy %\n[{level} CI]", lambda r: percent_interval(r.accuracy)),
    Column("n", lambda r: f"{r.accuracy.n}x{r.num_samples}" if r.num_samples > 1 else str(r.accuracy.n)),
    Column("vs Original,\npoints [CI]", lambda r: difference(r.accuracy_difference)),
    Column("generated\ntokens [CI]", lambda r: count_interval(r.mean_tokens)),
    Column("thinking\ntokens", lambda r: _count(r.mean_thinking_tokens)),
    Column("cut off/\nloops %", lambda r: f"{_percent(r.truncation_rate)}/{_percent(r.loop_rate)}"),
    Column("s per\nanswer", lambda r: _number(r.seconds_per_sample, 0 if r.seconds_per_sample >= 100 else 2)),
)

_NARROWER = (
    Narrower("s per\nanswer"),
    DENSE,
    Narrower("generated\ntokens [CI]", "generated\ntokens"),
    Narrower("kept in\ntraining"),
    Narrower("cut off/\nloops %"),
    Narrower("thinking\ntokens"),
    Narrower("paper's\ncount"),
    Narrower("tokens in paper's\ncount [CI]"),
    Narrower("n"),
    Narrower("written\nratio"),
    Narrower("vs Original,\npoints [CI]", "points vs\nOriginal"),
    Narrower("published"),
    Narrower("tokens\npublished"),
    Narrower("accuracy %\npublished"),
    Narrower("points vs\nOriginal"),
)
"""What a table with too long lines leaves out, the least important first. System, the asked ratio, accuracy
with its interval, and generated tokens always stay. A page has all columns; where it is narrow, it shows the others on
demand."""

_DETAILS = (
    _ASKED,
    Column("standard\nerror", lambda r: "-" if r.standard_error is None else f"{100 * r.standard_error:.2f}"),
    Column("training\ntokens", lambda r: change(r.training_reduction)),
    Column("tokens vs\nOriginal", lambda r: change(r.inference_reduction)),
    Column("generated\nratio vs", lambda r: r.generated_against or "-"),
    Column("thinking\nratio", lambda r: _number(r.generated_thinking_ratio, 2)),
    Column("answer\ntokens", lambda r: _number(r.mean_answer_tokens, 1)),
    Column("unclosed\n%", lambda r: _percent(r.unclosed_rate)),
)


def columns(comparison: Comparison, *, on_page: bool = False) -> list[Column]:
    """Return the columns of the main table, with the level of the intervals in the heading.

    Published counterparts have a column of their own at the end, or, on a page, stand beside the measured numbers.
    Without any they are left out.
    """
    level, published = f"{100 * comparison.confidence:g} %", comparison.published
    written_ratio = Column("written\nratio", partial(written, with_original=_has_original(comparison.rows)))
    ratios = (_ASKED, Column("kept in\ntraining", _kept), written_ratio)
    shown = [_NAMES, *ratios, *(Column(heading.format(level=level), cell) for heading, cell in _COLUMNS)]
    if not any(map(published, comparison.rows)):
        return shown

    def counted(row: SystemResult) -> Interval | None:
        return p.own_tokens(row) if (p := published(row)) else None

    if not on_page:
        own = Column("paper's\ncount", lambda r: _count(i.value if (i := counted(r)) else None))
        return [*shown, own, Column("published", lambda r: p.cell if (p := published(r)) else "-")]
    accuracy = Column("accuracy %\npublished", lambda r: f"{float(p.accuracy):.1f}" if (p := published(r)) else "-")
    own = Column("tokens in paper's\ncount [CI]", lambda r: count_interval(counted(r)))
    tokens = Column("tokens\npublished", lambda r: f"{float(p.tokens):.0f}" if (p := published(r)) else "-")
    after = {"accuracy %": [accuracy], "generated": [own, tokens]}
    return [c for column in shown for c in (column, *after.get(column.heading.partition("\n")[0], []))]


def detail_columns(rows: Sequence[SystemResult]) -> list[Column]:
    """Return the columns of the second table of a page, without those that are empty in every row."""
    shown = [_NAMES, *_DETAILS]
    if any(r.loss_share is not None for r in rows):
        shown.append(Column("loss\nshare", lambda r: _number(r.loss_share, 2)))
    if any(r.mean_reference_tokens for r in rows):
        shown.append(Column("reference\ntokens [CI]", lambda r: count_interval(r.mean_reference_tokens)))
    most = max((len(r.pass_at_k) for r in rows), default=0)
    for k in range(2, most + 1):
        if k & (k - 1) == 0 or k == most:  # powers of two and the last
            shown.append(_percents(f"pass@{k} %\n[CI]", partial(_pass_at, k)))
    for budget in sorted({b.budget for r in rows for b in r.accuracy_at_budgets}):
        shown.append(_percents(f"accuracy % at\n{budget} tokens", partial(_accuracy_at, budget)))
    return shown


def _percents(heading: str, interval: Callable[[SystemResult], Interval | None]) -> Column:
    return Column(heading, lambda r: percent_interval(interval(r)))


def _pass_at(k: int, row: SystemResult) -> Interval | None:
    return row.pass_at_k[k - 1] if k <= len(row.pass_at_k) else None


def _accuracy_at(budget: int, row: SystemResult) -> Interval | None:
    return next((b.accuracy for b in row.accuracy_at_budgets if b.budget == budget), None)


def written(row: SystemResult, *, with_original: bool = True) -> str:
    """Return the ratio of the generated tokens, with `^` if the student writes more than without compression.

    In a table without Original, a model at ratio 1 would only be compared with itself, and has `-`.
    """
    if not with_original and _is_itself(row):
        return "-"
    return _number(row.generated_ratio, 2) + (LONGER if row.lengthened and row.is_compressed else "")


def _kept(row: SystemResult) -> str:
    return _number(row.actual_ratio, 2)


def _has_original(rows: Sequence[SystemResult]) -> bool:
    return any(row.source.origin is Origin.original for row in rows)


def _is_itself(row: SystemResult) -> bool:
    """Return True if a row has the generated tokens that its own ratio is relative to."""
    prompted = row.source.origin is Origin.baseline
    return row.generated_against == AT_RATIO_ONE and row.target_ratio == 1 and not prompted


def percent_interval(interval: Interval | None) -> str:
    """Return `85.9 [80.1, 90.2]`, in percent; `-` for None."""
    if interval is None:
        return "-"
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def difference(interval: Interval | None) -> str:
    """Return `-2.1 [-4.0, -0.3]`, in percentage points; `-` for None."""
    if interval is None:
        return "-"
    ends = (interval.value, interval.low, interval.high)
    value, low, high = (f"{100 * x:+.1f}".replace("-0.0", "+0.0") for x in ends)
    return f"{value} [{low}, {high}]"


def count_interval(interval: Interval | None) -> str:
    """Return `157 [150, 164]`, with one decimal below 100."""
    if interval is None:
        return "-"
    digits = _digits(interval.value)
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def change(reduction: float | None) -> str:
    """Return a reduction as a change: 0.42 is `-42.0 %`; `-` for None."""
    if reduction is None:
        return "-"
    return f"{-100 * reduction:+.1f} %".replace("+0.0", "0.0").replace("-0.0", "0.0")


def _count(value: float | None) -> str:
    return "-" if value is None else _number(value, _digits(value))


def _digits(count: float) -> int:
    return 1 if count < 100 else 0


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    return "100" if share == 1 else f"{100 * share:.1f}"


_COUNTED = {
    "tokenskip": "it counts the tokens before its answer line",
    "cts": "it counts all tokens in the tokenizer of Qwen2.5-7B (evaluation.reference_tokenizer)",
}
"""Tokens that a paper counts, by protocol."""


class Monotonicity(NamedTuple):
    """Number of a system's pairs of a lower and a higher ratio, and the pairs where the lower one writes more."""

    system: str
    num_pairs: int
    violations: tuple[tuple[SystemResult, SystemResult], ...]


def monotonicity(rows: Sequence[SystemResult]) -> list[Monotonicity]:
    """Return one verdict per system that has rows at several ratios, in the rows' order.

    A student with a control marker and students of a single ratio are different systems, also under one name.
    """
    series: dict[tuple[str, str], list[SystemResult]] = {}
    for row in rows:
        series.setdefault((row.system, row.generated_against), []).append(row)
    verdicts = []
    for (name, _), members in series.items():
        ordered = sorted(members, key=lambda r: r.target_ratio)
        pairs = [(a, b) for a, b in itertools.combinations(ordered, 2) if a.target_ratio < b.target_ratio]
        if pairs:
            wrong = tuple((a, b) for a, b in pairs if a.mean_tokens.value > b.mean_tokens.value)
            verdicts.append(Monotonicity(name, len(pairs), wrong))
    return verdicts


def control_notes(rows: Sequence[SystemResult]) -> list[str]:
    """Return sentences about students that write longer answers and about the order of the ratios."""
    notes = []
    compared = [r for r in rows if r.generated_ratio is not None and r.is_compressed]
    longer = [f"{r.system} at {r.asked} (x{r.generated_ratio:.2f})" for r in compared if r.lengthened]
    if longer:
        count = f"{len(longer)} of {len(compared)}"
        notes.append(f"{count} compressed students write LONGER (^): {', '.join(longer)}")
    verdicts = monotonicity(rows)
    obeying = dict.fromkeys(v.system for v in verdicts if not v.violations)
    if obeying:
        notes.append(f"generated tokens never fall as the asked ratio rises: {', '.join(obeying)}")
    for system, num_pairs, violations in (v for v in verdicts if v.violations):
        wrong = "; ".join(
            f"{low.mean_tokens.value:.0f} tokens at {low.target_ratio:g} > "
            f"{high.mean_tokens.value:.0f} at {high.target_ratio:g}"
            for low, high in violations
        )
        ordered = num_pairs - len(violations)
        notes.append(f"{system}: {ordered} of {num_pairs} pairs of ratios in order, not {wrong}")
    return notes


def notes(comparison: Comparison) -> list[str]:
    """Return the sentences below the table: scope of the intervals, students with longer answers or fewer training
    traces, ratios out of order, sources of published numbers."""
    rows = comparison.rows
    printed = [p for r in rows if (p := comparison.published(r)) is not None]
    sources = [f"{p.source}, accuracy % @ tokens, no interval; {_COUNTED[p.protocol]}" for p in printed]
    texts = dict.fromkeys([*sources, *(p.note for p in printed if p.note)])
    lines = [
        *(_column_notes(comparison) if comparison.runs else []),
        *control_notes(rows),
        *_written_notes(rows),
        *_loss_notes(rows),
        *_training_notes(rows),
        *(f"published: {text}" for text in texts),
        *_unit_notes(comparison),
        *_numbered_notes(comparison),
    ]
    return [one_line(line) for line in lines]


def _column_notes(comparison: Comparison) -> list[str]:
    """Return what the intervals cover, and what the three ratios are of."""
    rows, numbers = comparison.rows, {row.accuracy.n for row in comparison.rows}
    questions = f"the {numbers.pop()} questions" if len(numbers) == 1 else "questions"
    level = f"{100 * comparison.confidence:g} % intervals, each by itself, cover {questions} alone, not other seeds"
    if not _has_original(rows):
        return [level]
    own = dict.fromkeys(row.system for row in rows if row.generated_against == AT_RATIO_ONE)
    against = f"; of {', '.join(own)} relative to the same student at ratio 1" if own else ""
    return [
        level,
        "ratios: asked for and kept, of the thinking in training; written, of the tokens that Original generates"
        f"{against}",
    ]


def _unit_notes(comparison: Comparison) -> list[str]:
    """Return a sentence about rows whose unit is the only difference from a published counterpart."""
    rows = [row for row in comparison.rows if comparison.lacks_published(row)]
    if not rows:
        return []
    units = _grouped([(row, str(comparison.granularity(row))) for row in rows])
    return [f"published numbers are of single tokens (compression.granularity=token); rows without them: {units}"]


def _numbered_notes(comparison: Comparison) -> list[str]:
    """Return a sentence about rows that no setting tells apart."""
    runs = ", ".join(f"{name} is of {path}" for name, path in comparison.numbered.items())
    return [f"numbered rows differ in no setting: {runs}"] if runs else []


def _written_notes(rows: Sequence[SystemResult]) -> list[str]:
    """Return a sentence about the generated ratio where models are compared with themselves, without Original."""
    own = [row for row in rows if row.generated_against == AT_RATIO_ONE]
    if not own or _has_original(rows):
        return []
    others = dict.fromkeys(f"{row.system} at {row.asked}" for row in own if not _is_itself(row))
    against = f"; relative to the same model at ratio 1: {', '.join(others)}" if others else ""
    return [f"written is relative to Original, which is not in the table{against}"]


def _loss_notes(rows: Sequence[SystemResult]) -> list[str]:
    """Return a sentence about students of whole traces whose tokens do not all have a loss."""
    shares = [f"{r.system} at {r.asked}: {_percent(r.loss_share)} %" for r in rows if r.loss_share is not None]
    return [f"trained on the whole thinking, with this share of the loss: {', '.join(shares)}"] if shares else []


def _training_notes(rows: Sequence[SystemResult]) -> list[str]:
    """Return sentences about students of different traces, as then the compression is not the only difference, and
    about traces that are left out or cut because of their length."""
    trained = sorted((r for r in rows if r.num_training_rows is not None), key=lambda r: -(r.num_training_rows or 0))
    notes = []
    if len({row.num_training_rows for row in trained}) > 1:
        numbers = _grouped([(row, f"{row.num_training_rows}") for row in trained])
        notes.append(f"students learnt from different numbers of traces: {numbers}")
    elif any(len(digests) > 1 for digests in _digests_by_seed(trained).values()):
        notes.append("students learnt from as many, but different traces")
    for limit in sorted({row.training_set.max_tokens for row in trained if row.training_set is not None}):
        notes += _length_notes(rows, limit)
    return notes


def _digests_by_seed(rows: Sequence[SystemResult]) -> dict[int | None, set[str]]:
    digests: dict[int | None, set[str]] = {}
    for row in rows:
        if row.training_set is not None:
            digests.setdefault(row.source.seed, set()).add(row.training_set.digest)
    return digests


_Sets = Sequence[tuple[SystemResult, int, TrainingSet]]
"""Rows of students with the number of traces that they were trained on, and their training sets."""


def _length_notes(rows: Sequence[SystemResult], limit: int) -> list[str]:
    """Return sentences about the traces that students of sequences of at most `limit` tokens did not learn from.

    Runs may differ in `sft.overlong`; those that hold back traces for another system, with Original, share a digest.
    """
    sets = [(r, r.num_training_rows or 0, s) for r in rows if (s := r.training_set) and s.max_tokens == limit]
    held_back = {s.digest for _, number, s in sets if number < s.num_alone}
    common = [(row, number, s) for row, number, s in sets if s.digest in held_back]
    others = [(row, number, s) for row, number, s in sets if s.digest not in held_back]
    is_cut = any(s.num_cut for _, _, s in others)
    cut = [(row, number, s) for row, number, s in others if is_cut and (s.num_cut or number == s.num_traces)]
    whole = [entry for entry in others if entry not in cut]
    notes = []
    if cut:
        shares = _grouped([(row, f"{s.num_cut} of {number}") for row, number, s in cut])
        notes.append(f"sequences cut at {limit} tokens, so that they lack the end token: {shares}")
    if common:
        alone = _grouped([(row, f"{s.num_alone}") for row, _, s in common])
        notes.append(
            f"trained on the traces that all systems of a run have and can hold within {limit} tokens: "
            f"{_shares(common)}; sft.overlong=drop would train on {alone}"
        )
    if any(number < s.num_traces for _, number, s in whole):
        fix = "; sft.overlong=common would train all on the same" if len({number for _, number, _ in whole}) > 1 else ""
        notes.append(f"trained on the traces of at most {limit} tokens: {_shares(whole)}{fix}")
    return notes


def _shares(sets: _Sets) -> str:
    return _grouped([(row, f"{number} of {s.num_traces}") for row, number, s in sets])


def _grouped(values: Sequence[tuple[SystemResult, str]]) -> str:
    """Return `133 (Original), 164 (cts at 0.7)`: every value with its systems, with ratios where a system has two."""
    members: dict[str, list[SystemResult]] = {}
    for row, value in values:
        members.setdefault(value, []).append(row)
    parts = []
    for value, own in members.items():
        others = {row.system for row, other in values if other != value}
        names = (f"{row.system} at {row.asked}" if row.system in others else row.system for row in own)
        parts.append(f"{value} ({', '.join(dict.fromkeys(names))})")
    return ", ".join(parts)


def results_grid(comparison: Comparison, *, on_page: bool = False) -> Grid:
    """Return the main table as texts, with headings of two lines and the whole names of the systems."""
    headings, cells = zip(*columns(comparison, on_page=on_page), strict=True)
    rows = tuple(tuple(cell(row) for cell in cells) for row in comparison.rows)
    return Grid(headings, rows, narrower=_NARROWER)


def plain_table(
    comparison: Comparison,
    title: str = "",
    width: int | None = None,
    *,
    notes_width: int | None = None,
    further: Sequence[str] = (),
) -> str:
    """Return the table as aligned text with its notes and `further` ones below it.

    Its lines have at most `width` characters, by default 120; without a `notes_width` each note is one line.
    """
    grid = results_grid(comparison)
    narrow = grid.within(width or WIDTH)
    sentences = [*notes(comparison), *further]
    if missing := grid.given_way(narrow):
        sentences.append(f"not in {width or WIDTH} columns, but in report.html: {'; '.join(missing)}")
    lines = (line for sentence in sentences for line in wrapped(sentence, notes_width, "  "))
    text = narrow.plain() + "".join(f"{line}\n" for line in lines)
    return f"{title}\n{text}" if title else text


def markdown_table(comparison: Comparison) -> str:
    """Return the table as Markdown, with its notes as a list below it."""
    below = "".join(f"- {note}\n" for note in notes(comparison))
    return results_grid(comparison).markdown() + (f"\n{below}" if below else "")


def csv_table(comparison: Comparison) -> str:
    """Return every number of the rows, unrounded, as CSV; fractions in [0, 1], published accuracy in percent."""
    rows = comparison.rows
    most = max((len(row.pass_at_k) for row in rows), default=0)
    budgets = sorted({b.budget for row in rows for b in row.accuracy_at_budgets})
    named = [*INTERVALS, *(f"pass_at_{k}" for k in range(2, most + 1)), *(f"accuracy_at_{b}_tokens" for b in budgets)]
    papers = ["published_accuracy", "published_tokens", "published_count", "published_source"]
    lines = []
    for row in rows:
        intervals: list[Interval | None] = [getattr(row, name) for name in INTERVALS]
        intervals += [_pass_at(k, row) for k in range(2, most + 1)]
        intervals += [_accuracy_at(budget, row) for budget in budgets]
        paper = comparison.published(row)
        printed = (None,) * 4 if paper is None else (paper.accuracy, paper.tokens, COUNTS[paper.protocol], paper.source)
        scalars = (getattr(row, name) for name in _SCALARS)
        lines.append([row.system, row.accuracy.n, *scalars, *interval_cells(intervals), *printed])
    return csv_text(["system", "n", *_SCALARS, *interval_columns(named), *papers], lines)


def show(comparison: Comparison, title: str, further: Sequence[str] = ()) -> None:
    """Write the table with `further` notes to standard output, in the width of the terminal."""
    text = plain_table(comparison, one_line(title), line_width(), notes_width=text_width(), further=further)
    print_lines(*text.split("\n"))
