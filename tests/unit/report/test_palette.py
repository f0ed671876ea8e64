"""Colours of systems can be told apart, also without red or green receptors."""

import itertools
import re
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
from numpy.typing import NDArray

from cotpress.evaluation.config import Baseline, EvaluationConfig
from cotpress.evaluation.protocol import shortening
from cotpress.records import BASE, ORIGINAL, RANDOM, SHORTEST, Origin, System
from cotpress.report.palette import INK, SCORERS, VARIABLES, baseline_style, css, style, styles

Colours = NDArray[np.float64]
SIGHT = {
    "normal": np.eye(3),
    # Machado, Oliveira and Fernandes 2009, severity 1
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
LEAST = {"white": 15.0, "dark": 11.0}
"""Least distance of two colours in CIELAB; 2.3 is just noticeable."""


def linear(colour: str) -> Colours:
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(colour: str, sight: str) -> Colours:
    xyz = TO_XYZ @ np.clip(SIGHT[sight] @ linear(colour), 0, 1) / np.array([0.95047, 1.0, 1.08883])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(np.maximum(xyz, 1e-9)), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(colour: str, paper: str) -> float:
    light, dark = sorted((float(TO_XYZ[1] @ linear(c)) for c in (colour, paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize(("theme", "ink", "paper"), [("white", INK, "#ffffff"), ("dark", "#ecebe7", "#1d2024")])
def test_every_two_colours_differ_and_stand_out_from_the_page(theme: str, ink: str, paper: str, sight: str) -> None:
    colours = [pair[theme == "dark"] for pair in VARIABLES.values()]
    for first, second in itertools.combinations([ink, *colours], 2):
        assert np.linalg.norm(lab(first, sight) - lab(second, sight)) > LEAST[theme], (first, second)
    assert min(contrast(colour, paper) for colour in colours) > 2


def test_every_baseline_has_a_colour_and_a_marker_of_its_own() -> None:
    config = EvaluationConfig()
    config.budget_forcing.thinking_tokens = 5
    prompted = (shortening(kind, 0.5, config) for kind in Baseline)
    names = [BASE.name, ORIGINAL.name, RANDOM, SHORTEST.name, *(s.name for s in prompted if s is not None)]
    assert len(names) == 11
    looks = [baseline_style(name) for name in names]
    assert None not in looks
    for part in zip(*(look for look in looks if look is not None), strict=True):
        assert len(set(part)) == len(names)
    assert not {look.marker for look in looks if look is not None} & {style(i).marker for i in range(7)}


def test_look_of_a_baseline_does_not_depend_on_what_is_beside_it() -> None:
    def scorer(name: str) -> System:
        return System(name=name, origin=Origin.scorer, ratio=0.5)

    control = System(name=RANDOM, origin=Origin.random, ratio=0.5)
    alone, beside = styles([control]), styles([scorer("cts"), scorer("tokenskip"), ORIGINAL, control, scorer("random")])
    assert alone["Random"] == beside["Random"]
    assert [beside[name] for name in ("cts", "tokenskip", "random")] == [style(0), style(1), style(2)]
    seeds = styles(System(name=RANDOM, origin=Origin.random, seed=seed) for seed in (1, 2, 3))
    assert len({look.colour for look in seeds.values()}) == 1
    assert len({look.marker for look in seeds.values()}) == 3
    students = styles(replace(scorer(name), seed=seed) for name in ("cts", "tokenskip") for seed in (1, 2))
    assert [look.colour for look in students.values()] == [style(i).colour for i in (0, 0, 1, 1)]
    assert len({(look.colour, look.marker) for look in students.values()}) == 4


def test_page_and_viewer_use_the_variables_of_the_palette() -> None:
    assets = files("cotpress.report").joinpath("assets")
    style_sheet, script = (assets.joinpath(name).read_text(encoding="utf-8") for name in ("style.css", "viewer.js"))
    assert set(re.findall(r"var\((--[cb]\d)\)", style_sheet)) <= set(VARIABLES)
    assert not re.search(r"--[cb]\d:", style_sheet)
    assert re.search(r"var\(--c\$\{r % (\d+)\}\)", script)[1] == str(len(SCORERS))  # type: ignore[index]
    assert css().count("light-dark(") == len(VARIABLES) == len(SCORERS) + 10
