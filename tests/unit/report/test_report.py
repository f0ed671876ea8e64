import csv
import json
import math
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from cotpress.errors import ArtifactError, DataError, UnreadableError
from cotpress.records import BASE, MIXED, ON_BASE, BudgetAccuracy, Interval, Origin, System, SystemResult
from cotpress.records import ORIGINAL as ORIGINAL_SYSTEM
from cotpress.report.comparison import compare
from cotpress.report.figure import accuracy_picture, pareto_front
from cotpress.report.published import Published
from cotpress.report.results import Run, RunResults, StageRecord, collect, read_results, write_failure, write_results
from cotpress.report.stage import report_collection, report_run
from cotpress.report.table import change, csv_table, markdown_table, plain_table, show
from cotpress.store.artifacts import content_checksum
from support.disks import as_user
from support.judged import table_of


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


def test_results_are_read_as_written(tmp_path: Path) -> None:
    open_ended = replace(row(), mean_tokens=Interval(value=3, low=-math.inf, high=math.inf, n=1))
    stages = (StageRecord(label="score", artifact="score/0a", seconds=1.5, fresh=False),)
    settings = {"data": {"limit": None, "families": ["shop"]}}
    written = results(
        ORIGINAL, open_ended, stages=stages, essentials={"scorer": "cts"}, settings=settings, confidence=0.9
    )
    path = write_results(tmp_path, written)
    assert read_results(tmp_path) == written
    assert json.loads(path.read_text())["schema_version"] == 6


def test_results_of_the_first_version_are_readable(tmp_path: Path) -> None:
    path = write_results(tmp_path, results(ORIGINAL))
    content = json.loads(path.read_text()) | {"schema_version": 1}
    del content["checksum"]
    for name in ("loop_rate", "pass_at_k", "accuracy_at_budgets", "mean_reference_tokens", "generated_against"):
        del content["rows"][0][name]
    path.write_text(json.dumps(content))
    (old,) = read_results(tmp_path).rows
    assert (old.loop_rate, old.pass_at_k, old.accuracy) == (None, (), ORIGINAL.accuracy)


def test_systems_are_read_from_labels_where_an_earlier_release_wrote_nothing_else(tmp_path: Path) -> None:
    cts = System(name="cts", origin=Origin.scorer, ratio=0.5)
    mixed = System(name="tokenskip", origin=Origin.scorer, variant=MIXED)
    on_base = System(name="BeConcise", origin=Origin.baseline, ratio=1.0, variant=ON_BASE)
    systems = [ORIGINAL_SYSTEM, BASE, on_base, cts, replace(mixed, ratio=0.7)]
    rows = [replace(row(s.label, s.ratio or 1), identity=s) for s in systems]
    stages = [
        StageRecord(label=label, artifact=f"{stage}/0a", seconds=1, fresh=True, system=system)
        for label, stage, system in [
            ("data (labelled)", "data", None),
            ("score (cts)", "score", replace(cts, ratio=None)),
            ("compress (Original)", "compress", ORIGINAL_SYSTEM),
            ("sft (cts)", "sft", cts),
            ("sft (tokenskip (mixed))", "sft", mixed),
            ("evaluate (cts, ratio 0.5)", "evaluate", cts),
        ]
    ]
    written = results(*rows, stages=tuple(stages))
    path = write_results(tmp_path, written)
    assert read_results(tmp_path) == written
    content = json.loads(path.read_text()) | {"schema_version": 3}
    del content["checksum"]
    for stage in content["stages"]:
        del stage["system"]
    for old in content["rows"]:
        del old["identity"]
    path.write_text(json.dumps(content))
    assert read_results(tmp_path).stages == tuple(stages)
    assert [r.source for r in read_results(tmp_path).rows] == systems
    assert [s.title for s in stages[1:5]] == [
        "score (cts)", "compress (Original)", "sft (cts 0.5)", "sft (tokenskip (mixed))",
    ]  # fmt: skip


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 1, "rows": 3}', '{"schema_version": 99}'])
def test_damaged_results_are_an_error_that_names_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"results\.json"):
        read_results(tmp_path)


def test_collection_has_finished_runs_and_reasons_for_the_others(tmp_path: Path) -> None:
    write_results(tmp_path / "a" / "deep", results(row()))
    write_failure(tmp_path / "b", "CUDA out of memory")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.yaml").write_text("ratio: 0.5\n")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "results.json").write_text("{")
    write_results(tmp_path / "artifacts" / "hidden", results(row()))
    collection = collect(tmp_path)
    assert [r.path.name for r in collection.runs] == ["deep"]
    reasons = {u.path.name: u.reason for u in collection.unfinished}
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


def test_shared_baseline_is_the_first_row_once(tmp_path: Path) -> None:
    write_results(tmp_path / "a", results(row("cts", 0.5), ORIGINAL))
    write_results(tmp_path / "b", results(ORIGINAL, row("cts", 0.7), row("random", 0.5)))
    (comparison,) = compare(collect(tmp_path).runs)
    assert [(r.system, r.target_ratio) for r in comparison.rows] == [
        ("Original", 1.0), ("cts", 0.7), ("cts", 0.5), ("random", 0.5),
    ]  # fmt: skip


def test_baselines_without_training_stand_above_the_scorers(tmp_path: Path) -> None:
    shown = [row("Original", 1.0), row("LC-Prompt"), row("BeConcise (Base)", 1.0), row("Truncation"), row("cts")]
    for number, rows in enumerate(([shown[-1]], shown)):
        write_results(tmp_path / str(number), results(*rows))
    (comparison,) = compare(collect(tmp_path).runs)
    assert [r.system for r in comparison.rows][-1] == "cts"
    assert len(comparison.rows) == 5


def test_models_and_benchmarks_have_tables_and_seeds_have_names(tmp_path: Path) -> None:
    write_results(tmp_path / "a", results(row()))
    write_results(tmp_path / "b", results(replace(row(), artifacts={"evaluate": "other"}), seed=2))
    write_results(tmp_path / "c", results(row(), benchmark="gsm8k"))
    planted, gsm8k = compare(collect(tmp_path).runs)
    assert [r.system for r in planted.rows] == ["cts seed=1", "cts seed=2"]
    assert [r.system for r in gsm8k.rows] == ["cts"]


WIDE = replace(
    row("an-extremely-long-system-name-with-seed=42", 0.123, 1.0, 12345.6), seconds_per_sample=1234.5,
    generated_ratio=1.234, loop_rate=1.0, truncation_rate=1.0, num_samples=64,
    accuracy_difference=Interval(value=-0.5, low=-0.611, high=-0.401, n=1319),
)  # fmt: skip


def test_table_fits_120_columns_with_the_widest_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    published = Published(accuracy="85.90", tokens="29470", protocol="cts", source="paper", note="")
    monkeypatch.setattr("cotpress.report.comparison.published", lambda *_: (published,))
    text = plain_table(table_of(ORIGINAL, WIDE), "title")
    table = [line for line in text.splitlines() if not line.startswith("  ")]
    assert max(len(line) for line in table) <= 120
    for cell in ("90.0 [80.0, 100.0]", "1319x64", " 12346 ", " 1.23^ ", "85.9@29470", "-50.0 [-61.1, -40.1]"):
        assert cell in text
    assert "s per" not in "\n".join(table)


def test_names_of_scorers_are_not_shortened() -> None:
    text = plain_table(table_of(ORIGINAL, row("answer_attention"), row("reference_likelihood")))
    assert max(len(line) for line in text.splitlines() if not line.startswith("  ")) <= 120
    assert "reference_likelihood" in text


def test_heading_contains_the_level_of_the_intervals() -> None:
    assert "[95 % CI]" in plain_table(table_of(row()))
    assert "[90 % CI]" in plain_table(table_of(row(), confidence=0.9))


@pytest.mark.parametrize(("reduction", "text"), [(None, "-"), (0.0, "0.0 %"), (0.42, "-42.0 %"), (-0.25, "+25.0 %"),
                                                 (0.0001, "0.0 %"), (-0.1, "+10.0 %"), (-0.007, "+0.7 %")])  # fmt: skip
def test_reduction_is_shown_as_a_change(reduction: float | None, text: str) -> None:
    assert change(reduction) == text


def test_output_without_a_terminal_is_plain_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    show(table_of(row()), "title")
    assert capsys.readouterr().out == plain_table(table_of(row()), "title") + "\n"


LEFT_OUT = {
    50: ["vs Original, points [CI]", "written ratio", "n", "thinking tokens", "cut off/loops %"],
    60: ["vs Original, points [CI]", "written ratio", "n", "thinking tokens", "cut off/loops %", "kept in training"],
    80: ["thinking tokens", "cut off/loops %", "kept in training", "generated tokens [CI]", "s per answer"],
    100: ["kept in training", "generated tokens [CI]", "s per answer"],
    200: [],
}


@pytest.mark.parametrize("width", LEFT_OUT)
def test_terminal_keeps_its_width_and_names_the_columns_that_are_left_out(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    show(table_of(ORIGINAL, row("[bold]x")), "title")
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    assert "[bold]x" in out
    assert "90.0 [80.0, 100.0]" in out, "no terminal lacks an accuracy or its interval"
    assert " 150 " in out or " 150\n" in out or "150 [141, 159]" in out
    last = " ".join(out.partition(f"not in {width} columns, but in report.html: ")[2].split())
    assert [heading for heading in LEFT_OUT[width] if heading not in last] == []
    assert bool(last) == bool(LEFT_OUT[width])
    assert ("points" in " ".join(out.splitlines()[1:3])) == (width != 50)


def test_markdown_and_csv_contain_every_row() -> None:
    assert markdown_table(table_of(ORIGINAL, row("a|b"))).count("\n") == 4
    assert "a\\|b" in markdown_table(table_of(row("a|b")))
    passes = (row().accuracy, replace(row().accuracy, value=0.85))
    at = (BudgetAccuracy(budget=100, accuracy=row().accuracy),)
    sampled = replace(row(), pass_at_k=passes, accuracy_at_budgets=at)
    first, second = csv.DictReader(csv_table(table_of(ORIGINAL, sampled)).splitlines())
    assert (first["system"], first["pass_at_2"], first["accuracy_at_100_tokens_low"]) == ("Original", "", "")
    assert (second["pass_at_2"], second["accuracy_at_100_tokens"]) == ("0.85", "0.8")


def test_front_contains_rows_that_no_other_exceeds() -> None:
    rows = [row("a", 0.5, 0.7, 100), row("b", 0.5, 0.6, 120), row("c", 0.5, 0.9, 200), row("d", 0.5, 0.9, 250)]
    assert [r.system for r in pareto_front(rows)] == ["a", "c"]


def test_rows_of_equal_accuracy_and_tokens_are_all_on_the_front_or_none() -> None:
    rows = [row("a", 0.5, 0.7, 100), row("b", 0.7, 0.7, 100), row("c", 0.5, 0.6, 100), row("d", 0.5, 0.6, 100)]
    assert [r.system for r in pareto_front(rows)] == ["a", "b"]
    assert [r.system for r in pareto_front(rows[::-1])] == ["b", "a"]
    assert [r.system for r in pareto_front([*rows, row("e", 0.5, 0.7, 99)])] == ["e"]


def test_equal_rows_give_equal_plots(tmp_path: Path) -> None:
    rows = [ORIGINAL, row(ratio=0.7), row(), row("random", 0.5, 0.4)]
    png, svg = accuracy_picture(table_of(*rows)).save(tmp_path)
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert svg.read_text() == accuracy_picture(table_of(*rows), "-again").save(tmp_path)[1].read_text()


def test_page_of_a_run_is_well_formed_self_contained_and_escaped(tmp_path: Path) -> None:
    write_results(tmp_path, results(ORIGINAL, row("<script>x"), name="a<b", essentials={"scorer": "<i>"}))
    (tmp_path / "config.yaml").write_text("data: '</pre><script>'\n")
    text = report_run(tmp_path).read_text()
    body = text[text.index("<body>") : text.index("</html>")]
    ET.fromstring(re.sub(r"(?s)<script.*?</script>", "", body))
    assert text.count("<script") == 1
    assert not re.search(r"(?:src|href)=\"http", text)
    assert "&lt;script&gt;x" in text
    assert "color-scheme: light dark" in text
    assert "-10.0 [-20.0, +0.0]" in text or "-10.0 [-20.0, -0.0]" in text


def test_unfinished_sweep_has_table_plot_and_page(tmp_path: Path) -> None:
    write_results(tmp_path / "runs" / "a", results(ORIGINAL, row()))
    write_failure(tmp_path / "runs" / "b", "broken <pipe>")
    collection = report_collection(tmp_path / "runs", tmp_path / "out")
    assert (len(collection.runs), len(collection.unfinished)) == (1, 1)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "plot.png", "plot.svg", "ratios.png", "ratios.svg", "report.html", "results.csv", "results.md",
    ]  # fmt: skip
    assert "broken &lt;pipe&gt;" in (tmp_path / "out" / "report.html").read_text()


def test_sweep_without_a_finished_run_has_a_page_with_reasons(tmp_path: Path) -> None:
    write_failure(tmp_path / "a", "no disk")
    report_collection(tmp_path)
    assert "no disk" in (tmp_path / "report.html").read_text()


def test_several_benchmarks_have_their_own_files(tmp_path: Path) -> None:
    write_results(tmp_path / "a", results(row()))
    write_results(tmp_path / "b", results(row(), benchmark="org/gsm8k"))
    report_collection(tmp_path)
    assert {p.name for p in tmp_path.glob("plot*.png")} == {
        "plot-tiny-planted.png", "plot-tiny-org_gsm8k-2bb861b3.png",
    }  # fmt: skip


def test_single_row_with_open_intervals_is_plotted() -> None:
    alone = replace(row(), mean_tokens=Interval(value=3, low=-math.inf, high=math.inf, n=1))
    assert accuracy_picture(table_of(alone)).inline_svg("f").startswith("<svg")


def _sealed(path: Path, content: object) -> None:
    """Write results with the checksum of their content, as any program could."""
    if isinstance(content, dict):
        content.pop("checksum", None)
        content["checksum"] = content_checksum(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [{"rows": 3}, {"rows": [3]}, {"rows": "ab"}, {"rows": None}, {"name": 3}, {"seed": "x"}, {"seed": True},
     {"confidence": "x"}, {"stages": [{}]}, {"stages": 3}, {"settings": []}, {"essentials": 3}, {"more": 1},
     {"model": None}, {"benchmark": ["x"]}],
    ids=str,
)  # fmt: skip
def test_results_of_another_shape_are_one_message(change: dict[str, object], tmp_path: Path) -> None:
    path = write_results(tmp_path, results(row()))
    _sealed(path, {**json.loads(path.read_text()), **change})
    with pytest.raises(ArtifactError, match=r"results\.json' is damaged"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"system": 3}, {"accuracy": 3}, {"accuracy": None}, {"accuracy": {"value": "x", "low": 0, "high": 1, "n": 3}},
     {"mean_tokens": {"value": 1}}, {"pass_at_k": [None]}, {"artifacts": {"sft": 3}}, {"identity": 3},
     {"truncation_rate": "x"}, {"actual_ratio": [1]}, {"num_training_rows": 0.5}, {"accuracy_at_budgets": [{}]}],
    ids=str,
)  # fmt: skip
def test_rows_of_another_shape_are_one_message(change: dict[str, object], tmp_path: Path) -> None:
    path = write_results(tmp_path, results(row()))
    content = json.loads(path.read_text())
    content["rows"][0] |= change
    _sealed(path, content)
    with pytest.raises(ArtifactError, match=r"results\.json' is damaged"):
        read_results(tmp_path)


def test_results_without_their_checksum_are_not_believed(tmp_path: Path) -> None:
    path = write_results(tmp_path, results(row()))
    content = json.loads(path.read_text())
    del content["checksum"]
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="its checksum differs"):
        read_results(tmp_path)


def test_results_that_cannot_be_read_are_not_called_damaged(public_folder: Path) -> None:
    write_results(public_folder, results(row())).chmod(0o600)
    with as_user(), pytest.raises(UnreadableError, match=r"results\.json' cannot be read: Permission denied"):
        read_results(public_folder)


def test_files_of_models_that_differ_only_in_replaced_characters_are_separate(tmp_path: Path) -> None:
    pairs = [
        ("a/b", "c"),
        ("a_b", "c"),
        ("a-b", "c"),
        ("a", "b-c"),
        ("a b", "c"),
        ("a:b", "c"),
        ("a", "b/c"),
        ("ä", "c"),
    ]
    for number, (model, benchmark) in enumerate(pairs):
        write_results(tmp_path / str(number), results(row(), model=model, benchmark=benchmark))
    report_collection(tmp_path, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("results-*.csv"))) == len(pairs)


def test_names_of_rows_that_are_cut_to_the_same_text_are_told_apart() -> None:
    systems = [f"reference-of-{middle}-with-all-data" for middle in ("seed-1", "seed-2", "the-other-kind")]
    (comparison,) = compare([Run(path=Path("x"), results=results(*map(row, systems)))])
    for text in (plain_table(comparison), markdown_table(comparison)):
        lines = [line for line in text.splitlines() if "reference-of-" in line]
        assert len({line.split(" ")[0 if "|" not in line else 1] for line in lines}) == 3
        assert "seed-1" in lines[0], "what differs is not left out"
        assert "seed-2" in lines[1], "what differs is not left out"


def below_original(high: float, low: float = 0.3) -> SystemResult:
    short = row("short", 0.5, 0.5, 50)
    return replace(short, accuracy=replace(short.accuracy, low=low, high=high))


@pytest.mark.parametrize(("high", "front"), [(0.79, ["Original"]), (0.8, ["short", "Original"])])
def test_row_whose_interval_lies_below_that_of_original_is_not_on_the_front(high: float, front: list[str]) -> None:
    assert (ORIGINAL.accuracy.low, ORIGINAL.accuracy.high) == (0.8, 1.0)
    assert [r.system for r in pareto_front([ORIGINAL, below_original(high)])] == front
    assert [r.system for r in pareto_front([below_original(high), row("long", 0.5, 0.9, 300)])] == ["short", "long"]


def test_lowest_of_several_originals_counts() -> None:
    weak = replace(ORIGINAL, accuracy=replace(ORIGINAL.accuracy, value=0.7, low=0.6, high=0.8))
    assert [r.system for r in pareto_front([ORIGINAL, weak, below_original(0.7)])] == ["short", "Original"]


@pytest.mark.parametrize(("low", "is_on"), [(0.24, False), (0.25, False), (0.26, True)])
def test_row_at_chance_is_not_on_the_front(low: float, is_on: bool) -> None:
    guessed = below_original(0.9, low)
    assert (guessed in pareto_front([ORIGINAL, guessed], chance=0.25)) == is_on
    assert guessed in pareto_front([ORIGINAL, guessed])


def test_rows_without_a_right_answer_are_not_on_the_front() -> None:
    wrong = replace(ORIGINAL, accuracy=Interval(value=0.0, low=0.0, high=0.04, n=84))
    assert pareto_front([wrong, replace(wrong, system="cts", target_ratio=0.5)]) == []
    assert "On the Pareto front: none." in accuracy_picture(table_of(wrong)).description


@pytest.mark.parametrize(
    ("benchmark", "chance"),
    [({"wrong_columns": ["a", "b", "c"]}, 0.25), ({"name": "gsm8k"}, 0.0), ({"wrong_columns": None}, 0.0), ({}, 0.0)],
)
def test_chance_is_that_of_the_options_of_a_benchmark(benchmark: dict[str, object], chance: float) -> None:
    (comparison,) = compare([Run(path=Path("x"), results=results(row(), settings={"benchmark": benchmark}))])
    assert comparison.chance == chance
