"""Rows that may stand in one table, under distinct names, and the judged answers behind them.

The names of rows contain the settings in which their runs differ. Settings are compared in three steps, each only for
rows that still look alike: the essentials of the runs, under short names (`condition=question`); all other settings,
under full names (`data.num_traces=60`). Rows that no setting tells apart are numbered.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from cotpress.errors import ArtifactError
from cotpress.records import PREDICTIONS_FILE, Origin, Prediction, System, SystemResult, Unit
from cotpress.report.published import Published, published
from cotpress.report.results import Run, RunResults
from cotpress.store.tables import read_records

log = logging.getLogger(__name__)

_OF_SCORERS = frozenset({"scorer", "compression", "reference", "distill", "labelled"})
"""Groups of settings without effect on a baseline."""
_OF_STUDENTS = frozenset({"data", "sft"})
"""Groups of settings without effect on the untuned model."""
OF_TABLES = frozenset(
    f"evaluation.{key}" for key in ("baselines", "prompted", "ratios", "budgets", "confidence", "reference_tokenizer")
)
"""Settings of the rows and measures of a table, without effect on the answers."""
_FILES = frozenset({"path", "adapter", "start", "writer"})
"""Last parts of settings that may name another file for every seed."""
_UNITS_OF_SELECTIONS = {"llmlingua_compat": Unit.token.value, "llmlingua2_compat": Unit.word.value}
"""Units that the selections of the releases delete, whatever `compression.granularity` is."""
_ESSENTIALS, _SETTINGS = 0, 1
"""Places in `_Shown.traits`."""

MARGIN = 5.0
"""Points of accuracy within which it counts as kept, unless a report says otherwise."""
Answers = Mapping[System, Mapping[int, Sequence[Prediction]]]
"""Answers of each system, identified without its seed, by the seed of the runs that show it. Runs of several seeds that
share a student, or the untrained model, share one sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Rows of one student, one benchmark and one level of confidence.

    Attributes:
        margin: Points of accuracy within which it counts as kept.
        rows: Every row once, under names that distinguish them; with several seeds, the seed is part of the name.
        runs: The runs that the rows are from.
        systems: Identity of each row of `runs` without its seed, by `row_key`.
        granularities: Unit that the compression deleted, by name and requested ratio of a row, where it had any.
        numbered: Run directories by the names of the rows that no setting tells apart.
    """

    model: str
    benchmark: str
    confidence: float
    rows: tuple[SystemResult, ...]
    runs: tuple[Run, ...] = ()
    systems: Mapping[object, System] = field(default_factory=dict)
    granularities: Mapping[tuple[str, float], str] = field(default_factory=dict)
    margin: float = MARGIN
    numbered: Mapping[str, Path] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """`model on benchmark`."""
        return f"{self.model} on {self.benchmark}"

    @property
    def chance(self) -> float:
        """Accuracy of guessing one option of a multiple-choice benchmark; 0 for benchmarks with free answers."""
        settings = (run.results.settings.get("benchmark", {}) for run in self.runs)
        options = [1 + len(benchmark.get("wrong_columns") or ()) for benchmark in settings]
        most = max(options, default=1)
        return 1 / most if most > 1 else 0.0

    def published(self, row: SystemResult) -> Published | None:
        """Return the published counterpart of a row, if there is one."""
        return self._published(row, self.granularity(row))

    def granularity(self, row: SystemResult) -> str | None:
        """Return the unit that the compression of a row deleted; None without any, or if it is unknown."""
        return self.granularities.get((row.system, row.target_ratio))

    def lacks_published(self, row: SystemResult) -> bool:
        """Return True if a row has no published counterpart because of its unit alone."""
        return self.published(row) is None and self._published(row, None) is not None

    def _published(self, row: SystemResult, granularity: str | None) -> Published | None:
        return next(iter(published(self.model, self.benchmark, row.source, self._protocol, granularity)), None)

    @property
    def _protocol(self) -> str | None:
        """Return the benchmark's protocol in all runs; None if they differ, or for runs of releases without one."""
        followed = {run.results.settings.get("benchmark", {}).get("protocol") for run in self.runs}
        return followed.pop() if len(followed) == 1 else None


def compare(runs: Sequence[Run], margin: float = MARGIN) -> list[Comparison]:
    """Return the rows of all runs, one comparison per student, benchmark and level of confidence.

    A system that several runs share (Original, say) stands there once. Where runs differ in more than scorer and ratio,
    the names of the rows contain the differing settings, such as `condition=question` or `data.num_traces=60`, or the
    seed.
    """
    groups: dict[tuple[str, str, float], list[Run]] = {}
    for run in runs:
        key = (run.results.model, run.results.benchmark, run.results.confidence)
        groups.setdefault(key, []).append(run)
    return [replace(_comparison(*key, members), margin=margin) for key, members in groups.items()]


def row_key(row: SystemResult, seed: int) -> object:
    """Return a key that is equal for equal rows: of the same artifacts, or without any of the same numbers and seed."""
    if row.artifacts:
        return row.system, row.target_ratio, tuple(sorted(row.artifacts.items()))
    return row.system, row.target_ratio, seed, row.accuracy, row.mean_tokens


def answers_of(comparison: Comparison) -> Answers:
    """Return the answers of every system of one table, in the order of the runs.

    A system has the answers of one student per seed, the first that a run shows. Runs whose predictions are missing or
    cannot be read are left out.
    """
    answers: dict[System, dict[int, Sequence[Prediction]]] = {}
    first: dict[object, Sequence[Prediction]] = {}
    unread: list[str] = []
    for run in comparison.runs:
        predictions: dict[tuple[str, float], list[Prediction]] = {}
        path = run.path / PREDICTIONS_FILE
        try:
            for prediction in read_records(path, Prediction) if path.exists() else []:
                predictions.setdefault((prediction.system, prediction.ratio), []).append(prediction)
        except ArtifactError as error:  # of another release, or damaged: the table itself does not need them
            unread.append(str(error))
            continue
        for row in run.results.rows:
            own, key = predictions.get((row.system, row.target_ratio)), row_key(row, run.results.seed)
            if own is not None:
                by_seed = answers.setdefault(comparison.systems[key], {})
                by_seed.setdefault(run.results.seed, first.setdefault(key, own))
    if unread:
        log.warning("%d of %d runs are not in the paired differences: %s", len(unread), len(comparison.runs), unread[0])
    return answers


def _comparison(model: str, benchmark: str, confidence: float, runs: Sequence[Run]) -> Comparison:
    by_key: dict[object, list[tuple[SystemResult, RunResults]]] = {}
    paths: dict[object, Path] = {}
    for run in runs:
        for row in run.results.rows:
            key = row_key(row, run.results.seed)
            by_key.setdefault(key, []).append((row, run.results))
            paths.setdefault(key, run.path)
    shown_rows = []
    for key, members in by_key.items():
        traits = _Traits.agreed(members, lambda r: r.essentials), _Traits.agreed(members, lambda r: r.settings)
        row = members[0][0]
        shown_rows.append(_Shown(key, row, {run.seed for _, run in members}, traits, row.source))
    numbered = _distinguish(shown_rows)
    several_seeds = len({run.results.seed for run in runs}) > 1
    named, granularities, places = [], {}, {}
    for shown in shown_rows:
        seed = min(shown.seeds) if several_seeds and len(shown.seeds) == 1 else None
        system = replace(shown.system, seed=seed)
        named.append(replace(shown.row, system=system.label, identity=system))
        if (unit := shown.traits[_ESSENTIALS].granularity) is not None:
            granularities[system.label, shown.row.target_ratio] = unit
        if shown.key in numbered:
            places[system.title] = paths[shown.key]
    order = list(dict.fromkeys(row.system for row in named))
    rows = sorted(named, key=lambda r: (not r.source.is_baseline, order.index(r.system), -r.target_ratio))
    systems = {shown.key: shown.system for shown in shown_rows}
    return Comparison(
        model=model, benchmark=benchmark, confidence=confidence, rows=tuple(rows), runs=tuple(runs), systems=systems,
        granularities=granularities, numbered=places,
    )  # fmt: skip


def _without_effect(system: System) -> frozenset[str]:
    """Return the groups of settings that a system does not depend on."""
    if system.origin is Origin.random:
        return _OF_SCORERS - {"compression"}
    return (_OF_SCORERS if system.is_baseline else frozenset()) | (_OF_STUDENTS if system.is_untuned else frozenset())


@dataclass(frozen=True, slots=True)
class _Traits:
    """Settings of a row on which all runs that show it agree; runs without settings (old releases) are ignored.

    Attributes:
        values: Texts by dotted key.
        following: Keys of seeds that equal the seed of the run.
        disputed: Keys in which the runs differ, so that these settings had no effect on the row.
    """

    values: Mapping[str, str]
    following: set[str]
    disputed: set[str]

    @classmethod
    def agreed(
        cls, members: Sequence[tuple[SystemResult, RunResults]], settings_of: Callable[[RunResults], Mapping[str, Any]]
    ) -> "_Traits":
        """Select the settings that have an effect on a row, shown by one or more runs."""
        known: list[tuple[dict[str, str], set[str]]] = []
        for row, run in members:
            apart = _without_effect(row.source)
            all_values = flat(settings_of(run))
            values = {k: v for k, v in all_values.items() if k not in OF_TABLES and k.partition(".")[0] not in apart}
            if values:
                seeds = {k for k, v in values.items() if k.rpartition(".")[2] == "seed" and v == str(run.seed)}
                known.append((values, seeds))
        if not known:
            return cls({}, set(), set())
        kept = {k: v for k, v in known[0][0].items() if all(values.get(k) == v for values, _ in known)}
        keys = set[str]().union(*(values for values, _ in known))
        return cls(kept, set.intersection(*(seeds for _, seeds in known)), keys - kept.keys())

    @property
    def granularity(self) -> str | None:
        """Unit that the compression deleted; None without one, or if it is unknown. LLMLingua's decides for itself."""
        decided = _UNITS_OF_SELECTIONS.get(self.values.get("compression.selection", ""))
        return decided or self.values.get("compression.granularity")

    def shown(self, key: str) -> str | None:
        """Return the value of a setting for the name of the row; None if it is not shown."""
        return None if key in self.following else self.values.get(key)


@dataclass(slots=True)
class _Shown:
    """A row of the first run that shows it, with the seeds and settings of all, and its identity without a seed."""

    key: object
    row: SystemResult
    seeds: set[int]
    traits: tuple[_Traits, _Traits]
    system: System

    def add(self, settings: Iterable[tuple[str, str]]) -> None:
        """Add settings to the name."""
        self.system = replace(self.system, settings=(*self.system.settings, *settings))


def _distinguish(rows: Sequence[_Shown]) -> set[object]:
    """Name the differences between rows until equal identities are one system under several seeds.

    Return the keys of the rows that no setting tells apart, and which are therefore numbered.
    """
    _name_settings(rows, _ESSENTIALS, lambda keys: {key: key.rpartition(".")[2] for key in keys})
    while _name_settings(rows, _SETTINGS, _grouped):
        pass  # the name of a config group stands for its settings, and may be equal in all
    numbered: set[object] = set()
    for group in _namesakes(rows):
        places = [[other for other in group if _same_place(shown, other)] for shown in group]
        for shown, same in zip(group, places, strict=True):
            if len(same) > 1:
                shown.add([("", f"#{same.index(shown) + 1}")])
                numbered.add(shown.key)
    return numbered


def _name_settings(rows: Sequence[_Shown], which: int, named: Callable[[Sequence[str]], Mapping[str, str]]) -> bool:
    """Add the differing settings to rows that may be mistaken for each other; return False if there are none."""
    mistaken = [group for group in _namesakes(rows) if any(_mistakable(a, b) for a, b in combinations(group, 2))]
    groups = [(group, _telling(group, which)) for group in mistaken]
    for group, keys in groups:
        for shown in group:
            values = ((name, shown.traits[which].shown(key)) for key, name in named(keys).items())
            shown.add((name, value) for name, value in values if value is not None)
    return any(keys for _, keys in groups)


def _namesakes(rows: Sequence[_Shown]) -> list[list[_Shown]]:
    groups: dict[str, list[_Shown]] = {}
    for shown in rows:
        groups.setdefault(shown.system.label, []).append(shown)
    return list(groups.values())


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings by dotted key, each value in one line, without the ratio, which has its own column."""
    texts: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            texts |= flat(value, f"{prefix}{key}.")
        elif key != "ratio":
            texts[f"{prefix}{key}"] = str(value).replace("\n", "\\n")
    return texts


def _mistakable(first: _Shown, second: _Shown) -> bool:
    """Return True if two rows of one name look like one system under one or two seeds, and are not."""
    if first.row.target_ratio != second.row.target_ratio:
        return False
    differing = (key.rpartition(".")[2] for key in _telling([first, second], _SETTINGS))
    return _same_place(first, second) or any(name not in _FILES for name in differing)


def _same_place(first: _Shown, second: _Shown) -> bool:
    return first.row.target_ratio == second.row.target_ratio and bool(first.seeds & second.seeds)


def _telling(group: Sequence[_Shown], which: int) -> list[str]:
    """Return the keys of the settings in which rows differ, ignoring rows without settings."""
    known = [shown.traits[which] for shown in group if shown.traits[which].values]
    differing = []
    for key in dict.fromkeys(key for traits in known for key in traits.values):
        agreed = [traits for traits in known if key not in traits.disputed]
        if len({t.values.get(key) for t in agreed}) > 1 and len({t.shown(key) for t in agreed}) > 1:
            differing.append(key)
    return differing


def _grouped(keys: Sequence[str]) -> dict[str, str]:
    """Return the keys, with their texts, but for those of a group whose name or protocol differs too."""
    groups = tuple(key.removesuffix("name") for key in keys if key.endswith(".name"))
    if "reference.base." in groups:  # whose recipe the reference has
        groups += ("reference.tune.",)
    if "benchmark.protocol" in keys:
        groups += ("benchmark.prompt", "benchmark.max_new_tokens")
    return {k: k.removesuffix(".name") for k in keys if k.endswith(".name") or not k.startswith(groups)}
