from dataclasses import replace

import numpy as np
import pytest

from cotpress.errors import ConfigError
from cotpress.records import Unit
from cotpress.scoring import models as module
from cotpress.scoring.config import ReadBy
from cotpress.scoring.job import scoring_job
from cotpress.scoring.scorers.cts import CtsConfig
from cotpress.scoring.scorers.mix import MixConfig
from cotpress.scoring.scorers.position import Position, PositionConfig
from cotpress.scoring.scorers.random import RandomConfig
from cotpress.scoring.scorers.reference_likelihood import ReferenceLikelihoodConfig
from cotpress.scoring.scorers.rho1_excess import Rho1Config
from cotpress.scoring.scorers.self_information import SelfInformationConfig
from cotpress.store.artifacts import Summary
from support import naive
from support.scoring import built, identity_of, models_of

CTS, SURPRISE = CtsConfig(name="cts"), SelfInformationConfig(name="self_information")
TAIL, DICE = PositionConfig(name="tail", keep=Position.tail), RandomConfig(name="random", seed=3)


def mix(parts, weights):
    return MixConfig(name="mix", parts=parts, weights=weights)


@pytest.fixture
def build(base, trainer, store, reference, distilled):
    return lambda config: built(config, models_of(base, trainer, store, reference, distilled))


def test_equals_the_weighted_mean_of_naive_ranks(build, traces, stepwise):
    parts, weights = {"a": CTS, "b": replace(SURPRISE, pooling=Unit.word), "c": TAIL}, {"a": 2.0, "b": 0.5, "c": 1.0}
    rows = [stepwise, *traces]
    alone = {name: list(build(part).score(rows)) for name, part in parts.items()}
    for i, record in enumerate(build(mix(parts, weights)).score(rows)):
        expected = sum(weights[name] * naive.ranks(alone[name][i].scores.tolist()) for name in parts) / 3.5
        np.testing.assert_allclose(record.scores, expected, atol=1e-6)
        assert record.scorer == "mix"
        assert ((record.scores > 0) & (record.scores < 1)).all()


def test_equal_scores_have_equal_ranks_and_one_part_alone_keeps_its_order(build, stepwise):
    [alone] = build(replace(SURPRISE, pooling=Unit.word)).score([stepwise])
    [mixed] = build(mix({"a": replace(SURPRISE, pooling=Unit.word)}, {"a": 7.0})).score([stepwise])
    assert len(np.unique(alone.scores)) == len(np.unique(mixed.scores)) < len(alone.scores)
    np.testing.assert_array_equal(np.argsort(alone.scores, kind="stable"), np.argsort(mixed.scores, kind="stable"))


def test_another_tokenizer_meets_through_characters(build, tokenskip_config, stepwise):
    [classified] = build(tokenskip_config).score([stepwise])
    [mixed] = build(mix({"t": tokenskip_config, "tail": TAIL}, {"t": 1.0, "tail": 1.0})).score([stepwise])
    assert classified.tokenizer != mixed.tokenizer
    by_char = [[] for _ in stepwise.thinking]
    for (a, b), score in zip(classified.offsets.tolist(), classified.scores.tolist(), strict=True):
        for c in range(a, b):
            by_char[c].append(score)
    assert all(by_char)
    projected = [np.float32(np.mean([np.mean(by_char[c]) for c in range(a, b)])) for a, b in mixed.offsets.tolist()]
    n = len(projected)
    expected = (naive.ranks(projected) + naive.ranks(list(range(n)))) / 2
    np.testing.assert_allclose(mixed.scores, expected, atol=1e-6)


def test_a_mix_of_mixes_ranks_the_inner_mean(build, traces):
    inner = mix({"tail": TAIL, "dice": DICE}, {"tail": 1.0, "dice": 3.0})
    records = build(mix({"inner": inner, "cts": CTS}, {"inner": 1.0, "cts": 1.0})).score(traces)
    for record, within, cts in zip(records, build(inner).score(traces), build(CTS).score(traces), strict=True):
        expected = (naive.ranks(within.scores.tolist()) + naive.ranks(cts.scores.tolist())) / 2
        np.testing.assert_allclose(record.scores, expected, atol=1e-6)


def test_a_part_without_weight_needs_nothing_and_loads_nothing(base, trainer, store, tokenskip_config, traces):
    config = mix(
        {"dice": DICE, "cts": CTS, "rho": Rho1Config(name="r"), "t": tokenskip_config},
        {"dice": 1.0, "cts": 0.0, "rho": 0.0, "t": 0.0},
    )
    assert (config.needs_reference, config.needs_labels) == (False, False)
    nested = mix({"inner": config}, {"inner": 1.0})
    assert (nested.needs_reference, nested.needs_labels) == (False, False)
    [record] = built(config, models_of(base, trainer, store)).score(traces[:1])
    [alone] = built(DICE, models_of(base, trainer, store)).score(traces[:1])
    np.testing.assert_allclose(record.scores, naive.ranks(alone.scores.tolist()), atol=1e-6)


def test_needs_what_its_parts_need(tokenskip_config):
    assert mix({"cts": CTS}, {"cts": 1.0}).needs_reference
    assert not mix({"cts": replace(CTS, read_by=ReadBy.base)}, {"cts": 1.0}).needs_reference
    assert mix({"dice": DICE, "t": tokenskip_config}, {"dice": 1.0, "t": 0.1}).needs_labels


def test_each_model_is_loaded_once_for_all_parts(build, monkeypatch, traces):
    loads = []
    load = module.load_model
    monkeypatch.setattr(module, "load_model", lambda *a, **k: (loads.append(k.get("adapter")), load(*a, **k))[1])
    parts = {
        "cts": CTS,
        "l": ReferenceLikelihoodConfig(name="l"),
        "rho": Rho1Config(name="r"),
        "s": replace(SURPRISE, read_by=ReadBy.base),
    }
    list(build(mix(parts, dict.fromkeys(parts, 1.0))).score(traces))
    assert len(loads) == 2
    assert sum(adapter is None for adapter in loads) == 1


def test_refuses_what_a_part_refuses(build, tokenskip_config, traces):
    scorer = build(mix({"dice": DICE, "cts": CTS, "t": tokenskip_config}, {"dice": 1.0, "cts": 1.0, "t": 1.0}))
    assert scorer.refusal(traces[0]) is None
    assert scorer.refusal(replace(traces[0], response="")) == "no score from part cts"
    # WordPiece makes no token of white space, so there would be no score to project.
    assert scorer.refusal(replace(traces[0], thinking=" \n ")) == "no score from part t"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"cts": 1.0, "dice": 1.0, "dcie": 1.0}, r"'dcie', which is no part\. Did you mean 'dice'\? .*Fix: \+scorer@"),
        ({"cts": 1.0}, r"part 'dice' has none\. Fix: \+scorer\.weights\.dice=1"),
        ({"cts": 0.0, "dice": 0.0}, r"allowed: finite numbers >= 0, at least one above 0"),
        ({"cts": -1.0, "dice": 2.0}, r"allowed: finite numbers >= 0"),
        ({"cts": float("nan"), "dice": 2.0}, r"allowed: finite numbers >= 0"),
        ({"cts": float("inf"), "dice": 2.0}, r"allowed: finite numbers >= 0"),
    ],
)
def test_wrong_weights_are_explained_before_anything_is_loaded(weights, message, base, trainer, store):
    config = mix({"cts": CTS, "dice": DICE}, weights)
    with pytest.raises(ConfigError, match=message):
        scoring_job(config, traces=None, models=models_of(replace(base, path="nowhere"), trainer, store))


def test_a_mix_without_parts_and_a_wrong_part_are_errors():
    with pytest.raises(ConfigError, match="at least one above 0"):
        mix({}, {}).check(has_reference=True)
    with pytest.raises(ConfigError, match=r"scorer\.baseline"):
        mix({"cts": replace(CTS, baseline=CTS.condition)}, {"cts": 1.0}).check(has_reference=True)


def test_identity_holds_that_of_every_part(base, trainer, store, fresh_reference):
    config = mix({"cts": CTS, "dice": DICE}, {"cts": 1.0, "dice": 1.0})
    first, second = (identity_of(config, models_of(base, trainer, store, r)) for r in fresh_reference)
    assert first["parts"]["cts"]["reference"] != second["parts"]["cts"]["reference"]
    assert first["parts"]["dice"] == second["parts"]["dice"]


@pytest.fixture
def fresh_reference(store):
    return [store.build("reference", {"number": i}, lambda workdir: Summary(num_rows=0)) for i in range(2)]
