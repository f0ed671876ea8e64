"""Draw one built-in trace before and after compression: overview.svg and trace.svg (`make docs`, half a minute).

python docs/figures/trace.py

The first built-in trace is scored by cts with the embedded default model, as `cotpress.score` does, and cut to half by
words and by steps. Both pictures have a white ground, so they look the same on light and dark pages.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

import cotpress
from cotpress.data.planted import Length, traces
from cotpress.report.palette import INK, SCORERS

FOLDER = Path(__file__).parent
RATIO = 0.5
UNITS = {"word": "by words", "step": "by steps, that is, sentences"}
"""Units of deletion and their headings in trace.svg."""
EXCERPT = ("First,", "Next,")
"""Words of the trace between which the excerpt of overview.svg lies: a calculation and its check."""
BLUE, ORANGE = list(SCORERS)[:2]
GREY, LINE = "#767676", "#d0d0d0"
"""Dropped text and borders."""
MONOSPACE = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
SANS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"
ADVANCE = 0.61
"""Width of a character in parts of the font size; monospace fonts have at most this."""
MARGIN = 20
STUDENTS = {"whole traces": INK, "traces cut by scores": BLUE, "traces cut at random": ORANGE}
"""Students that a run compares, and their colours in overview.svg."""

Piece = tuple[str, bool]
"""A text and True if it is kept."""


@dataclass(frozen=True)
class Example:
    """The trace that is drawn.

    Attributes:
        question: Its question.
        tokens: Texts of its thinking tokens.
        scores: float32 `[n]`, by cts.
        masks: bool `[n]` by unit, tokens that stay.
    """

    question: str
    tokens: Sequence[str]
    scores: NDArray[np.float32]
    masks: dict[str, NDArray[np.bool_]]


def example() -> Example:
    """Score the first built-in trace and cut it by every unit."""
    (trace,) = traces(num_traces=1, families=[], length=Length.short, seed=42)
    row = {name: asdict(trace)[name] for name in ("question", "thinking", "response", "answer")}
    scores = cotpress.score(row, "cts")
    cuts = {unit: cotpress.select(scores, RATIO, granularity=unit) for unit in UNITS}
    return Example(
        question=trace.question,
        tokens=cuts["word"].tokens,
        scores=np.asarray(cuts["word"].scores),
        masks={unit: cut.mask for unit, cut in cuts.items()},
    )


def before_and_after(shown: Example) -> str:
    """Return trace.svg: the trace once for each unit, dropped tokens grey and struck out."""
    size, step, width = 14, 23, 900
    columns = int((width - 2 * MARGIN) / (size * ADVANCE))
    parts = [_label(MARGIN, 34, f"Question: {shown.question}", INK, bold=False)]
    y = 66
    for unit, mask in shown.masks.items():
        heading = f"cts, ratio {RATIO}, {UNITS[unit]}: {mask.sum()} of {len(mask)} tokens are kept"
        parts.append(_label(MARGIN, y, heading, BLUE))
        lines = list(_lines(_pieces(shown.tokens, mask), columns))
        rows = [_line(MARGIN, y + (i + 1) * step, line, size) for i, line in enumerate(lines)]
        parts.append(f'<g id="{unit}">\n' + "\n".join(rows) + "\n</g>")
        y += (len(lines) + 1) * step + 20
    title = f"One built-in trace at ratio {RATIO}, dropped tokens struck out"
    return _svg(width, y - 20, title, parts)


def overview(shown: Example) -> str:
    """Return overview.svg: an excerpt of the trace in the five stages of a run."""
    size, step, column, gap = 12, 19, 162, 22
    first, last = (next(i for i, token in enumerate(shown.tokens) if token.strip() == word[:-1]) for word in EXCERPT)
    tokens, scores, mask = shown.tokens[first:last], shown.scores[first:last], shown.masks["step"][first:last]
    tokens = [tokens[0].lstrip(), *tokens[1:]]
    columns = int((column - 20) / (size * ADVANCE))
    everything, cut = _pieces(tokens, np.ones_like(mask)), _pieces(tokens, mask)
    kept = [(text.lstrip() if not i else text, True) for i, (text, stays) in enumerate(cut) if stays]
    stages = [
        ("1  traces", ["thinking of a model,", "yours or built in"]),
        ("2  score", ["a number for every token:", "dark is important"]),
        ("3  keep", ["the share you ask for, in", "tokens, words or sentences"]),
        ("4  fine-tune", ["a student is trained on", "the shortened thinking"]),
        ("5  measure", ["accuracy and tokens", "of their answers"]),
    ]
    parts = []
    for i, (name, caption) in enumerate(stages):
        x = MARGIN + i * (column + gap)
        parts.append(f'<rect x="{x}" y="42" width="{column}" height="112" rx="6" fill="none" stroke="{LINE}"/>')
        parts.append(_label(x, 30, name, BLUE))
        parts += [_label(x, 174 + 17 * j, text, INK, bold=False, size=12) for j, text in enumerate(caption)]
        if i:
            parts.append(f'<path d="M{x - gap + 5} 98h10m-4 -4l4 4l-4 4" fill="none" stroke="{INK}"/>')
        top = 48
        if name.endswith("score"):
            parts += _shades(tokens, scores, columns, x + 10, top, size, step)
        pieces = {"1": everything, "2": everything, "3": cut, "4": kept}.get(name[0], [])
        rows = enumerate(_lines(pieces, columns))
        parts += [_line(x + 10, top + (j + 1) * step - 3, line, size) for j, line in rows]
    parts += _students(MARGIN + 4 * (column + gap) + 10, 64)
    width = 2 * MARGIN + 5 * column + 4 * gap
    return _svg(width, 206, "The five stages of a run: traces, score, keep, fine-tune, measure", parts)


def _pieces(tokens: Sequence[str], mask: NDArray[np.bool_]) -> list[Piece]:
    """Join neighbouring tokens that are all kept or all dropped."""
    pairs = zip(tokens, mask.tolist(), strict=True)
    return [("".join(token for token, _ in run), stays) for stays, run in groupby(pairs, key=lambda pair: pair[1])]


def _lines(pieces: Sequence[Piece], columns: int) -> Iterator[list[Piece]]:
    """Break the text at spaces; a line keeps the space at its end."""
    text = "".join(piece for piece, _ in pieces)
    stays = [kept for piece, kept in pieces for _ in piece]
    start = 0
    for line in textwrap.wrap(text, columns, break_on_hyphens=False):
        end = start + len(line)
        end += text[end : end + 1] == " "
        characters = zip(text[start:end], stays[start:end], strict=True)
        yield [("".join(c for c, _ in run), kept) for kept, run in groupby(characters, key=lambda pair: pair[1])]
        start = end


def _line(x: float, y: float, pieces: Sequence[Piece], size: int) -> str:
    spans = "".join(_spans(text, stays) for text, stays in pieces)
    return f'<text class="trace" x="{x}" y="{y}" font-size="{size}" xml:space="preserve">{spans}</text>'


def _spans(text: str, stays: bool) -> str:
    """Elements of a text; spaces around a dropped one are dropped too, but not struck out."""
    if stays:
        return f'<tspan class="kept">{escape(text)}</tspan>'
    inner = text.strip()
    before, _, after = text.partition(inner) if inner else (text, "", "")
    parts = (("gone", before), ("dropped", inner), ("gone", after))
    return "".join(f'<tspan class="{name}">{escape(part)}</tspan>' for name, part in parts if part)


def _shades(
    tokens: Sequence[str], scores: NDArray[np.float32], columns: int, x: float, y: float, size: int, step: int
) -> Iterator[str]:
    """Rectangles behind the tokens, the darker the higher their scores."""
    text = "".join(tokens)
    lines = ["".join(piece for piece, _ in line) for line in _lines([(text, True)], columns)]
    places = [(row, column) for row, line in enumerate(lines) for column in range(len(line))]
    low, high = np.percentile(scores, [5, 95])
    at = 0
    for token, score in zip(tokens, scores.tolist(), strict=True):
        start = at + len(token) - len(token.lstrip())
        row, column = places[start]
        at += len(token)
        opacity = 0.6 * min(max((score - low) / (high - low), 0.0), 1.0)
        yield (
            f'<rect x="{x + column * size * 0.602:.1f}" y="{y + row * step + 3}" height="{step - 3}"'
            f' width="{(at - start) * size * 0.602:.1f}" fill="{BLUE}" fill-opacity="{opacity:.2f}"/>'
        )


def _students(x: float, y: float) -> Iterator[str]:
    """Names of the students whose answers are compared."""
    yield _label(x, y, "students of", INK, bold=False, size=12)
    for i, (name, colour) in enumerate(STUDENTS.items(), start=1):
        yield f'<circle cx="{x + 5}" cy="{y + 20 * i - 4}" r="4" fill="{colour}"/>'
        yield _label(x + 16, y + 20 * i, name, INK, bold=False, size=12)


def _label(x: float, y: float, text: str, colour: str, *, bold: bool = True, size: int = 15) -> str:
    weight = 600 if bold else 400
    attributes = f'font-size="{size}" font-weight="{weight}" fill="{colour}"'
    return f'<text x="{x}" y="{y}" {attributes} xml:space="preserve">{escape(text)}</text>'


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    style = (
        f"text {{ font-family: {SANS} }} .trace {{ font-family: {MONOSPACE}; white-space: pre }} "
        f".kept {{ fill: {INK} }} .dropped {{ fill: {GREY}; text-decoration: line-through }}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' role="img" aria-label="{escape(title)}">\n<title>{escape(title)}</title>\n<style>{style}</style>\n'
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8" fill="#ffffff" stroke="{LINE}"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    drawn = example()
    (FOLDER / "trace.svg").write_text(before_and_after(drawn), encoding="utf-8")
    (FOLDER / "overview.svg").write_text(overview(drawn), encoding="utf-8")
