"""`results.json` of one fidelity job, and all jobs that may stand in one table."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cotpress.errors import ArtifactError
from cotpress.records import Interval
from cotpress.store.artifacts import plain, write_text_atomic

log = logging.getLogger(__name__)

RESULTS_FILE = "results.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityRow:
    """One scorer, or one trivial rule.

    Attributes:
        system: Its name.
        reference: How its reference model was tuned; `-` if it reads with none.
        rule: True for a trivial rule.
        metrics: Means over traces, by name, the main one first.
        over_position: Main measure minus that of the position rule on the same traces; None for that rule itself.
        kinds: ROC AUC by kind of token; see `Judgement.kinds`.
        dropped: Traces that could not be scored or judged, by reason.
        settings: What tells the scorer from another of its name (JSON values).
    """

    system: str
    reference: str
    rule: bool
    metrics: Mapping[str, Interval]
    over_position: Interval | None
    kinds: Mapping[str, Interval] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def main(self) -> Interval:
        """The measure that tables are sorted by."""
        return next(iter(self.metrics.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityResults:
    """Results of one job.

    Attributes:
        truth: Name of the truth.
        truth_artifact: Key of the artifact with the judged traces.
        model: Name of the model whose tokens were judged.
        tokenizer: Fingerprint of its tokenizer.
        confidence: Level of the intervals.
        num_resamples: Resamples behind them.
        rows: The scorer, then the trivial rules.
        artifacts: Keys of the artifacts behind the scorer's row, by stage.
    """

    truth: str
    truth_artifact: str
    model: str
    tokenizer: str
    confidence: float
    num_resamples: int
    rows: tuple[FidelityRow, ...]
    artifacts: Mapping[str, str] = field(default_factory=dict)

    @property
    def comparable(self) -> tuple[str, str, float, int]:
        """Equal for results that may stand in one table."""
        return self.truth_artifact, self.tokenizer, self.confidence, self.num_resamples


def write_results(folder: Path, results: FidelityResults) -> Path:
    """Write `results.json` into a folder, which is made if need be."""
    path = folder / RESULTS_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = {"schema_version": SCHEMA_VERSION, **plain(results)}
        write_text_atomic(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise ArtifactError(f"cannot write '{path}': {error}. Fix: output_root=DIR") from error
    return path


def read_results(folder: Path) -> FidelityResults:
    """The results of a finished job.

    Raises:
        ArtifactError: There is no `results.json`, or it is damaged or of another version.
    """
    path = folder / RESULTS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("schema_version")
        if version != SCHEMA_VERSION:
            raise ArtifactError(f"'{path}' has schema version {version}, this release reads {SCHEMA_VERSION}")
        return FidelityResults(rows=tuple(_row(row) for row in content.pop("rows")), **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"'{path}' is missing or damaged: {error}. Fix: run the same command again") from error


def found_beside(folder: Path) -> list[FidelityResults]:
    """All results in the folders below `folder` that may stand in one table with those of `folder` itself.

    Damaged ones are told and left out.
    """
    own = read_results(folder)
    found = []
    for path in sorted(folder.parent.glob(f"*/{RESULTS_FILE}")):
        try:
            results = read_results(path.parent)
        except ArtifactError as error:
            log.warning("not in the table: %s", error)
            continue
        if results.comparable == own.comparable:
            found.append(results)
    return found


def merged_rows(results: Iterable[FidelityResults]) -> list[FidelityRow]:
    """The rows of comparable results, best first; each trivial rule stands there once.

    Rows of one name are told apart by the settings in which they differ, and where none does, by the reference model
    or the scores that they are of.
    """
    rows: list[FidelityRow] = []
    sources: list[Mapping[str, str]] = []
    for result in results:
        seen = {row.system for row in rows if row.rule}
        new = [row for row in result.rows if not (row.rule and row.system in seen)]
        rows += new
        sources += [result.artifacts] * len(new)
    rows = [replace(row, system=row.system + _difference(row, rows)) for row in rows]
    rows = [replace(row, system=row.system + _origin(i, rows, sources)) for i, row in enumerate(rows)]
    return sorted(rows, key=lambda row: (-row.main.value, row.system, row.reference))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted keys, `prefix` before each; a model goes by its name."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{prefix}{key}": value["name"]} if key == "model" else flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _difference(row: FidelityRow, rows: Sequence[FidelityRow]) -> str:
    """` key=value` for every setting in which another row of the same name and reference differs.

    What only one of them has is none: earlier releases noted fewer settings, another extractor has other ones.
    """
    namesakes = [r for r in rows if (r.system, r.reference) == (row.system, row.reference)]
    told = [key for key, value in row.settings.items() if any(r.settings.get(key, value) != value for r in namesakes)]
    return "".join(f" {key}={row.settings[key]}" for key in told)


def _origin(place: int, rows: Sequence[FidelityRow], sources: Sequence[Mapping[str, str]]) -> str:
    """` reference:1a2b3c4d` (or ` score:...`), the start of a key, if another row still looks like that at `place`."""
    own = (rows[place].system, rows[place].reference)
    alike = [source for row, source in zip(rows, sources, strict=True) if (row.system, row.reference) == own]
    if len(alike) == 1:
        return ""
    for stage in ("reference", "score"):
        keys = [_short_key(source, stage) for source in alike]
        if len(set(keys)) == len(keys):
            return f" {stage}:{_short_key(sources[place], stage)}"
    return ""


def _short_key(source: Mapping[str, str], stage: str) -> str:
    return next((key.rpartition("/")[2][:8] for key in source.values() if key.startswith(f"{stage}/")), "none")


def kinds_of(rows: Sequence[FidelityRow]) -> list[str]:
    """Every kind of token that a row tells about, in order."""
    return sorted({kind for row in rows for kind in row.kinds})


def _row(content: dict[str, Any]) -> FidelityRow:
    for name in ("metrics", "kinds"):
        content[name] = {key: Interval(**value) for key, value in content[name].items()}
    if content["over_position"] is not None:
        content["over_position"] = Interval(**content["over_position"])
    return FidelityRow(**content)
