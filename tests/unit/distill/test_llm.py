import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.distill.alignment import words
from cotpress.distill.llm import chunk_ranges, conversation, extracted_text
from cotpress.records import Trace

TRACE = Trace(id="a", question="How many? {response}", thinking="Hmm. 1 + 1 = 2. Yes.", response="It is 2.", answer="2")


def test_prompt_holds_problem_solution_and_the_chunk_alone() -> None:
    system, user = conversation(TRACE, 4, 15, show_response=True)
    assert (system["role"], user["role"]) == ("system", "user")
    assert user["content"].endswith("Problem:\nHow many? {response}\n\nSolution:\nIt is 2.\n\nReasoning:\n1 + 1 = 2.")
    assert "Yes" not in user["content"]


def test_solution_is_left_out_on_request() -> None:
    _, user = conversation(TRACE, 0, 20, show_response=False)
    assert "It is 2." not in user["content"]
    assert "Solution" not in user["content"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (" 1 + 1 = 2.\n", "1 + 1 = 2."),
        ("<think>\nI copy 1 and NONE\n</think>\n\n1 + 1 = 2", "1 + 1 = 2"),
        ("```text\n1 + 1 = 2\n```", "1 + 1 = 2"),
        ("NONE", ""),
        ("NONE.", ""),
        ("", ""),
        ("NONE of it is 2", "NONE of it is 2"),
    ],
)
def test_copied_words_are_taken_out_of_the_answer(answer: str, expected: str) -> None:
    assert extracted_text(answer) == expected


def test_chunks_end_where_steps_end() -> None:
    text = "One two. Three four five. Six.\nSeven eight."
    chunks = [text[a:b] for a, b in chunk_ranges(text, 7)]
    assert chunks == ["One two. Three four five.", " Six.\nSeven eight."]


def test_step_beyond_the_limit_is_cut_between_words() -> None:
    text = "a b c d e f g. h i."
    assert [text[a:b] for a, b in chunk_ranges(text, 3)] == ["a b c", " d e f", " g.", " h i."]


def test_white_space_alone_has_no_chunk() -> None:
    assert chunk_ranges(" \n", 10) == []


@given(st.text("ab .!\n1", max_size=80), st.integers(1, 12))
def test_chunks_cover_the_text_within_the_limit(text: str, limit: int) -> None:
    chunks = chunk_ranges(text, limit)
    assert "".join(text[a:b] for a, b in chunks) == (text if text.strip() else "")
    assert all(1 <= len(words(text[a:b])) <= limit for a, b in chunks)
