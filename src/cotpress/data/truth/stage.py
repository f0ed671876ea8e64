"""The traces that scorers are judged on, as an artifact.

A new truth is one module that yields traces, one schema in `data/config.py`, and one `case` here.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotpress.data.config import PlantedTruthConfig, PrmbenchConfig, ThoughtAnchorsConfig, TruthConfig
from cotpress.data.planted import generator
from cotpress.data.truth.prmbench import Prmbench
from cotpress.data.truth.thought_anchors import ThoughtAnchors
from cotpress.errors import ConfigError, DataError
from cotpress.records import SentenceImportance, Trace, TruthKind
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary, file_sha256
from cotpress.store.tables import write_records

STAGE = "truth"
TRACES = "traces.parquet"
IMPORTANCE = "importance.parquet"
_Judged = tuple[Trace, list[SentenceImportance]]


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the traces come from.

    Attributes:
        kind: What is known about them.
        identity: What determines them.
        open: Gives the traces, with the importance of their sentences if that is what is known, and a counter of bad
            rows by reason, complete once they are exhausted.
    """

    kind: TruthKind
    identity: Mapping[str, Any]
    open: Callable[[], tuple[Iterable[_Judged], Counter[str]]]


def truth(config: TruthConfig, store: ArtifactStore) -> Artifact:
    """An artifact with `traces.parquet` (`Trace`, all in the split `train`) and `importance.parquet`.

    The second (`SentenceImportance`) has rows only for `TruthKind.importance`; the fact `kind` says which it is.

    Raises:
        ConfigError: A value is out of range.
        DataError: The file is missing or holds no usable row.
    """
    if config.limit is not None and config.limit < 1:
        raise ConfigError(
            f"truth.limit: got {config.limit}, allowed: a whole number of at least 1, or null for all rows"
        )
    source = _source(config)

    def produce(folder: Path) -> Summary:
        judged, dropped = source.open()
        rows = list(itertools.islice(judged, config.limit))
        if not rows:
            reasons = ", ".join(f"{n} x {why}" for why, n in dropped.most_common())
            raise DataError(f"truth={config.name}: no usable row ({reasons}). Fix: another file or other settings")
        write_records(folder / TRACES, [trace for trace, _ in rows], Trace)
        write_records(folder / IMPORTANCE, [s for _, sentences in rows for s in sentences], SentenceImportance)
        return Summary(num_rows=len(rows), dropped=dropped, facts={"kind": source.kind.value})

    return store.build(STAGE, {**source.identity, "limit": config.limit}, produce)


def _source(config: TruthConfig) -> _Source:
    match config:
        case PlantedTruthConfig():
            return _planted(config)
        case ThoughtAnchorsConfig():
            anchors = ThoughtAnchors(Path(config.path), config.importance)
            identity = {"sha256": file_sha256(Path(config.path)), "measure": config.importance}
            return _Source(
                TruthKind.importance, {"source": "thought_anchors", **identity}, lambda: (anchors, anchors.dropped)
            )
        case PrmbenchConfig():
            bench = Prmbench(Path(config.path), config.redundant)
            identity = {"sha256": file_sha256(Path(config.path)), "redundant": config.redundant}
            return _Source(
                TruthKind.steps, {"source": "prmbench", **identity}, lambda: (_unmeasured(bench), bench.dropped)
            )
        case _:
            raise ConfigError(
                f"truth: no source for {type(config).__name__}. Allowed: planted, prmbench, thought_anchors"
            )


def _planted(config: PlantedTruthConfig) -> _Source:
    values: dict[str, Any] = {
        "num_traces": config.num_traces,
        "families": config.families,
        "difficulty": config.difficulty,
        "redundancy": config.redundancy,
        "seed": config.seed,
    }

    def made() -> tuple[Iterable[_Judged], Counter[str]]:
        traces = generator.traces(**values, half=generator.Half.evaluation, group="truth")
        return _unmeasured(traces), Counter()

    return _Source(TruthKind.tokens, {"source": "planted", "version": generator.VERSION, **values}, made)


def _unmeasured(traces: Iterable[Trace]) -> Iterator[_Judged]:
    for trace in traces:
        yield trace, []
