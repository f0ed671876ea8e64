import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.errors import DataError
from cotpress.evaluation.statistics import (
    accuracy_interval,
    mean_interval,
    paired_accuracy_difference,
    student_t_quantile,
    summarize,
    token_ratio,
    wilson,
)
from cotpress.records import Prediction


def answer(
    question: int, correct: bool, tokens: int = 10, sample: int = 0, finish: str = "stop", latency_s: float = 1.0
) -> Prediction:
    return Prediction(
        id=f"q{question}", family="", question="?", answer="1", system="s", ratio=0.5, output="", predicted="1",
        correct=correct, num_tokens=tokens, num_thinking_tokens=tokens, finish_reason=finish, latency_s=latency_s,
        sample=sample,
    )  # fmt: skip


def test_wilson_equals_published_values() -> None:
    # Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29.
    for (x, n), (low, high) in {
        (81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718),
    }.items():  # fmt: skip
        assert wilson(x / n, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize(
    ("probability", "df", "value"),
    [(0.975, 1, 12.7062), (0.975, 9, 2.26216), (0.975, 29, 2.04523), (0.95, 5, 2.01505), (0.995, 120, 2.61742),
     (0.975, 100_000, 1.95999), (0.5, 7, 0.0)],
)  # fmt: skip
def test_student_quantile_equals_the_printed_tables(probability: float, df: int, value: float) -> None:
    assert student_t_quantile(probability, df) == pytest.approx(value, abs=2e-4)


def test_one_sample_per_question_is_plain_wilson() -> None:
    interval = accuracy_interval([answer(i, i < 15) for i in range(148)])
    assert (interval.value, interval.n) == (15 / 148, 148)
    assert (interval.low, interval.high) == pytest.approx(wilson(15 / 148, 148))


def test_samples_that_always_agree_count_as_one() -> None:
    once = accuracy_interval([answer(i, i < 6) for i in range(10)])
    thrice = accuracy_interval([answer(i, i < 6, sample=s) for i in range(10) for s in range(3)])
    assert (thrice.low, thrice.high, thrice.n) == (pytest.approx(once.low), pytest.approx(once.high), 10)


def test_samples_that_vary_within_questions_narrow_the_interval_no_further_than_independent_answers() -> None:
    mixed = accuracy_interval([answer(i, s == 0, sample=s) for i in range(10) for s in range(2)])
    assert (mixed.low, mixed.high) == pytest.approx(
        wilson(0.5, 10)
    )  # no spread between questions: only questions count
    some = accuracy_interval([answer(i, (i + s) % 3 == 0, sample=s) for i in range(10) for s in range(2)])
    assert some.high - some.low >= wilson(some.value, 20)[1] - wilson(some.value, 20)[0] - 1e-12


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=30))
def test_accuracy_lies_in_its_interval_and_in_the_unit_range(questions: list[list[bool]]) -> None:
    got = accuracy_interval([answer(i, c, sample=s) for i, row in enumerate(questions) for s, c in enumerate(row)])
    assert 0 <= got.low <= got.value <= got.high <= 1
    assert got.low < got.high


def test_mean_interval_equals_the_textbook_value() -> None:
    # sd = sqrt(2.5), t(0.975, 4) = 2.77645
    got = mean_interval([1, 2, 3, 4, 5])
    assert (got.value, got.n) == (3.0, 5)
    assert got.high - got.value == pytest.approx(2.77645 * math.sqrt(2.5 / 5), abs=1e-4)


def test_single_value_says_nothing_about_the_spread() -> None:
    assert mean_interval([7.0]).high == math.inf


def test_paired_difference_equals_the_hand_computed_value() -> None:
    # 10 questions: both right 5, only ours 3, only theirs 1, neither 1. Agresti-Min: N* = 12, b* = 3.5, c* = 1.5.
    ours = [answer(i, i < 8) for i in range(10)]
    theirs = [answer(i, i < 5 or i == 8) for i in range(10)]
    got = paired_accuracy_difference(ours, theirs)
    half = 1.959964 * math.sqrt(3.5 + 1.5 - 2.0**2 / 12) / 12
    assert (got.value, got.n) == (pytest.approx(0.2), 10)
    assert (got.low, got.high) == (pytest.approx(2 / 12 - half), pytest.approx(2 / 12 + half))


def test_equal_answers_do_not_prove_equal_systems() -> None:
    same = [answer(i, True) for i in range(8)]
    got = paired_accuracy_difference(same, same)
    assert got.low < got.value == 0 < got.high


def test_only_shared_questions_are_compared() -> None:
    ours, theirs = [answer(1, True, 5), answer(2, True, 99)], [answer(1, False, 10), answer(3, True, 99)]
    assert paired_accuracy_difference(ours, theirs).n == 1
    assert token_ratio(ours, theirs) == 0.5
    with pytest.raises(DataError, match="no common question"):
        token_ratio([answer(1, True)], [answer(2, True)])


def test_summary_holds_every_number_of_the_row() -> None:
    ours = [answer(0, True, 10, latency_s=1.0), answer(1, False, 30, finish="length", latency_s=3.0)]
    original = [answer(0, True, 40), answer(1, True, 40)]
    row = summarize(ours, "cts", 0.5, 0.51, original, artifacts={"evaluate": "evaluate/abc"})
    assert (row.accuracy.value, row.mean_tokens.value, row.truncation_rate) == (0.5, 20.0, 0.5)
    assert (row.seconds_per_sample, row.generated_ratio) == (2.0, 0.5)
    assert row.accuracy_difference is not None
    assert row.accuracy_difference.value == -0.5
    assert (row.target_ratio, row.actual_ratio, row.artifacts) == (0.5, 0.51, {"evaluate": "evaluate/abc"})
    alone = summarize(ours, "base", 1.0, 1.0, None)
    assert alone.generated_ratio is alone.accuracy_difference is None


def test_no_predictions_is_an_error_that_names_the_system() -> None:
    with pytest.raises(DataError, match="cts"):
        summarize([], "cts", 0.5, 0.5, None)
