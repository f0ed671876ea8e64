"""`results.json` of a fidelity job, and tables over the jobs on the same traces."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cotpress.errors import ArtifactError
from cotpress.records import RESULTS_FILE, Interval
from cotpress.store.grid import DENSE, Grid, Narrower, csv_text
from cotpress.store.results import read_interval, read_results_file, write_results_file

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityRow:
    """One scorer, or one trivial rule."""

    system: str
    reference: str  # tuning of its reference model; `-` without one
    rule: bool  # true for a trivial rule
    metrics: Mapping[str, Interval]  # means over traces, by name, the main one first
    # Main measure minus that of the position rule on the same traces; None for that rule
    over_position: Interval | None
    kinds: Mapping[str, Interval] = field(default_factory=dict)  # ROC AUC by kind of token; see `Judgement.kinds`
    dropped: Mapping[str, int] = field(default_factory=dict)  # traces that could not be scored or judged, by reason
    # Settings that distinguish the scorer from others of its name (JSON values)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def main(self) -> Interval:
        """Measure that tables are sorted by."""
        return next(iter(self.metrics.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityResults:
    """Results of one job."""

    truth: str
    truth_artifact: str  # key of the artifact with the judged traces
    model: str  # name of the model whose tokens are judged
    tokenizer: str  # fingerprint of its tokenizer
    confidence: float
    num_resamples: int
    rows: tuple[FidelityRow, ...]  # the scorer, then the trivial rules
    # Keys of the artifacts behind the scorer's row, by stage
    artifacts: Mapping[str, str] = field(default_factory=dict)

    @property
    def comparable(self) -> tuple[str, str, float, int]:
        """Key that is equal for results that may stand in one table."""
        return self.truth_artifact, self.tokenizer, self.confidence, self.num_resamples


def write_results(folder: Path, results: FidelityResults) -> Path:
    """Write `results.json` into a folder, which is created if need be."""
    return write_results_file(folder, SCHEMA_VERSION, results)


def read_results(folder: Path) -> FidelityResults:
    """Read the results of a finished job.

    Raises:
        ArtifactError: There is no `results.json`, or it is damaged or of another version.
    """
    return read_results_file(folder, (SCHEMA_VERSION,), _results)


def results_beside(folder: Path) -> list[FidelityResults]:
    """Return the results at or beside `folder` that may stand in one table with its own; damaged ones are logged."""
    own = read_results(folder)
    comparable = []
    for path in sorted(folder.parent.glob(f"*/{RESULTS_FILE}")):
        try:
            results = read_results(path.parent)
        except ArtifactError as error:
            log.warning("not in the table: %s", error)
            continue
        if results.comparable == own.comparable:
            comparable.append(results)
    return comparable


def merged_rows(results: Iterable[FidelityResults]) -> list[FidelityRow]:
    """Return the rows of comparable results, best first, each trivial rule once.

    The names of rows of one scorer contain the settings in which they differ. Rows of equal settings are numbered;
    `numbered` tells what they are of.
    """
    return sorted(
        (replace(row, system=name) for name, row, _ in _named(results)),
        key=lambda row: (-row.main.value, row.system, row.reference),
    )


def numbered(results: Iterable[FidelityResults]) -> list[str]:
    """Return a sentence about the rows that no setting tells apart, with the artifact behind each; none without."""
    artifacts = [f"{name} is {artifact}" for name, _, artifact in _named(results) if artifact]
    return [f"numbered rows differ in no setting: {', '.join(artifacts)}"] if artifacts else []


def _named(results: Iterable[FidelityResults]) -> list[tuple[str, FidelityRow, str]]:
    """Return the names of the rows, the rows, and of numbered ones the artifacts that tell them apart."""
    rows: list[FidelityRow] = []
    sources: list[Mapping[str, str]] = []
    for result in results:
        seen = {row.system for row in rows if row.rule}
        new = [row for row in result.rows if not (row.rule and row.system in seen)]
        rows += new
        sources += [result.artifacts] * len(new)
    rows = [replace(row, system=row.system + _difference(row, rows)) for row in rows]
    named = []
    for row, source in zip(rows, sources, strict=True):
        own = (row.system, row.reference)
        alike = [s for r, s in zip(rows, sources, strict=True) if (r.system, r.reference) == own]
        artifact = _own_artifact(source, alike)
        named.append((f"{row.system} #{alike.index(source) + 1}" if artifact else row.system, row, artifact))
    return named


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key, with `prefix` before each; a model is represented by its name."""
    settings: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            settings |= {f"{prefix}{key}": value["name"]} if key == "model" else flat(value, f"{prefix}{key}.")
        else:
            settings[f"{prefix}{key}"] = value
    return settings


def _difference(row: FidelityRow, rows: Sequence[FidelityRow]) -> str:
    """Return ` key=value` for every setting that differs between rows of the same name and reference.

    Settings that only one of them has are ignored: earlier releases stored fewer, and extractors have their own.
    """
    namesakes = [r for r in rows if (r.system, r.reference) == (row.system, row.reference)]
    differing = [k for k, value in row.settings.items() if any(r.settings.get(k, value) != value for r in namesakes)]
    return "".join(f" {key}={row.settings[key]}" for key in differing)


def _own_artifact(source: Mapping[str, str], alike: Sequence[Mapping[str, str]]) -> str:
    """Return the reference model or the scores that tell a row from those that look alike; empty without any."""
    for stage in ("reference", "score"):
        keys = [_key(other, stage) for other in alike]
        if len(alike) > 1 and len(set(keys)) == len(keys):
            return _key(source, stage)
    return ""


def _key(source: Mapping[str, str], stage: str) -> str:
    return next((key for key in source.values() if key.startswith(f"{stage}/")), f"without {stage}")


def _results(content: dict[str, Any]) -> FidelityResults:
    for row in content["rows"]:
        for name in ("metrics", "kinds"):
            row[name] = {key: read_interval(value) for key, value in row[name].items()}
        row["over_position"] = read_interval(row["over_position"])
        if not row["metrics"]:
            raise ValueError("a row has no measure")
    if not content["rows"]:
        raise ValueError("it has no row")
    return FidelityResults(rows=tuple(FidelityRow(**row) for row in content.pop("rows")), **content)


def main_grid(rows: Sequence[FidelityRow], *, confidence: float) -> Grid:
    """Return a row per scorer and trivial rule: main measure, its difference from position, other measures.

    Where its lines are too long, the other measures are left out first, the last one first.
    """
    level = f"[{100 * confidence:g} %]"
    main, *others = dict.fromkeys(name for row in rows for name in row.metrics)
    cell = _value if len(others) > 2 else _interval  # many further columns show no intervals; the CSV has them
    further = [_two_lines(name) for name in others]
    minus, beats = f"minus position\n{level}", "beats\nposition"
    headings = ("scorer", "reference", "n", f"{main}\n{level}", minus, beats, *further)
    cells = [
        (row.system, row.reference, str(row.main.n), _interval(row.main), _interval(row.over_position, sign="+"),
         _verdict(row.over_position), *(cell(row.metrics.get(name)) for name in others))
        for row in rows
    ]  # fmt: skip
    narrower = (DENSE, *map(Narrower, reversed(further)), Narrower("n"), Narrower(minus, "minus\nposition"))
    return Grid(headings, tuple(cells), narrower=(*narrower, Narrower(beats), Narrower("minus\nposition")))


def kinds_grid(rows: Sequence[FidelityRow], *, confidence: float | None = None) -> Grid | None:
    """Return the ROC AUC by kind of token, without a level of confidence the means alone; None without kinds."""
    kinds = sorted({kind for row in rows for kind in row.kinds})
    if not kinds:
        return None
    cell = _value if confidence is None else _interval
    cells = tuple((row.system, row.reference, *(cell(row.kinds.get(kind)) for kind in kinds)) for row in rows)
    headings = [_two_lines(kind) for kind in kinds]
    return Grid(("scorer", "reference", *headings), cells, narrower=(DENSE, *map(Narrower, reversed(headings))))


def _two_lines(heading: str) -> str:
    """Break a heading at the space that makes it narrowest."""
    words = heading.split()
    breaks = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
    return "\n".join(min(breaks, key=lambda lines: max(map(len, lines)), default=(heading,)))


def kinds_title(confidence: float | None = None) -> str:
    """Return the title of `kinds_grid`."""
    level = "" if confidence is None else f" [{100 * confidence:g} %]"
    return (
        f"ROC AUC by kind of token{level}: an essential kind against all redundant tokens, "
        "all essential tokens against a redundant kind"
    )


def csv_table(rows: Sequence[FidelityRow]) -> str:
    """Return every number of the rows, unrounded: one line per row and measure."""
    lines: list[tuple[object, ...]] = []
    for row in rows:
        measures = [(name, "", value) for name, value in row.metrics.items()]
        if row.over_position is not None:
            measures.append(("minus position", "", row.over_position))
        measures += [("ROC AUC by kind", kind, value) for kind, value in row.kinds.items()]
        for name, kind, i in measures:
            lines.append((row.system, row.reference, row.rule, name, kind, i.n, i.value, i.low, i.high))
    return csv_text(["scorer", "reference", "rule", "measure", "kind", "n", "value", "low", "high"], lines)


def _verdict(over_position: Interval | None) -> str:
    """Compare with position alone, as far as the whole interval is on one side of 0."""
    if over_position is None:
        return "-"
    if over_position.low > 0:
        return "yes"
    return "no, worse" if over_position.high < 0 else "no"


def _value(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.value:.3f}"


def _interval(interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return "-"
    value, low, high = (f"{x:{sign}.3f}" for x in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"
