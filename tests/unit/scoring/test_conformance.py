"""What every scorer has to fulfil. A new scorer gets a line in `CONFIGS`."""

import numpy as np
import pytest

from cotpress.artifacts import ArtifactStore
from cotpress.config import SCHEMAS
from cotpress.modeling.alignment import kept_text
from cotpress.scoring.config import (
    AnswerAttentionConfig,
    Condition,
    CtsConfig,
    GogiConfig,
    GreedyNllConfig,
    Query,
    RandomConfig,
    Target,
    Template,
)
from cotpress.scoring.plan import plan_scorer

CONFIGS = {
    "cts-answer-chat": CtsConfig(name="cts"),
    "cts-question-plain": CtsConfig(name="cts", condition=Condition.question, template=Template.plain),
    "cts-both-chat": CtsConfig(name="cts", condition=Condition.question_answer),
    "random": RandomConfig(name="random", seed=3),
    "gogi": GogiConfig(name="gogi"),
    "gogi-answer-plain": GogiConfig(name="gogi_answer", target=Target.answer, template=Template.plain),
    "answer_attention": AnswerAttentionConfig(name="answer_attention", num_layers=2),
    "answer_attention-close": AnswerAttentionConfig(name="answer_attention_close", query=Query.close, num_layers=1),
    "greedy_nll": GreedyNllConfig(name="greedy_nll", max_tokens=400, deletions_per_round=400),
    "tokenskip": None,
}


@pytest.fixture(scope="module", params=CONFIGS)
def scorer(request, distilled, base, trainer, store, tokenskip_config):
    config = CONFIGS[request.param] or tokenskip_config
    return plan_scorer(config, distilled, None, base, trainer, store).make()


def test_one_finite_float_per_token_and_offsets_cover_the_thinking(scorer, traces):
    records = list(scorer.score(traces))
    assert [r.id for r in records] == [t.id for t in traces]
    for record, trace in zip(records, traces, strict=True):
        assert record.scores.dtype == np.float32
        assert record.token_ids.dtype == record.offsets.dtype == np.int32
        assert record.scores.shape == record.token_ids.shape == (scorer.num_tokens(trace),)
        assert np.isfinite(record.scores).all()
        assert record.scorer == scorer.name
        assert len(record.tokenizer) == 16
        assert kept_text(trace.thinking, record.offsets, np.ones(len(record.scores), dtype=bool)) == trace.thinking


def test_same_scores_twice(scorer, traces):
    for first, second in zip(scorer.score(traces), scorer.score(traces), strict=True):
        np.testing.assert_array_equal(first.scores, second.scores)


def test_same_scores_alone_in_a_batch_and_in_another_order(scorer, traces):
    together = {r.id: r.scores for r in scorer.score(traces)}
    backwards = {r.id: r.scores for r in scorer.score(traces[::-1])}
    for trace in traces:
        [alone] = scorer.score([trace])
        np.testing.assert_allclose(alone.scores, together[trace.id], atol=2e-5)
        np.testing.assert_allclose(backwards[trace.id], together[trace.id], atol=2e-5)


def test_scores_are_not_all_alike(scorer, traces):
    scores = next(iter(scorer.score([traces[3]]))).scores
    assert len(np.unique(scores)) > len(scores) // 4


def test_nothing_refused_that_is_short_and_complete(scorer, traces):
    assert [scorer.refusal(t) for t in traces] == [None] * len(traces)


def test_every_scorer_schema_is_covered_here(tokenskip_config):
    covered = {type(c or tokenskip_config) for c in CONFIGS.values()}
    assert covered == {schema for path, schema in SCHEMAS.items() if path.startswith("scorer/")}


def test_another_store_gives_the_same_scores(traces, distilled, base, trainer, tokenskip_config, tmp_path, scorer):
    config = next(c or tokenskip_config for k, c in CONFIGS.items() if (c or tokenskip_config).name == scorer.name)
    if scorer.name == "cts":
        pytest.skip("its weights are those of the tiny model, compared in the loading tests")
    other = plan_scorer(config, distilled, None, base, trainer, ArtifactStore(tmp_path)).make()
    for first, second in zip(scorer.score(traces), other.score(traces), strict=True):
        np.testing.assert_allclose(first.scores, second.scores, atol=1e-5)
