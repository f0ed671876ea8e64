from dataclasses import replace

import numpy as np
import pytest

from cotpress.records import Unit
from cotpress.scoring.config import Condition, Template
from cotpress.scoring.scorers.first_token_surprisal import FirstTokenSurprisalConfig
from support import naive
from support.scoring import reading_scorer


@pytest.mark.parametrize("condition", Condition)
@pytest.mark.parametrize("template", Template)
def test_every_token_of_a_step_has_the_surprise_at_its_first_visible_token(
    condition, template, model, tokenizer, read, traces, stepwise
):
    config = FirstTokenSurprisalConfig(name="s", condition=condition, template=template)
    rows = [stepwise, *traces]
    for record, trace in zip(reading_scorer(config, read(template), model).score(rows), rows, strict=True):
        logprobs = naive.logprobs(model, tokenizer, template, condition, trace)
        expected = np.full(len(logprobs), np.nan)
        for inside in naive.members(Unit.step, trace.thinking, record.offsets):
            visible = [i for i in inside if trace.thinking[slice(*record.offsets[i])].strip()]
            expected[inside] = -logprobs[(visible or inside)[0]]
        np.testing.assert_allclose(record.scores, expected, atol=2e-5)


def test_a_step_does_not_begin_with_the_blank_line_before_it(model, read, traces, tokenizer):
    trace = replace(traces[0], thinking="so 7\n\n 4")
    [record] = reading_scorer(FirstTokenSurprisalConfig(name="s"), read(), model).score([trace])
    pieces = [trace.thinking[a:b] for a, b in record.offsets.tolist()]
    step = slice(pieces.index("7") + 1, None)
    assert not pieces[step][0].strip()
    assert pieces[-1].strip() == "4"
    logprobs = naive.logprobs(model, tokenizer, Template.chat, Condition.question, trace)
    np.testing.assert_allclose(record.scores[step], -logprobs[-1], atol=1e-5)


def test_white_space_alone_has_the_surprise_of_its_first_token(model, read, traces, tokenizer):
    trace = replace(traces[0], thinking=" \n\t")
    [record] = reading_scorer(FirstTokenSurprisalConfig(name="s"), read(), model).score([trace])
    first = -naive.logprobs(model, tokenizer, Template.chat, Condition.question, trace)[0]
    np.testing.assert_allclose(record.scores, first, atol=1e-5)
