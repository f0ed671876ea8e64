from dataclasses import replace

import numpy as np
import pytest

from cotpress.errors import ConfigError
from cotpress.records import Unit
from cotpress.scoring.config import Condition, ReadBy, Template
from cotpress.scoring.job import scoring_job
from cotpress.scoring.scorers.rho1_excess import Rho1Config
from support import naive
from support.scoring import built, models_of, reading_scorer


@pytest.mark.parametrize("condition", Condition)
@pytest.mark.parametrize("template", Template)
@pytest.mark.parametrize("pooling", Unit)
def test_equals_the_formula_on_plain_forwards(
    condition, template, pooling, model, tuned, tokenizer, read, traces, stepwise
):
    config = Rho1Config(name="s", condition=condition, template=template, pooling=pooling)
    rows = [stepwise, traces[2]]
    for record, trace in zip(reading_scorer(config, read(template), tuned, model).score(rows), rows, strict=True):
        reference, base = (naive.logprobs(m, tokenizer, template, condition, trace) for m in (tuned, model))
        expected = naive.pooled(pooling, trace.thinking, record.offsets, reference - base)
        np.testing.assert_allclose(record.scores, expected, atol=4e-5)
        assert np.abs(record.scores).max() > 0.01


def test_the_plan_compares_the_reference_with_the_base_model(
    base, trainer, store, reference, model, tuned, read, traces
):
    config = Rho1Config(name="s")
    [planned] = built(config, models_of(base, trainer, store, reference)).score(traces[:1])
    [direct] = reading_scorer(config, read(), tuned, model).score(traces[:1])
    np.testing.assert_allclose(planned.scores, direct.scores, atol=1e-5)


def test_without_a_reference_model_it_is_refused_before_a_model_is_loaded(base, trainer, store):
    with pytest.raises(ConfigError, match=r"scorer=rho1 compares .* Fix: reference=lora"):
        scoring_job(Rho1Config(name="rho1"), traces=None, models=models_of(base, trainer, store))


def test_choice_of_one_model_is_refused(base, trainer, store, reference):
    config = replace(Rho1Config(name="rho1"), read_by=ReadBy.base)
    with pytest.raises(ConfigError, match=r"scorer\.read_by: got 'base'.*allowed: reference"):
        scoring_job(config, traces=None, models=models_of(base, trainer, store, reference))
