import numpy as np
import pytest

from cotpress.records import Unit
from cotpress.scoring.config import Condition, Template
from cotpress.scoring.scorers.self_information import SelfInformationConfig
from support import naive
from support.scoring import reading_scorer


@pytest.mark.parametrize("condition", Condition)
@pytest.mark.parametrize("template", Template)
@pytest.mark.parametrize("pooling", Unit)
def test_equals_the_formula_on_plain_forwards(condition, template, pooling, model, tokenizer, read, traces, stepwise):
    config = SelfInformationConfig(name="s", condition=condition, template=template, pooling=pooling)
    rows = [stepwise, traces[2]]
    for record, trace in zip(reading_scorer(config, read(template), model).score(rows), rows, strict=True):
        surprise = -naive.logprobs(model, tokenizer, template, condition, trace)
        expected = naive.pooled(pooling, trace.thinking, record.offsets, surprise)
        np.testing.assert_allclose(record.scores, expected, atol=2e-5)
        assert (record.scores > 0).all()
