"""Draws plot.png and plot.svg of this folder from its csv files: python -m experiments.scorer_fidelity.plot [DIR]."""

import re
import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.drawing import lengths, read_rows, save

HERE = Path(__file__).parent
TRUTHS = {  # csv: title, axis, measure, its value for an order that says nothing
    "planted": ("Planted labels", "ROC AUC of tokens", "ROC AUC", 0.5),
    "thought_anchors": ("Measured importance of sentences", "rank correlation", "rank correlation", 0.0),
    "prmbench": ("Inserted redundant steps", "ROC AUC of steps", "ROC AUC", 0.5),
}
RULE, READ_BY_BASE, READ_BY_REFERENCE = ("#666666", "s"), ("#0072B2", "o"), ("#D55E00", "D")
KINDS = {
    RULE: "no model",
    READ_BY_BASE: "base model",
    READ_BY_REFERENCE: "reference model or classifier, trained on planted labels",
}
"""Colour and marker of a row by what reads the text."""
SHOWN = {  # what a row is called: the beginning of its scorer in the csv files, the reference model
    "position, the better direction": ("position", "-"),
    "length, the better direction": ("length", "-"),
    "digit share, the better direction": ("digit share", "-"),
    "new bigrams, the better direction": ("new bigrams", "-"),
    "random": ("random", "-"),
    "tokenskip": ("tokenskip", "-"),
    "reference_walk": ("reference_walk", "lora"),
    "rho1_excess": ("rho1_excess", "lora"),
    "cts": ("cts", "lora"),
    "cts, base model": ("cts", "none"),
    "self_information": ("self_information", "lora"),
    "self_information, base model": ("self_information", "none"),
    "entropy, base model": ("entropy", "none"),
    "step_entropy": ("step_entropy", "-"),
    "first_token_surprisal": ("first_token_surprisal", "-"),
    "gogi": ("gogi", "-"),
    "answer_attention": ("answer_attention", "-"),
}
DEFAULTS = ("cts condition=answer pooling=token", "reference_walk unit=word max_surprise=2.0")
"""Of scorers that a table has with several settings: those of the figure."""
DIRECTION_OR_SETTING = re.compile(r" \(| \w+=")


def _style(row: dict[str, str]) -> tuple[str, str]:
    if row["rule"] == "True" or row["scorer"] == "random":
        return RULE
    return READ_BY_REFERENCE if row["reference"] == "lora" or row["scorer"] == "tokenskip" else READ_BY_BASE


def _found(rows: list[dict[str, str]], name: str, reference: str) -> dict[str, str] | None:
    """The row of a scorer: with the settings of `DEFAULTS` where the table has several."""
    for row in rows:
        scorer = row["scorer"]
        shown = "=" not in scorer or scorer in DEFAULTS
        if shown and DIRECTION_OR_SETTING.split(scorer)[0] == name and row["reference"] == reference:
            return row
    return None


def _panel(axes: Axes, folder: Path, truth: str) -> None:
    title, label, measure, chance = TRUTHS[truth]
    rows = [r for r in read_rows(folder / f"{truth}.csv") if r["measure"] == measure and not r["kind"]]
    axes.axvline(chance, color="#bbbbbb", linewidth=1)
    for place, (name, reference) in enumerate(SHOWN.values()):
        row = _found(rows, name, reference)
        if row is None:
            continue
        point = (float(row["value"]), float(row["low"]), float(row["high"]))
        colour, marker = _style(row)
        axes.errorbar(point[0], -place, xerr=lengths([point]), color=colour, marker=marker, markersize=5)
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.set_yticks([-place for place in range(len(SHOWN))], list(SHOWN))
    axes.tick_params(axis="y", length=0)


def main(folder: Path) -> None:
    """Draw the three tables of a folder."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 3, sharey=True)
        for axes, truth in zip(panels, TRUTHS, strict=True):
            _panel(axes, folder, truth)
        for (colour, marker), label in KINDS.items():
            panels[0].plot([], [], color=colour, marker=marker, linestyle="", label=label)
        figure.legend(fontsize=9, ncols=3, loc="outside lower right")

    save(folder, "What every scorer finds, by three kinds of truth", (12, 5.2), draw)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
