from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.data.benchmarks.published import lettered, shuffled
from cotpress.errors import ConfigError


def test_order_is_the_same_on_every_machine() -> None:
    assert [shuffled(4, 42, f"q{i}") for i in range(4)] == [[2, 1, 0, 3], [2, 0, 1, 3], [1, 2, 0, 3], [2, 1, 0, 3]]


@given(st.integers(2, 10), st.integers(), st.text(max_size=20))
def test_order_is_a_permutation(num: int, seed: int, question: str) -> None:
    assert sorted(shuffled(num, seed, question)) == list(range(num))


def test_another_seed_gives_another_order() -> None:
    orders = [[tuple(shuffled(4, seed, f"q{i}")) for i in range(20)] for seed in range(5)]
    assert len({tuple(o) for o in orders}) == 5


def test_every_order_is_about_equally_likely() -> None:
    counts = Counter(tuple(shuffled(4, 7, f"question {i}")) for i in range(4800))
    assert len(counts) == 24
    chi_squared = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert chi_squared < 49.7  # 23 degrees of freedom, p = 0.001


def test_more_options_than_letters_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 9"):
        lettered(["x"] * 11)


def test_options_are_lines_with_letters_in_parentheses() -> None:
    assert lettered(["5 eV", "6 eV"]) == "(A) 5 eV\n(B) 6 eV"
