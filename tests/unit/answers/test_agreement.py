"""Verdicts against published labels; by default every fourth row of the large files, with `slow` all rows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cotpress.answers import Extractor, declines_to_answer, extract_answer, is_equal

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
STEPS = [4, pytest.param(1, marks=pytest.mark.slow)]
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason="no data folder beside the checkout"),
]


def rows(name: str, step: int = 1) -> list[dict[str, Any]]:
    with (SHARED / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines][::step]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", [Extractor.math, Extractor.number])
def test_verdicts_agree_with_the_labels_of_four_published_systems(kind: Extractor, step: int) -> None:
    systems = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    pairs = [(row["answer"], row[system]) for row in rows("gsm8k_model_solutions", step) for system in systems]
    wrong = [s for gold, s in pairs if is_equal(gold, extract_answer(s["solution"], kind)) is not s["is_correct"]]
    assert wrong == []


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", [Extractor.math, Extractor.number])
def test_verdicts_agree_with_the_published_tokenskip_replication(kind: Extractor, step: int) -> None:
    published = rows("tokenskip_replication_gsm8k", step)
    agree = [is_equal(r["answer"], extract_answer(r["model_output"], kind)) is r["accuracy"] for r in published]
    assert sum(agree) / len(agree) >= 0.995


def disagreements(name: str, text: str) -> Iterator[str]:
    for row in rows(name):
        answer = extract_answer(row[text], Extractor.number)
        assert answer, row["id"]
        if is_equal(row["answer"], answer) is not row["correct_heuristic"]:
            yield str(row["pred"])


def test_answers_of_complete_reasoning_traces_agree_but_for_number_formats() -> None:
    """The labels compare strings, so that they call a correct `9,\\!360` wrong."""
    predictions = list(disagreements("mip_gsm8k_traces", "response"))
    assert len(predictions) == 20
    assert all("\\!" in pred or "{,}" in pred or "2:00" in pred for pred in predictions)


def test_answers_of_short_traces_agree_but_for_a_time_of_day() -> None:
    assert list(disagreements("mip_gsm8k_qwen32_short_cot", "thinking")) == ["2:00 \\text{ pm}"]


def test_gold_answers_of_math500_are_extracted_from_their_solutions() -> None:
    for row in rows("math500"):
        assert is_equal(row["answer"], row["answer"])
        assert is_equal(row["answer"], extract_answer(row["solution"])), row["id"]


@pytest.mark.parametrize("name", ["gsm8k_test", "gsm8k_train"])
def test_gold_answers_of_gsm8k_are_extracted_from_their_solutions(name: str) -> None:
    solved = rows(name)
    assert all(is_equal(row["answer"], row["answer"]) for row in solved)
    # the published file ends each solution with its answer, which is a column here
    published = [extract_answer(f"{row['solution']}\n#### {row['answer']}", Extractor.number) for row in solved]
    assert all(is_equal(row["answer"], answer) for row, answer in zip(solved, published, strict=True))
    unmarked = [is_equal(row["answer"], extract_answer(row["solution"], Extractor.number)) for row in solved]
    assert sum(unmarked) / len(unmarked) >= 0.99


def test_only_solutions_to_questions_with_a_missing_premise_decline() -> None:
    missing = [row["id"] for row in rows("mip_missing_premise_r1") if declines_to_answer(row["response"])]
    assert len(missing) == 8  # checked by hand: the other 94 state a value or an expression
    for name, text in (("mip_gsm8k_traces", "response"), ("mip_gsm8k_qwen32_short_cot", "thinking"),
                       ("math500", "solution"), ("gsm8k_test", "solution"), ("crest_math_traces", "response"),
                       ("tokenskip_replication_gsm8k", "model_output")):  # fmt: skip
        assert not [row["id"] for row in rows(name) if declines_to_answer(row[text])]
