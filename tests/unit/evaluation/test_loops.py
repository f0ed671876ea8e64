"""Detection of loops at the end of a text, not of repetitions elsewhere or of counting."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.evaluation.summary import LONGEST, REPEATS, SHORTEST, is_loop, text_loops


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
