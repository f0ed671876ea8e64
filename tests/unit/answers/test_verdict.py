"""Verdicts and declined answers."""

import pytest

from cotpress.answers import Extractor, declines_to_answer, judge

DECLINING = [
    "There are two unknowns.\n\n\\[ \\boxed{\\text{Insufficient information}} \\]",
    "\\boxed{\\text{Cannot be determined}}",
    "The final answer is: \\boxed{\\text{undefined}}",
    "**Answer:** The problem does not provide enough information.",
    "The height is not given, so the volume cannot be determined.",
    "It is impossible to determine her age without more data.",
    "We cannot find Jack's share.\n\nIf you can tell me how much he ate, I will add it up.",
    "Some information is missing: incomplete data were given.",
    "There isn't enough information to solve this.",
]
ANSWERING = [
    "",
    "The height is not given, but a cone often has height 1.\n\n\\boxed{10}",
    "The value is undefined at 0, so the limit is needed. The answer is 3.",
    "The unknown temperature is at least 68 because 200 - 132 = 68",
    "We cannot find x directly.\n\nSubstitute y.\n\nThen x = 3.\n\nSo there are 3 solutions.",
    "\\boxed{0}",
    "He had no money left.",
    "\0 \ud800",
]


@pytest.mark.parametrize("text", DECLINING)
def test_declining_is_right_for_unanswerable_questions_and_wrong_for_others(text: str) -> None:
    assert declines_to_answer(text)
    assert judge(text, "", unanswerable=True).correct
    verdict = judge(text, "18", Extractor.number)
    assert (verdict.correct, verdict.declined) == (False, True)


@pytest.mark.parametrize("text", ANSWERING)
def test_answer_or_empty_output_is_wrong_for_unanswerable_questions(text: str) -> None:
    assert not declines_to_answer(text)
    assert not judge(text, "", unanswerable=True).correct


def test_no_answer_equals_an_empty_gold_answer() -> None:
    assert not judge("\\boxed{}", "").correct
    assert not judge("\\boxed{\\text{undefined}}", "").correct


def test_undefined_is_right_if_it_is_the_gold_answer() -> None:
    assert judge("\\boxed{\\text{undefined}}", "\\text{undefined}").correct
