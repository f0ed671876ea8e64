"""The judged answers behind the rows of a comparison, read from the predictions of its runs."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from cotpress.errors import ArtifactError
from cotpress.records import Prediction
from cotpress.report.comparison import Comparison, identity
from cotpress.report.results import PREDICTIONS_FILE
from cotpress.tables import read_records

log = logging.getLogger(__name__)

Key = tuple[str, float]
"""A system, named without its seed, and its asked ratio."""

Answers = Mapping[Key, Mapping[int, Sequence[Prediction]]]
"""Answers of each system by the seed that its student was trained with."""


def answers_of(comparison: Comparison) -> Answers:
    """The answers of every system of one table, in the order of the runs.

    What several runs share is counted once, and a system has the answers of one student per seed. Runs whose
    predictions are gone or cannot be read add nothing.
    """
    found: dict[Key, dict[int, Sequence[Prediction]]] = {}
    seen: set[object] = set()
    unread: list[str] = []
    for run in comparison.runs:
        try:
            here = _by_system(run.path / PREDICTIONS_FILE)
        except ArtifactError as error:  # of another release, or damaged: the table itself does without
            unread.append(str(error))
            continue
        for row in run.results.rows:
            key, same = (row.system, row.target_ratio), identity(row, run.results.seed)
            if key in here and same not in seen:  # Original is one system, however many runs show it
                seen.add(same)
                by_seed = found.setdefault((comparison.names.get(same, row.system), row.target_ratio), {})
                by_seed.setdefault(run.results.seed, here[key])  # a second student is no second sample
    if unread:
        log.warning("%d of %d runs are not in the paired differences: %s", len(unread), len(comparison.runs), unread[0])
    return found


def _by_system(path: Path) -> dict[Key, list[Prediction]]:
    found: dict[Key, list[Prediction]] = {}
    predictions = read_records(path, Prediction) if path.exists() else []
    for prediction in predictions:
        found.setdefault((prediction.system, prediction.ratio), []).append(prediction)
    return found
