import time

import pytest

from cotpress.answers import Extractor
from cotpress.compression import first_solution as module
from cotpress.compression.config import Statement
from cotpress.compression.first_solution import first_solution
from cotpress.modeling.segments import step_ranges


def ended(thinking: str, answer: str, extractor: Extractor = Extractor.math, **more: Statement) -> str | None:
    """The thinking up to the end of its first right solution."""
    step = first_solution(thinking, answer, extractor=extractor, **more)
    return None if step is None else thinking[: step_ranges(thinking)[step][1]]


@pytest.mark.parametrize(
    ("thinking", "answer", "expected"),
    [
        ("2 + 3 = 5. So the answer is 5. Let me check: 2 + 3 = 5.", "5", "2 + 3 = 5. So the answer is 5."),
        # stated wrongly first
        (
            "So the answer is 6. Wait, 2 + 3 = 5. The answer is 5. Yes, the answer is 5.",
            "5",
            "So the answer is 6. Wait, 2 + 3 = 5. The answer is 5.",
        ),
        (
            r"I get \boxed{6}. No. So the answer is 5, not 6. Then \boxed{5}.",
            "5",
            r"I get \boxed{6}. No. So the answer is 5, not 6.",
        ),
        # an intermediate result is no statement
        ("There are 5 apples. 5 + 2 = 7. 7 - 2 = 5. The answer is 5. Check.", "5",
         "There are 5 apples. 5 + 2 = 7. 7 - 2 = 5. The answer is 5."),
        # nor is a question
        ("Is it that the answer is 5? Let me see. The answer is 5. Good.", "5",
         "Is it that the answer is 5? Let me see. The answer is 5."),
        # a statement that goes over steps ends with the last of them
        ("Hmm.\n\nThe final answer is:\n\n\\[\\boxed{\\frac{1}{2}}\\]\n\nLet me double-check.", r"\frac12",
         "Hmm.\n\nThe final answer is:\n\n\\[\\boxed{\\frac{1}{2}}\\]"),
        # equal by mathematics, not by letters
        (r"So the answer is 0.5. Or \boxed{\frac{1}{2}}.", r"\frac{1}{2}", "So the answer is 0.5."),
        # at the end: whole
        ("2 + 3 = 5. The answer is 5.", "5", "2 + 3 = 5. The answer is 5."),
        # a gold answer of GSM8K
        ("The answer is 12. Check.", "6 * 2 = <<6*2=12>>12\n#### 12", "The answer is 12."),
        # never
        ("2 + 3 = 5. The answer is 6.", "5", None),
        ("2 + 3 = 5, so 5.", "5", None),
        ("The answer is 5.", "", None),
        ("", "5", None),
    ],
)  # fmt: skip
def test_thinking_ends_with_the_first_statement_of_the_right_answer(
    thinking: str, answer: str, expected: str | None
) -> None:
    assert ended(thinking, answer) == expected


def test_conclusions_count_where_asked() -> None:
    thinking = "There are 5 apples. Is it so that we get 5? So 2 + 2 = 4. Therefore, 4 + 1 = 5. The answer is 5."
    assert ended(thinking, "5") == thinking
    concluded = ended(thinking, "5", statement=Statement.concluded)
    assert concluded == "There are 5 apples. Is it so that we get 5? So 2 + 2 = 4. Therefore, 4 + 1 = 5."


@pytest.mark.parametrize("statement", Statement)
def test_list_of_options_states_no_letter(statement: Statement) -> None:
    thinking = "The options are:\nA) 5 cm\nB) 12 cm\nI think the answer is A. Wait. The answer is (B). Done."
    stated = ended(thinking, "B", Extractor.letter, statement=statement)
    assert stated == thinking.removesuffix(" Done.")


def test_checks_are_linear_in_the_length_and_each_statement_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compared, read = [], [0]
    announced, equal = module.announced_answer, module.is_equal

    def counted(text: str, extractor: Extractor) -> str:
        read[0] += len(text)
        return announced(text, extractor)

    monkeypatch.setattr(module, "announced_answer", counted)
    monkeypatch.setattr(module, "is_equal", lambda gold, stated: compared.append(stated) or equal(gold, stated))
    began = time.monotonic()
    assert first_solution("Let me see. Hmm, 1 + 1 = 2. " * 2000 + "The answer is 3. " * 2000, "5") is None
    assert compared == ["3"]
    assert read[0] <= 6000 * (module.WINDOW + 30)
    assert time.monotonic() - began < 60
