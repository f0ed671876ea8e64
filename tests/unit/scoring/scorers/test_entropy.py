from dataclasses import replace

import numpy as np
import pytest

from cotpress.records import Unit
from cotpress.scoring.config import Condition, Template
from cotpress.scoring.scorers.entropy import EntropyConfig
from support import naive
from support.scoring import reading_scorer


@pytest.mark.parametrize("condition", Condition)
@pytest.mark.parametrize("template", Template)
@pytest.mark.parametrize("pooling", Unit)
def test_equals_the_formula_on_plain_forwards(condition, template, pooling, sure, tokenizer, read, traces, stepwise):
    config = EntropyConfig(name="s", condition=condition, template=template, pooling=pooling)
    rows = [stepwise, traces[2]]
    for record, trace in zip(reading_scorer(config, read(template), sure).score(rows), rows, strict=True):
        by_token = naive.entropies(sure, tokenizer, template, condition, trace)
        expected = naive.pooled(pooling, trace.thinking, record.offsets, by_token)
        np.testing.assert_allclose(record.scores, expected, atol=2e-4)
        assert np.ptp(by_token) > 0.5


def test_does_not_depend_on_the_token_that_came(sure, read, traces, tokenizer):
    four, five = (replace(traces[0], thinking=f"3 {digit}") for digit in "45")
    assert naive.token_ids(tokenizer, four.thinking)[:-1] == naive.token_ids(tokenizer, five.thinking)[:-1]
    first, second = (r.scores for r in reading_scorer(EntropyConfig(name="s"), read(), sure).score([four, five]))
    np.testing.assert_allclose(first, second, atol=1e-4)
