"""Verdicts on answers, and the number of their tokens."""

import pytest

from cotpress.evaluation.judging import prediction
from cotpress.evaluation.protocol import Answer
from cotpress.generation.backends import Generation
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer
from cotpress.prompts import ChatConfig, ChatFormat
from cotpress.records import Problem
from cotpress.store.artifacts import ArtifactStore

MODEL = ModelConfig(name="tiny", source=ModelSource.tiny, path="tiny")
PROBLEM = Problem(id="p", question="how many", answer="12")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ArtifactStore(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def chat(store):
    return ChatFormat(load_tokenizer(MODEL, store), MODEL.chat)


def _verdict(chat, text, reason="stop", problem=PROBLEM, thinks=True, ratio=0.5, **options):
    ids = chat.text_ids(text)
    answer = Answer(
        id=problem.id, sample=0, output=text, num_tokens=len(ids), num_thinking_tokens=chat.num_thinking_tokens(ids),
        retokenized=False, finish_reason=reason, latency_s=0.1,
    )  # fmt: skip
    return prediction(problem, answer, chat, system="s", ratio=ratio, thinks=thinks, **options)


def test_answer_in_the_response_counts(chat):
    judged = _verdict(chat, "<think>\n5 and 7\n</think>\n\nThe answer is 12.")
    assert judged.correct
    assert judged.predicted == "12"
    assert 0 < judged.num_thinking_tokens < judged.num_tokens


def test_response_is_judged_not_the_thinking(chat):
    assert not _verdict(chat, "<think>\nThe answer is 12.\n</think>\n\nThe answer is 13.").correct


@pytest.mark.parametrize("text", ["<think>so 12", "so \\boxed{12}", "<think>\nso 12\n</think>", "so 12</think>\n \n"])
def test_answer_that_stands_only_in_the_thinking_counts_only_on_request(chat, text):
    judged = _verdict(chat, text)
    assert (judged.predicted, judged.correct) == ("", False)
    assert _verdict(chat, text, answer_in_thinking=True).correct


@pytest.mark.parametrize("option", [False, True])
def test_answer_after_the_thinking_counts_and_beats_the_thinking(chat, option):
    assert not _verdict(chat, "<think>12</think>It is 13.", answer_in_thinking=option).correct
    assert _verdict(chat, " <think>13</think>It is 12.", answer_in_thinking=option).correct
    assert _verdict(chat, "It is 12.", thinks=False, answer_in_thinking=option).correct


def test_truncated_answer_is_wrong_even_with_the_right_number(chat):
    assert not _verdict(chat, "<think>\nx\n</think>\n\nThe answer is 12", reason="length").correct


def test_unclosed_thinking_counts_all_tokens_as_thinking(chat):
    judged = _verdict(chat, "<think>\nso 12 or 13 or", reason="length")
    assert not judged.correct
    assert not judged.closed
    assert judged.num_thinking_tokens == judged.num_tokens


@pytest.mark.parametrize(
    ("text", "thinks", "closed"),
    [
        ("2 + 2 is 12.", False, True),
        ("2 + 2 is 12.", True, False),
        ("<think>\n2 + 2 is 12.", False, False),
        ("<think>\nx\n</think>\n\n12", False, True),
        ("x\n</think>\n\n12", False, True),
    ],
    ids=["never begun", "by a student of ours", "begun", "begun and closed", "closed only"],
)
def test_thinking_is_unclosed_only_if_it_was_begun(chat, text, thinks, closed):
    judged = _verdict(chat, text, thinks=thinks)
    assert judged.closed is closed
    if text.startswith("2"):
        assert judged.num_thinking_tokens == (judged.num_tokens if thinks else 0)


def test_thinking_opened_by_the_template_counts_as_begun(store):
    tokenizer = load_tokenizer(MODEL, store)
    tokenizer.chat_template += "{{ '<think>\\n' }}"
    assert not _verdict(ChatFormat(tokenizer, MODEL.chat), "so 12", thinks=False).closed


@pytest.fixture(scope="module")
def without_tags(store):
    """TokenSkip's layout: the answer line is the last paragraph."""
    return ChatFormat(load_tokenizer(MODEL, store), ChatConfig(thinking_open="", thinking_close="\n\n"))


REMARK = "5 + 7 = 12\n\nThe final answer is $\\boxed{12}$.\n\nLet me know if you would like 3 more examples!"


def test_student_of_ratio_zero_begins_no_thinking_without_tags(without_tags):
    judged = _verdict(without_tags, "The answer is 12", ratio=0.0)
    assert (judged.correct, judged.closed, judged.num_thinking_tokens) == (True, True, 0)
    assert not _verdict(without_tags, "The answer is 12", ratio=0.5).closed


@pytest.mark.parametrize("thinks", [False, True])
def test_without_tags_a_closing_remark_is_not_the_answer(without_tags, thinks):
    judged = _verdict(without_tags, REMARK, thinks=thinks)
    assert (judged.predicted, judged.correct, judged.closed) == ("12", True, True)


def test_without_tags_only_students_of_this_layout_think(without_tags):
    assert _verdict(without_tags, REMARK, thinks=False).num_thinking_tokens == 0
    trained = _verdict(without_tags, "5 + 7 = 12\n\nThe final answer is $\\boxed{12}$.")
    assert trained.num_thinking_tokens == len(without_tags.text_ids("5 + 7 = 12"))
    unclosed = _verdict(without_tags, "5 + 7 = 12")
    assert (unclosed.closed, unclosed.num_thinking_tokens) == (False, unclosed.num_tokens)


def test_thinking_tokens_are_those_that_were_generated_unless_the_backend_gives_only_text(chat, store):
    tokenizer = load_tokenizer(MODEL, store)
    spliced = [i for letter in "the answer" for i in chat.text_ids(letter)]  # as after pruning: no merged tokens
    assert len(chat.text_ids("the answer")) < len(spliced)
    ids = [*chat.completion_ids(spliced, "12")][:-1]
    text = tokenizer.decode(ids)
    for token_ids in (tuple(ids), None):
        generation = Generation(token_ids=token_ids, text=text, finish_reason="stop", latency_s=0.0, reported_tokens=99)
        answer = Answer.of(PROBLEM, 0, generation, chat)
        thinking = spliced if token_ids else chat.text_ids("the answer")
        assert answer.retokenized is (token_ids is None)
        assert answer.num_tokens == (len(ids) if token_ids else len(chat.text_ids(text)))
        opening = len(chat.thinking_start())
        assert answer.num_thinking_tokens - opening - len(thinking) == len(chat.text_ids("\n"))
        judged = prediction(PROBLEM, answer, chat, system="s", ratio=1.0, thinks=True)
        assert judged.num_thinking_tokens == answer.num_thinking_tokens


def test_empty_output_is_wrong(chat):
    judged = _verdict(chat, "")
    assert (judged.correct, judged.predicted, judged.num_tokens) == (False, "", 0)


def test_kind_of_answer_comes_from_the_problem(chat):
    text = "<think>\nx\n</think>\n\nThe answer is (B), since 12 > 3."
    letter = Problem(id="p", question="which", answer="B", extractor="letter")
    assert (_verdict(chat, text, problem=letter).predicted, _verdict(chat, text, problem=letter).correct) == ("B", True)
    assert not _verdict(chat, text).correct


def test_unanswerable_question_is_right_only_if_the_output_declines(chat):
    missing = Problem(id="p", question="how many", answer="", unanswerable=True)
    declined = "<think>\n12?\n</think>\n\n\\boxed{\\text{Not enough information}}"
    for text, reason, right in ((declined, "stop", True), (declined, "length", False), ("\\boxed{12}", "stop", False),
                                ("", "stop", False), ("<think>\nso 12 or", "length", False)):  # fmt: skip
        judged = _verdict(chat, text, reason, missing)
        assert (judged.correct, judged.declined) == (right, right)


def test_declining_an_answerable_question_is_wrong_and_counted(chat):
    judged = _verdict(chat, "<think>\nx\n</think>\n\nThere is not enough information.")
    assert (judged.correct, judged.declined, judged.predicted) == (False, True, "")


@pytest.mark.parametrize(
    ("output", "counted"),
    [
        ("5 + 7 = 12\n\nThe final answer is: $\\boxed{12}$", "5 + 7 = 12"),
        ("5 + 7\n\nThe final answer is: 12\n\nThe final answer is: 13", "5 + 7"),
        ("5 + 7 = 12\nThe final answer is: 12", None),
        ("so it is 12", None),
        ("\n\nThe final answer is: 12", ""),
    ],
)
def test_count_of_tokenskip_ends_before_the_line_with_the_answer(chat, output, counted):
    expected = chat.num_text_tokens(output if counted is None else counted)
    assert [_verdict(chat, output, thinks=thinks).num_cot_tokens for thinks in (True, False)] == [expected, expected]


def test_count_of_tokenskip_has_the_token_that_the_tokenizer_puts_first(store, monkeypatch):
    tokenizer = load_tokenizer(MODEL, store)
    call = type(tokenizer).__call__

    def with_first(self, text, add_special_tokens=True, **options):
        made = call(self, text, add_special_tokens=add_special_tokens, **options)
        return {**made, "input_ids": [0] * add_special_tokens + made["input_ids"]}

    plain = _verdict(ChatFormat(tokenizer, MODEL.chat), "so 12").num_cot_tokens
    monkeypatch.setattr(type(tokenizer), "__call__", with_first)
    assert _verdict(ChatFormat(tokenizer, MODEL.chat), "so 12").num_cot_tokens == plain + 1
