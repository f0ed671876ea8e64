"""The distill stage: the valuable part of each training trace.

`labels` takes the essential spans of the built-in generator. `overlap` takes the steps that reappear in the response. A
step is a sentence or line of the thinking, and its items are its numbers and content words. In Chinese, whose
sentences have no spaces, every character is an item; in other scripts where a run of letters is more than a word, every
two (Japanese kana, Korean) or three (Thai, Lao, Khmer, Burmese, Tibetan) neighbouring characters are. It is valuable if

    |items of the step that the response has| / |items of the step| >= min_overlap

and no earlier valuable step had the same items in the same order (a plain repeat). A step without items, such as "Hmm,
let me see.", is never valuable. CTS (arXiv 2505.17827) does not publish its extractor. `llm` is in `llm.py`.

A new extractor is a function `Trace -> Ranges`, a member of `Extractor`, and a `case` in `distill`. One that needs all
traces at once, such as the language model, returns `Extracted` itself.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import regex

from cotpress.devices.config import TrainerConfig
from cotpress.distill.alignment import THOUSANDS, Ranges, merged
from cotpress.distill.config import DistillConfig, Extractor, LlmDistillConfig
from cotpress.distill.llm import Extracted, aligned, extract
from cotpress.errors import ConfigError, DataError
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.segments import UNSPACED, step_ranges
from cotpress.records import TRACES_FILE, VALUABLE_FILE, Trace, ValuableTrace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.source import Root, identified
from cotpress.store.tables import training_traces, write_records


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
    identity: dict[str, Any] = {"data": traces.key, "extractor": config.extractor.value}
    extractor: Callable[[Sequence[Trace]], Extracted]
    code: Root  # of the extractor
    match config:
        case LlmDistillConfig():
            if (writer := config.model or model) is None:
                raise ConfigError("distill.model: null, and there is no other model. Fix: model@distill.model=NAME")
            answers = extract(config, traces, writer, trainer or TrainerConfig(), store)
            limits = {n: getattr(config, n) for n in ("drop_variation", "drop_gap", "max_variation", "max_gap")}
            identity |= {"extracted": answers.key, "limits": limits}
            extractor, code = partial(aligned, config, answers), aligned
        case DistillConfig(extractor=Extractor.labels):
            extractor, code = partial(_each, essential_spans), essential_spans
        case DistillConfig(extractor=Extractor.overlap, min_overlap=share):
            identity["min_overlap"] = share
            extractor, code = partial(_each, partial(overlapping_steps, min_overlap=share)), overlapping_steps
        case _:
            raise ConfigError("distill.extractor=llm has settings of its own. Fix: distill=llm or distill=llm_server")

    def produce(folder: Path) -> Summary:
        training = training_traces(traces.file(TRACES_FILE))
        check_usable(config.extractor, training)
        ranges, summary = extractor(training)
        rows = [
            ValuableTrace(
                id=t.id, question=t.question, thinking=t.thinking, response=t.response, answer=t.answer,
                valuable=ranges[t.id],
            )
            for t in training
            if t.id in ranges
        ]  # fmt: skip
        if not rows:
            raise DataError(_nothing_valuable(config, len(training), summary.dropped))
        write_records(folder / VALUABLE_FILE, rows, ValuableTrace)
        num_valuable = sum(end - start for row in rows for start, end in row.valuable)
        share = round(num_valuable / sum(len(row.thinking) for row in rows), 4)  # of the characters
        return replace(summary, facts={"valuable_fraction": share, **summary.facts})

    return store.build("distill", identified(identity, distill, code), produce)


def _each(part_of: Callable[[Trace], Ranges], traces: Sequence[Trace]) -> Extracted:
    ranges = {trace.id: parts for trace in traces if (parts := part_of(trace))}
    lost = len(traces) - len(ranges)
    return ranges, Summary(num_rows=len(ranges), dropped={"no valuable part": lost} if lost else {})


def check_usable(extractor: Extractor, traces: Sequence[Trace]) -> None:
    """Raise a `DataError` if no trace has what the extractor needs: labels, or a response."""
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


def essential_spans(trace: Trace) -> Ranges:
    """Character ranges of the essential spans, neighbours joined; empty if the trace has no labels."""
    return merged((span.start, span.end) for span in trace.spans if span.essential)


MIN_LETTERS = 3
"""Length of the shortest word that is an item, marks included."""
_GRAMS = {"han": 1, "kana": 2, "hangul": 2, "other": 3}
"""Characters per item, by the group of `_ITEM`."""
_ITEM = regex.compile(
    rf"""
    (?P<number> \d+ (?:[.,]\d+)* )
    | (?P<han> \p{{Han}}+ )
    | (?P<kana> [\p{{Hiragana}}\p{{Katakana}}\u30fc]+ )
    | (?P<hangul> \p{{Hangul}}+ )
    | (?P<other> (?:{UNSPACED}\p{{M}}*)+ )
    | (?P<word> (?: [\p{{L}}--[{UNSPACED}\p{{Hangul}}]] \p{{M}}* )+ )
    """,
    regex.VERSION1 | regex.VERBOSE,
)
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        about actually again all also and any are but can could check did does each for from get got had has have hence
        hmm how into its just know let like look maybe mean more need not now okay one only out over see should since
        some still sure than that the their them then there these they think this those though thus two verify wait
        was well were what when where which will with would yes you your
        """,
    )
)
"""Words without information about the problem, fillers of thinking included."""
_FUNCTION_CHARACTERS = frozenset(
    "的了是在我你您他她它们這这那就也都和与或没有吗呢吧啊嗯呃哦么让再还会能可要对好等想说把被从为因所以但而且如果然先现些什怎样"
    "們嗎麼讓還會對說從為後现個"
)
"""Chinese characters of such words."""


def overlapping_steps(trace: Trace, min_overlap: float) -> Ranges:
    """Ranges of the steps whose numbers and content words reappear in the response; without one nothing does."""
    known = frozenset(_items(trace.response))
    seen: set[tuple[str, ...]] = set()
    steps = []
    for start, end in step_ranges(trace.thinking):
        items = _items(trace.thinking[start:end])
        distinct = frozenset(items)
        if distinct and items not in seen and len(distinct & known) >= min_overlap * len(distinct):
            seen.add(items)
            steps.append((start, end))
    return merged(steps)


def _items(text: str) -> tuple[str, ...]:
    """Numbers (thousands separators removed) and lower-case content words or their characters, in order."""
    items: list[str] = []
    for match in _ITEM.finditer(unicodedata.normalize("NFC", text)):
        form = unicodedata.normalize("NFKC", match.group()).lower()
        if size := _GRAMS.get(match.lastgroup):
            items += [form[i : i + size] for i in range(len(form) - size + 1)]
        elif match.lastgroup == "number":
            items.append(THOUSANDS.sub("", form))
        elif len(form) >= MIN_LETTERS:
            items.append(form)
    return tuple(item for item in items if item not in _FUNCTION_WORDS and item not in _FUNCTION_CHARACTERS)
