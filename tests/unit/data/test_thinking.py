import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.data.rows import BadRow
from cotpress.data.thinking import check_question, divide, divided, has_tags, untagged
from cotpress.records import Span, Trace

CHANNELS = "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>"


@pytest.mark.parametrize(
    "text",
    [
        "<think>\na\n</think>\n\nb",
        "a</think>b",
        " \n<think>a</think>b\n",
        "<THINK>a</Think>b",
        "<thinking>a</thinking>b",
        "<thought>a</thought>b",
        "<reasoning>a</reasoning>b",
        "<seed:think>a</seed:think>b",
        "[THINK]a[/THINK]b",
        "\u25c1think\u25b7a\u25c1/think\u25b7b",
        "<|begin_of_thought|>\n\na\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\nb\n\n<|end_of_solution|>",
        "<|begin_of_thought|>a<|end_of_thought|>b",
        CHANNELS,
        f"<|start|>assistant{CHANNELS}",
        CHANNELS.replace("<|start|>assistant", ""),
        CHANNELS.removesuffix("<|return|>"),
        "analysisaassistantfinalb",
    ],
)
def test_tags_of_every_layout_divide_a_text(text: str) -> None:
    assert has_tags(text)
    assert divide(text) == ("a", "b")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<think>a", "thinking is not closed"),
        ("<think>a</thinking>b", "thinking is not closed"),
        ("<|channel|>analysis<|message|>a", "thinking is not closed"),
        ("analysisWe count.", "thinking is not closed"),
        ("analysis\u6211\u4eec", "thinking is not closed"),
        ("<think>a<think>b</think>c</think>d", "nested thinking tags"),
        ("<think><think>a</think>b", "nested thinking tags"),
        ("<|channel|>analysis<|message|><think>a</think><|end|>", "nested thinking tags"),
        ("<think>a</think>b<think>c</think>d", "more than one thinking"),
        (CHANNELS + CHANNELS, "more than one thinking"),
        ("<think>a</think>b</think>c", "thinking is closed twice"),
        ("Sure! <think>a</think>b", "text before the thinking"),
        ("Sure! " + CHANNELS, "text before the thinking"),
        (CHANNELS + " And c.", "text outside of the channels"),
        ("<|channel|>commentary<|message|>a<|end|>", "a channel other than analysis and final"),
        ("<|end_of_thought|><|begin_of_solution|>b", "response is not closed"),
        ("a<|end_of_thought|>c<|begin_of_solution|>b<|end_of_solution|>", "text before the solution"),
        ("a<|end_of_thought|><|begin_of_solution|>b<|end_of_solution|>c", "text after the solution"),
        ("a<|end_of_thought|>" + "<|begin_of_solution|>b<|end_of_solution|>" * 2, "more than one solution"),
        ("It is \\text{<think>} in LaTeX.", "text before the thinking"),
    ],
)
def test_text_that_cannot_be_divided_has_a_reason(text: str, reason: str) -> None:
    with pytest.raises(BadRow) as bad:
        divide(text)
    assert bad.value.reason == reason


@pytest.mark.parametrize(
    "text", ["It is 7.", "<answer>7</answer>", "a < think > b", "[think] again", "analysis of b", "analysis: We count."]
)
def test_text_without_tags_is_a_response(text: str) -> None:
    assert not has_tags(text)
    assert divide(text) == ("", text)
    assert divided("t", text) == ("t", text)


@pytest.mark.parametrize(
    ("thinking", "response", "expected"),
    [
        ("<think>\na\n</think>", "b", ("a", "b")),
        ("a</think>", "b", ("a", "b")),
        ("<think>a</think>b", "", ("a", "b")),
        ("<think>a</think>b", "b", ("a", "b")),
        ("", "<think>a</think>b", ("a", "b")),
        ("a", "<think>a</think>b", ("a", "b")),
        ("a", "<think>\n\n</think>\n\nb", ("a", "b")),
        ("a", "<|begin_of_solution|>b<|end_of_solution|>", ("a", "b")),
    ],
)
def test_tags_in_columns_are_stripped(thinking: str, response: str, expected: tuple[str, str]) -> None:
    assert divided(thinking, response) == expected


@pytest.mark.parametrize(
    ("thinking", "response", "reason"),
    [
        ("<think>a", "", "thinking is not closed"),
        ("<think>a", " \n", "thinking is not closed"),
        ("<think>a <think>b", "c", "nested thinking tags"),
        ("<think>\na", "b", "thinking is not closed"),
        ("<think>a</think>b", "c", "text after the thinking"),
        ("a", "<think>other</think>b", "more than one thinking"),
        ("", "<think>\n\n</think>\n\n7", "empty thinking"),
        ("<think></think>", "7", "empty thinking"),
        ("a", "7 <think>", "text before the thinking"),
    ],
)
def test_columns_that_contradict_their_tags_are_dropped(thinking: str, response: str, reason: str) -> None:
    with pytest.raises(BadRow) as bad:
        divided(thinking, response)
    assert bad.value.reason == reason


PARTS = ["a", " ", "7.\n", "<think>", "</think>", "<|begin_of_thought|>", "<|end_of_thought|>", "<|begin_of_solution|>",
         "<|end_of_solution|>", "[THINK]", "[/THINK]", "<|channel|>", "analysis", "final", "<|message|>", "<|end|>",
         "assistantfinal"]  # fmt: skip
texts = st.lists(st.sampled_from(PARTS), max_size=9).map("".join)


@given(texts, texts)
def test_no_tag_is_left_in_a_divided_text(thinking: str, response: str) -> None:
    try:
        parts = divided(thinking, response)
    except BadRow:
        return
    assert not any(map(has_tags, parts))
    assert divided(*parts) == parts


@pytest.mark.parametrize(
    "prompt",
    [
        "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n",
        "<|start|>user<|message|>Q?<|end|><|start|>assistant",
        "<\uff5cUser\uff5c>Q?<\uff5cAssistant\uff5c><think>\n",
        "[INST] Q? [/INST]",
    ],
)
def test_prompt_with_the_turns_of_a_template_is_no_question(prompt: str) -> None:
    with pytest.raises(BadRow) as bad:
        check_question(prompt)
    assert bad.value.reason == "a rendered prompt in place of the question"


@pytest.mark.parametrize("question", ["Which token follows <|im_start|>assistant in ChatML?", "Q?", None, 7])
def test_question_that_only_mentions_a_turn_is_one(question: object) -> None:
    check_question(question)


def test_labelled_thinking_with_tags_is_dropped() -> None:
    plain = Trace(id="1", question="q", thinking="<think>a</think>", response="b", answer="7")
    labelled = Trace(
        id="2", question="q", thinking="<think>a</think>", response="b", answer="7",
        spans=(Span(start=0, end=16, kind="x", essential=True),),
    )  # fmt: skip
    bare = untagged(plain)
    assert (bare.thinking, bare.response) == ("a", "b")
    for trace, is_labelled in ((labelled, False), (plain, True)):
        with pytest.raises(BadRow, match="thinking tags in a labelled thinking"):
            untagged(trace, is_labelled=is_labelled)
    assert untagged(bare, is_labelled=True) is bare
