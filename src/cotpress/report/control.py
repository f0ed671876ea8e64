"""Whether students obey the ratio: longer answers for larger ratios, and none longer than without compression.

The CTS paper prints students that write longer and longer as the ratio falls, and nobody sees it in a list of
accuracies; these sentences stand below every table of several ratios.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from cotpress.records import SystemResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Monotonicity:
    """How the generated tokens of one system follow the asked ratio.

    Attributes:
        system: Name of the rows.
        num_pairs: Pairs of rows with different ratios.
        violations: Pairs (row of the lower ratio, row of the higher ratio) where the lower one writes more.
    """

    system: str
    num_pairs: int
    violations: tuple[tuple[SystemResult, SystemResult], ...]


def monotonicity(rows: Sequence[SystemResult]) -> list[Monotonicity]:
    """One verdict per system that has rows at several ratios, in the rows' order.

    A student with a control marker and students of a single ratio are different systems, also under one name.
    """
    found = []
    for name, against in dict.fromkeys((row.system, row.generated_against) for row in rows):
        series = [r for r in rows if (r.system, r.generated_against) == (name, against)]
        series.sort(key=lambda r: r.target_ratio)
        pairs = [(a, b) for a, b in itertools.combinations(series, 2) if a.target_ratio < b.target_ratio]
        wrong = tuple((a, b) for a, b in pairs if a.mean_tokens.value > b.mean_tokens.value)
        if pairs:
            found.append(Monotonicity(system=name, num_pairs=len(pairs), violations=wrong))
    return found


def control_notes(rows: Sequence[SystemResult]) -> list[str]:
    """Sentences about students that got longer and about the order of the ratios, for below a table."""
    notes = []
    compared = [r for r in rows if r.generated_ratio is not None and r.target_ratio < 1]
    longer = [r for r in compared if r.lengthened]
    if longer:
        named = ", ".join(f"{r.system} at {r.target_ratio:g} (x{r.generated_ratio:.2f})" for r in longer)
        notes.append(f"{len(longer)} of {len(compared)} compressed students write LONGER (^): {named}")
    verdicts = monotonicity(rows)
    obeying = list(dict.fromkeys(v.system for v in verdicts if not v.violations))
    if obeying:
        notes.append(f"generated tokens never fall as the asked ratio rises: {', '.join(obeying)}")
    for verdict in (v for v in verdicts if v.violations):
        ordered = verdict.num_pairs - len(verdict.violations)
        wrong = "; ".join(
            f"{low.mean_tokens.value:.0f} tokens at {low.target_ratio:g} > "
            f"{high.mean_tokens.value:.0f} at {high.target_ratio:g}"
            for low, high in verdict.violations
        )
        notes.append(f"{verdict.system}: {ordered} of {verdict.num_pairs} pairs of ratios in order, not {wrong}")
    return notes
