import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.data.stage import split
from cotpress.records import Trace


def trace(id_: str) -> Trace:
    return Trace(id=id_, question="q", thinking="t", response="", answer="")


@given(num=st.integers(1, 80), fraction=st.floats(0, 0.99))
def test_validation_count_is_exact_and_order_is_kept(num: int, fraction: float) -> None:
    rows = split([trace(str(i)) for i in range(num)], fraction)
    assert [row.id for row in rows] == [str(i) for i in range(num)]
    assert sum(row.split == "validation" for row in rows) == round(fraction * num)


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_membership_does_not_depend_on_the_order_of_rows(fraction: float) -> None:
    ids = [f"row {i}" for i in range(50)]
    forward = {row.id for row in split([trace(i) for i in ids], fraction) if row.split == "validation"}
    backward = {row.id for row in split([trace(i) for i in ids[::-1]], fraction) if row.split == "validation"}
    assert forward == backward
