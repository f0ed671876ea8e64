import numpy as np
import pytest

from cotpress.records import Unit
from cotpress.scoring.config import Condition, Template
from cotpress.scoring.scorers.step_entropy import StepEntropyConfig
from support import naive
from support.scoring import reading_scorer


@pytest.mark.parametrize("condition", Condition)
@pytest.mark.parametrize("template", Template)
def test_every_token_of_a_step_has_the_sum_of_its_token_entropies(
    condition, template, sure, tokenizer, read, traces, stepwise
):
    config = StepEntropyConfig(name="s", condition=condition, template=template)
    rows = [stepwise, *traces]
    for record, trace in zip(reading_scorer(config, read(template), sure).score(rows), rows, strict=True):
        by_token = naive.entropies(sure, tokenizer, template, condition, trace)
        expected = np.full(len(by_token), np.nan)
        for inside in naive.members(Unit.step, trace.thinking, record.offsets):
            expected[inside] = sum(by_token[i] for i in inside)
        np.testing.assert_allclose(record.scores, expected, rtol=1e-4)


def test_steps_have_their_own_values(sure, read, stepwise):
    [record] = reading_scorer(StepEntropyConfig(name="s"), read(), sure).score([stepwise])
    assert len(np.unique(record.scores)) == len(naive.members(Unit.step, stepwise.thinking, record.offsets)) == 6
