"""Rows of a student with a control marker."""

from dataclasses import replace

import pytest

from cotpress.records import MIXED, Origin, System
from cotpress.tasks.systems import Examinee, at_ratios

SYSTEM = System(name="cts", origin=Origin.scorer, variant=MIXED, ratio=0.5)
STUDENT = Examinee(system=SYSTEM, student=None, marker_ratio=0.5)
COMPARED = replace(STUDENT, ratio_one=STUDENT.at(1.0))


@pytest.mark.parametrize(
    ("student", "further", "ratios"),
    [
        (STUDENT, [], [0.5]),
        (STUDENT, [1.0, 0.6], [1.0, 0.6, 0.5]),
        (STUDENT, [0.6, 0.6, 0.5, 0.9], [0.9, 0.6, 0.5]),
        (COMPARED, [0.6], [1.0, 0.6, 0.5]),
        (COMPARED, [0.6, 1.0], [1.0, 0.6, 0.5]),
        (COMPARED.at(1.0), [1.0, 0.6], [0.6, 1.0]),
    ],
)
def test_every_further_ratio_is_a_row_before_the_requested_one(
    student: Examinee, further: list[float], ratios: list[float]
) -> None:
    rows = at_ratios(student, further)
    assert [e.ratio for e in rows] == [e.marker_ratio for e in rows] == ratios
    assert {e.system.label for e in rows} == {"cts (mixed)"}
    assert rows[-1] is student
