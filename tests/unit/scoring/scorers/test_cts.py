from dataclasses import replace

import numpy as np
import pytest

from cotpress.errors import ConfigError
from cotpress.records import Unit
from cotpress.scoring.config import Condition, CtsConfig, Template
from cotpress.scoring.plan import plan_scorer
from cotpress.scoring.reader import NO_QUESTION, NO_RESPONSE, Reader
from cotpress.scoring.scorers.cts import CtsScorer
from support import naive

PAIRS = [(c, b) for c in Condition for b in (Condition.none, Condition.question) if c is not b]


@pytest.mark.parametrize(("condition", "baseline"), PAIRS)
@pytest.mark.parametrize("template", Template)
@pytest.mark.parametrize("pooling", Unit)
def test_equals_the_formula_on_plain_forwards(
    condition, baseline, template, pooling, model, tokenizer, read, traces, stepwise
):
    config = CtsConfig(name="cts", condition=condition, baseline=baseline, template=template, pooling=pooling)
    rows = [stepwise, traces[2]]
    for record, trace in zip(CtsScorer(config, read(template), model).score(rows), rows, strict=True):
        told = naive.logprobs(model, tokenizer, template, condition, trace)
        untold = naive.logprobs(model, tokenizer, template, baseline, trace)
        expected = naive.pooled(pooling, trace.thinking, record.offsets, told - untold)
        np.testing.assert_allclose(record.scores, expected, atol=2e-5)


def test_token_that_the_answer_gives_away_is_kept_first(model, read, traces, monkeypatch):
    """Higher = keep: the sign follows from the order of the two readings, whatever the model."""
    from cotpress.scoring.scorers import cts

    readings = iter([np.float32([-1, -3]), np.float32([-2, -1])])  # with the answer, without it
    monkeypatch.setattr(cts, "token_logprobs", lambda *_: readings)
    [values] = CtsScorer(CtsConfig(name="cts"), read(), model).values(traces[:1])
    assert values.tolist() == [1.0, -2.0]


def test_windows_are_the_same_with_and_without_the_condition(base, model, tokenizer, traces):
    """Otherwise a token would be judged by how much of the thinking was read before it."""
    narrow = Reader(tokenizer, replace(base, context_tokens=100), Template.chat, 300)
    told, untold = CtsScorer(CtsConfig(name="cts"), narrow, model).inputs(traces[3:4])
    assert len(told.context_ids) > len(untold.context_ids)
    assert told.window_tokens == untold.window_tokens == 100 - len(told.context_ids)
    assert len(told.target_ids) == len(untold.target_ids) > told.window_tokens


def test_missing_condition_is_refused_by_its_name(model, read, traces):
    silent, blank = replace(traces[0], response=" "), replace(traces[0], question="\n")
    expected = {
        (Condition.answer, Condition.none): (NO_RESPONSE, None),
        (Condition.question, Condition.none): (None, NO_QUESTION),
        (Condition.question_answer, Condition.none): (NO_RESPONSE, NO_QUESTION),
        (Condition.answer, Condition.question): (NO_RESPONSE, NO_QUESTION),
    }
    for (condition, baseline), reasons in expected.items():
        scorer = CtsScorer(CtsConfig(name="cts", condition=condition, baseline=baseline), read(), model)
        assert (scorer.refusal(silent), scorer.refusal(blank)) == reasons


@pytest.mark.parametrize(
    ("condition", "baseline"),
    [
        (Condition.none, Condition.none),
        (Condition.none, Condition.question),  # what the question makes easier would go first: the score upside down
        (Condition.question, Condition.question),
    ],
)
def test_condition_that_tells_nothing_more_is_refused_before_a_model_is_looked_for(
    condition, baseline, base, trainer, store
):
    config = CtsConfig(name="cts", condition=condition, baseline=baseline)
    nowhere = replace(base, path="nowhere")
    with pytest.raises(
        ConfigError, match=rf"scorer\.condition: got '{condition.value}'.*Fix: scorer\.condition=answer"
    ):
        plan_scorer(config, None, None, nowhere, trainer, store)


def test_baseline_that_knows_the_answer_is_refused_with_what_is_allowed():
    with pytest.raises(ConfigError, match=r"scorer\.baseline: got 'answer', allowed: none, question"):
        CtsConfig(name="cts", condition=Condition.question, baseline=Condition.answer).check(has_reference=True)
