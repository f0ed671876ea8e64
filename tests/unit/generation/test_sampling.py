"""Sampled tokens depend on their own stream only, not on the rest of the batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from cotpress.generation.hf import RowStreams, sampled_tokens

CPU = torch.device("cpu")


def _nucleus(probabilities: list[float], top_p: float) -> list[int]:
    mass, least = 0.0, 1.0
    for probability in sorted(probabilities, reverse=True):
        if mass >= top_p:
            break
        least = probability
        mass += probability
    return [t for t, p in enumerate(probabilities) if p >= least]


@given(
    st.lists(st.integers(-16, 16).map(lambda x: x / 4), min_size=2, max_size=8),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([0.3, 1.0, 2.0]),
    st.sampled_from([0.2, 0.9, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_token_is_the_naive_inverse_of_the_cumulative_distribution(logits, uniform, temperature, top_p):
    weights = np.exp(np.array(logits) / temperature)
    probabilities = (weights / weights.sum()).tolist()
    kept = _nucleus(probabilities, top_p)
    total = sum(probabilities[t] for t in kept)
    running, expected = 0.0, kept[-1]
    for token in kept:
        running += probabilities[token] / total
        if uniform < running:
            expected = token
            break
    got = sampled_tokens(
        torch.tensor([logits], dtype=torch.float64), torch.tensor([uniform], dtype=torch.float64), temperature, top_p
    )
    near_a_border = any(abs(uniform - sum(probabilities[t] for t in kept[: i + 1]) / total) < 1e-9 for i in range(8))
    assert int(got) == expected or near_a_border


def test_draws_follow_the_distribution():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    uniforms = RowStreams(0, [str(i) for i in range(4000)]).draw(range(4000), CPU)
    tokens = sampled_tokens(logits.expand(4000, 4), uniforms, 1.0, 1.0)
    counts = np.bincount(tokens.numpy(), minlength=4)
    assert chisquare(counts, [2000, 1200, 600, 200]).pvalue > 0.001


def test_token_of_no_probability_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    for uniform in (0.0, 0.5, 1 - 2**-53, 1.0):
        assert int(sampled_tokens(logits, torch.tensor([uniform], dtype=torch.float64), 1.0, 1.0)) in (1, 3)


def test_stream_depends_on_seed_and_name_only():
    together, alone = RowStreams(1, ["a/0", "a/1", "b/0"]), RowStreams(1, ["b/0"])
    first = [together.draw([0, 1, 2], CPU)[2], together.draw([2], CPU)[0]]  # the other rows have ended
    assert first == [alone.draw([0], CPU)[0], alone.draw([0], CPU)[0]]
    assert RowStreams(2, ["b/0"]).draw([0], CPU) != first[0]
    assert len({float(x) for x in RowStreams(1, ["a/0", "a/1", "b/0"]).draw([0, 1, 2], CPU)}) == 3


def test_streams_of_samples_are_not_correlated():
    streams = RowStreams(0, ["q/0", "q/1"])
    drawn = np.array([streams.draw([0, 1], CPU).numpy() for _ in range(2000)])
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.08
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)
