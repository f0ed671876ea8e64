"""Identities that distinguish the rows of several runs by the settings in which the runs differ.

Settings are compared in three steps, each only for rows that still look alike: the essentials of the runs, under short
names (`condition=question`); all other settings, under full names (`data.num_traces=60`); and at last the fingerprint
of the artifact with the answers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from cotpress.records import System, SystemResult
from cotpress.report.results import RunResults
from cotpress.store.artifacts import fingerprint

_OF_SCORERS = frozenset({"scorer", "compression", "reference", "distill", "labelled"})
"""Groups of settings without effect on a baseline."""
_OF_STUDENTS = frozenset({"data", "sft"})
"""Groups of settings without effect on the untuned model."""
_OF_TABLES = frozenset(
    f"evaluation.{key}" for key in ("baselines", "prompted", "ratios", "budgets", "confidence", "reference_tokenizer")
)
"""Settings of the rows and measures of a table, without effect on the answers."""
_FILES = frozenset({"path", "adapter"})
"""Last parts of settings that may name another file for every seed."""
_HASH_CHARS = 8


@dataclass(frozen=True, slots=True)
class Traits:
    """Settings of a row on which all runs that show it agree.

    Attributes:
        values: Texts by dotted key.
        following: Keys of seeds that equal the seed of the run.
        disputed: Keys in which the runs differ, so that these settings had no effect on the row.
    """

    values: Mapping[str, str]
    following: frozenset[str]
    disputed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, values: Mapping[str, Any], row: SystemResult, seed: int) -> "Traits":
        """Select the settings of a run that have an effect on one of its rows."""
        apart = _OF_SCORERS if row.source.is_baseline else frozenset()
        if row.source.is_untuned:
            apart |= _OF_STUDENTS
        kept = {k: v for k, v in _flat(values).items() if k not in _OF_TABLES and k.partition(".")[0] not in apart}
        return cls(kept, frozenset(k for k, v in kept.items() if k.rpartition(".")[2] == "seed" and v == str(seed)))

    def agreed(self, other: "Traits") -> "Traits":
        """Return what remains if another run shows the row too; runs without settings (old releases) are ignored."""
        if not (self.values and other.values):
            return self if self.values else other
        both = self.values.items() & other.values.items()
        kept = {key: value for key, value in self.values.items() if (key, value) in both}
        lost = (self.values.keys() | other.values.keys()) - kept.keys()
        return Traits(kept, self.following & other.following, self.disputed | other.disputed | lost)

    def shown(self, key: str) -> str | None:
        """Return the value of a setting for the name of the row; None if it is not shown."""
        return None if key in self.following else self.values.get(key)


@dataclass(frozen=True, slots=True)
class Shown:
    """A row with the seeds and settings of the runs that show it.

    Attributes:
        row: As the first of them has it.
        seeds: Seeds of the runs.
        essentials: Most important settings.
        settings: All settings; empty for runs of releases that did not store them.
    """

    row: SystemResult
    seeds: frozenset[int]
    essentials: Traits
    settings: Traits

    @classmethod
    def in_run(cls, row: SystemResult, results: RunResults) -> "Shown":
        """Return a row as one run shows it."""
        essentials, settings = (Traits.of(v, row, results.seed) for v in (results.essentials, results.settings))
        return cls(row, frozenset({results.seed}), essentials, settings)

    def also(self, other: "Shown") -> "Shown":
        """Return the row with the seeds and settings of another run merged in."""
        essentials, settings = self.essentials.agreed(other.essentials), self.settings.agreed(other.settings)
        return Shown(self.row, self.seeds | other.seeds, essentials, settings)


def distinguish(rows: Mapping[object, Shown]) -> dict[object, System]:
    """Return the identity of every row, without its seed: equal ones are one system under several seeds.

    Args:
        rows: By a key that is equal for equal rows.
    """
    systems = {key: shown.row.source for key, shown in rows.items()}

    def extend(keys: Sequence[str], short: Callable[[str], str], of: Callable[[Shown], Traits], group: _Group) -> None:
        for key, shown in group.items():
            values = ((short(name), of(shown).shown(name)) for name in keys)
            differing = tuple((name, value) for name, value in values if value is not None)
            systems[key] = replace(systems[key], settings=systems[key].settings + differing)

    for group in _namesakes(systems, rows):
        if _mistakable(group.values()):
            keys = _telling(group.values(), _essentials)
            extend(keys, lambda key: key.rpartition(".")[2], _essentials, group)
    pending = True
    while pending:  # the name of a group stands for its settings at first, and may turn out to be equal in all rows
        pending = False
        for group in _namesakes(systems, rows):
            keys = _telling(group.values(), _settings) if _mistakable(group.values()) else []
            pending |= bool(keys)
            extend(_grouped(keys), lambda key: key.removesuffix(".name"), _settings, group)
    for group in _namesakes(systems, rows):
        for key, shown in group.items():
            if any(_same_place(shown, other) for other_key, other in group.items() if other_key != key):
                digest = (("", _short_hash(key, shown.row)),)
                systems[key] = replace(systems[key], settings=systems[key].settings + digest)
    return systems


_Group = Mapping[object, Shown]


def _essentials(shown: Shown) -> Traits:
    return shown.essentials


def _settings(shown: Shown) -> Traits:
    return shown.settings


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings by dotted key, each value in one line, without the ratio, which has its own column."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif key != "ratio":
            flat[f"{prefix}{key}"] = str(value).replace("\n", "\\n")
    return flat


def _namesakes(systems: Mapping[object, System], rows: _Group) -> list[_Group]:
    groups: dict[str, dict[object, Shown]] = {}
    for key, system in systems.items():
        groups.setdefault(system.label, {})[key] = rows[key]
    return list(groups.values())


def _mistakable(rows: Iterable[Shown]) -> bool:
    """Return True if two rows of one name look like one system under one or two seeds, and are not."""
    return any(_same_place(a, b) or _other_system(a, b) for a, b in combinations(rows, 2))


def _same_place(first: Shown, second: Shown) -> bool:
    return first.row.target_ratio == second.row.target_ratio and bool(first.seeds & second.seeds)


def _other_system(first: Shown, second: Shown) -> bool:
    """Return True if two rows of one ratio differ in a setting other than the seed."""
    if first.row.target_ratio != second.row.target_ratio or not (first.settings.values and second.settings.values):
        return False
    differing = {key for key, _ in first.settings.values.items() ^ second.settings.values.items()}
    both = [first.settings, second.settings]
    return any(_tells(key, both) for key in differing if key.rpartition(".")[2] not in _FILES)


def _telling(rows: Iterable[Shown], of: Callable[[Shown], Traits]) -> list[str]:
    """Return the keys of the settings in which rows differ, ignoring rows without settings."""
    known = [traits for traits in map(of, rows) if traits.values]
    return [key for key in dict.fromkeys(key for traits in known for key in traits.values) if _tells(key, known)]


def _tells(key: str, traits: Sequence[Traits]) -> bool:
    known = [t for t in traits if key not in t.disputed]
    return len({t.values.get(key) for t in known}) > 1 and len({t.shown(key) for t in known}) > 1


def _grouped(keys: Sequence[str]) -> list[str]:
    """Return the keys without those of a group whose name differs as well."""
    groups = tuple(key.removesuffix("name") for key in keys if key.endswith(".name"))
    return [key for key in keys if key.endswith(".name") or not key.startswith(groups)]


def _short_hash(key: object, row: SystemResult) -> str:
    artifact = row.artifacts.get("evaluate", "").rpartition("/")[2]
    return (artifact or fingerprint({"row": repr(key)}))[:_HASH_CHARS]
