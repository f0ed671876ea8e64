from dataclasses import replace

import numpy as np
import pytest
import torch

from cotpress.errors import ConfigError
from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.segments import unit_ids
from cotpress.records import Unit
from cotpress.scoring.config import Condition, Template
from cotpress.scoring.reader import Reader
from cotpress.scoring.scorers.reference_walk import ReferenceWalkConfig, ReferenceWalkScorer
from cotpress.settings import check_settings
from support.scoring import reading_scorer


def naive_walk(model, context, units, max_surprise):
    """Every unit after a fresh forward pass over what was kept."""
    kept, means = list(context), []
    for unit in units:
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([[*kept, *unit]])).logits[0].log_softmax(-1)
        mean = np.mean([logps[len(kept) + i - 1, token].item() for i, token in enumerate(unit)])
        means.append(mean)
        if mean >= -max_surprise:
            kept += unit
    return means, len(kept) - len(context)


def surprise_in_the_middle(model, context, units):
    """A threshold that keeps about half of the units."""
    return -float(np.median(naive_walk(model, context, units, max_surprise=1e9)[0]))


@pytest.mark.parametrize("unit", Unit)
@pytest.mark.parametrize("template", Template)
def test_equals_fresh_passes_over_what_was_kept(unit, template, model, tokenizer, base, traces):
    reader = Reader(tokenizer, base, template, tokens_per_batch=300)
    split = {}
    for trace in traces:
        ids, offsets = tokenize_with_offsets(tokenizer, trace.thinking)
        groups = unit_ids(unit, trace.thinking, offsets)
        split[trace.id] = [ids[groups == g].tolist() for g in np.unique(groups)]
    context = reader.context_ids(Condition.question, traces[0])
    limit = surprise_in_the_middle(model, context, split[traces[0].id])
    config = ReferenceWalkConfig(name="walk", unit=unit, template=template, max_surprise=limit)
    some_kept = some_dropped = False
    for record, trace in zip(ReferenceWalkScorer(config, reader, model).score(traces), traces, strict=True):
        units = split[trace.id]
        expected, num_kept = naive_walk(model, reader.context_ids(Condition.question, trace), units, limit)
        np.testing.assert_allclose(record.scores, np.repeat(expected, [len(u) for u in units]), atol=2e-5)
        some_kept |= num_kept > 0
        some_dropped |= num_kept < len(record.scores)
    assert some_kept
    assert some_dropped or unit not in (Unit.token, Unit.word)  # a trace has few of the longer units


def test_with_no_limit_it_is_the_reference_likelihood(model, tokenizer, base, traces):
    from cotpress.scoring.scorers.reference_likelihood import ReferenceLikelihoodConfig

    reader = Reader(tokenizer, base, Template.chat, tokens_per_batch=300)
    walk = ReferenceWalkScorer(ReferenceWalkConfig(name="walk", max_surprise=1e9), reader, model)
    likelihood = reading_scorer(ReferenceLikelihoodConfig(name="likely", pooling=Unit.word), reader, model)
    for walked, read in zip(walk.score(traces), likelihood.score(traces), strict=True):
        np.testing.assert_allclose(walked.scores, read.scores, atol=2e-5)


def test_the_batch_changes_nothing(model, tokenizer, base, traces):
    config = ReferenceWalkConfig(name="walk", max_surprise=5.0)
    together, alone = (
        list(ReferenceWalkScorer(config, Reader(tokenizer, base, Template.chat, budget), model).score(traces))
        for budget in (10_000, 1)
    )
    for batched, single in zip(together, alone, strict=True):
        np.testing.assert_allclose(batched.scores, single.scores, atol=2e-5)


def test_a_text_without_tokens_has_no_scores(model, tokenizer, base, traces):
    scorer = ReferenceWalkScorer(ReferenceWalkConfig(name="walk"), Reader(tokenizer, base, Template.chat, 300), model)
    records = list(scorer.score([replace(traces[0], thinking=""), traces[1]]))
    assert [len(r.scores) for r in records] == [0, scorer.num_tokens(traces[1])]


def test_surprise_must_be_positive():
    with pytest.raises(ConfigError, match=r"scorer\.max_surprise: got 0"):
        check_settings(ReferenceWalkConfig(name="walk", max_surprise=0.0), "scorer")
