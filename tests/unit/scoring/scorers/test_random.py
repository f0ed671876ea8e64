import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cotpress.scoring.scorers.random import stable_uniform


@given(seed=st.integers(0, 2**40), name=st.text(max_size=20), n=st.integers(0, 50), more=st.integers(0, 50))
def test_score_of_a_token_does_not_depend_on_how_many_follow(seed, name, n, more):
    values = stable_uniform(seed, name, n + more)
    np.testing.assert_array_equal(values[:n], stable_uniform(seed, name, n))
    assert values.dtype == np.float32
    assert (values >= 0).all()
    assert (values < 1).all()


def test_values_are_pinned_across_machines_and_versions():
    expected = stable_uniform(42, "t1", 3)
    np.testing.assert_array_equal(expected, np.array(PINNED, dtype=np.float32))


def test_values_look_uniform_and_differ_by_seed_and_trace():
    values = stable_uniform(1, "a", 20_000)
    assert abs(values.mean() - 0.5) < 0.01
    assert abs(np.quantile(values, 0.9) - 0.9) < 0.01
    for other in (stable_uniform(2, "a", 20_000), stable_uniform(1, "b", 20_000)):
        assert abs(np.corrcoef(values, other)[0, 1]) < 0.03


PINNED = [0.3714855909347534, 0.13146311044692993, 0.6578724384307861]
