from dataclasses import replace

import numpy as np
import pytest

from cotpress.errors import DataError
from cotpress.records import ScoredTrace
from experiments.score_precision.flags import agreement


def scored(number, scores):
    n = len(scores)
    return ScoredTrace(
        id=f"t{number}",
        token_ids=np.arange(n, dtype=np.int32),
        offsets=np.stack([np.arange(n), np.arange(n) + 1], axis=1).astype(np.int32),
        scores=np.asarray(scores, dtype=np.float32),
        tokenizer="t",
        scorer="s",
    )


def test_scores_in_equal_order_agree_completely():
    rng = np.random.default_rng(0)
    first = [scored(i, rng.normal(size=n)) for i, n in enumerate((30, 7, 1))]
    second = [replace(s, scores=np.exp(s.scores) * 3) for s in first]
    agreed = agreement(first, second, [0.3, 0.8])
    assert (agreed.num_traces, agreed.num_tokens) == (3, 38)
    assert agreed.mean_rank_correlation == agreed.lowest_rank_correlation == pytest.approx(1)
    assert agreed.changed_decisions == {0.3: 0, 0.8: 0}


def test_changed_decisions_are_counted_over_all_tokens():
    first = [scored(0, [4, 3, 2, 1]), scored(1, [2, 1])]
    second = [scored(0, [4, 2, 3, 1]), scored(1, [2, 1])]
    agreed = agreement(first, second, [0.5, 1.0])
    assert agreed.changed_decisions == {0.5: pytest.approx(2 / 6), 1.0: 0}
    assert agreed.lowest_rank_correlation == pytest.approx(0.8)
    assert agreed.mean_rank_correlation == pytest.approx(0.9)


def test_opposite_orders_have_rank_correlation_minus_one():
    assert agreement([scored(0, [1, 2, 3])], [scored(0, [3, 2, 1])], [0.5]).mean_rank_correlation == pytest.approx(-1)


@pytest.mark.parametrize("other", [[], [scored(1, [1, 2])], [replace(scored(0, [1, 2]), token_ids=np.int32([5, 6]))]])
def test_scores_of_other_tokens_are_refused(other):
    with pytest.raises(DataError, match="not of the same tokens"):
        agreement([scored(0, [1, 2])], other, [0.5])


def test_nothing_to_rank_is_an_error():
    with pytest.raises(DataError, match="two tokens with different scores"):
        agreement([scored(0, [1])], [scored(0, [1])], [0.5])
