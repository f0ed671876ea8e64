"""Holes that a cut leaves in the training texts, beside the accuracy of the students that learnt from them.

    python -m experiments.testbed.damage MULTIRUN [DIR]

MULTIRUN is the folder of this experiment's multiruns; damage.csv goes into DIR. An equation of the thinking, such as
`12 + 23 = 35`, is whole, gone, or torn if some of its tokens are deleted and others not, and so is a sentence. First
statements are the equations that the planted labels call essential; the others check or repeat them. Shares are over
all training traces of a student, and their mean is over the seeds.

Some students end their answer before they close the thinking, which counts as wrong. `unclosed` is their share, and
`accuracy_anywhere` the accuracy if the whole output is searched for an answer.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cotpress.answers import judge
from cotpress.generation.backends import STOP
from cotpress.modeling.alignment import spans_to_mask, tokenize_with_offsets
from cotpress.modeling.loading import load_tokenizer
from cotpress.modeling.segments import step_ranges
from cotpress.records import COMPRESSED_FILE, TRACES_FILE, CompressedTrace, Prediction, System, Trace
from cotpress.report.comparison import answers_of, compare, row_key
from cotpress.report.results import collect, output_root_of_run
from cotpress.store.artifacts import Artifact, ArtifactStore
from cotpress.store.grid import csv_text
from cotpress.store.tables import read_records
from experiments.testbed.redundancy import default_config

HERE = Path(__file__).parent
FILE = "damage.csv"
EQUATION, WORD = re.compile(r"\d+ [-+*/] \d+ = \d+"), re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Shares of texts, each between 0 and 1.

    Attributes:
        essential_whole: First statements of equations that lost no token.
        essential_torn: First statements that lost some of their tokens, not all.
        repeated_torn: The same of equations that check or repeat.
        sentences_torn: The same of sentences.
        openings_gone: Sentences without their first word, among those of which something is left.
    """

    essential_whole: float
    essential_torn: float
    repeated_torn: float
    sentences_torn: float
    openings_gone: float


MEASURES = tuple(field.name for field in fields(Damage))
_Kept = NDArray[np.bool_]


def damage(traces: Sequence[Trace], kept: Sequence[_Kept], offsets: Sequence[NDArray[np.int32]]) -> Damage:
    """Measure the holes in traces whose kept tokens are marked; `offsets` are the characters of their tokens."""
    essential, repeated, sentences, openings = list[_Kept](), list[_Kept](), list[_Kept](), list[_Kept]()
    for trace, mask, places in zip(traces, kept, offsets, strict=True):
        labelled = spans_to_mask(places, [(span.start, span.end) for span in trace.spans if span.essential])
        for match in EQUATION.finditer(trace.thinking):
            inside = spans_to_mask(places, [match.span()])
            (essential if labelled[inside].all() else repeated).append(mask[inside])
        for start, end in step_ranges(trace.thinking):
            sentences.append(mask[spans_to_mask(places, [(start, end)])])
            first = WORD.search(trace.thinking, start, end)
            if first is not None and sentences[-1].any():
                openings.append(mask[spans_to_mask(places, [first.span()])])
    return Damage(
        essential_whole=float(np.mean([part.all() for part in essential])),
        essential_torn=_torn(essential),
        repeated_torn=_torn(repeated),
        sentences_torn=_torn(sentences),
        openings_gone=float(np.mean([not part.any() for part in openings])),
    )


def _torn(parts: Sequence[_Kept]) -> float:
    return float(np.mean([part.any() and not part.all() for part in parts]))


class _Students:
    """Training texts by the key of the student's artifact; each is read and measured once."""

    def __init__(self) -> None:
        config = default_config()
        self._tokenizer: Any = load_tokenizer(config.model, ArtifactStore(Path(config.output_root)))
        self._measured: dict[str, Damage] = {}

    def damage(self, run: Path, key: str) -> Damage:
        """Measure what the student of an artifact learnt from."""
        root = output_root_of_run(run, key)
        if root is None:
            raise SystemExit(f"{run}: the artifact {key} is gone; run run.sh again")
        store = ArtifactStore(root)
        if key not in self._measured:
            compressed = _opened(store, _opened(store, key).manifest["identity"]["compressed"])
            traces = _opened(store, compressed.manifest["identity"]["traces"])
            by_id = {trace.id: trace for trace in read_records(traces.file(TRACES_FILE), Trace)}
            rows = read_records(compressed.file(COMPRESSED_FILE), CompressedTrace)
            own = [by_id[row.id] for row in rows]
            offsets = [tokenize_with_offsets(self._tokenizer, trace.thinking)[1] for trace in own]
            self._measured[key] = damage(own, [row.keep_mask for row in rows], offsets)
        return self._measured[key]


def _opened(store: ArtifactStore, key: str) -> Artifact:
    artifact = store.open(key)
    if artifact is None:
        raise SystemExit(f"the artifact {key} is gone; run run.sh again")
    return artifact


def lines(multirun: Path) -> Iterator[list[object]]:
    """Yield a row of `COLUMNS` for each student of pruned traces, at the first sweep of a folder that has it."""
    students, shown = _Students(), set[str]()
    for folder in sorted(path for path in multirun.iterdir() if path.is_dir()):
        [comparison] = compare(collect(folder).runs)
        found: dict[System, dict[int, Damage]] = {}
        for run in comparison.runs:
            for row in run.results.rows:
                if row.is_compressed and row.artifacts.get("sft", "") not in {"", *shown}:
                    system = comparison.systems[row_key(row, run.results.seed)]
                    found.setdefault(system, {})[run.results.seed] = students.damage(run.path, row.artifacts["sft"])
        shown |= {row.artifacts.get("sft", "") for run in comparison.runs for row in run.results.rows}
        answers = answers_of(comparison)
        for system, by_seed in found.items():
            shares = [[getattr(own, name) for own in by_seed.values()] for name in MEASURES]
            seen = [[measure(p) for own in answers[system].values() for p in own] for measure in OF_ANSWERS.values()]
            numbers = [round(float(np.mean(values)), 4) for values in [*shares, *seen]]
            yield [folder.name, system.label, system.ratio, len(by_seed), *numbers]


def _is_right_anywhere(prediction: Prediction) -> bool:
    ended = prediction.finish_reason == STOP
    return prediction.correct or (
        ended and not prediction.closed and judge(prediction.output, prediction.answer).correct
    )


OF_ANSWERS: Mapping[str, Callable[[Prediction], bool]] = {
    "accuracy": lambda prediction: prediction.correct,
    "unclosed": lambda prediction: not prediction.closed,
    "accuracy_anywhere": _is_right_anywhere,
}
"""Measures of single answers."""
COLUMNS = ("sweep", "system", "ratio", "seeds", *MEASURES, *OF_ANSWERS)


def main(multirun: Path, folder: Path) -> None:
    """Write damage.csv."""
    (folder / FILE).write_text(csv_text(COLUMNS, lines(multirun)), encoding="utf-8")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else HERE)
