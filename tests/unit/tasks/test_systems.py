"""Which rows a student with a control marker becomes."""

from dataclasses import replace

import pytest

from cotpress.tasks.systems import Examinee, at_ratios

ASKED = Examinee(name="cts (mixed)", student=None, ratio=0.5, marker_ratio=0.5)
COMPARED = replace(ASKED, ratio_one=replace(ASKED, ratio=1.0, marker_ratio=1.0))


@pytest.mark.parametrize(
    ("asked", "further", "rows"),
    [
        (ASKED, [], [0.5]),
        (ASKED, [1.0, 0.6], [1.0, 0.6, 0.5]),
        (ASKED, [0.6, 0.6, 0.5, 0.9], [0.9, 0.6, 0.5]),
        (COMPARED, [0.6], [1.0, 0.6, 0.5]),
        (COMPARED, [0.6, 1.0], [1.0, 0.6, 0.5]),
        (replace(COMPARED, ratio=1.0, marker_ratio=1.0), [1.0, 0.6], [0.6, 1.0]),
    ],
)
def test_every_further_ratio_is_a_row_and_the_asked_one_stands_last(
    asked: Examinee, further: list[float], rows: list[float]
) -> None:
    made = at_ratios(asked, further)
    assert [e.ratio for e in made] == [e.marker_ratio for e in made] == rows
    assert made[-1] is asked
