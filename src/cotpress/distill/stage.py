"""The distill stage: the valuable part of each training trace.

A new extractor is a function `Trace -> Ranges` in `extractors.py`, a member of `Extractor`, and a `case` here. One that
needs all traces at once, such as the language model, returns `Extracted` itself.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cotpress.devices.config import TrainerConfig
from cotpress.distill.alignment import ALIGNMENT_VERSION
from cotpress.distill.config import DistillConfig, Extractor, LlmDistillConfig
from cotpress.distill.extractors import Extracted, Ranges, essential_spans, overlapping_steps
from cotpress.distill.llm import EXTRACTIONS, Extraction, Limits, aligned, extract
from cotpress.errors import ConfigError, DataError
from cotpress.modeling.config import ModelConfig
from cotpress.records import TRACES_FILE, VALUABLE_FILE, Trace, ValuableTrace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.tables import read_records, write_records


def distill(
    config: DistillConfig,
    traces: Artifact,
    store: ArtifactStore,
    *,
    model: ModelConfig | None = None,
    trainer: TrainerConfig | None = None,
) -> Artifact:
    """The valuable parts of the traces in the split `train`: an artifact with `valuable.parquet` (`ValuableTrace`).

    Raises:
        ConfigError: A value is out of range.
        DataError: No trace has a valuable part, or the data lacks the labels or responses that the extractor needs.
        GenerationError: The server of the extractor fails.
    """

    def train() -> list[Trace]:
        return [trace for trace in read_records(traces.file(TRACES_FILE), Trace) if trace.split == "train"]

    identity: dict[str, Any] = {"extractor": config.extractor.value}
    extractor: Callable[[Sequence[Trace]], Extracted]
    match config:
        case LlmDistillConfig():
            if (writer := config.model or model) is None:
                raise ConfigError("distill.model: null, and there is no other model. Fix: model@distill.model=NAME")
            limits = Limits.of(config)
            answers = extract(config, traces, train, model=writer, trainer=trainer or TrainerConfig(), store=store)
            identity |= {"extracted": answers.key, "alignment": ALIGNMENT_VERSION, "limits": limits}
            extractor = partial(_copied, answers, limits)
        case DistillConfig(extractor=Extractor.labels):
            extractor = partial(_each, essential_spans)
        case DistillConfig(extractor=Extractor.overlap, min_overlap=share):
            identity["min_overlap"] = share
            extractor = partial(_each, partial(overlapping_steps, min_overlap=share))
        case _:
            raise ConfigError("distill.extractor=llm has settings of its own. Fix: distill=llm or distill=llm_server")

    def produce(folder: Path) -> Summary:
        training = train()
        _check_usable(config.extractor, training)
        extracted = extractor(training)
        rows = [
            ValuableTrace(
                id=t.id, question=t.question, thinking=t.thinking, response=t.response, answer=t.answer,
                valuable=extracted.ranges[t.id],
            )
            for t in training
            if t.id in extracted.ranges
        ]  # fmt: skip
        if not rows:
            raise DataError(_nothing_valuable(config, len(training), extracted.dropped))
        write_records(folder / VALUABLE_FILE, rows, ValuableTrace)
        num_valuable = sum(end - start for row in rows for start, end in row.valuable)
        share = round(num_valuable / sum(len(row.thinking) for row in rows), 4)  # of the characters
        facts = {"valuable_fraction": share, **extracted.facts}
        return Summary(num_rows=len(rows), dropped=extracted.dropped, facts=facts)

    return store.build("distill", {"data": traces.key, **identity}, produce)


def _copied(answers: Artifact, limits: Limits, traces: Sequence[Trace]) -> Extracted:
    return aligned(traces, read_records(answers.file(EXTRACTIONS), Extraction), limits)


def _each(part_of: Callable[[Trace], Ranges], traces: Sequence[Trace]) -> Extracted:
    ranges = {trace.id: parts for trace in traces if (parts := part_of(trace))}
    lost = len(traces) - len(ranges)
    return Extracted(ranges=ranges, dropped=Counter({"no valuable part": lost} if lost else {}))


def _check_usable(extractor: Extractor, traces: Sequence[Trace]) -> None:
    if extractor is Extractor.labels and not any(trace.spans for trace in traces):
        raise DataError(
            "distill.extractor=labels: the data has no labels; only the built-in generator (data=planted) plants them. "
            "Fix: distill=overlap (steps that reappear in the responses), distill=llm, data@labelled=planted "
            "(labels of other traces), or a scorer that needs no labels"
        )
    if extractor is Extractor.overlap and not any(trace.response.strip() for trace in traces):
        raise DataError(
            "distill.extractor=overlap: every response is empty, so nothing can reappear in it. "
            "Fix: give rows with a solution in the field 'response'."
        )


def _nothing_valuable(config: DistillConfig, num_traces: int, dropped: Mapping[str, int]) -> str:
    message = f"distill.extractor={config.extractor.value}: no valuable part in any of {num_traces} traces"
    match config.extractor:
        case Extractor.labels:
            return f"{message}. Fix: distill.extractor=overlap"
        case Extractor.overlap:
            return f"{message}. Fix: lower distill.min_overlap, got {config.min_overlap}, or distill=llm"
        case Extractor.llm:
            reasons = ", ".join(f"{num} {reason}" for reason, num in sorted(dropped.items()))
            return (
                f"{message} ({reasons}). The language model does not follow the instruction. Fix: a stronger one, or "
                "raise distill.max_variation and distill.max_gap"
            )
