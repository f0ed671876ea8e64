import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cotpress.errors import ArtifactError
from cotpress.fidelity.results import (
    FidelityResults,
    FidelityRow,
    csv_table,
    kinds_grid,
    main_grid,
    merged_rows,
    numbered,
    read_results,
    results_beside,
    write_results,
)
from cotpress.records import Interval


def around(value: float, width: float = 0.1) -> Interval:
    return Interval(value=value, low=value - width, high=value + width, n=10)


def row(system: str, value: float, over: float | None = 0.3, **change: Any) -> FidelityRow:
    given: dict[str, Any] = {
        "system": system, "reference": "none", "rule": False, "metrics": {"ROC AUC": around(value), "AP": around(0.5)},
        "over_position": None if over is None else around(over), "kinds": {"talk": around(0.9)}, "dropped": {"why": 1},
    }  # fmt: skip
    return FidelityRow(**{**given, **change})


RULE = row("position (early first)", 0.6, None, rule=True, reference="-", kinds={})


def results(*rows: FidelityRow, **change: Any) -> FidelityResults:
    given: dict[str, Any] = {
        "truth": "planted", "truth_artifact": "truth/1", "model": "tiny", "tokenizer": "k", "confidence": 0.95,
        "num_resamples": 10, "artifacts": {"truth": "truth/1"},
    }  # fmt: skip
    return FidelityResults(rows=(*rows, RULE), **{**given, **change})


def test_results_are_read_as_written(tmp_path: Path) -> None:
    written = results(row("cts", 0.7, settings={"condition": "answer"}))
    write_results(tmp_path / "a", written)
    assert read_results(tmp_path / "a") == written


@pytest.mark.parametrize("content", ["", "{}", '{"schema_version": 9}', '{"schema_version": 1, "rows": [{}]}'])
def test_damaged_results_are_an_error_that_names_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"results\.json"):
        read_results(tmp_path)


def test_only_jobs_on_the_same_traces_share_a_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_results(tmp_path / "a", results(row("cts", 0.7)))
    write_results(tmp_path / "b", results(row("random", 0.5)))
    write_results(tmp_path / "c", results(row("head", 0.5), truth_artifact="truth/2"))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "results.json").write_text("half")
    rows = merged_rows(results_beside(tmp_path / "a"))
    assert [r.system for r in rows] == ["cts", "position (early first)", "random"]
    assert "not in the table" in caplog.text


def test_rows_of_one_scorer_are_distinguished_by_their_settings() -> None:
    jobs = [
        results(row("cts", value, settings={"condition": condition, "seed": 1}))
        for value, condition in [(0.7, "answer"), (0.8, "question")]
    ]
    assert [r.system for r in merged_rows(jobs)][:2] == ["cts condition=question", "cts condition=answer"]
    other = replace(jobs[1], rows=(replace(jobs[1].rows[0], reference="lora"), RULE))
    assert [r.system for r in merged_rows([jobs[0], other])][:2] == ["cts", "cts"]


def test_rows_of_equal_settings_are_numbered_and_their_artifacts_named() -> None:
    def job(value: float, **artifacts: str) -> FidelityResults:
        keys = {"truth": "truth/1", "score (cts)": "score/0123456789abcdef", **artifacts}
        return results(row("cts", value, settings={"condition": "answer"}), artifacts=keys)

    jobs = [job(0.8, reference="reference/aaaaaaaaaaaaaaaa"), job(0.7, reference="reference/bbbbbbbbbbbbbbbb")]
    assert [r.system for r in merged_rows(jobs)][:2] == ["cts #1", "cts #2"]
    assert numbered(jobs) == [
        "numbered rows differ in no setting: cts #1 is reference/aaaaaaaaaaaaaaaa, cts #2 is reference/bbbbbbbbbbbbbbbb"
    ]
    assert numbered(jobs[:1]) == []
    other = job(0.65, reference="reference/bbbbbbbbbbbbbbbb", **{"score (cts)": "score/ffffffffffffffff"})
    names = [r.system for r in merged_rows([jobs[1], other])][:2]
    assert names == ["cts #1", "cts #2"]


def test_setting_that_only_one_of_two_rows_has_does_not_distinguish_them() -> None:
    """Results of earlier releases contain fewer of them."""
    old = results(row("cts", 0.8, settings={"condition": "answer"}))
    new = results(row("cts", 0.7, settings={"condition": "question", "reference.tune.epochs": 3}))
    assert [r.system for r in merged_rows([old, new])][:2] == ["cts condition=answer", "cts condition=question"]


def test_table_compares_every_row_with_position() -> None:
    rows = merged_rows([results(row("cts", 0.9), row("random", 0.55, -0.05), row("head", 0.2, -0.4))])
    grid = main_grid(rows, confidence=0.9)
    verdicts = {cells[0]: cells[5] for cells in grid.rows}
    assert verdicts == {"cts": "yes", "random": "no", "head": "no, worse", "position (early first)": "-"}
    assert "ROC AUC\n[90 %]" in grid.headings
    assert "+0.300 [+0.200, +0.400]" in grid.plain()
    assert grid.markdown().startswith("| scorer | reference | n |")
    assert len({len(line) for line in grid.plain().splitlines()[1:]}) == 1  # the first line has no word at its end


def test_kinds_have_their_own_table_if_there_are_any() -> None:
    grid = kinds_grid([row("cts", 0.7), RULE], confidence=0.95)
    assert grid is not None
    assert grid.rows == (("cts", "none", "0.900 [0.800, 1.000]"), ("position (early first)", "-", "-"))
    assert kinds_grid([RULE]) is None


def test_csv_contains_every_number() -> None:
    lines = list(csv.DictReader(io.StringIO(csv_table([row("cts", 0.7)]))))
    assert [(line["measure"], line["kind"], line["value"]) for line in lines] == [
        ("ROC AUC", "", "0.7"), ("AP", "", "0.5"), ("minus position", "", "0.3"), ("ROC AUC by kind", "talk", "0.9"),
    ]  # fmt: skip
    assert float(lines[0]["low"]) == pytest.approx(0.6)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_narrow_table_keeps_the_main_measure_and_the_verdict_on_position(width: int) -> None:
    names = ("ROC AUC", "average precision", "essential kept at 0.5", "redundant kept at 0.5")
    many = row("reference_likelihood granularity=word", 0.7, metrics={name: around(0.7) for name in names})
    grid = main_grid(merged_rows([results(many, row("cts", 0.6))]), confidence=0.95)
    lines = grid.plain(width).splitlines()
    assert max(map(len, lines)) <= width
    assert any("0.700 [0.600, 0.800]" in line for line in lines)
    assert "beats" in lines[0]
    assert ("average" in lines[0]) == (width == 100)
