import numpy as np
import pytest

from cotpress.records import Unit
from cotpress.scoring.config import Condition, Template
from cotpress.scoring.scorers.reference_likelihood import ReferenceLikelihoodConfig
from cotpress.scoring.scorers.self_information import SelfInformationConfig
from support import naive
from support.scoring import built, models_of, reading_scorer


@pytest.mark.parametrize("condition", Condition)
@pytest.mark.parametrize("template", Template)
@pytest.mark.parametrize("pooling", Unit)
def test_equals_the_formula_on_plain_forwards(condition, template, pooling, tuned, tokenizer, read, traces, stepwise):
    config = ReferenceLikelihoodConfig(name="s", condition=condition, template=template, pooling=pooling)
    rows = [stepwise, traces[2]]
    for record, trace in zip(reading_scorer(config, read(template), tuned).score(rows), rows, strict=True):
        likelihood = naive.logprobs(tuned, tokenizer, template, condition, trace)
        expected = naive.pooled(pooling, trace.thinking, record.offsets, likelihood)
        np.testing.assert_allclose(record.scores, expected, atol=2e-5)


def test_is_the_opposite_order_of_self_information_with_the_same_model(base, trainer, store, reference, stepwise):
    def scores(config):
        [record] = built(config, models_of(base, trainer, store, reference)).score([stepwise])
        return record.scores

    likely, surprising = scores(ReferenceLikelihoodConfig(name="l")), scores(SelfInformationConfig(name="s"))
    np.testing.assert_array_equal(likely, -surprising)
