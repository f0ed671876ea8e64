"""The distill stage: which part of each training trace is valuable.

A new extractor is one module with a function `Trace -> Ranges`, one member of `Extractor`, and one `case` here.
"""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cotpress.artifacts import Artifact, ArtifactStore, Summary
from cotpress.distill.config import DistillConfig, Extractor
from cotpress.distill.labels import essential_spans
from cotpress.distill.overlap import overlapping_steps
from cotpress.distill.ranges import Ranges
from cotpress.errors import ConfigError, DataError
from cotpress.records import Trace, ValuableTrace
from cotpress.tables import read_records, write_records

TRACES = "traces.parquet"
VALUABLE = "valuable.parquet"


def distill(config: DistillConfig, traces: Artifact, store: ArtifactStore) -> Artifact:
    """The valuable parts of the traces in the split `train`: an artifact with `valuable.parquet` (`ValuableTrace`).

    Args:
        config: Which extractor, and its settings.
        traces: The data artifact.
        store: Where the result goes.

    Raises:
        ConfigError: A value is out of range.
        DataError: The extractor finds nothing valuable in any trace, or needs labels that the data does not have.
    """
    extract, settings = _extractor(config)

    def produce(folder: Path) -> Summary:
        train = [trace for trace in read_records(traces.file(TRACES), Trace) if trace.split == "train"]
        _check_usable(config.extractor, train)
        dropped: Counter[str] = Counter()
        rows = []
        for trace in train:
            ranges = extract(trace)
            if ranges:
                rows.append(_valuable(trace, ranges))
            else:
                dropped["no valuable part"] += 1
        if not rows:
            raise DataError(_nothing_found(config, len(train)))
        write_records(folder / VALUABLE, rows, ValuableTrace)
        return Summary(num_rows=len(rows), dropped=dropped, facts={"valuable_fraction": _fraction(rows)})

    return store.build("distill", {"data": traces.key, **settings}, produce)


def _extractor(config: DistillConfig) -> tuple[Callable[[Trace], Ranges], dict[str, Any]]:
    """The extracting function, and the settings that determine what it finds."""
    match config.extractor:
        case Extractor.labels:
            return essential_spans, {"extractor": "labels"}
        case Extractor.overlap:
            if not 0 < config.min_overlap <= 1:
                raise ConfigError(f"distill.min_overlap: got {config.min_overlap}, allowed: a number in (0, 1]")
            extract = functools.partial(overlapping_steps, min_overlap=config.min_overlap)
            return extract, {"extractor": "overlap", "min_overlap": config.min_overlap}


def _check_usable(extractor: Extractor, traces: Sequence[Trace]) -> None:
    if extractor is Extractor.labels and not any(trace.spans for trace in traces):
        raise DataError(
            "distill.extractor=labels: the data has no labels; only the built-in generator (data=planted) plants them. "
            "Fix: distill.extractor=overlap"
        )
    if extractor is Extractor.overlap and not any(trace.response.strip() for trace in traces):
        raise DataError(
            "distill.extractor=overlap: every response is empty, so nothing can reappear in it. "
            "Fix: give rows a written solution in the field 'response'."
        )


def _valuable(trace: Trace, ranges: Ranges) -> ValuableTrace:
    return ValuableTrace(
        id=trace.id,
        question=trace.question,
        thinking=trace.thinking,
        response=trace.response,
        answer=trace.answer,
        valuable=ranges,
    )


def _fraction(rows: Sequence[ValuableTrace]) -> float:
    """Valuable characters relative to all characters of the thinking texts."""
    valuable = sum(end - start for row in rows for start, end in row.valuable)
    return round(valuable / sum(len(row.thinking) for row in rows), 4)


def _nothing_found(config: DistillConfig, num_traces: int) -> str:
    message = f"distill.extractor={config.extractor.value}: no valuable part in any of {num_traces} traces."
    if config.extractor is Extractor.overlap:
        return f"{message} Fix: lower distill.min_overlap, got {config.min_overlap}"
    return f"{message} Fix: distill.extractor=overlap"
