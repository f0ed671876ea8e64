"""Budget forcing: the two requests of an answer, and what is counted."""

from dataclasses import replace

import pytest

from cotpress.evaluation.forcing import Forcing
from cotpress.generation.backends import LENGTH, REFUSED, STOP, Generation, Request
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer
from cotpress.prompts import ChatConfig, ChatFormat
from cotpress.store.artifacts import ArtifactStore

FORCING = Forcing(num_tokens=5, text="Final Answer:")
CONTEXT = 100


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    model = ModelConfig(name="tiny", source=ModelSource.tiny, path="tiny")
    return load_tokenizer(model, ArtifactStore(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def chat(tokenizer):
    return ChatFormat(tokenizer, ChatConfig())


def _requests(budget=40):
    return {"p/0": Request(prompt=(1, 2, 3), max_new_tokens=budget, stream="p/0")}


def _written(chat, text, finish_reason=LENGTH, *, tells_ids=True):
    ids = tuple(chat.output_ids(text))
    return Generation(
        token_ids=ids if tells_ids else None, text=text, finish_reason=finish_reason, latency_s=1.0,
        reported_tokens=len(ids),
    )  # fmt: skip


def _answer(chat, first, second=None, budget=40):
    """The second request, and the whole answer."""
    requests, done = _requests(budget), {"p/0/first": first}
    going_on = FORCING.second(requests, done, chat)
    if second is not None:
        done["p/0/second"] = second
    FORCING.join(requests, done, chat)
    return going_on.get("p/0/second"), done["p/0"]


def test_first_request_ends_at_the_limit_and_draws_from_the_stream_of_the_answer():
    (first,) = FORCING.first(_requests(), CONTEXT).values()
    assert (first.max_new_tokens, first.stream) == (5, "p/0")
    (short,) = FORCING.first(_requests(budget=3), CONTEXT).values()
    assert short.max_new_tokens == 3
    (refused,) = FORCING.first(_requests(), context_tokens=3).values()
    assert refused.max_new_tokens == 40  # a prompt that fills the context


@pytest.mark.parametrize("reason", [STOP, REFUSED])
def test_answer_that_ends_within_the_limit_stays_as_it_is(chat, reason):
    first = _written(chat, "<think>\n3 + 4", reason)
    assert _answer(chat, first) == (None, first)


def test_open_thinking_is_closed_and_the_answer_asked_for(chat, tokenizer):
    first = _written(chat, "<think>\n3 + 4 and then")
    appended = [*chat.thinking_end(), *chat.text_ids("Final Answer:")]
    request, answer = _answer(chat, first, _written(chat, " 7", STOP))
    assert request.prompt == [1, 2, 3, *first.token_ids, *appended]
    assert request.max_new_tokens == 40 - len(first.token_ids) - len(appended)
    assert request.stream != "p/0"
    assert answer.token_ids == (*first.token_ids, *appended, *chat.output_ids(" 7"))
    assert chat.split_output(answer.text) == ("3 + 4 and then", "Final Answer: 7", True)
    assert (answer.finish_reason, answer.latency_s) == (STOP, 2.0)
    assert chat.num_thinking_tokens(answer.token_ids) == len(first.token_ids) + 1  # the line break before the tag


def test_thinking_that_is_closed_within_the_limit_goes_on_without_the_text(chat):
    first = _written(chat, "<think>\n7\n</think>\n\nThe answer")
    request, answer = _answer(chat, first, _written(chat, " is 7.", STOP))
    assert request.prompt == [1, 2, 3, *first.token_ids]
    assert chat.split_output(answer.text) == ("7", "The answer is 7.", True)


def test_answer_without_room_for_a_response_ends_at_its_budget(chat):
    first = _written(chat, "<think>\n3 + 4 and then")
    assert _answer(chat, first, budget=len(first.token_ids) + 2) == (None, first)


def test_budgets_without_room_for_an_answer_are_counted(chat):
    appended = len([*chat.thinking_end(), *chat.text_ids("Final Answer:")])
    requests = [Request(prompt=(1,), max_new_tokens=5 + appended + more, stream=str(more)) for more in (-5, 0, 1)]
    assert FORCING.num_without_room(requests, chat) == 2


def test_tokens_of_a_server_that_tells_none_are_counted_with_the_appended_ones(chat):
    first = _written(chat, "<think>\n3 + 4", tells_ids=False)
    _, answer = _answer(chat, first, _written(chat, " 7", STOP, tells_ids=False))
    assert answer.token_ids is None
    assert answer.text == "<think>\n3 + 4\n</think>\n\nFinal Answer: 7"
    appended = [*chat.thinking_end(), *chat.text_ids("Final Answer:")]
    assert answer.num_tokens == first.num_tokens + len(appended) + len(chat.output_ids(" 7"))


def test_blank_line_ends_no_thinking_in_a_layout_without_tags(tokenizer):
    untagged = ChatFormat(tokenizer, ChatConfig(thinking_open="", thinking_close="\n\n"))
    request, answer = _answer(untagged, _written(untagged, "3 + 4\n\nand then"), _written(untagged, " 7", STOP))
    assert request is not None
    assert answer.text == "3 + 4\n\nand then\n\nFinal Answer: 7"


def test_relative_limit_is_a_share_of_the_mean_thinking():
    relative = Forcing(num_tokens=None, share=0.7)
    assert relative.is_relative
    assert not FORCING.is_relative
    assert relative.at(61.4) == replace(relative, num_tokens=43, share=1.0)
    assert relative.at(0.2).num_tokens == 1
