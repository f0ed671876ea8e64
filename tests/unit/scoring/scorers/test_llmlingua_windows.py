"""The window loop alone: values come from a table instead of a model."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.scoring.scorers.llmlingua_compat import kept_tokens, window_share


def keep(values, *, size, share=0.5, num_condition=3):
    """The mask where the value of a token never changes; token ids are positions."""
    table = np.asarray(values, dtype=np.float32)

    def measure(ids, since):
        return table[ids[since:-1]]

    ids = np.arange(len(values), dtype=np.int32)
    return kept_tokens(ids, measure, num_condition=num_condition, share=share, iterative_size=size)


def test_full_window_is_cut_by_the_threshold_and_strictly():
    # A window of 6 covers tokens 0 to 4 first; of the 6 values the one at position int(6 * .5) - 1 = 2 is 4.
    assert keep([6, 4, 5, 4, 1, 2, 0], size=6).tolist() == [True, False, True, False, False, True, True]


def test_last_token_stays_whatever_the_values():
    for num_tokens in range(1, 30):
        assert keep(-np.arange(num_tokens), size=5, share=0.1)[-1]


def test_window_that_is_not_full_is_not_cut():
    values = np.random.default_rng(0).standard_normal(10 + 10 - 2)
    assert keep(values, size=10)[9:].all()
    full = np.random.default_rng(0).standard_normal(10 + 10 - 1)
    assert not keep(full, size=10)[9:].all()


@pytest.mark.parametrize("num_tokens", [2, 40, 59])
def test_text_shorter_than_a_window_stays_after_a_short_condition(num_tokens):
    assert keep(np.arange(num_tokens), size=100, num_condition=40).all()


def test_text_shorter_than_a_window_loses_its_beginning_after_a_long_condition():
    mask = keep(np.arange(80), size=100, num_condition=20, share=0.01)
    assert not mask[: 2 * 80 + 2 - 100].any()
    assert mask[2 * 80 + 2 - 100 :].all()
    assert keep(np.arange(80), size=100, num_condition=19, share=0.01)[: 80 + 20 - 100].all()


def test_share_of_one_reads_nothing():
    def measure(ids, since):
        raise AssertionError("nothing is to be read")

    ids = np.arange(500, dtype=np.int32)
    assert kept_tokens(ids, measure, num_condition=9, share=1.0, iterative_size=50).all()
    assert kept_tokens(ids[:1], measure, num_condition=9, share=0.5, iterative_size=50).all()


def test_condition_is_budgeted_to_the_text():
    assert window_share(0, 97, 0, 0.5) == 97 * 0.5 / 100
    assert window_share(97, 97, 0, 0.5) == 97 / 100
    assert window_share(100, 97, 0, 0.6) == 1.0
    assert window_share(0, 97, 1, 0.5) == (100 * 0.5 - 1) / 100  # a tokenizer with bos: three texts, three of them
    assert window_share(0, 1, 1, 0.01) == 0.0


@given(st.integers(1, 120), st.integers(2, 40), st.floats(0, 1), st.integers(0, 50), st.integers(0, 9))
def test_text_is_read_again_from_a_beginning_that_was_read_before(num_tokens, size, share, num_condition, seed):
    rng = np.random.default_rng(seed)
    calls = []

    def measure(ids, since):
        calls.append((ids.copy(), since))
        return rng.standard_normal(len(ids) - since - 1).astype(np.float32)

    ids = np.arange(num_tokens, dtype=np.int32)
    mask = kept_tokens(ids, measure, num_condition=num_condition, share=share, iterative_size=size)
    assert mask.shape == (num_tokens,)
    assert mask[-1]
    for (before, _), (now, since) in itertools.pairwise(calls):
        np.testing.assert_array_equal(now[:since], before[:since])
        assert np.isin(now, ids).all()
    if calls:
        read_last = calls[-1][0]
        assert mask[read_last[-1] + 1 :].all()  # what was never in a window
        assert mask[read_last[: calls[-1][1]]].all()  # what earlier windows kept
