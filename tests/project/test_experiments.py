"""The pages below experiments/: links resolve, and quoted intervals are those of the committed csv files."""

import csv
import importlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from support.commands import ROOT

EXPERIMENTS = ROOT / "experiments"
FOLDERS = sorted(page.parent for page in EXPERIMENTS.glob("*/README.md"))
NUMBER = r"([-+]?\d*\.?\d+)"
INTERVAL = re.compile(rf"{NUMBER} \[{NUMBER}, {NUMBER}\]")
"""A measured value as the pages write it: `-18.0 [-23.7, -12.3]`."""


def _committed(folder: Path) -> NDArray[np.float64]:
    """Value, low and high end of everything in the csv files of a folder, also in percent; shape (values, 3).

    Without signs: a page may turn a difference around.
    """
    found = []
    for path in folder.rglob("*.csv"):
        with path.open(encoding="utf-8", newline="") as handle:
            for row in csv.DictReader(handle):
                found += [[row[name] for name in names] for names in _triples(row)]
    values = np.abs(np.array([[float(x) for x in triple] for triple in found if "" not in triple], dtype=np.float64))
    values = values.reshape(-1, 3)
    return np.concatenate([values, 100 * values])


def _triples(names: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Columns that hold a value and its two ends."""
    for triple in (("value", "low", "high"), ("median", "min", "max")):
        if names.keys() >= set(triple):
            yield triple
    yield from ((n, f"{n}_low", f"{n}_high") for n in names if names.keys() >= {f"{n}_low", f"{n}_high"})


def _rounds_to(quoted: tuple[str, str, str], committed: NDArray[np.float64]) -> bool:
    """Whether one committed value and its interval, rounded as they are quoted, are these."""
    wanted = np.abs(np.array([float(x) for x in quoted]))
    tolerance = np.array([0.501 * 10.0 ** -len(x.partition(".")[2]) for x in quoted])
    turned = committed[:, [0, 2, 1]]
    return bool(any((np.abs(rows - wanted) <= tolerance).all(1).any() for rows in (committed, turned)))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_quoted_intervals_are_those_of_the_csv_files(folder: Path) -> None:
    committed = _committed(folder)
    quoted = INTERVAL.findall((folder / "README.md").read_text(encoding="utf-8"))
    assert [q for q in quoted if not _rounds_to(q, committed)] == []


def test_an_interval_that_nobody_measured_is_noticed() -> None:
    committed = np.array([[0.772, 0.726, 0.813], [77.2, 72.6, 81.3]])
    assert _rounds_to(("77.2", "72.6", "81.3"), committed)
    assert _rounds_to(("-.77", "-.81", "-.73"), committed)
    assert not _rounds_to(("77.3", "72.6", "81.3"), committed)


@pytest.mark.parametrize("page", sorted(EXPERIMENTS.rglob("*.md")), ids=lambda page: str(page.relative_to(EXPERIMENTS)))
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [p.parent.name for p in EXPERIMENTS.glob("*/plot.svg") if (p.parent / "plot.py").exists()]
)
def test_figures_are_those_of_the_csv_files(name: str, tmp_path: Path) -> None:
    shutil.copytree(EXPERIMENTS / name, tmp_path / name, ignore=shutil.ignore_patterns("plot.*"))
    plot = importlib.import_module(f"experiments.{name}.plot")
    arguments = (plot.FIGURES,) if name == "speed" else ()
    plot.main(*arguments, tmp_path / name)
    drawn = (tmp_path / name / "plot.svg").read_bytes()
    assert drawn == (EXPERIMENTS / name / "plot.svg").read_bytes(), f"run python -m experiments.{name}.plot"
