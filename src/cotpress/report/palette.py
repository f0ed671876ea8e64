"""Colours and markers of systems, one palette for the figures, the page and the W&B report.

Every baseline has a colour and a marker of its own, whatever else is in a figure; scorers and models of the user's take
theirs in order. tests/unit/report/test_palette.py holds that colours differ for readers with normal sight, without red
(protanopia) and without green (deuteranopia) receptors, on white paper and on the dark page.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from cotpress.records import BASE, ORIGINAL, RANDOM, SHORTEST, System

INK = "#222222"
"""Colour of Original and of text on white."""


class Style(NamedTuple):
    """Look of one series: colour on white, its place among the page's variables, and marker of matplotlib."""

    colour: str
    variable: str
    marker: str


SCORERS = {
    "#0072B2": "#5aaeea", "#D55E00": "#ff8d42", "#009E73": "#34cba0", "#CC79A7": "#ea9cc8", "#E69F00": "#f2b632",
    "#56B4E9": "#97d6f8",
}  # fmt: skip
"""Colours of scorers on white and on the dark page: those of Okabe and Ito's palette that differ from each other and
from white with red or green receptors missing."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BASELINES = {
    BASE.name: ("#784b00", "#3cf078", "p"),
    RANDOM: ("#e1004b", "#e10078", "d"),
    SHORTEST.name: ("#960f87", "#c31ea5", "H"),
    "Truncation": ("#5a693c", "#69693c", "<"),
    "BudgetForcing": ("#2d0f96", "#5a78ff", ">"),
    "BeConcise": ("#9687ff", "#2d8787", "h"),
    "OnlyNumbers": ("#b4b45a", "#c3ff69", "8"),
    "AbbreWords": ("#690f00", "#c32d0f", "|"),
    "LC-Prompt": ("#4b1e5a", "#c3f0b4", "+"),
    "Chain-of-Draft": ("#96004b", "#e16969", "x"),
}
"""Colours of baselines on white and on the dark page, and their markers, by name."""
VARIABLES = {
    **{f"--c{i}": pair for i, pair in enumerate(SCORERS.items())},
    **{f"--b{i}": pair[:2] for i, pair in enumerate(BASELINES.values())},
}
"""Variables of the page's style: colour on white and on the dark page."""
ORIGINAL_STYLE = Style(INK, "--ink", "*")


def style(index: int) -> Style:
    """Return the look of the scorer with this number; pairs of colour and marker repeat after 42."""
    colour = list(SCORERS)[index % len(SCORERS)]
    return Style(colour, f"--c{index % len(SCORERS)}", _MARKERS[(index + index // len(SCORERS)) % len(_MARKERS)])


def baseline_style(name: str, number: int = 0) -> Style | None:
    """Return the look of a baseline; a further system of its name (`number`) has another marker. None for others."""
    if name == ORIGINAL.name:
        return ORIGINAL_STYLE
    if name not in BASELINES:
        return None
    colour, _, marker = BASELINES[name]
    variable = f"--b{list(BASELINES).index(name)}"
    return Style(colour, variable, marker if number == 0 else _MARKERS[(number - 1) % len(_MARKERS)])


def styles(systems: Iterable[System]) -> dict[str, Style]:
    """Return the look of each system by its label, scorers in the order of their first appearance.

    Seeds of one system, and baselines of one name, share a colour and differ in their markers.
    """
    looks: dict[str, Style] = {}
    members: Counter[str] = Counter()
    scorers: dict[str, int] = {}
    for system in systems:
        if system.label in looks:
            continue
        family = system.name if system.is_baseline else replace(system, seed=None).label
        look = baseline_style(system.name, members[family]) if system.is_baseline else None
        if look is None:
            first = style(scorers.setdefault(family, len(scorers)))
            marker = _MARKERS[(_MARKERS.index(first.marker) + members[family]) % len(_MARKERS)]
            look = first._replace(marker=marker)
        members[family] += 1
        looks[system.label] = look
    return looks


def css() -> str:
    """Return the variables as a rule for the page."""
    colours = "".join(f"  {name}: light-dark({light}, {dark});\n" for name, (light, dark) in VARIABLES.items())
    return f":root {{\n{colours}}}\n"
