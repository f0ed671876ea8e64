import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.scoring.scorers.position import Position, PositionConfig, PositionScorer, positional

sizes = st.integers(1, 300)


def kept(keep, num_tokens, num_kept):
    return np.sort(np.argsort(-positional(keep, num_tokens))[:num_kept])


@given(n=sizes, share=st.floats(0, 1))
def test_head_and_tail_keep_the_ends(n, share):
    k = round(share * n)
    assert kept(Position.head, n, k).tolist() == list(range(k))
    assert kept(Position.tail, n, k).tolist() == list(range(n - k, n))


@given(n=sizes, share=st.floats(0, 1))
def test_stride_is_spread_evenly_at_every_ratio(n, share):
    positions = kept(Position.stride, n, max(round(share * n), 1))
    gaps = np.diff(positions)
    assert positions[0] == 0
    if len(gaps):
        assert gaps.max() <= 2 * gaps.min()
        assert n - positions[-1] <= 2 * gaps.min()  # what is left at the end


@given(n=sizes, a=st.floats(0, 1), b=st.floats(0, 1), keep=st.sampled_from(Position))
def test_kept_positions_are_nested_as_the_ratio_falls(n, a, b, keep):
    fewer, more = sorted((round(a * n), round(b * n)))
    assert set(kept(keep, n, fewer)) <= set(kept(keep, n, more))


@given(n=st.integers(0, 300), keep=st.sampled_from(Position))
def test_no_two_positions_are_alike(n, keep):
    scores = positional(keep, n)
    assert scores.dtype == np.float32
    assert len(np.unique(scores)) == n


def test_stride_of_a_power_of_two_is_the_van_der_corput_order():
    assert np.argsort(-positional(Position.stride, 8)).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]


@pytest.mark.parametrize("keep", Position)
def test_equals_a_loop_over_the_tokens(keep, tokenizer, traces):
    def fraction(i, n):
        """Digits of i behind the point in the opposite order, base 2."""
        bits = max(n - 1, 1).bit_length()
        return int(f"{i:0{bits}b}"[::-1], 2)

    for record, trace in zip(
        PositionScorer(PositionConfig(name="p", keep=keep), tokenizer).score(traces), traces, strict=True
    ):
        n = len(tokenizer(trace.thinking)["input_ids"])
        order = {
            Position.head: range(n),
            Position.tail: range(n)[::-1],
            Position.stride: sorted(range(n), key=lambda i: fraction(i, n)),
        }[keep]
        assert np.argsort(-record.scores).tolist() == list(order)
