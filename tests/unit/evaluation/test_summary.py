"""Numbers of one row of the results table."""

import csv
import random
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.errors import ConfigError, DataError
from cotpress.evaluation.summary import (
    LONGEST,
    REPEATS,
    SHORTEST,
    is_loop,
    matched_budgets,
    summarize,
    text_loops,
    token_counter,
    with_reference_tokens,
)
from cotpress.report.figure import ratio_picture
from cotpress.report.table import control_notes, csv_table, plain_table
from cotpress.tracking import result_metrics
from support.judged import answer, table_of


def test_summary_holds_every_number_of_the_row() -> None:
    ours = [answer(0, True, 10, thinking=4, latency_s=1.0),
            answer(1, False, 30, finish="length", latency_s=3.0, output="no " * 99, closed=False)]  # fmt: skip
    original = [answer(0, True, 40, thinking=20), answer(1, True, 40, thinking=20)]
    row = summarize(ours, "cts", 0.5, 0.51, original, budgets=[10, 11, 41], artifacts={"evaluate": "evaluate/abc"})
    assert (row.accuracy.value, row.mean_tokens.value, row.truncation_rate) == (0.5, 20.0, 0.5)
    assert (row.loop_rate, row.unclosed_rate) == (0.5, 0.5)
    assert (row.mean_thinking_tokens, row.mean_answer_tokens) == (17.0, 3.0)
    assert (row.seconds_per_sample, row.generated_ratio, row.generated_against) == (2.0, 0.5, "Original")
    assert (row.generated_thinking_ratio, row.inference_reduction) == (34 / 40, 0.5)
    assert row.training_reduction == pytest.approx(0.49)
    assert row.accuracy_difference is not None
    assert row.accuracy_difference.value == -0.5
    assert [(b.budget, b.accuracy.value, b.accuracy.n) for b in row.accuracy_at_budgets] == [
        (10, 0.0, 2), (11, 0.5, 2), (41, 0.5, 2),
    ]  # fmt: skip
    differences = [b.difference.value for b in row.accuracy_at_budgets if b.difference]
    assert differences == [0.0, 0.5, -0.5], "Original takes 40 and an end token"
    assert (row.target_ratio, row.actual_ratio, row.artifacts) == (0.5, 0.51, {"evaluate": "evaluate/abc"})
    assert (row.num_samples, len(row.pass_at_k), row.mean_reference_tokens) == (1, 1, None)


def test_training_reduction_of_mixed_ratios_is_that_of_the_whole_mixture() -> None:
    rows = [summarize([answer(0, True)], "cts (mixed)", r, r, None, training_ratio=0.72) for r in (1.0, 0.5)]
    assert [row.actual_ratio for row in rows] == [1.0, 0.5]
    assert [row.training_reduction for row in rows] == [pytest.approx(0.28)] * 2
    unknown = summarize([answer(0, True)], "cts (mixed)", 0.6, None, None, training_ratio=0.72)
    assert (unknown.actual_ratio, unknown.training_reduction) == (None, pytest.approx(0.28))


def test_without_original_nothing_is_relative_to_it() -> None:
    alone = summarize([answer(0, True)], "base", 1.0, None, None)
    assert alone.generated_ratio is alone.accuracy_difference is alone.inference_reduction is None
    assert alone.generated_thinking_ratio is alone.training_reduction is alone.standard_error is None
    assert (alone.generated_against, alone.lengthened) == ("", False)


def test_original_is_not_compared_with_itself() -> None:
    answers = [answer(0, True), answer(1, False)]
    row = summarize(answers, "Original", 1.0, 1.0, answers, budgets=[10])
    assert (row.accuracy_difference, row.accuracy_at_budgets[0].difference, row.generated_ratio) == (None, None, 1.0)


def test_act_ratio_of_a_marker_student_is_relative_to_its_ratio_one_and_reduction_to_original() -> None:
    ours, one, original = ([answer(0, True, tokens)] for tokens in (60, 50, 100))
    row = summarize(ours, "tokenskip", 0.5, 0.5, original, ratio_one=one)
    assert (row.generated_ratio, row.generated_against, row.lengthened) == (1.2, "ratio 1", True)
    assert row.inference_reduction == pytest.approx(0.4)


def test_original_without_tokens_leaves_relative_numbers_empty() -> None:
    silent = [answer(0, False, 0), answer(1, False, 0)]
    original = summarize(silent, "Original", 1.0, 1.0, silent, budgets=matched_budgets([], silent))
    row = summarize([answer(0, True, 8), answer(1, False, 9)], "cts", 0.5, 0.5, silent)
    for made in (original, row):
        assert made.generated_ratio is made.generated_thinking_ratio is made.inference_reduction is None
        assert not made.lengthened
    assert row.accuracy_difference is not None
    assert row.accuracy_difference.value == 0.5
    rows = [original, row]
    assert " 0.5 0.50 - " in " ".join(plain_table(table_of(*rows)).split())
    (first, second) = csv.DictReader(csv_table(table_of(*rows)).splitlines())
    assert (first["generated_ratio"], second["inference_reduction"], second["mean_tokens"]) == ("", "", "8.5")
    assert ratio_picture(table_of(*rows)) is not None
    assert not {"generated_ratio", "inference_reduction"} & set(result_metrics(row))
    assert control_notes(rows) == []


def test_student_with_more_tokens_is_lengthened() -> None:
    row = summarize([answer(0, True, 15)], "cts", 0.5, 0.5, [answer(0, True, 10)])
    assert row.lengthened
    assert row.inference_reduction == -0.5


def test_samples_are_averaged_within_their_question_first() -> None:
    uneven = [answer(0, True, 10), *(answer(1, False, 30, sample=s) for s in range(3))]
    row = summarize(uneven, "cts", 0.5, 0.5, None)
    assert (row.accuracy.value, row.mean_tokens.value, row.accuracy.n, row.num_samples) == (0.5, 20.0, 2, 3)
    assert len(row.pass_at_k) == 1  # one question has a single sample


def test_budgets_are_the_quartiles_of_original_unless_given() -> None:
    original = [answer(i, True, tokens) for i, tokens in enumerate([10, 20, 30, 40, 51])]
    assert matched_budgets([], original) == [21, 31, 41]
    assert matched_budgets([64, 8, 64], original) == [8, 64]
    assert matched_budgets([], None) == []


def test_reference_tokens_are_counted_and_averaged() -> None:
    made = with_reference_tokens(
        [answer(0, True, output="a b"), answer(1, True, output="c d e f")], lambda t: len(t.split())
    )
    assert [p.reference_tokens for p in made] == [2, 4]
    row = summarize(made, "cts", 0.5, 0.5, None)
    assert row.mean_reference_tokens is not None
    assert (row.mean_reference_tokens.value, row.mean_reference_tokens.n) == (3.0, 2)
    half_counted = [made[0], replace(made[1], reference_tokens=None)]
    assert summarize(half_counted, "cts", 0.5, 0.5, None).mean_reference_tokens is None
    assert with_reference_tokens([made[0]], None) == [made[0]]


def test_tokens_before_the_line_with_the_answer_are_averaged() -> None:
    made = [replace(answer(i, True), num_cot_tokens=count) for i, count in enumerate((3, 8))]
    row = summarize(made, "cts", 0.5, 0.5, None)
    assert row.mean_cot_tokens is not None
    assert (row.mean_cot_tokens.value, row.mean_cot_tokens.n) == (5.5, 2)
    assert summarize([made[0], replace(made[1], num_cot_tokens=None)], "cts", 0.5, 0.5, None).mean_cot_tokens is None


@pytest.mark.parametrize("name", ["no/such/folder", "/nowhere"])
def test_reference_tokenizer_that_is_not_there_names_the_setting(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"evaluation.reference_tokenizer: the folder '{name}' does not exist.*Fix"):
        token_counter(name)


def test_folder_without_a_tokenizer_is_an_error(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.reference_tokenizer"):
        token_counter(str(tmp_path))


def test_no_predictions_is_an_error_that_names_the_system() -> None:
    with pytest.raises(DataError, match="cts"):
        summarize([], "cts", 0.5, 0.5, None)


def _naive(items: list[int]) -> bool:
    for period in range(1, LONGEST + 1):
        covered = max(REPEATS * period, SHORTEST)
        if covered <= len(items):
            tail = items[-covered:]
            if all(tail[i] == tail[i - period] for i in range(period, covered)):
                return True
    return False


@given(
    st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.integers(0, 50), st.lists(st.integers(0, 3), max_size=3),
)  # fmt: skip
def test_agrees_with_the_definition(start: list[int], gram: list[int], times: int, end: list[int]) -> None:
    items = start + gram * times + end
    assert is_loop(items) == _naive(items)


@pytest.mark.parametrize("period", [1, 7, 10, 60, LONGEST])
def test_repetition_counts_from_the_fourth_time_on(period: int) -> None:
    noise, gram = list(range(1000, 1500)), list(range(period))
    needed = max(REPEATS, -(-SHORTEST // period))
    assert is_loop(noise + gram * needed)
    assert not is_loop(noise + gram * (needed - 1))
    assert not is_loop(noise + gram * needed + [-1])
    assert is_loop(noise + gram * needed + gram[: period // 2])  # cut off inside a repetition


def test_longer_n_grams_than_defined_are_no_loop() -> None:
    assert not is_loop(list(range(LONGEST + 1)) * REPEATS)


def test_random_sequences_and_empty_ones_do_not_loop() -> None:
    draw = random.Random(0)
    assert not any(is_loop([draw.randrange(50) for _ in range(2000)]) for _ in range(100))
    assert not is_loop([])


def test_texts() -> None:
    stuck = "Let me check. 3 + 4 = 7. " + "Wait, let me double-check the sum again. " * 30
    assert text_loops(stuck)
    assert text_loops(stuck[:-17])  # the budget ended it within a word
    assert text_loops("The value is 0." + "3" * 50)
    assert text_loops("a" * 2000)
    assert text_loops("\\frac{1}{2} + " * 20)
    assert not text_loops(stuck + "So the answer is 7, and 7 apples are left in the basket.")
    assert not text_loops("".join(f"Step {i}: add {i} and get {i * 7 % 13}.\n" for i in range(200)))
    assert not text_loops("ha ha ha ha")
    assert not text_loops("")


def test_text_of_32k_tokens_is_judged_at_once() -> None:
    draw = random.Random(1)
    text = " ".join(draw.choice(["so", "then", "we", "get", "12", "apples"]) for _ in range(32_000))
    began = time.perf_counter()
    for _ in range(10):
        text_loops(text)
    assert (time.perf_counter() - began) / 10 < 0.1  # a few milliseconds; room for a shared machine
