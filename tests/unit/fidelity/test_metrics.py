import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score

from cotpress.fidelity.metrics import (
    DIRECTIONS,
    Bootstrap,
    Case,
    auc,
    judge,
    kept_share,
    newness,
    partial_rank_correlation,
    rank_correlation,
    step_rules,
    token_rules,
)
from cotpress.modeling.selection import rank_many
from cotpress.records import TruthKind

labelled = st.lists(st.tuples(st.integers(-3, 3).map(float), st.booleans()), min_size=2, max_size=30)


def arrays(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    scores, positive = (np.array(x) for x in zip(*pairs, strict=True))
    assume(positive.any() and not positive.all())
    return scores, positive


def test_auc_by_hand() -> None:
    scores = np.array([3.0, 2.0, 2.0, 1.0])
    positive = np.array([True, True, False, False])
    # pairs: 3>2, 3>1, 2=2, 2>1
    assert auc(scores, positive) == 3.5 / 4


@given(labelled)
def test_auc_counts_pairs_and_equals_scikit_learn(pairs: list[tuple[float, bool]]) -> None:
    scores, positive = arrays(pairs)
    won = [(a > b) + (a == b) / 2 for a, b in itertools.product(scores[positive], scores[~positive])]
    assert auc(scores, positive) == pytest.approx(sum(won) / len(won))
    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))


@given(labelled)
def test_auc_depends_on_ranks_only_and_reverses_with_the_scores(pairs: list[tuple[float, bool]]) -> None:
    scores, positive = arrays(pairs)
    assert auc(np.exp(scores), positive) == pytest.approx(auc(scores, positive))
    assert auc(-scores, positive) == pytest.approx(1 - auc(scores, positive))


def test_average_precision_by_hand() -> None:
    # best first: essential, redundant, essential -> precision 1/1 and 2/3
    tokens = np.arange(3, dtype=np.int32)
    case = Case(
        num_chars=3, token_ids=tokens, offsets=np.stack([tokens, tokens + 1], axis=1), units=tokens.astype(np.int64),
        worth=np.array([1.0, 0.0, 1.0]),
        kinds=("a", "b", "a"), rules={},
    )  # fmt: skip
    assert judge(TruthKind.tokens, case, np.array([3.0, 2.0, 1.0])).metrics["AP"] == pytest.approx(5 / 6)


@given(labelled, st.sampled_from([0.9, 0.7, 0.5, 0.3]))
def test_kept_share_follows_the_selection_of_the_compress_stage(pairs: list[tuple[float, bool]], ratio: float) -> None:
    scores, essential = arrays(pairs)
    places = np.arange(len(scores), dtype=np.int32)
    offsets = np.stack([places // 2, places // 2 + 1], axis=1)  # two tokens a character
    kept = rank_many(scores.astype(np.float32), offsets, np.array([len(scores)])).cut(np.array([ratio]))
    assert (kept[0 : len(kept) // 2 * 2 : 2] == kept[1::2]).all()
    assert kept_share(scores, offsets, essential, ratio) == pytest.approx((kept & essential).sum() / essential.sum())


def test_rank_correlation_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    scores, importance = rng.integers(0, 5, 40).astype(float), rng.normal(size=40)
    assert rank_correlation(scores, importance) == pytest.approx(spearmanr(scores, importance).statistic)


def test_equal_scores_do_not_correlate() -> None:
    assert rank_correlation(np.ones(5), np.arange(5.0)) == 0.0


def test_partial_correlation_equals_regression_residuals_and_textbook_formula() -> None:
    rng = np.random.default_rng(1)
    position = np.arange(50.0)
    scores, importance = position + 20 * rng.normal(size=50), position + 20 * rng.normal(size=50)
    ranks = [np.argsort(np.argsort(v)).astype(float) for v in (scores, importance)]
    column = position[:, None]
    left = [r - LinearRegression().fit(column, r).predict(column) for r in ranks]
    expected = np.corrcoef(left)[0, 1]
    assert partial_rank_correlation(scores, importance) == pytest.approx(expected)
    xy, xz, yz = (spearmanr(a, b).statistic for a, b in [ranks, (ranks[0], position), (ranks[1], position)])
    assert expected == pytest.approx((xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2)))
    assert abs(expected) < abs(xy)


@pytest.mark.parametrize("scores", [np.arange(6.0), -np.arange(6.0), np.ones(6)])
def test_scores_without_residuals_have_no_partial_correlation(scores: np.ndarray) -> None:
    assert partial_rank_correlation(scores, np.array([3.0, 1, 2, 6, 5, 4])) is None


def test_bootstrap_interval_has_normal_width_and_narrows_with_confidence() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(0.6, 0.2, size=400)
    interval = Bootstrap(confidence=0.95, num_resamples=2000).mean(values.tolist())
    standard_error = values.std(ddof=1) / 20
    assert interval.value == pytest.approx(values.mean())
    assert interval.n == 400
    assert interval.low == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.15 * standard_error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.15 * standard_error)
    narrower = Bootstrap(confidence=0.5, num_resamples=2000).mean(values.tolist())
    assert interval.low < narrower.low < narrower.high < interval.high


def test_bootstrap_is_deterministic_and_exact_for_equal_values() -> None:
    once, again = (Bootstrap(confidence=0.9, num_resamples=50).mean([0.1, 0.9, 0.4]) for _ in range(2))
    assert once == again
    flat = Bootstrap(confidence=0.95, num_resamples=50).mean([0.25] * 7)
    assert (flat.low, flat.value, flat.high) == (0.25, 0.25, 0.25)


def test_traces_of_one_question_count_once() -> None:
    few, many = Bootstrap(confidence=0.95, num_resamples=50), Bootstrap(confidence=0.95, num_resamples=2000)
    values = [0.1, 0.3, 0.8, 0.5, 0.6]
    repeated, names = [v for v in values for _ in range(4)], [q for q in "abcde" for _ in range(4)]
    assert few.mean(repeated, names) == few.mean(values)
    assert few.mean(repeated, names).n == 5
    alone = many.mean(repeated)
    assert few.mean(repeated, names).low < alone.low < alone.high < few.mean(repeated, names).high
    unequal = few.mean([0.0, 0.0, 0.0, 1.0], ["a", "a", "a", "b"])
    assert unequal.value == 0.5


def test_few_questions_have_the_interval_of_student() -> None:
    values = [0.2, 0.4, 0.9]
    half = 4.303 * np.std(values, ddof=1) / math.sqrt(3)
    interval = Bootstrap(confidence=0.95, num_resamples=50).mean(values)
    assert (interval.low, interval.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-3)


def test_word_is_new_if_it_follows_its_predecessor_for_the_first_time() -> None:
    assert newness(["so", "it", "is", "so", "It", "is"]).tolist() == [1, 1, 1, 1, 0, 0]


def test_token_rules_by_hand() -> None:
    text = "is 12 is 12"
    offsets = np.array([[0, 2], [2, 4], [4, 5], [5, 8], [8, 11]], dtype=np.int32)  # is| 1|2| is| 12
    rules = token_rules(text, offsets)
    assert set(rules) == set(DIRECTIONS)
    assert rules["position"].tolist() == [0, 1, 2, 3, 4]
    assert rules["length"].tolist() == [2, 2, 2, 2, 2]
    assert rules["digit share"].tolist() == [0, 1, 1, 0, 1]
    assert rules["new bigrams"].tolist() == [1, 1, 1, 1, 0]


def test_step_rules_by_hand() -> None:
    text = "a 1 b.\na 1 c."
    rules = step_rules(text, [(0, 6), (6, 13)])
    assert rules["position"].tolist() == [0, 1]
    assert rules["length"].tolist() == [6, 6]
    assert rules["digit share"].tolist() == [1 / 4, 1 / 4]
    # second step: (., a), (1, c) and (c, .) are new, (a, 1) is not
    assert rules["new bigrams"].tolist() == [1, 3 / 4]
