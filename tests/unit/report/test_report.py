import json
import math
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from cotpress.errors import ArtifactError, DataError
from cotpress.records import Interval, SystemResult
from cotpress.report.collect import collect, compare
from cotpress.report.plots import pareto_front, save_plot, svg_plot
from cotpress.report.results import RunResults, StageRecord, read_results, write_failure, write_results
from cotpress.report.stage import report_collection, report_run
from cotpress.report.table import csv_table, markdown_table, plain_table, relative, show


def row(system: str = "cts", ratio: float = 0.5, accuracy: float = 0.8, tokens: float = 150.0) -> SystemResult:
    return SystemResult(
        system=system, target_ratio=ratio, actual_ratio=ratio,
        accuracy=Interval(value=accuracy, low=accuracy - 0.1, high=accuracy + 0.1, n=1319),
        mean_tokens=Interval(value=tokens, low=tokens - 9, high=tokens + 9, n=1319),
        truncation_rate=0.015, seconds_per_sample=1.25, generated_ratio=tokens / 300,
        accuracy_difference=Interval(value=accuracy - 0.9, low=accuracy - 1, high=accuracy - 0.8, n=1319),
        artifacts={"evaluate": f"evaluate/{system}-{ratio}"},
    )  # fmt: skip


ORIGINAL = replace(row("Original", 1.0, 0.9, 300.0), accuracy_difference=None)


def results(*rows: SystemResult, **change: object) -> RunResults:
    values = {"name": "run", "model": "tiny", "benchmark": "planted", "seed": 1, "rows": rows} | change
    return RunResults(**values)  # type: ignore[arg-type]


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    open_ended = replace(row(), mean_tokens=Interval(value=3, low=-math.inf, high=math.inf, n=1))
    stages = (StageRecord(label="score", artifact="score/0a", seconds=1.5, fresh=False),)
    written = results(ORIGINAL, open_ended, stages=stages, essentials={"scorer": "cts"}, confidence=0.9)
    path = write_results(tmp_path, written)
    assert read_results(tmp_path) == written
    assert json.loads(path.read_text())["schema_version"] == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 1, "rows": 3}', '{"schema_version": 99}'])
def test_damaged_results_are_an_error_that_names_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"results\.json"):
        read_results(tmp_path)


def test_collection_finds_finished_runs_and_says_what_the_others_lack(tmp_path: Path) -> None:
    write_results(tmp_path / "a" / "deep", results(row()))
    write_failure(tmp_path / "b", "CUDA out of memory")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.yaml").write_text("ratio: 0.5\n")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "results.json").write_text("{")
    write_results(tmp_path / "artifacts" / "hidden", results(row()))
    found = collect(tmp_path)
    assert [r.path.name for r in found.runs] == ["deep"]
    reasons = {u.path.name: u.reason for u in found.unfinished}
    assert reasons["b"] == "failed: CUDA out of memory"
    assert reasons["c"].startswith("not finished")
    assert reasons["d"].startswith("damaged")


def test_run_that_succeeds_after_a_failure_is_finished(tmp_path: Path) -> None:
    write_failure(tmp_path, "disk full")
    write_results(tmp_path, results(row()))
    assert not collect(tmp_path).unfinished


def test_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run directory"):
        collect(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        collect(tmp_path / "missing")


def test_shared_baseline_stands_once_and_first(tmp_path: Path) -> None:
    write_results(tmp_path / "a", results(row("cts", 0.5), ORIGINAL))
    write_results(tmp_path / "b", results(ORIGINAL, row("cts", 0.7), row("random", 0.5)))
    (comparison,) = compare(collect(tmp_path).runs)
    assert [(r.system, r.target_ratio) for r in comparison.rows] == [
        ("Original", 1.0), ("cts", 0.7), ("cts", 0.5), ("random", 0.5),
    ]  # fmt: skip


def test_models_and_benchmarks_are_not_mixed_and_seeds_are_named(tmp_path: Path) -> None:
    write_results(tmp_path / "a", results(row()))
    write_results(tmp_path / "b", results(replace(row(), artifacts={"evaluate": "other"}), seed=2))
    write_results(tmp_path / "c", results(row(), benchmark="gsm8k"))
    planted, gsm8k = compare(collect(tmp_path).runs)
    assert [r.system for r in planted.rows] == ["cts seed=1", "cts seed=2"]
    assert [r.system for r in gsm8k.rows] == ["cts"]


def test_table_fits_100_columns_whatever_stands_in_it() -> None:
    wide = replace(row("an-extremely-long-system-name-with-seed=42", 0.123, 1.0, 12345.6), seconds_per_sample=1234.5)
    text = plain_table([ORIGINAL, wide], "title")
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "an-extrem…th-seed=42" in text
    assert "90.0 [80.0, 100.0]" in text
    assert "1319" in text


def test_heading_tells_the_level_of_the_intervals() -> None:
    assert "[95 % CI]" in plain_table([row()])
    assert "[90 % CI]" in plain_table([row()], confidence=0.9)


@pytest.mark.parametrize(("ratio", "text"), [(None, "-"), (1.0, "0.0 %"), (0.58, "-42.0 %"), (1.25, "+25.0 %"),
                                             (0.9999, "0.0 %"), (1.1, "+10.0 %"), (1.007, "+0.7 %")])  # fmt: skip
def test_relative_tokens_read_as_a_change(ratio: float | None, text: str) -> None:
    assert relative(ratio) == text


def test_output_that_is_no_terminal_gets_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    show([row()], "title")
    assert capsys.readouterr().out == plain_table([row()], "title") + "\n"


def test_terminal_gets_every_cell_uncut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    show([ORIGINAL, row("[bold]x")], "title")
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "[bold]x" in out
    assert "90.0 [80.0, 100.0]" in out
    assert "1.25" in out


def test_markdown_and_csv_hold_every_row() -> None:
    assert markdown_table([ORIGINAL, row("a|b")]).count("\n") == 4
    assert "a\\|b" in markdown_table([row("a|b")])
    lines = csv_table([ORIGINAL, row()]).splitlines()
    assert len(lines) == 3
    assert len({line.count(",") for line in lines}) == 1


def test_front_holds_what_nothing_beats() -> None:
    rows = [row("a", 0.5, 0.7, 100), row("b", 0.5, 0.6, 120), row("c", 0.5, 0.9, 200), row("d", 0.5, 0.9, 250)]
    assert [r.system for r in pareto_front(rows)] == ["a", "c"]


def test_plot_is_written_twice_and_is_the_same_for_the_same_rows(tmp_path: Path) -> None:
    rows = [ORIGINAL, row(ratio=0.7), row(), row("random", 0.5, 0.4)]
    png, svg = save_plot(rows, "tiny on planted", tmp_path / "plot")
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert svg.read_text() == save_plot(rows, "tiny on planted", tmp_path / "again")[1].read_text()


def test_page_of_a_run_is_well_formed_self_contained_and_escaped(tmp_path: Path) -> None:
    write_results(tmp_path, results(ORIGINAL, row("<script>x"), name="a<b", essentials={"scorer": "<i>"}))
    (tmp_path / "config.yaml").write_text("data: '</pre><script>'\n")
    text = report_run(tmp_path).read_text()
    body = text[text.index("<body>") : text.index("</html>")]
    ET.fromstring(body)
    assert "<script" not in text
    assert not re.search(r"(?:src|href)=\"http", text)
    assert "&lt;script&gt;x" in text
    assert "prefers-color-scheme: dark" in text
    assert "-10.0 [-20.0, +0.0]" in text or "-10.0 [-20.0, -0.0]" in text


def test_half_finished_sweep_gets_table_plot_and_page(tmp_path: Path) -> None:
    write_results(tmp_path / "runs" / "a", results(ORIGINAL, row()))
    write_failure(tmp_path / "runs" / "b", "broken <pipe>")
    found = report_collection(tmp_path / "runs", tmp_path / "out")
    assert (len(found.runs), len(found.unfinished)) == (1, 1)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "plot.png", "plot.svg", "report.html", "results.csv", "results.md",
    ]  # fmt: skip
    assert "broken &lt;pipe&gt;" in (tmp_path / "out" / "report.html").read_text()


def test_sweep_without_a_finished_run_still_says_what_happened(tmp_path: Path) -> None:
    write_failure(tmp_path / "a", "no disk")
    report_collection(tmp_path)
    assert "no disk" in (tmp_path / "report.html").read_text()


def test_several_benchmarks_get_files_of_their_own(tmp_path: Path) -> None:
    write_results(tmp_path / "a", results(row()))
    write_results(tmp_path / "b", results(row(), benchmark="org/gsm8k"))
    report_collection(tmp_path)
    assert {p.name for p in tmp_path.glob("plot*.png")} == {"plot-tiny-planted.png", "plot-tiny-org_gsm8k.png"}


def test_plot_survives_a_single_row_with_open_intervals() -> None:
    alone = replace(row(), mean_tokens=Interval(value=3, low=-math.inf, high=math.inf, n=1))
    assert svg_plot([alone], "t").startswith("<svg")
