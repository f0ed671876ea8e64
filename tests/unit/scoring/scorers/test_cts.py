from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from cotpress.errors import ConfigError
from cotpress.records import Unit
from cotpress.scoring.config import Condition, Template
from cotpress.scoring.job import scoring_job
from cotpress.scoring.reader import NO_QUESTION, NO_RESPONSE, SAME_WINDOWS, Reader
from cotpress.scoring.scorers.cts import CtsConfig, CtsScorer
from support import naive
from support.scoring import models_of, reading_scorer

PAIRS = [(c, b) for c in Condition for b in (Condition.none, Condition.question) if c is not b]


@pytest.mark.parametrize(("condition", "baseline"), PAIRS)
@pytest.mark.parametrize("template", Template)
@pytest.mark.parametrize("pooling", Unit)
def test_equals_the_formula_on_plain_forwards(
    condition, baseline, template, pooling, model, tokenizer, read, traces, stepwise
):
    config = CtsConfig(name="cts", condition=condition, baseline=baseline, template=template, pooling=pooling)
    rows = [stepwise, traces[2]]
    for record, trace in zip(reading_scorer(config, read(template), model).score(rows), rows, strict=True):
        conditioned = naive.logprobs(model, tokenizer, template, condition, trace)
        alone = naive.logprobs(model, tokenizer, template, baseline, trace)
        expected = naive.pooled(pooling, trace.thinking, record.offsets, conditioned - alone)
        np.testing.assert_allclose(record.scores, expected, atol=2e-5)


def test_token_that_the_answer_gives_away_is_kept_first(traces):
    """Higher = keep: the sign follows from the order of the two readings, whatever the model."""
    scorer = CtsScorer(CtsConfig(name="cts"))
    assert [condition for _, condition in scorer.readings()] == [Condition.answer, Condition.none]
    with_answer, without = (
        SimpleNamespace(logprob=np.array(logprobs, dtype=np.float32)) for logprobs in ([-1, -3], [-2, -1])
    )
    assert scorer.score(traces[0], with_answer, without).tolist() == [1.0, -2.0]


def test_windows_are_the_same_with_and_without_the_condition(base, model, tokenizer, traces):
    """Otherwise a token would be judged by the length of the thinking that was read before it."""
    narrow = Reader(tokenizer, replace(base, context_tokens=100), Template.chat, 300)
    scorer, trace = reading_scorer(CtsConfig(name="cts"), narrow, model), traces[3]
    with_answer, alone, with_answer_again, beside = (source.plan(trace) for source in scorer.sources)
    assert len(with_answer.context_ids) > len(beside.context_ids)
    assert with_answer.window_tokens == beside.window_tokens == 100 - len(with_answer.context_ids)
    assert alone.window_tokens == 100 - len(alone.context_ids)
    assert with_answer_again == SAME_WINDOWS
    [record] = scorer.score([trace])
    rows = [next(iter(source.score([trace]))) for source in scorer.sources]
    np.testing.assert_array_equal(record.scores, rows[0].logprob - rows[3].logprob)


def test_missing_condition_is_refused_by_its_name(model, read, traces):
    silent, blank = replace(traces[0], response=" "), replace(traces[0], question="\n")
    expected = {
        (Condition.answer, Condition.none): (NO_RESPONSE, None),
        (Condition.question, Condition.none): (None, NO_QUESTION),
        (Condition.question_answer, Condition.none): (NO_RESPONSE, NO_QUESTION),
        (Condition.answer, Condition.question): (NO_RESPONSE, NO_QUESTION),
    }
    for (condition, baseline), reasons in expected.items():
        scorer = reading_scorer(CtsConfig(name="cts", condition=condition, baseline=baseline), read(), model)
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
        scoring_job(config, traces=None, models=models_of(nowhere, trainer, store))


def test_baseline_that_knows_the_answer_is_refused_with_what_is_allowed():
    with pytest.raises(ConfigError, match=r"scorer\.baseline: got 'answer', allowed: none, question"):
        CtsConfig(name="cts", condition=Condition.question, baseline=Condition.answer).check(has_reference=True)
