"""`cotpress.evaluate_answers` judges as the evaluation does."""

import json
from typing import Any

import pytest

import cotpress
from cotpress.answers import Extractor
from cotpress.errors import ConfigError, DataError
from support.commands import ROOT

CASES = ROOT.parent / "shared" / "cases" / "outputs_judged.jsonl"


def test_a_verdict_is_the_answer_and_whether_it_is_right() -> None:
    assert cotpress.evaluate_answers("4", r"so it is \boxed{4.0}") == ("4.0", True, False)
    assert cotpress.evaluate_answers("4", "The answer is 5.") == ("5", False, False)
    assert cotpress.evaluate_answers(4, "The answer is 4.").correct
    assert cotpress.evaluate_answers("C", "The answer is (C).", extractor="letter") == ("C", True, False)


def test_several_outputs_have_one_answer_or_each_its_own() -> None:
    outputs = ["The answer is 4.", "The answer is 5."]
    assert [v.correct for v in cotpress.evaluate_answers("4", outputs)] == [True, False]
    assert [v.correct for v in cotpress.evaluate_answers(["4", 5.0], outputs)] == [True, True]
    assert cotpress.evaluate_answers([], []) == []


def test_declining_is_right_for_a_question_without_answer_alone() -> None:
    declined = "The question cannot be answered, as there is not enough information."
    for gold, output, correct in ((None, declined, True), (None, "It is 4.", False), ("4", declined, False)):
        assert cotpress.evaluate_answers(gold, output).correct is correct


@pytest.mark.parametrize(
    ("output", "predicted"),
    [
        ("<think>first 5, no, 4</think>The answer is 4.", "4"),
        ("first 5</think>\n\nThe answer is 4.", "4"),
        ("Okay. <think>5</think> The answer is 4.", "4"),
        ("<think>The answer is 4.", ""),
        ("<think>The answer is 4.</think>", ""),
        ("<|channel|>analysis<|message|>5<|end|><|start|>assistant<|channel|>final<|message|>It is 4.<|return|>", "4"),
    ],
)
def test_the_text_after_the_thinking_is_judged(output: str, predicted: str) -> None:
    assert cotpress.evaluate_answers("4", output) == (predicted, predicted == "4", False)


@pytest.mark.parametrize(
    ("gold", "outputs", "options", "message"),
    [
        ("4", "4", {"extractor": "nubmer"}, r"extractor: got 'nubmer'\. Did you mean 'number'\?"),
        (["4"], ["4", "5"], {}, "gold: got 1 answers for 2 outputs"),
        (["4"], "4", {}, "gold: got 1 answers for 1 outputs"),
        ("4", ["4", None], {}, r"outputs\[1\]: got null, allowed: text"),
        (["4", " "], ["4", "4"], {}, r"gold\[1\]: got ' ', allowed: an answer, or None"),
        (float("nan"), "4", {}, "gold: got nan"),
        ([["4"]], ["4"], {}, r"gold\[0\]: got a list"),
    ],
)
def test_data_that_cannot_be_judged_is_refused(gold: Any, outputs: Any, options: Any, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        cotpress.evaluate_answers(gold, outputs, **options)


@pytest.mark.shared
@pytest.mark.parametrize("kind", [kind.value for kind in Extractor])
def test_judged_outputs_have_their_verdicts(kind: str) -> None:
    if not CASES.is_file():
        pytest.skip("the data folder is not beside the checkout")
    lines = CASES.read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["extractor"] == kind and not row.get("unanswerable")]
    verdicts = cotpress.evaluate_answers([r["gold"] for r in rows], [r["output"] for r in rows], extractor=kind)
    assert rows
    assert [v.correct for v in verdicts] == [row["correct"] for row in rows]
