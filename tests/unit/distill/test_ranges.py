import itertools

from hypothesis import given
from hypothesis import strategies as st

from cotpress.distill.ranges import merged

RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda p: (min(p), max(p))), max_size=8)


@given(ranges=RANGES)
def test_merged_ranges_cover_the_same_characters_without_touching(ranges: list[tuple[int, int]]) -> None:
    result = merged(ranges)
    covered = {i for start, end in ranges for i in range(start, end)}
    assert {i for start, end in result for i in range(start, end)} == covered
    assert sum(end - start for start, end in result) == len(covered)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(result))
