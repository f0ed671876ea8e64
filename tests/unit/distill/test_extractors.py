import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.distill.extractors import merged, overlapping_steps
from cotpress.records import Trace


def valuable(thinking: str, response: str, min_overlap: float = 0.5) -> list[str]:
    trace = Trace(id="a", question="q", thinking=thinking, response=response, answer="")
    return [thinking[start:end].strip() for start, end in overlapping_steps(trace, min_overlap)]


def test_steps_that_reappear_in_the_response_are_valuable_and_fillers_are_not() -> None:
    thinking = "Okay, let me see. Tom has 8 apples. Hmm, what about pears? So 8 - 3 = 5. Yes."
    assert valuable(thinking, "Tom has 8 - 3 = 5 apples.") == ["Tom has 8 apples.", "So 8 - 3 = 5."]


def test_plain_repeat_is_valuable_once() -> None:
    assert valuable("8 - 3 = 5. Wait. 8 - 3 = 5.", "8 - 3 = 5") == ["8 - 3 = 5."]


def test_decimals_do_not_end_a_step_and_thousands_separators_do_not_matter() -> None:
    assert valuable("It costs 1,250.5 dollars. Hmm.", "1250.5 dollars") == ["It costs 1,250.5 dollars."]


def test_lines_are_steps() -> None:
    assert valuable("alpha beta\ngamma delta\n\nalpha", "gamma delta") == ["gamma delta"]


@pytest.mark.parametrize(("min_overlap", "expected"), [(0.5, ["red blue."]), (0.51, [])])
def test_min_overlap_is_an_inclusive_share_of_distinct_items(min_overlap: float, expected: list[str]) -> None:
    assert valuable("red blue.", "red", min_overlap) == expected


def test_nothing_overlaps_with_an_empty_response() -> None:
    assert valuable("8 - 3 = 5.", "") == []


@given(thinking=st.text(alphabet="ab 12.,!?\n-é", max_size=60), response=st.text(alphabet="ab 12.", max_size=30))
def test_ranges_are_sorted_disjoint_and_inside_the_text(thinking: str, response: str) -> None:
    trace = Trace(id="a", question="q", thinking=thinking, response=response, answer="")
    ranges = overlapping_steps(trace, 0.3)
    flat = [position for pair in ranges for position in pair]
    assert flat == sorted(set(flat))
    assert all(0 <= position <= len(thinking) for position in flat)


def test_long_text_takes_linear_time() -> None:
    thinking = "word " * 40_000 + "\n" * 40_000
    assert valuable(thinking, "word")


RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda p: (min(p), max(p))), max_size=8)


@given(ranges=RANGES)
def test_merged_ranges_cover_the_same_characters_without_touching(ranges: list[tuple[int, int]]) -> None:
    result = merged(ranges)
    covered = {i for start, end in ranges for i in range(start, end)}
    assert {i for start, end in result for i in range(start, end)} == covered
    assert sum(end - start for start, end in result) == len(covered)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(result))
