"""Selection of answers as traces, and the counts of all others."""

import pytest

from cotpress.data.config import Format, Pick, SelfWrittenDataConfig
from cotpress.data.selection import Draft, Selected, select
from cotpress.errors import DataError
from cotpress.prompts import ChatFormat
from cotpress.records import Problem


def problems(*answers: str, question: str = "How many {}?") -> list[Problem]:
    return [Problem(id=f"q{i}", question=question.format(i), answer=a, family="f") for i, a in enumerate(answers)]


def draft(text: str, question: int = 0, *, sample: int = 0, reason: str = "stop", tokens: int = 10) -> Draft:
    return Draft(id=f"q{question}", sample=sample, text=text, num_tokens=tokens, finish_reason=reason)


def tagged(thinking: str, answer: str) -> str:
    return f"<think>\n{thinking}\n</think>\n\nThe answer is {answer}."


def chosen(written: ChatFormat, questions: list[Problem], drafts: list[Draft], **settings) -> Selected:
    config = SelfWrittenDataConfig(name="self_written", max_new_tokens=50, **settings)
    return select(config, questions, drafts, written)


def test_every_question_without_a_trace_is_counted_by_its_reason(written: ChatFormat) -> None:
    selected = chosen(
        written,
        [*problems(*"7777777777"), Problem(id="again", question="How many 0?", answer="7")],
        [
            draft(tagged("3 + 4 = 7", "7"), 0),
            draft(tagged("3 + 4 = 8", "8"), 1),
            draft(tagged("hm", "7")[:-4], 2, reason="length"),
            draft("<think>\nwait, wait", 3),
            draft("<think>\nI give up\n</think>\n\nI do not know", 4),
            draft(tagged("one " * 80 + "3 + 4 = 7", "7"), 5),
            draft(tagged(" ", "7"), 6),
            draft("<think>\n3 + 4 = \\boxed{7}\n</think>\n", 7),
            draft("", 8, reason="refused", tokens=0),
            draft("", 9, reason="content_filter"),
        ],
        max_thinking_tokens=60,
        format=Format.tags,
    )
    assert selected.dropped == {
        "wrong answer": 1,
        "budget ended the answer": 1,
        "thinking not closed": 1,
        "no answer": 1,
        "thinking too long": 1,
        "no thinking before the answer": 1,
        "no response after the thinking": 1,
        "prompt and budget do not fit the context": 1,
        "ended by server: content_filter": 1,
        "question asked before": 1,
    }
    (trace,) = selected.traces
    assert (trace.id, trace.question, trace.answer, trace.family) == ("q0", "How many 0?", "7", "f")
    assert (trace.thinking, trace.response) == ("3 + 4 = 7", "The answer is 7.")
    assert selected.facts["answers"] == {"kept": 1} | {k: v for k, v in selected.dropped.items() if k[:8] != "question"}


def test_accuracy_of_the_writer_is_that_of_evaluation_with_its_interval(written: ChatFormat) -> None:
    texts = [tagged("3 + 4 = 7", "7"), tagged(" ", "7"), tagged("so", "8"), tagged("so", "9")]
    selected = chosen(written, problems(*"7777"), [draft(t, i, tokens=i) for i, t in enumerate(texts)])
    accuracy = selected.facts["writer_accuracy"]
    assert (accuracy["value"], accuracy["n"]) == (0.5, 4)  # right without a thinking is right, though no trace
    assert 0.1 < accuracy["low"] < 0.2
    assert selected.facts["writer_mean_tokens"] == 1.5


def test_several_answers_to_a_question_count_as_one_in_the_interval(written: ChatFormat) -> None:
    drafts = [draft(tagged("so", "7"), i, sample=k) for i in range(3) for k in range(4)]
    assert chosen(written, problems(*"777"), drafts).facts["writer_accuracy"]["n"] == 3


LONG, SHORT, WRONG = tagged("first 3, so 3 + 4 = 7", "7"), tagged("3 + 4 = 7", "7"), tagged("4", "8")


@pytest.mark.parametrize(("pick", "thinking"), [(Pick.shortest, "3 + 4 = 7"), (Pick.first, "first 3, so 3 + 4 = 7")])
def test_one_of_several_right_answers_is_kept(written: ChatFormat, pick: Pick, thinking: str) -> None:
    drafts = [draft(text, sample=k) for k, text in enumerate([WRONG, LONG, SHORT, SHORT])]
    selected = chosen(written, problems("7"), drafts, pick=pick)
    assert [trace.thinking for trace in selected.traces] == [thinking]
    assert selected.dropped == {}
    assert selected.facts["answers"] == {"kept": 1, "right, but another was kept": 2, "wrong answer": 1}


def test_question_is_counted_by_its_answer_closest_to_a_trace(written: ChatFormat) -> None:
    drafts = [
        draft(SHORT, 0),
        *(draft(text, 1, sample=k, reason=r) for k, (text, r) in enumerate([("x", "length"), (WRONG, "stop")])),
        *(draft(text, 2, sample=k, reason=r) for k, (text, r) in enumerate([("x", "odd"), ("x", "length")])),
    ]
    selected = chosen(written, problems(*"777"), drafts)
    assert selected.dropped == {"wrong answer": 1, "budget ended the answer": 1}
    assert selected.facts["answers"] == {
        "kept": 1,
        "wrong answer": 1,
        "budget ended the answer": 2,
        "ended by server: odd": 1,
    }


LINE = "Natalia sold 48/2 = 24 clips in May.\n\nTogether that is \\boxed{72} clips."


def test_without_tags_the_response_is_the_answer_line(written: ChatFormat) -> None:
    selected = chosen(written, problems("72"), [draft(LINE)], format=Format.answer_line)
    (trace,) = selected.traces
    assert trace.thinking == "Natalia sold 48/2 = 24 clips in May."
    assert trace.response == "The final answer is: $\\boxed{72}$"


def test_right_number_in_a_truncated_answer_is_no_answer(written: ChatFormat) -> None:
    drafts = [draft(LINE, 0), draft(LINE, 1, reason="length")]
    assert chosen(written, problems("72", "72"), drafts).dropped == {"budget ended the answer": 1}


@pytest.mark.parametrize(
    ("texts", "format_"),
    [
        ([LINE, LINE, LINE], "answer_line"),
        ([tagged("so", "72"), tagged("so", "72"), LINE], "tags"),
        ([LINE, LINE, tagged("so", "72")], "answer_line"),
    ],
)
def test_format_is_that_of_most_finished_answers(written: ChatFormat, texts: list[str], format_: str) -> None:
    drafts = [draft(text, i) for i, text in enumerate(texts)]
    cut = [draft("<think>\n1", i + 3, reason="length") for i in range(5)]
    assert chosen(written, problems(*["72"] * 8), [*drafts, *cut]).facts["format"] == format_


def test_unclosed_thinking_is_not_read_as_an_instruct_answer(written: ChatFormat) -> None:
    drafts = [draft(tagged("so", "72"), 0), draft("<think>\nso \\boxed{72}", 1)]
    assert chosen(written, problems("72", "72"), drafts).dropped == {"thinking not closed": 1}


def test_no_trace_at_all_is_an_error_with_counts(written: ChatFormat) -> None:
    with pytest.raises(DataError, match=r"none of 2 questions gave a trace \(2 x wrong answer\).*data\.adapter=DIR"):
        chosen(written, problems("1", "2"), [draft(SHORT, 0), draft(SHORT, 1)])
