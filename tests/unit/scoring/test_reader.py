from dataclasses import replace

import pytest

from cotpress.errors import ModelError
from cotpress.modeling.loading import load_tokenizer
from cotpress.prompts import ChatConfig, ChatFormat
from cotpress.records import ValuableTrace
from cotpress.scoring.config import Condition, Template
from cotpress.scoring.reader import (
    CONDITION_TOO_LONG,
    NO_QUESTION,
    NO_RESPONSE,
    NOTHING_FOLLOWS,
    TOO_LONG,
    ModelScorer,
    Reader,
    condition_text,
)
from cotpress.scoring.scorers.answer_attention import AnswerAttentionConfig, AnswerAttentionScorer
from cotpress.scoring.scorers.self_information import SelfInformationConfig
from cotpress.training.batching import reference_sequences
from support import naive
from support.scoring import reading_scorer


class ReadingOn(AnswerAttentionScorer):
    """A scorer that also reads the response, and looks at no layers."""

    def __init__(self, config, reader, model):
        ModelScorer.__init__(self, config, reader, model)
        self._query, self.reads_response = config.query, True


ON = AnswerAttentionConfig(name="s", template=Template.plain)
ALONE = SelfInformationConfig(name="s", template=Template.plain)


@pytest.mark.parametrize("condition", Condition)
@pytest.mark.parametrize("template", Template)
def test_context_is_the_one_written_by_hand(condition, template, read, tokenizer, traces):
    assert read(template).context_ids(condition, traces[0]) == naive.context_ids(
        tokenizer, template, condition, traces[0]
    )


def test_thinking_is_closed_as_in_training(read, tokenizer, base, traces):
    chat, trace = read(Template.chat), traces[0]
    thinking = chat.tokens(trace)[0].tolist()
    whole = [*chat.context_ids(Condition.question, trace), *thinking, *chat.closing_ids()]
    whole += chat.following_ids(trace.response)
    trained = ChatFormat(tokenizer, base.chat)
    assert whole == trained.prompt_ids(trace.question) + trained.completion_ids(thinking, trace.response)
    plain = read(Template.plain)
    text = f"{trace.question}\n\n{trace.thinking}\n\n{trace.response}"
    whole = [*plain.context_ids(Condition.question, trace), *thinking, *plain.closing_ids()]
    assert tokenizer.decode(whole[1:] + plain.following_ids(trace.response)) == text


@pytest.mark.parametrize("condition", Condition)
def test_reading_has_the_turns_of_the_reference_models_training(condition, tokenizer, base, traces):
    trace, chat = traces[0], ChatConfig(system="be brief", user="Solve step by step.\n{question}")
    reader = Reader(tokenizer, replace(base, chat=chat), Template.chat, 300)
    row = ValuableTrace(
        id="a", question=trace.question, thinking=trace.thinking, response=trace.response, answer="7",
        valuable=((0, len(trace.thinking)),),
    )  # fmt: skip
    [example] = reference_sequences([row], tokenizer, ChatFormat(tokenizer, chat))
    context, thinking = reader.context_ids(condition, trace), reader.tokens(trace)[0].tolist()
    read = [*context, *thinking, *reader.closing_ids(), *reader.following_ids(trace.response)]
    if condition is Condition.question:
        assert read == list(example.ids)
    trained, text = tokenizer.decode(example.ids), condition_text(condition, trace)
    assert tokenizer.decode(read) == trained.replace(trace.question, text)


def test_thinking_that_the_template_opens_is_not_opened_again(base, store, traces):
    tokenizer = load_tokenizer(base, store)
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n", "assistant\n<think>\n")
    reader = Reader(tokenizer, base, Template.chat, 300)
    context = tokenizer.decode(reader.context_ids(Condition.question, traces[0]))
    assert context.endswith("assistant\n<think>\n")
    assert context.count("<think>") == 1


@pytest.mark.parametrize("reads_response", [False, True])
def test_trace_over_the_context_is_read_in_windows_or_refused_to_the_token(
    reads_response, model, tokenizer, base, traces
):
    trace = traces[3]
    needed = 1 + len(naive.token_ids(tokenizer, trace.question + "\n\n" + trace.thinking))
    if reads_response:
        needed += len(naive.token_ids(tokenizer, "\n\n")) + len(naive.token_ids(tokenizer, trace.response))
    for context_tokens, fits in ((needed, True), (needed - 1, False)):
        reader = Reader(tokenizer, replace(base, context_tokens=context_tokens), Template.plain, 99)
        if reads_response:
            assert ReadingOn(ON, reader, model).refusal(trace) == (None if fits else TOO_LONG)
        else:
            scorer = reading_scorer(ALONE, reader, model)
            assert scorer.refusal(trace) is None
            assert scorer.in_windows(trace) == (not fits)


def test_condition_that_leaves_no_room_for_windows_is_refused(model, tokenizer, base, traces):
    trace = traces[3]
    condition = 1 + len(naive.token_ids(tokenizer, trace.question + "\n\n"))
    for context_tokens, reason in ((2 * condition, None), (2 * condition - 1, CONDITION_TOO_LONG)):
        reader = Reader(tokenizer, replace(base, context_tokens=context_tokens), Template.plain, 99)
        assert reading_scorer(ALONE, reader, model).refusal(trace) == reason


def test_missing_text_is_refused_only_where_it_is_read(model, read, traces):
    silent, blank = replace(traces[0], response=" "), replace(traces[0], question="")
    expected = {
        Condition.none: (None, None),
        Condition.answer: (NO_RESPONSE, None),
        Condition.question: (None, NO_QUESTION),
        Condition.question_answer: (NO_RESPONSE, NO_QUESTION),
    }
    for condition, reasons in expected.items():
        scorer = reading_scorer(SelfInformationConfig(name="s", condition=condition), read(), model)
        assert (scorer.refusal(silent), scorer.refusal(blank)) == reasons
    scorer = ReadingOn(AnswerAttentionConfig(name="s", condition=Condition.none), read(), model)
    assert (scorer.refusal(silent), scorer.refusal(blank)) == (NOTHING_FOLLOWS, None)


def test_plain_template_needs_a_bos_token(base, store):
    tokenizer = load_tokenizer(base, store)
    tokenizer.bos_token = None
    with pytest.raises(ModelError, match=r"'tiny' does not have. Fix: scorer\.template=chat"):
        Reader(tokenizer, base, Template.plain, 300)


def test_trace_is_tokenized_once_for_all_its_uses(model, read, traces, monkeypatch):
    from cotpress.scoring import reader

    calls = []
    tokenize = reader.tokenize_with_offsets
    monkeypatch.setattr(reader, "tokenize_with_offsets", lambda t, text: (calls.append(text), tokenize(t, text))[1])
    scorer = reading_scorer(SelfInformationConfig(name="s"), read(), model)
    assert [scorer.refusal(t) for t in traces] == [None] * len(traces)
    list(scorer.score(traces))
    assert sorted(calls) == sorted(t.thinking for t in traces)
