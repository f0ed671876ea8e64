"""Names under which rows of different settings are never taken for one system.

What tells rows apart is looked for in three places, each only for rows that still look alike: a run's essentials, under
short names (`condition=question`); all its other settings, under full ones (`data.num_traces=60`); and at last the
artifact with the answers, by the start of its fingerprint.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from cotpress.records import SystemResult
from cotpress.report.results import RunResults
from cotpress.store.artifacts import fingerprint

_BASELINES = ("original", "base", "beconcise", "onlynumbers", "abbrewords", "lc-prompt", "truncation")
"""First words of rows that stand above those of scorers."""
_OF_SCORERS = frozenset({"scorer", "compression", "reference", "distill", "labelled"})
"""Groups of settings that have no part in a baseline."""
_OF_STUDENTS = frozenset({"data", "sft"})
"""Groups of settings that have no part in the untuned model either."""
_OF_TABLES = frozenset(
    f"evaluation.{key}" for key in ("baselines", "prompted", "ratios", "budgets", "confidence", "reference_tokenizer")
)
"""Settings that say which rows there are and what is counted in them, not what wrote the answers."""
_FILES = frozenset({"path", "adapter"})
"""Last parts of settings that may name another file for every seed."""
_HASH_CHARS = 8


@dataclass(frozen=True, slots=True)
class Traits:
    """Settings of a row: those about which all runs that show it agree.

    Attributes:
        values: Texts by dotted key.
        following: Keys of seeds that are the run's own, so that they differ wherever it does.
        disputed: Keys about which the runs do not agree: these settings had no part in the row.
    """

    values: Mapping[str, str]
    following: frozenset[str]
    disputed: frozenset[str] = frozenset()

    def agreed(self, other: "Traits") -> "Traits":
        """What is left when another run shows the row; a run that says nothing (of an earlier release) counts not."""
        if not (self.values and other.values):
            return self if self.values else other
        both = self.values.items() & other.values.items()
        kept = {key: value for key, value in self.values.items() if (key, value) in both}
        lost = (self.values.keys() | other.values.keys()) - kept.keys()
        return Traits(kept, self.following & other.following, self.disputed | other.disputed | lost)

    def shown(self, key: str) -> str | None:
        """What a name says of a setting; None if nothing."""
        return None if key in self.following else self.values.get(key)


@dataclass(frozen=True, slots=True)
class Shown:
    """A row and what is known of it from the runs that show it.

    Attributes:
        row: As the first of them has it.
        seeds: Theirs.
        essentials: Settings worth a glance.
        settings: All settings; empty if the runs are of a release that did not note them.
    """

    row: SystemResult
    seeds: frozenset[int]
    essentials: Traits
    settings: Traits

    @classmethod
    def in_run(cls, row: SystemResult, results: RunResults) -> "Shown":
        """A row as one run shows it."""
        essentials, settings = (_traits(v, row, results.seed) for v in (results.essentials, results.settings))
        return cls(row, frozenset({results.seed}), essentials, settings)

    def also(self, other: "Shown") -> "Shown":
        """The same row after another run has shown it too."""
        essentials, settings = self.essentials.agreed(other.essentials), self.settings.agreed(other.settings)
        return Shown(self.row, self.seeds | other.seeds, essentials, settings)


def told_apart(rows: Mapping[object, Shown]) -> dict[object, str]:
    """The name of every row, without its seed, so that rows of one name and ratio are one system under several seeds.

    Args:
        rows: By what makes them one.
    """
    names = {same: found.row.system for same, found in rows.items()}
    for alike in _namesakes(names, rows):
        if _mistakable(alike.values()):
            keys = _telling(alike.values(), lambda r: r.essentials)
            for same, found in alike.items():
                names[same] += _text((key.rpartition(".")[2], found.essentials.shown(key)) for key in keys)
    named = True
    while named:  # a group's name stands for its settings at first, which may be all the same
        named = False
        for alike in _namesakes(names, rows):
            keys = _telling(alike.values(), lambda r: r.settings) if _mistakable(alike.values()) else []
            named |= bool(keys)
            for same, found in alike.items():
                names[same] += _text((key.removesuffix(".name"), found.settings.shown(key)) for key in _grouped(keys))
    for alike in _namesakes(names, rows):
        for same, found in alike.items():
            if any(_same_place(found, other) for key, other in alike.items() if key != same):
                names[same] += f" {_short_hash(same, found.row)}"
    return names


def is_baseline(system: str) -> bool:
    """True for a system that no scorer has a part in."""
    return system.lower().split(" ")[0] in _BASELINES


def _traits(values: Mapping[str, Any], row: SystemResult, seed: int) -> Traits:
    apart = _OF_SCORERS if is_baseline(row.system) else frozenset()
    if row.system == "Base" or row.system.endswith(" (Base)"):
        apart |= _OF_STUDENTS
    kept = {k: v for k, v in _flat(values).items() if k not in _OF_TABLES and k.partition(".")[0] not in apart}
    following = frozenset(k for k, v in kept.items() if k.rpartition(".")[2] == "seed" and v == str(seed))
    return Traits(kept, following)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys, each value in one line; lists are values. The ratio has a column of its own."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif key != "ratio":
            flat[f"{prefix}{key}"] = str(value).replace("\n", "\\n")
    return flat


def _namesakes(names: Mapping[object, str], rows: Mapping[object, Shown]) -> list[dict[object, Shown]]:
    found: dict[str, dict[object, Shown]] = {}
    for same, name in names.items():
        found.setdefault(name, {})[same] = rows[same]
    return list(found.values())


def _mistakable(rows: Iterable[Shown]) -> bool:
    """Whether two rows of one name would be taken for one system under one or two seeds, and are not."""
    return any(_same_place(a, b) or _other_system(a, b) for a, b in combinations(rows, 2))


def _same_place(one: Shown, other: Shown) -> bool:
    return one.row.target_ratio == other.row.target_ratio and bool(one.seeds & other.seeds)


def _other_system(one: Shown, other: Shown) -> bool:
    """Whether two rows of one ratio differ in a setting that another seed does not explain."""
    if one.row.target_ratio != other.row.target_ratio or not (one.settings.values and other.settings.values):
        return False
    differing = {key for key, _ in one.settings.values.items() ^ other.settings.values.items()}
    return any(_tells(key, [one.settings, other.settings]) for key in differing if key.rpartition(".")[2] not in _FILES)


def _telling(rows: Iterable[Shown], of: Callable[[Shown], Traits]) -> list[str]:
    """Keys of the settings in which rows differ; rows of which nothing is known are left out."""
    known = [traits for traits in map(of, rows) if traits.values]
    return [key for key in dict.fromkeys(key for traits in known for key in traits.values) if _tells(key, known)]


def _tells(key: str, traits: Sequence[Traits]) -> bool:
    known = [t for t in traits if key not in t.disputed]
    return len({t.values.get(key) for t in known}) > 1 and len({t.shown(key) for t in known}) > 1


def _grouped(keys: Sequence[str]) -> list[str]:
    """The keys without those that the name of their group stands for."""
    groups = tuple(key.removesuffix("name") for key in keys if key.endswith(".name"))
    return [key for key in keys if key.endswith(".name") or not key.startswith(groups)]


def _text(settings: Iterable[tuple[str, str | None]]) -> str:
    return "".join(f" {key}={value}" for key, value in settings if value is not None)


def _short_hash(same: object, row: SystemResult) -> str:
    artifact = row.artifacts.get("evaluate", "").rpartition("/")[2]
    return (artifact or fingerprint({"row": repr(same)}))[:_HASH_CHARS]
