"""Kinds of tokens that scorers delete by unit, and that the first solution deletes; no text of a trace leaves.

    python -m experiments.real_traces.units OUTPUT_ROOT [DIR]

OUTPUT_ROOT holds the scores of run.sh. units.csv goes into DIR: of each kind of token the share that is gone, for every
scorer and unit at every ratio, and with unit `first_solution` for thinking that ends with its first right statement of
the answer. `changed` is the share of a trace's decisions that differ from those by tokens, as a mean over traces.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotpress.compression.config import Statement
from cotpress.compression.first_solution import first_solution
from cotpress.compression.ranking import Rules, TokenizedTrace, rank_traces
from cotpress.modeling.segments import step_ranges
from cotpress.records import SCORES_FILE, ScoredTrace, Trace, Unit
from cotpress.report.token_kinds import TokenKind, token_kinds
from cotpress.store.grid import csv_text
from cotpress.store.tables import read_records
from experiments.real_traces.tables import Cut, cuts, share_interval

HERE = Path(__file__).parent
FILE = "units.csv"
RATIOS = (0.7, 0.5)
SCORERS = ("cts, base model", "llmlingua, base model", "pir, base model", "random")
COLUMNS = ("scorer", "unit", "asked", "kind", "tokens", "deleted", "deleted_low", "deleted_high", "changed")
_Masks = Sequence[NDArray[np.bool_]]


def by_unit(traces: Sequence[TokenizedTrace], unit: Unit, ratio: float) -> _Masks:
    """Mark the kept tokens of each trace if a unit is deleted as a whole."""
    ratios = np.array([ratio])
    return [rank_traces(Rules(granularity=unit), [trace]).cut(ratios) for trace in traces]


def by_first_solution(traces: Sequence[TokenizedTrace], statement: Statement) -> _Masks:
    """Mark the tokens of each trace up to the first right statement of its answer; all of them without one."""
    masks = []
    for tokenized in traces:
        trace = tokenized.trace
        last = first_solution(trace.thinking, trace.answer, statement=statement)
        end = len(trace.thinking) if last is None else step_ranges(trace.thinking)[last][1]
        masks.append(tokenized.offsets[:, 1] <= end)
    return masks


def lines(scored: dict[str, Sequence[TokenizedTrace]], ratios: Sequence[float] = RATIOS) -> Iterator[list[Any]]:
    """Yield a line per scorer, unit, ratio and kind of token, then those of the first solution."""
    for scorer, traces in scored.items():
        for ratio in ratios:
            tokens = by_unit(traces, Unit.token, ratio)
            for unit in Unit:
                kept = by_unit(traces, unit, ratio)
                changed = float(np.mean([(a != b).mean() for a, b in zip(kept, tokens, strict=True)]))
                yield from ([scorer, unit.value, ratio, *rest, changed] for rest in _by_kind(traces, kept))
    traces = next(iter(scored.values()))
    for statement in Statement:
        kept = by_first_solution(traces, statement)
        yield from ([statement.value, "first_solution", "own", *rest, None] for rest in _by_kind(traces, kept))


def _by_kind(traces: Sequence[TokenizedTrace], kept: _Masks) -> Iterator[list[Any]]:
    """Yield each kind of token, and all of them: their number, and the deleted share with its interval over traces."""
    kinds = [token_kinds(t.trace.thinking, t.offsets) for t in traces]
    for kind in [*TokenKind, None]:
        of_kind = [np.ones(len(k), dtype=np.bool_) if kind is None else k == kind for k in kinds]
        whole = np.array([mask.sum() for mask in of_kind], dtype=np.float64)
        gone = np.array([(mask & ~keep).sum() for mask, keep in zip(of_kind, kept, strict=True)], dtype=np.float64)
        yield ["all" if kind is None else kind.label, int(whole.sum()), *share_interval(gone, whole)]


def _scored(root: Path, cut: Cut) -> Sequence[TokenizedTrace]:
    """Return the traces of a cut with the scores behind it."""
    traces = {t.id: t for t in read_records(cut.traces, Trace)}
    scores = read_records(root / "artifacts" / cut.scores / SCORES_FILE, ScoredTrace)
    return [TokenizedTrace(trace=traces[s.id], ids=s.token_ids, offsets=s.offsets, scores=s.scores) for s in scores]


def main(root: Path, folder: Path) -> None:
    """Write units.csv."""
    by_scorer = {cut.scorer: cut for cut in cuts(root)}
    scored = {name: _scored(root, by_scorer[name]) for name in SCORERS if name in by_scorer}
    (folder / FILE).write_text(csv_text(COLUMNS, lines(scored)), encoding="utf-8")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else HERE)
