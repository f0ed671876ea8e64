"""Draws the picture at the top of the README, for light and for dark pages, from the committed results.

python docs/figures/results.py [DIR]
"""

import csv
import sys
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

ROOT = Path(__file__).parents[2]
STUDENTS = ROOT / "experiments/mini_cts/granularity-seeds.csv"
SCORES = ROOT / "experiments/scorer_fidelity/planted.csv"
SHOWN = {
    ("tokenskip", "-"): ("tokenskip *", "published"),
    ("reference_walk unit=word max_surprise=2.0", "lora"): ("reference_walk", "ours"),
    ("reference_likelihood pooling=word", "lora"): ("reference_likelihood", "ours"),
    ("reference_gain", "lora"): ("reference_gain", "ours"),
    ("rho1_excess", "lora"): ("rho1_excess", "published"),
    ("length (short first)", "-"): ("short words first", "rule"),
    ("digit share (high first)", "-"): ("digits first", "rule"),
    ("gogi", "-"): ("gogi", "published"),
    ("position (late first)", "-"): ("late first", "rule"),
    ("random", "-"): ("random", "rule"),
    ("cts condition=answer pooling=token", "lora"): ("cts", "published"),
    ("self_information", "lora"): ("self_information", "published"),
}
"""Rows of the right panel: `(scorer, reference model)` of the csv, as what they are shown."""


class Theme(NamedTuple):
    """Colours on one kind of page; the hues are Okabe and Ito's, told apart with every common colour blindness."""

    text: str
    faint: str
    hues: dict[str, str]


THEMES = {
    "light": Theme(
        "#1f2328",
        "#8b949e",
        {
            "published": "#0072B2",
            "ours": "#D55E00",
            "rule": "#6e7781",
            "reference_walk": "#D55E00",
            "cts": "#0072B2",
            "tokenskip": "#009E73",
            "random": "#6e7781",
        },
    ),
    "dark": Theme(
        "#e6edf3",
        "#7d8590",
        {
            "published": "#56B4E9",
            "ours": "#E69F00",
            "rule": "#9198a1",
            "reference_walk": "#E69F00",
            "cts": "#56B4E9",
            "tokenskip": "#2FBF93",
            "random": "#9198a1",
        },
    ),
}
MARKERS = {
    "published": "o",
    "ours": "D",
    "rule": "s",
    "reference_walk": "D",
    "cts": "o",
    "tokenskip": "^",
    "random": "s",
}
STUDENT_LABELS = {"tokenskip": "tokenskip *", "reference_walk": "reference_walk", "cts": "cts", "random": "random"}
"""Systems of the panels of students: what they are shown as."""
PLACES = ((0.025, 0.275), (0.335, 0.275), (0.745, 0.25))
"""Left end and width of the panels; the last one has its labels beside it."""
LINE_HEIGHT = 6.5
"""Least distance of two labels, in points of accuracy."""


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _error(row: dict[str, str], value: str, low: str, high: str) -> tuple[float, float, float]:
    """A value with the lengths of its interval below and above."""
    middle, bottom, top = (float(row[name]) for name in (value, low, high))
    return middle, middle - bottom, top - middle


def _students(axes: Axes, theme: Theme, granularity: str) -> float:
    """Accuracy of students, over their seeds, against the kept fraction that they were trained on; Original's, in %."""
    rows = [r for r in _rows(STUDENTS) if not r["seed"]]
    [original] = [r for r in rows if r["system"] == "Original"]
    middle, below, above = (100 * x for x in _error(original, "accuracy", "accuracy_low", "accuracy_high"))
    axes.axhspan(middle - below, middle + above, color=theme.faint, alpha=0.18, linewidth=0)
    axes.axhline(middle, color=theme.faint, linewidth=1.2)
    ends = {}
    for place, system in enumerate(STUDENT_LABELS):
        mine = [r for r in rows if r["system"] == f"{system} granularity={granularity}"]
        errors = [_error(r, "accuracy", "accuracy_low", "accuracy_high") for r in mine]
        axes.errorbar(
            [float(r["target_ratio"]) + 0.006 * (place - 1.5) for r in mine],
            [100 * e[0] for e in errors],
            yerr=[[100 * e[1] for e in errors], [100 * e[2] for e in errors]],
            color=theme.hues[system],
            marker=MARKERS[system],
            markersize=6,
            linewidth=1.8,
            elinewidth=1.2,
            capsize=0,
        )
        ends[system] = 100 * errors[-1][0]
    for system, height in _apart(ends).items():
        axes.text(0.478, height, STUDENT_LABELS[system], color=theme.hues[system], va="center", fontsize=10)
    axes.set(xlim=(0.93, 0.33), ylim=(0, 100), xticks=[0.9, 0.7, 0.5], yticks=range(0, 101, 20))
    axes.set_xlabel("fraction of the thinking kept in training", loc="left")
    return middle


def _apart(heights: dict[str, float]) -> dict[str, float]:
    """Heights of labels, pushed up where two would overlap."""
    placed: dict[str, float] = {}
    last = -LINE_HEIGHT
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        last = placed[name] = max(height, last + LINE_HEIGHT)
    return placed


def _scores(axes: Axes, theme: Theme) -> None:
    """Draw the ROC AUC of each scorer: planted essential tokens against planted redundant ones."""
    fidelity = {(r["scorer"], r["reference"]): r for r in _rows(SCORES) if r["measure"] == "ROC AUC" and not r["kind"]}
    rows = sorted(((*SHOWN[key], fidelity[key]) for key in SHOWN), key=lambda row: float(row[2]["value"]))
    axes.axvline(0.5, color=theme.faint, linewidth=1.2)
    axes.text(0.505, len(rows) - 0.35, "chance", color=theme.faint, fontsize=9)
    for place, (name, kind, row) in enumerate(rows):
        value, below, above = _error(row, "value", "low", "high")
        axes.plot([0, value], [place, place], color=theme.hues[kind], linewidth=0.8, alpha=0.45)
        axes.errorbar(value, place, xerr=[[below], [above]], color=theme.hues[kind], marker=MARKERS[kind], markersize=6)
        axes.text(value + above + 0.025, place, f"{value:.2f}", color=theme.text, va="center", fontsize=9)
        axes.text(-0.02, place, name, color=theme.hues[kind], va="center", ha="right", fontsize=10)
    for height, (kind, label) in enumerate((("rule", "reads nothing"), ("ours", "ours"), ("published", "published"))):
        axes.plot(0.8, 0.6 + 0.9 * height, color=theme.hues[kind], marker=MARKERS[kind], markersize=6)
        axes.text(0.83, 0.6 + 0.9 * height, label, color=theme.text, va="center", fontsize=9.5)
    axes.set(xlim=(0, 1.15), ylim=(-0.6, len(rows) + 0.1), xticks=[0, 0.5, 1], yticks=[])
    axes.set_xlabel("ROC AUC against the planted labels of tokens")
    _title(axes, theme, "What scorers find")


def draw(theme: Theme, path: Path) -> None:
    """Write the picture of one theme as SVG with a transparent background."""
    settings: dict[Any, Any] = {
        "svg.hashsalt": "cotpress",
        "font.family": "DejaVu Sans",
        "text.color": theme.text,
        "axes.labelcolor": theme.text,
        "xtick.color": theme.text,
        "ytick.color": theme.text,
        "axes.edgecolor": theme.faint,
    }
    with plt.rc_context(settings):
        figure = plt.figure(figsize=(13.5, 4.4))
        left, middle, right = (figure.add_axes((x, 0.13, width, 0.77)) for x, width in PLACES)
        original = _students(left, theme, "token")
        _students(middle, theme, "step")
        left.text(0.925, original + 2.25, "Original (uncompressed)", color=theme.text, va="bottom", fontsize=9)
        _title(left, theme, "Students, tokens deleted: accuracy, %")
        _title(middle, theme, "Students, whole steps deleted")
        _scores(right, theme)
        for axes in (left, middle, right):
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(length=0)
        right.spines["left"].set_visible(False)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


def _title(axes: Axes, theme: Theme, text: str) -> None:
    axes.set_title(text, loc="left", color=theme.text, fontsize=12, weight="bold", pad=10)


def main(folder: Path) -> None:
    """Write both pictures into a folder."""
    for name, theme in THEMES.items():
        draw(theme, folder / f"results-{name}.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
