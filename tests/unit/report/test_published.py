"""Published numbers are matched to systems by model, benchmark, method and ratio."""

import csv
import io
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from cotpress.records import Interval, System, SystemResult
from cotpress.report.comparison import compare
from cotpress.report.published import COUNTS, published
from cotpress.report.results import Run, RunResults
from cotpress.report.table import columns, csv_table, markdown_table, notes, plain_table
from cotpress.store.grid import WIDTH
from support.judged import table_of


def at(ratio: float, label: str) -> System:
    return replace(System.from_label(label), ratio=ratio)


def row(system: str, ratio: float) -> SystemResult:
    number = Interval(value=0.5, low=0.4, high=0.6, n=500)
    return SystemResult(
        system=system, target_ratio=ratio, actual_ratio=ratio, accuracy=number, mean_tokens=number, truncation_rate=0,
        seconds_per_sample=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "benchmark", "system", "ratio", "cell"),
    [
        ("qwen7b", "gsm8k", "tokenskip", 0.5, "86.0@152"),
        ("qwen14b", "gsm8k", "tokenskip_xlmr", 0.6, "92.7@181"),
        ("Qwen/Qwen2.5-14B-Instruct", "gsm8k", "Base", 1.0, "93.1@313"),
        ("qwen7b", "math500", "cts", 0.7, "78.0@5109"),
        ("Qwen2.5-7B-Instruct", "gpqa_diamond", "cts", 0.9, "43.4@17272"),
        ("qwen7b", "aime24", "Original", 1.0, "20.0@24396"),
        ("qwen7b", "math500", "llmlingua", 0.8, "58.6@2969"),
        ("llama8b", "gsm8k", "LC-Prompt (Base)", 0.5, "83.7@189"),
        ("llama8b", "math500", "Truncation", 0.7, "45.0@387"),
        ("llama8b", "gsm8k", "BeConcise", 1.0, "82.9@161"),
        ("llama8b", "aime24", "tokenskip", 0.7, "3.3@34249"),
        ("llama8b", "gpqa_diamond", "cts", 0.5, "29.2@3080"),
    ],
)
def test_printed_number_is_that_of_the_paper(model: str, benchmark: str, system: str, ratio: float, cell: str) -> None:
    assert published(model, benchmark, at(ratio, system))[0].cell == cell


@pytest.mark.parametrize(
    ("model", "benchmark", "system", "ratio"),
    [("smollm2", "gsm8k", "tokenskip", 0.5), ("qwen7b", "planted", "cts", 0.5), ("qwen7b", "gsm8k", "cts", 0.5),
     ("qwen7b", "gsm8k", "tokenskip", 0.55), ("qwen7b", "gsm8k", "random", 0.5),
     ("qwen7b", "math500", "self_information", 0.8)],
)  # fmt: skip
def test_system_without_a_source_has_no_printed_number(model: str, benchmark: str, system: str, ratio: float) -> None:
    assert published(model, benchmark, at(ratio, system)) == ()


@pytest.mark.parametrize(("condition", "num_printed"), [("answer", 1), ("question", 0)])
def test_row_with_a_setting_that_no_paper_used_has_no_printed_number(condition: str, num_printed: int) -> None:
    system = replace(at(0.7, "cts"), settings=(("condition", condition),), seed=3)
    assert len(published("qwen7b", "math500", system)) == num_printed


@pytest.mark.parametrize(
    ("method", "granularity", "num_printed"),
    [("cts", "token", 1), ("cts", "word", 0), ("cts", None, 1), ("tokenskip", "token", 1), ("tokenskip", "word", 1),
     ("tokenskip", "step", 0)],
)  # fmt: skip
def test_row_of_another_unit_than_the_papers_has_no_printed_number(
    method: str, granularity: str | None, num_printed: int
) -> None:
    assert len(published("qwen7b", "math500", at(0.7, method), granularity=granularity)) == num_printed
    if granularity is not None:
        told_apart = replace(at(0.7, method), settings=(("granularity", granularity),))
        assert len(published("qwen7b", "math500", told_apart, granularity="paragraph")) == num_printed


def test_run_by_words_is_named_in_place_of_a_printed_number(tmp_path: Path) -> None:
    runs = []
    for name, selection in (("token", "exact"), ("word", "exact"), ("word", "llmlingua_compat")):
        compression = {"granularity": name, "selection": selection}
        rows = (replace(row("cts", 0.7), artifacts={"evaluate": f"evaluate/{name}-{selection}"}),)
        made = RunResults(
            name="r", model="qwen7b", benchmark="math500", seed=1, rows=rows, essentials={"compression": compression}
        )
        runs.append(Run(path=tmp_path, results=made))
    for run, cell in zip(runs, ("78.0@5109", None, "78.0@5109"), strict=True):
        (table,) = compare([run])
        printed = table.published(table.rows[0])
        assert (None if printed is None else printed.cell) == cell
        told = [note for note in notes(table) if "single tokens" in note]
        assert told == ([] if cell else [
            "published numbers are of single tokens (compression.granularity=token); rows without them: word (cts)"
        ])  # fmt: skip
    (both,) = compare(runs[:2])
    cells = {r.system: both.published(r) is not None for r in both.rows}
    assert cells == {"cts granularity=token": True, "cts granularity=word": False}


def test_reruns_follow_the_paper() -> None:
    paper, rerun = published("qwen7b", "gsm8k", at(0.6, "tokenskip"))
    assert "2502.12067" in paper.source
    assert (rerun.cell, rerun.source) == ("88.0@178", "independent rerun of TokenSkip")


def test_file_is_complete_and_plausible() -> None:
    text = files("cotpress.report").joinpath("published.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 144
    keys = [(r["model"], r["benchmark"], r["system"], r["ratio"], r["source"]) for r in rows]
    assert len(set(keys)) == len(keys)
    assert {r["protocol"] for r in rows} == set(COUNTS) == {"cts", "tokenskip"}
    assert all(("TokenSkip" in r["source"]) == (r["protocol"] == "tokenskip") for r in rows)
    assert all(0 <= float(r["accuracy"]) <= 100 and float(r["tokens"]) > 100 and r["source"] for r in rows)


def test_column_is_left_out_without_published_numbers() -> None:
    rows = [row("Original", 1.0), row("tokenskip", 0.5), row("random", 0.5)]
    table = table_of(*rows, model="qwen7b", benchmark="gsm8k")
    with_numbers = plain_table(table)
    assert "published" in with_numbers.splitlines()[1]
    assert "86.0@152" in with_numbers
    assert "published" not in plain_table(table_of(*rows, model="smollm2", benchmark="gsm8k"))
    assert any("untuned" in note for note in notes(table))
    assert "- published: TokenSkip" in markdown_table(table)


def test_number_counted_as_the_paper_counts_stands_beside_the_published_one() -> None:
    def counted(benchmark: str, system: str, ratio: float, **counts: Interval) -> dict[str, str]:
        table = table_of(replace(row(system, ratio), **counts), model="qwen7b", benchmark=benchmark)
        (line,) = csv.DictReader(io.StringIO(csv_table(table)))
        cells = [c.cell(table.rows[0]) for c in columns(table)]
        on_page = {c.heading: c.cell(table.rows[0]) for c in columns(table, on_page=True)}
        assert line[line["published_count"]] == str(counts[line["published_count"]].value)
        counted_alike, printed = on_page["tokens in paper's\ncount [CI]"], on_page["tokens\npublished"]
        return {"terminal": " ".join(cells[-2:]), "page": f"{counted_alike} {printed}"}

    cot, reference = (Interval(value=v, low=v - 1, high=v + 1, n=9) for v in (150.0, 5000.0))
    counts = {"mean_cot_tokens": cot, "mean_reference_tokens": reference}
    assert counted("gsm8k", "tokenskip", 0.5, **counts) == {"terminal": "150 86.0@152", "page": "150 [149, 151] 152"}
    assert counted("math500", "cts", 0.7, **counts) == {
        "terminal": "5000 78.0@5109",
        "page": "5000 [4999, 5001] 5109",
    }
    uncounted = table_of(row("cts", 0.7), model="qwen7b", benchmark="math500")
    assert plain_table(uncounted).splitlines()[3].split()[-2:] == ["-", "78.0@5109"]
    (note,) = notes(uncounted)
    assert note.endswith("it counts all tokens in the tokenizer of Qwen2.5-7B (evaluation.reference_tokenizer)")


def test_columns_give_way_to_published_numbers_of_long_answers() -> None:
    def long(value: float) -> Interval:
        return Interval(value=value, low=value - 900, high=value + 900, n=500)

    rows = [
        replace(
            row(system, 0.7), mean_tokens=long(16497), mean_reference_tokens=long(16497), mean_thinking_tokens=16012.0,
            generated_ratio=1.23, accuracy_difference=Interval(value=-0.123, low=-0.145, high=-0.101, n=500),
            truncation_rate=0.123, loop_rate=0.101,
        )
        for system in ("tokenskip_xlmr", "cts")
    ]  # fmt: skip
    text = plain_table(table_of(*rows, model="qwen7b", benchmark="gpqa_diamond"))
    table = [line for line in text.splitlines() if not line.startswith("  ")]
    assert max(map(len, table)) <= WIDTH
    assert "cts" in text
    assert all(part in text for part in ("16497", "16012", "42.4@13937", "12.3/10.1", "tokenskip"))
    assert "s per" not in "\n".join(table)
    short = [replace(r, mean_tokens=row("cts", 1).mean_tokens) for r in rows]
    assert "s per" in plain_table(table_of(*short, model="smollm2", benchmark="planted"))
