"""The sentence that states the answer, where texts without thinking tags are divided."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.answers import extract_answer, final_statement, is_equal
from cotpress.data.statement import answer_line, before_answer, stated

SHARED = Path(__file__).parents[4] / "shared"
MAY = "Natalia sold 48/2 = 24 clips in May.\nAltogether she sold 48 + 24 = 72 clips."
QWEN = (
    "To find the total, we add both months.\n\n1. In May, Natalia sold half:\n   \\[\n   \\frac{48}{2} = 24\n   \\]\n\n"
    "2. Adding both:\n   \\[\n   48 + 24 = 72\n   \\]"
)


@pytest.mark.parametrize(
    ("thinking", "statement"),
    [
        (MAY, "\n\nThe final answer is: $\\boxed{72}$"),
        (MAY, " The answer is 72."),
        (MAY, "\n#### 72"),
        (MAY, "\n\n**Final Answer**\n\n\\boxed{72}\n\nI hope it is correct."),
        (MAY, "\n\n### Final Answer:\nThe final answer is $72$."),
        (QWEN, "\n\nTherefore, Natalia sold a total of \\(\\boxed{72}\\) clips altogether in April and May."),
        (QWEN, "\n\nSo, the total number of clips is:\n\\[\n\\boxed{72}\n\\]"),
        (QWEN, "\n\nThus, the total is:\n$$\n\\boxed{72}\n$$"),
        ("Energy is conserved, so the speed doubles.", " The correct answer is (B)."),
    ],
)
def test_thinking_ends_before_the_sentence_that_states_the_answer(thinking: str, statement: str) -> None:
    assert before_answer(thinking + statement) == thinking


@pytest.mark.parametrize(
    "text",
    [
        f"{QWEN}\n\n3. Total: \\[ 48 + 24 = \\boxed{{72}} \\]",
        "48/2 = 24, so the answer is 48 + 24 = 72.",
        "The sum is \\boxed{72}. Check: 72 - 24 = 48, as it should be.",
        "48/2 = 24.\nSo she sold 48 + 24 = 72 clips, which is:\n\\boxed{72} = 6 \\cdot 12",
        "To find the answer: 48/2 = 24 and 48 + 24 = 72. So she sold 72 clips.",
        "The roots are \\boxed{2} and x = \\boxed{3}.",
        "48/2 = 24.\n\nSo, Natalia sold 48 + 24, or 72, clips altogether.",
    ],
)
def test_text_stays_whole_if_the_statement_computes_or_is_missing(text: str) -> None:
    assert before_answer(text) == text


@pytest.mark.parametrize("text", ["The answer is 72.", "\\boxed{72}", "**Answer:**\n\\boxed{72}", " "])
def test_bare_answer_has_no_thinking(text: str) -> None:
    assert before_answer(text) == ""


def test_equation_inside_the_box_does_not_count_as_computing() -> None:
    assert before_answer("Halve both sides.\nThe solution is $\\boxed{x = 3}$.") == "Halve both sides."


@given(st.lists(st.sampled_from([*"a \n=}:", ". ", "\\boxed{7}", "answer is ", "#### 7"]), max_size=30))
def test_thinking_is_a_prefix_of_the_output_with_all_its_equations(parts: list[str]) -> None:
    text = "".join(parts).strip()
    thinking = before_answer(text)
    assert text.startswith(thinking)
    assert "=" not in text[len(thinking) :]


@given(st.sampled_from(["72", "\\frac{1}{2}", "(1, 2]", "x^2 + 1", "B"]))
def test_answer_line_states_the_answer(answer: str) -> None:
    assert extract_answer(answer_line(answer)) == answer
    start, end, _ = final_statement(answer_line(answer)) or (0, 0, "")
    assert answer_line(answer)[start:end] == f"\\boxed{{{answer}}}"


@pytest.mark.shared
def test_no_equation_of_an_instruct_model_is_lost() -> None:
    path = SHARED / "data/mip_gsm8k_qwen32_short_cot.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    boxed = [row for row in rows if "\\boxed" in row["thinking"]]
    assert len(boxed) > 150
    for row in rows:
        thinking = before_answer(row["thinking"])
        cut = row["thinking"].strip()[len(thinking) :]
        assert thinking
        assert "=" not in cut.partition("\\boxed")[0]
        assert len(cut) < 300
    same = [is_equal(row["answer"], extract_answer(answer_line(row["answer"]))) for row in boxed]
    assert all(same)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{MAY}\n\n**Final Answer**\n\\boxed{{72}}", (MAY, "**Final Answer**\n\\boxed{72}")),
        (f"{MAY}\n\nThe final answer is: 72 = 72", (MAY, "The final answer is: 72 = 72")),
        (MAY, (MAY, answer_line("72"))),
    ],
)
def test_text_is_divided_at_its_statement(text: str, expected: tuple[str, str]) -> None:
    assert stated(text, "72") == expected


def test_text_without_statement_or_answer_has_no_response() -> None:
    assert stated(MAY, "") == (MAY, "")
