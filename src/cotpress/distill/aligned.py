"""From a language model's answers to valuable ranges: align each chunk, then keep only the traces of good quality."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from cotpress.distill.alignment import align, matched_ranges, words
from cotpress.distill.config import LlmDistillConfig
from cotpress.distill.extract import Extraction
from cotpress.distill.llm import PROMPT_VERSION, extracted_text
from cotpress.distill.quality import Quality, outliers
from cotpress.distill.ranges import Found, Ranges, merged
from cotpress.errors import ConfigError
from cotpress.generation.base import LENGTH, REFUSED, STOP
from cotpress.records import Trace

_UNFINISHED = {LENGTH: "budget ended the extraction", REFUSED: "chunk longer than the model's context"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The settings of the two filters; see `LlmDistillConfig`."""

    drop_variation: float
    drop_gap: float
    max_variation: float
    max_gap: float

    @classmethod
    def of(cls, config: LlmDistillConfig) -> Self:
        """Those of a configuration.

        Raises:
            ConfigError: A value is out of range.
        """
        shares = {"drop_variation": config.drop_variation, "drop_gap": config.drop_gap}
        highest = {"max_variation": config.max_variation, "max_gap": config.max_gap}
        for name, value in shares.items():
            if not 0 <= value < 1:
                raise ConfigError(f"distill.{name}: got {value}, allowed: a number in [0, 1)")
        for name, value in highest.items():
            if not 0 <= value <= 1:
                raise ConfigError(f"distill.{name}: got {value}, allowed: a number in [0, 1]")
        return cls(**shares, **highest)


def aligned(traces: Sequence[Trace], extractions: Sequence[Extraction], limits: Limits) -> Found:
    """The valuable parts of the traces whose extractions pass both filters.

    Args:
        traces: Traces that the language model was asked about.
        extractions: Its answers to all chunks of all of them.
        limits: Settings of the filters.
    """
    chunks = defaultdict(list)
    for extraction in extractions:
        chunks[extraction.id].append(extraction)
    dropped: Counter[str] = Counter()
    ranges: dict[str, Ranges] = {}
    quality: dict[str, Quality] = {}
    for trace in traces:
        unfinished = next((e.finish_reason for e in chunks[trace.id] if e.finish_reason != STOP), None)
        if unfinished is not None:
            dropped[_UNFINISHED.get(unfinished, f"the server ended the extraction: {unfinished}")] += 1
            continue
        ranges[trace.id], quality[trace.id] = _align(trace, chunks[trace.id])
        if not quality[trace.id].num_extracted:
            dropped["empty extraction"] += 1
            del ranges[trace.id], quality[trace.id]
    bad = outliers({i: q.variation_rate for i, q in quality.items()}, limits.drop_variation, limits.max_variation)
    rest = {i: q for i, q in quality.items() if i not in bad}
    apart = outliers({i: q.alignment_gap for i, q in rest.items()}, limits.drop_gap, limits.max_gap)
    nothing = {i for i, q in rest.items() if i not in apart and not q.num_matched}
    dropped.update({"variation rate": len(bad), "alignment gap": len(apart), "no valuable part": len(nothing)})
    kept = {i: ranges[i] for i in rest if i not in apart | nothing}
    return Found(ranges=kept, dropped=+dropped, facts=_facts(quality, kept))


def _align(trace: Trace, chunks: Sequence[Extraction]) -> tuple[Ranges, Quality]:
    """Valuable ranges of the whole thinking, and the quality of all its chunks together."""
    found: list[tuple[int, int]] = []
    parts = []
    for chunk in chunks:
        original = words(trace.thinking[chunk.start : chunk.end])
        extracted = words(extracted_text(chunk.answer))
        matches = align(original, extracted)
        parts.append(Quality.of(original, extracted, matches))
        found += [(chunk.start + a, chunk.start + b) for a, b in matched_ranges(original, matches)]
    return merged(found), Quality.total(parts)


def _facts(quality: Mapping[str, Quality], kept: Mapping[str, Ranges]) -> dict[str, Any]:
    """Means over all extractions that were finished, and the share of words that the kept ones keep."""
    num = max(len(quality), 1)
    original = sum(quality[i].num_original for i in kept)
    return {
        "prompt_version": PROMPT_VERSION,
        "mean_variation_rate": round(sum(q.variation_rate for q in quality.values()) / num, 4),
        "mean_alignment_gap": round(sum(q.alignment_gap for q in quality.values()) / num, 4),
        "kept_words": round(sum(quality[i].num_matched for i in kept) / max(original, 1), 4),
    }
