"""Pages below experiments/: links resolve, and quoted intervals equal the committed csv files."""

import csv
import importlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from experiments import pages as tables
from support.commands import ROOT

EXPERIMENTS = ROOT / "experiments"
FOLDERS = sorted(page.parent for page in EXPERIMENTS.glob("*/README.md"))
NUMBER = r"([-+]?\d*\.?\d+)"
INTERVAL = re.compile(rf"{NUMBER} \[{NUMBER}, {NUMBER}\]")
"""A measured value as the pages write it: `-18.0 [-23.7, -12.3]`."""


def _committed(folder: Path) -> NDArray[np.float64]:
    """All values of a folder's csv files with both ends of their intervals, also in percent; shape (values, 3).

    Without signs, since a page may quote a difference in either direction.
    """
    triples = []
    for path in folder.rglob("*.csv"):
        with path.open(encoding="utf-8", newline="") as handle:
            for row in csv.DictReader(handle):
                triples += [[row[name] for name in names] for names in _triples(row)]
    values = np.abs(np.array([[float(x) for x in triple] for triple in triples if "" not in triple], dtype=np.float64))
    values = values.reshape(-1, 3)
    return np.concatenate([values, 100 * values])


def _triples(names: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield the columns of every value and its interval."""
    for triple in (("value", "low", "high"), ("median", "min", "max")):
        if names.keys() >= set(triple):
            yield triple
    yield from ((n, f"{n}_low", f"{n}_high") for n in names if names.keys() >= {f"{n}_low", f"{n}_high"})


def _rounds_to(quoted: tuple[str, str, str], committed: NDArray[np.float64]) -> bool:
    """Check that a committed value and its interval round to the quoted ones."""
    expected = np.abs(np.array([float(x) for x in quoted]))
    tolerance = np.array([0.501 * 10.0 ** -len(x.partition(".")[2]) for x in quoted])
    turned = committed[:, [0, 2, 1]]
    return bool(any((np.abs(rows - expected) <= tolerance).all(1).any() for rows in (committed, turned)))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_quoted_intervals_equal_the_csv_files(folder: Path) -> None:
    committed = _committed(folder)
    quoted = INTERVAL.findall((folder / "README.md").read_text(encoding="utf-8"))
    assert [q for q in quoted if not _rounds_to(q, committed)] == []


def test_scripts_state_the_unit_that_they_delete() -> None:
    called = re.compile(r"(train|compress)\.py|^sweep ", re.MULTILINE)
    scripts = [path for path in EXPERIMENTS.glob("*/run.sh") if called.search(path.read_text())]
    assert len(scripts) >= 4
    assert [path for path in scripts if "compression.granularity=" not in path.read_text()] == []


def test_pages_quote_intervals() -> None:
    texts = [(folder / "README.md").read_text(encoding="utf-8") for folder in FOLDERS]
    assert sum(len(INTERVAL.findall(text)) for text in texts) > 150


def test_interval_that_is_in_no_csv_file_is_detected() -> None:
    committed = np.array([[0.772, 0.726, 0.813], [77.2, 72.6, 81.3]])
    assert _rounds_to(("77.2", "72.6", "81.3"), committed)
    assert _rounds_to(("-0.77", "-0.81", "-0.73"), committed)
    assert not _rounds_to(("77.3", "72.6", "81.3"), committed)


@pytest.mark.parametrize("page", sorted(EXPERIMENTS.rglob("*.md")), ids=lambda page: str(page.relative_to(EXPERIMENTS)))
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize(
    "name", [p.parent.name for p in EXPERIMENTS.glob("*/plot.svg") if (p.parent / "plot.py").exists()]
)
def test_figures_are_drawn_from_the_csv_files(name: str, tmp_path: Path) -> None:
    shutil.copytree(EXPERIMENTS / name, tmp_path / name, ignore=shutil.ignore_patterns("plot.*"))
    plot = importlib.import_module(f"experiments.{name}.plot")
    arguments = (plot.FIGURES,) if name == "speed" else ()
    plot.main(*arguments, tmp_path / name)
    drawn = (tmp_path / name / "plot.svg").read_bytes()
    assert drawn == (EXPERIMENTS / name / "plot.svg").read_bytes(), f"run python -m experiments.{name}.plot"


def test_tables_of_the_pages_are_those_of_the_csv_files() -> None:
    pages = tables.pages()
    assert {page.parent.name for page in pages} >= {"testbed", "methods", "tokenskip_loop"}
    for page, text in pages.items():
        assert page.read_text(encoding="utf-8") == text, "run python -m experiments.pages"


def test_every_table_of_a_page_is_written_by_its_script() -> None:
    for page in tables.pages():
        text, folder = page.read_text(encoding="utf-8"), page.parent
        script = (folder / "run.sh").read_text()
        sweeps = re.findall(r"^sweep (\w+)", script, re.MULTILINE)
        modules = "".join(path.read_text() for path in [*folder.glob("*.py"), EXPERIMENTS / "answers.py"])
        for name in re.findall(r"<!-- table: (\S+) -->", text):
            stem = name.removesuffix(".csv")
            assert name.removesuffix("-seeds.csv") in sweeps or any(
                called in text
                for text, called in ((modules, f'"{name}"'), (script, f"keep {stem} "), (text, f"> {name}"))
            )


def test_table_of_a_page_has_the_rows_over_all_seeds(tmp_path: Path) -> None:
    (tmp_path / "x-seeds.csv").write_text(
        "system,target_ratio,actual_ratio,seed,questions,accuracy,accuracy_low,accuracy_high,tokens,tokens_low,"
        "tokens_high,against_original,against_original_low,against_original_high,verdict\n"
        "Original,1.0,1.0,,100,0.9,0.8,0.95,200.4,199.0,202.0,,,,\n"
        "Original,1.0,1.0,42,100,0.91,,,,,,,,,\n"
        "cts,0.5,0.5,,100,0.45,0.3,0.6,120.0,110.0,130.0,-0.45,-0.6,-0.3,loses\n"
        "cts,0.5,0.5,42,100,0.4,,,,,,,,,\n"
        "cts,0.5,0.5,43,100,0.5,,,,,,,,,\n"
    )
    blocks = "<!-- table: x-seeds.csv -->\nold\n<!-- end -->\n<!-- table: y-seeds.csv -->\n<!-- end -->"
    page = tables.filled(blocks, tmp_path)
    assert page.splitlines()[4:6] == [
        "| Original | 1 | 90.0 [80.0, 95.0] | 91.0 | - | - | 200 [199, 202] |",
        "| cts | 0.5 | 45.0 [30.0, 60.0] | 40.0, 50.0 | -45.0 [-60.0, -30.0] | loses | 120 [110, 130] |",
    ]
    assert "old" not in page
    assert page.endswith(f"<!-- table: y-seeds.csv -->\n\n{tables.MISSING}\n\n<!-- end -->")


@pytest.mark.parametrize(("page", "heading"), [("docs/recipe.md", "# Recipe"), ("README.md", "\n## Results")])
def test_intervals_of_a_page_are_in_csv_files_of_experiments_that_it_links(page: str, heading: str) -> None:
    _, found, rest = (ROOT / page).read_text(encoding="utf-8").partition(heading)
    text = rest if page != "README.md" else rest.partition("\n## ")[0]
    assert found
    linked = {EXPERIMENTS / name for name in re.findall(r"experiments/(\w+)/README\.md", text)}
    committed = np.concatenate([_committed(folder) for folder in sorted(linked)])
    quoted = INTERVAL.findall(text)
    assert quoted
    assert [q for q in quoted if not _rounds_to(q, committed)] == []


def test_run_all_has_every_experiment_and_keeps_the_committed_files() -> None:
    everything = (EXPERIMENTS / "run_all.sh").read_text()
    for script in EXPERIMENTS.glob("*/run.sh"):
        name = script.parent.name
        assert re.search(rf"(run|in)\b.*\b{name}\b", everything), name
        text = script.read_text()
        assert "sweeps.sh" in text or f"${{RESULTS:-experiments/{name}}}" in text
        assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
