"""Requirements on every scorer of the table with its usual settings, and on further ways in which some of them read."""

from contextlib import closing
from dataclasses import replace
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from cotpress.config import register_schemas, to_objects
from cotpress.modeling.alignment import kept_text
from cotpress.records import Unit
from cotpress.scoring.config import Condition, ReadBy, ScorerConfig, Target, Template
from cotpress.scoring.job import scoring_job
from cotpress.scoring.scorers.answer_attention import AnswerAttentionConfig, Query
from cotpress.scoring.scorers.cts import CtsConfig
from cotpress.scoring.scorers.entropy import EntropyConfig
from cotpress.scoring.scorers.gogi import GogiConfig
from cotpress.scoring.scorers.greedy_nll import GreedyNllConfig
from cotpress.scoring.scorers.mix import MixConfig
from cotpress.scoring.scorers.pir import Ablation, PirConfig
from cotpress.scoring.scorers.position import Position, PositionConfig
from cotpress.scoring.scorers.random import RandomConfig
from cotpress.scoring.scorers.reference_likelihood import ReferenceLikelihoodConfig
from cotpress.scoring.scorers.rho1_excess import Rho1Config
from cotpress.scoring.scorers.self_information import SelfInformationConfig
from cotpress.scoring.scorers.tokenskip import TokenskipConfig
from cotpress.scoring.table import SCORERS
from cotpress.store.artifacts import fingerprint
from cotpress.tasks.flow import Compression
from cotpress.tracking import Tracker
from support.scoring import built, models_of

TOKENSKIP = TokenskipConfig(name="tokenskip", path="the encoder of conftest.py", train=True, seed=1)
SMALL: dict[str, ScorerConfig] = {
    "answer_attention": AnswerAttentionConfig(name="answer_attention", num_layers=2),
    "greedy_nll": GreedyNllConfig(name="greedy_nll", max_tokens=400, deletions_per_round=400),
    "position": PositionConfig(name="head", keep=Position.head),
    "tokenskip": TOKENSKIP,
    "mix": MixConfig(
        name="mix",
        parts={"cts": CtsConfig(name="cts"), "stride": PositionConfig(name="stride", keep=Position.stride)},
        weights={"cts": 1.0, "stride": 0.3},
    ),
}
"""Settings for the tiny model where the usual ones are for a larger one, or incomplete."""
CONFIGS: dict[str, ScorerConfig] = {
    **{
        name: SMALL.get(name) or entry.settings(name=name)
        for name, entry in SCORERS.items()
        if name != "planted"  # scores nothing but labels, see test_planted.py
    },
    "cts-question-plain": CtsConfig(name="cts", condition=Condition.question, template=Template.plain),
    "cts-both": CtsConfig(name="cts", condition=Condition.question_answer, baseline=Condition.question),
    "self_information-none": SelfInformationConfig(name="self_information", condition=Condition.none),
    "self_information-base": SelfInformationConfig(name="self_information", read_by=ReadBy.base, pooling=Unit.word),
    "reference_gain": Rho1Config(name="reference_gain", pooling=Unit.step),
    "reference_likelihood-word": ReferenceLikelihoodConfig(name="reference_likelihood", pooling=Unit.word),
    "random-3": RandomConfig(name="random", seed=3),
    "gogi-answer-plain": GogiConfig(name="gogi_answer", target=Target.answer, template=Template.plain),
    "answer_attention-close": AnswerAttentionConfig(name="answer_attention_close", query=Query.close, num_layers=1),
    "pir-attention": PirConfig(name="pir_attention", ablation=Ablation.attention),
    "pir-word-answer": PirConfig(name="pir_word", unit=Unit.word, target=Target.answer, template=Template.plain),
    "tail": PositionConfig(name="tail", keep=Position.tail),
    "stride": PositionConfig(name="stride", keep=Position.stride),
    "mix-two-tokenizers": MixConfig(
        name="mix",
        parts={"tokenskip": TOKENSKIP, "entropy": EntropyConfig(name="entropy")},
        weights={"tokenskip": 2.0, "entropy": 1.0},
    ),
}
CONF = Path(__file__).parents[3] / "conf"


@pytest.fixture(scope="module", params=CONFIGS)
def scorer(request, distilled, reference, sure_base, trainer, store, tokenskip_config):
    def with_encoder(config):
        if isinstance(config, MixConfig):
            return replace(config, parts={name: with_encoder(part) for name, part in config.parts.items()})
        return tokenskip_config if config is TOKENSKIP else config

    return built(with_encoder(CONFIGS[request.param]), models_of(sure_base, trainer, store, reference, distilled))


@pytest.fixture(scope="module")
def rows(traces, stepwise):
    return [*traces, stepwise]


@pytest.fixture(scope="module")
def records(scorer, rows):
    return list(scorer.score(rows))


def test_one_finite_float_per_token_and_offsets_cover_the_thinking(scorer, rows, records):
    assert [r.id for r in records] == [t.id for t in rows]
    for record, trace in zip(records, rows, strict=True):
        assert record.scores.dtype == np.float32
        assert record.token_ids.dtype == record.offsets.dtype == np.int32
        assert record.scores.shape == record.token_ids.shape == (scorer.num_tokens(trace),)
        assert np.isfinite(record.scores).all()
        assert record.scorer == scorer.name
        assert len(record.tokenizer) == 16
        assert kept_text(trace.thinking, record.offsets, np.ones(len(record.scores), dtype=bool)) == trace.thinking


def test_same_scores_twice(scorer, rows, records):
    for first, second in zip(records, scorer.score(rows), strict=True):
        np.testing.assert_array_equal(first.scores, second.scores)


def test_same_scores_alone_in_a_batch_and_in_another_order(scorer, rows, records):
    together = {r.id: r.scores for r in records}
    backwards = {r.id: r.scores for r in scorer.score(rows[::-1])}
    for trace in rows:
        [alone] = scorer.score([trace])
        np.testing.assert_allclose(alone.scores, together[trace.id], atol=1e-4)
        np.testing.assert_allclose(backwards[trace.id], together[trace.id], atol=1e-4)


def test_scores_tell_tokens_apart(scorer, stepwise):
    """More than one value, and not only the noise of rounding: 20 times what the other tests tolerate."""
    [record] = scorer.score([stepwise])
    assert len(np.unique(record.scores)) >= 5
    assert np.ptp(record.scores) > 4e-4


def test_empty_thinking_is_refused(scorer, rows):
    empty = replace(rows[0], id="empty", thinking="")
    assert scorer.num_tokens(empty) == 0
    assert scorer.refusal(empty) is not None


def test_no_traces_give_no_records(scorer):
    assert list(scorer.score([])) == []


def test_nothing_refused_that_is_short_and_complete(scorer, rows):
    assert [scorer.refusal(t) for t in rows] == [None] * len(rows)


@pytest.fixture(scope="module")
def at_ratio():
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda ratio, *more: to_objects(compose("compress", overrides=[f"ratio={ratio}", *more]))


@pytest.mark.parametrize("choice", sorted(f.stem for f in (CONF / "scorer").glob("*.yaml")))
def test_settings_of_a_scorer_do_not_know_the_ratio(choice, at_ratio):
    low, high = (at_ratio(ratio, f"scorer={choice}") for ratio in (0.3, 0.9))
    assert (low.ratio, high.ratio) == (0.3, 0.9)
    assert fingerprint({"scorer": low.scorer}) == fingerprint({"scorer": high.scorer})


def test_scores_are_made_once_for_all_ratios(at_ratio, tmp_path):
    assert "ratio" not in signature(scoring_job).parameters
    keys, kept = set(), set()
    for ratio in (0.3, 0.9):
        config = at_ratio(
            ratio, "model=tiny", "data.num_traces=4", "scorer=random", "tracker=none", f"output_root={tmp_path}"
        )
        with closing(Tracker(tmp_path)) as tracker:
            compression = Compression(config, tracker)
            keys.add(compression.scores.key)
            kept.add(compression.compressed().key)
    assert len(keys) == 1
    assert len(kept) == 2
    assert len(list((tmp_path / "artifacts" / "score").iterdir())) == 1
