from dataclasses import replace

import numpy as np
import pytest

from cotpress.data import planted
from cotpress.data.planted import Length
from cotpress.scoring.scorers.planted import NO_LABELS, ORDER, PlantedConfig
from support.scoring import built, models_of


@pytest.fixture(scope="module")
def scorer(sure_base, trainer, store):
    return built(PlantedConfig(name="planted"), models_of(sure_base, trainer, store, None, None))


@pytest.fixture(scope="module")
def labelled():
    return [t for length in Length for t in planted.traces(num_traces=6, families=[], length=length, seed=5)]


def test_scores_are_the_order_of_the_kinds_and_essential_text_is_first(scorer, labelled):
    seen = set()
    for trace, record in zip(labelled, scorer.score(labelled), strict=True):
        middles = record.offsets.mean(axis=1)
        for score, (start, end), middle in zip(record.scores, record.offsets, middles, strict=True):
            inside = [s for s in trace.spans if s.start <= start and end <= s.end]
            if not inside or start == end:
                continue  # a token over a border has the label of most of its characters
            (span,) = [s for s in inside if s.start <= middle <= s.end][:1]
            assert score == (len(ORDER) if span.essential else ORDER.index(span.kind))
            seen.add("essential" if span.essential else span.kind)
    assert seen == {*ORDER, "essential"}


def test_traces_without_labels_are_refused(scorer, labelled):
    assert scorer.refusal(labelled[0]) is None
    assert scorer.refusal(replace(labelled[0], spans=())) == NO_LABELS


def test_half_of_the_tokens_hold_all_equations(scorer, labelled):
    for trace, record in zip(labelled, scorer.score(labelled), strict=True):
        best = np.argsort(-record.scores, kind="stable")[: len(record.scores) // 2]
        essential = np.flatnonzero(record.scores == len(ORDER))
        assert set(essential) <= set(best), trace.id
