import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.distill.overlap import overlapping_steps
from cotpress.records import Trace


def found(thinking: str, response: str, min_overlap: float = 0.5) -> list[str]:
    trace = Trace(id="a", question="q", thinking=thinking, response=response, answer="")
    return [thinking[start:end].strip() for start, end in overlapping_steps(trace, min_overlap)]


def test_steps_that_the_response_takes_up_are_found_and_talk_is_not() -> None:
    thinking = "Okay, let me see. Tom has 8 apples. Hmm, what about pears? So 8 - 3 = 5. Yes."
    assert found(thinking, "Tom has 8 - 3 = 5 apples.") == ["Tom has 8 apples.", "So 8 - 3 = 5."]


def test_a_plain_repeat_is_found_once() -> None:
    assert found("8 - 3 = 5. Wait. 8 - 3 = 5.", "8 - 3 = 5") == ["8 - 3 = 5."]


def test_decimals_do_not_end_a_step_and_thousands_separators_do_not_matter() -> None:
    assert found("It costs 1,250.5 dollars. Hmm.", "1250.5 dollars") == ["It costs 1,250.5 dollars."]


def test_lines_are_steps() -> None:
    assert found("alpha beta\ngamma delta\n\nalpha", "gamma delta") == ["gamma delta"]


@pytest.mark.parametrize(("min_overlap", "expected"), [(0.5, ["red blue."]), (0.51, [])])
def test_min_overlap_is_an_inclusive_share_of_distinct_items(min_overlap: float, expected: list[str]) -> None:
    assert found("red blue.", "red", min_overlap) == expected


def test_nothing_overlaps_with_an_empty_response() -> None:
    assert found("8 - 3 = 5.", "") == []


@given(thinking=st.text(alphabet="ab 12.,!?\n-é", max_size=60), response=st.text(alphabet="ab 12.", max_size=30))
def test_ranges_are_sorted_disjoint_and_inside_the_text(thinking: str, response: str) -> None:
    trace = Trace(id="a", question="q", thinking=thinking, response=response, answer="")
    ranges = overlapping_steps(trace, 0.3)
    flat = [position for pair in ranges for position in pair]
    assert flat == sorted(set(flat))
    assert all(0 <= position <= len(thinking) for position in flat)


def test_a_long_text_takes_linear_time() -> None:
    thinking = "word " * 40_000 + "\n" * 40_000
    assert found(thinking, "word")
