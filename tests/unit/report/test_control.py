"""Notes name students with longer answers and ratios out of order."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cotpress.records import Interval, SystemResult
from cotpress.report.table import control_notes, monotonicity, written


def row(system: str, ratio: float, tokens: float, generated: float | None = None) -> SystemResult:
    at = Interval(value=tokens, low=tokens, high=tokens, n=9)
    return SystemResult(
        system=system, target_ratio=ratio, actual_ratio=ratio, accuracy=Interval(value=0.5, low=0.2, high=0.8, n=9),
        mean_tokens=at, truncation_rate=0, seconds_per_sample=1, generated_ratio=generated,
    )  # fmt: skip


# Table of CTS (arXiv 2505.17827), Qwen2.5-7B-Instruct on MATH500
TOKENSKIP = [row("tokenskip", r, t, t / 7244) for r, t in
             [(0.9, 6997), (0.8, 8172), (0.7, 9984), (0.6, 11496), (0.5, 13595)]]  # fmt: skip
CTS = [row("cts", r, t, t / 7244) for r, t in [(0.9, 6497), (0.8, 6886), (0.7, 5109), (0.6, 2198), (0.5, 2039)]]


def test_published_students_with_longer_answers_are_named() -> None:
    skipped, cts = monotonicity([*TOKENSKIP, *CTS])
    assert (skipped.num_pairs, len(skipped.violations)) == (10, 10)
    assert [(a.target_ratio, b.target_ratio) for a, b in cts.violations] == [(0.8, 0.9)]
    longer, first, second = control_notes([*TOKENSKIP, *CTS])
    assert longer.startswith("4 of 10 compressed students write LONGER")
    assert "tokenskip at 0.5 (x1.88)" in longer
    assert first.startswith("tokenskip: 0 of 10 pairs")
    assert second == "cts: 9 of 10 pairs of ratios in order, not 6886 tokens at 0.8 > 6497 at 0.9"
    assert written(TOKENSKIP[-1]) == "1.88^"
    assert written(CTS[-1]) == "0.28"


@given(st.lists(st.floats(1, 1e5), min_size=2, max_size=8))
def test_reversed_tokens_violate_every_strict_order_and_sorted_ones_none(tokens: list[float]) -> None:
    steps = [(i + 1) / 10 for i in range(len(tokens))]
    (rising,) = monotonicity([row("s", r, t) for r, t in zip(steps, sorted(tokens), strict=True)])
    assert not rising.violations
    (falling,) = monotonicity([row("s", r, t) for r, t in zip(steps, sorted(tokens, reverse=True), strict=True)])
    equal = sum(a == b for i, a in enumerate(tokens) for b in tokens[i + 1 :])
    assert len(falling.violations) == falling.num_pairs - equal


def test_single_ratio_has_no_order() -> None:
    assert monotonicity([row("cts", 0.5, 10), row("random", 0.5, 12), row("Original", 1.0, 20)]) == []
    assert control_notes([row("cts", 0.5, 10, 0.5)]) == []


def test_systems_in_order_share_a_line() -> None:
    rows = [row(name, r, 100 * r, r) for name in ("cts", "random") for r in (0.5, 0.7)]
    assert control_notes(rows) == ["generated tokens never fall as the asked ratio rises: cts, random"]


def test_uncompressed_row_is_never_marked_as_longer() -> None:
    assert "^" not in written(row("cts", 1.0, 10, 1.01))
    assert control_notes([replace(row("Original", 1.0, 10, 1.01))]) == []


def test_students_with_a_marker_are_separate_from_those_of_single_ratios() -> None:
    single = [row("cts", 0.5, 50), row("cts", 0.7, 70)]
    marked = [replace(row("cts", r, t), generated_against="ratio 1") for r, t in [(0.4, 90), (0.6, 95)]]
    assert [m.violations for m in monotonicity([*single, *marked])] == [(), ()]
