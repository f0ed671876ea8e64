"""From a language model's answers to valuable ranges: align each chunk, then keep only the traces of good quality.

The two quality filters of LLMLingua-2 for extractions: did the model copy, and was every copy found again?

Source    arXiv 2403.12968, section 3.3. With the words W of the original, the words E of the extraction, and the words
          L of W that the alignment labels as kept:

    variation rate   VR = |{e in E : e not in W}| / |E|       words that the model made up
    hitting rate     HR = |{e in E : e in W}| / |W|           words that it copied
    matching rate    MR = |L| / |W|
    alignment gap    AG = HR - MR                             copies that were not found in their place

The paper drops the 5 % of samples with the highest VR, then the 10 % of the rest with the highest AG. A sample is a
whole trace here, its chunks counted together, because the reference model learns from whole traces.

Deviation: the release drops whatever reaches the 90th percentile, for VR too, and with it every sample of a set in
which all are equally good. Here no more than the asked share is dropped, and of equal values either all or none.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from cotpress.distill.alignment import Word, align, matched_ranges, words
from cotpress.distill.config import LlmDistillConfig
from cotpress.distill.extract import Extraction
from cotpress.distill.llm import PROMPT_VERSION, extracted_text
from cotpress.distill.ranges import Found, Ranges, merged
from cotpress.generation.base import LENGTH, REFUSED, STOP
from cotpress.records import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What the rates of one extraction are made of; add those of several chunks.

    Attributes:
        num_original: Words of the original.
        num_extracted: Words that the model wrote.
        num_found: Those of them that the original has somewhere.
        num_matched: Words of the original that are labelled as kept.
    """

    num_original: int
    num_extracted: int
    num_found: int
    num_matched: int

    @classmethod
    def of(cls, original: Sequence[Word], extracted: Sequence[Word], matches: Sequence[int | None]) -> Self:
        """Quality of one chunk; `matches` as `cotpress.distill.alignment.align` returns them."""
        known = {word.key for word in original}
        return cls(
            num_original=len(original),
            num_extracted=len(extracted),
            num_found=sum(word.key in known for word in extracted),
            num_matched=sum(match is not None for match in matches),
        )

    @classmethod
    def total(cls, parts: Iterable[Self]) -> Self:
        """Quality of all chunks of a trace together."""
        rows = list(parts)
        return cls(
            num_original=sum(part.num_original for part in rows),
            num_extracted=sum(part.num_extracted for part in rows),
            num_found=sum(part.num_found for part in rows),
            num_matched=sum(part.num_matched for part in rows),
        )

    @property
    def variation_rate(self) -> float:
        """VR in [0, 1]; 0 for an empty extraction."""
        return 1 - self.num_found / self.num_extracted if self.num_extracted else 0.0

    @property
    def matching_rate(self) -> float:
        """MR in [0, 1]: the share of the original's words that is kept."""
        return self.num_matched / self.num_original if self.num_original else 0.0

    @property
    def alignment_gap(self) -> float:
        """AG, at least 0; above 1 only if the model wrote words of the original over and over."""
        return (self.num_found - self.num_matched) / self.num_original if self.num_original else 0.0


def outliers(values: Mapping[str, float], share: float, highest: float) -> set[str]:
    """Names of the samples that are dropped: those above `highest`, and the `share` with the highest values.

    Args:
        values: One value per sample.
        share: At most this share of all samples is dropped by rank, in [0, 1); what equals the first one kept stays.
        highest: Samples above it are dropped in any case.
    """
    if not values:
        return set()
    first_kept = sorted(values.values(), reverse=True)[int(share * len(values))]
    return {name for name, value in values.items() if value > min(first_kept, highest)}


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
        """Take the limits from the settings."""
        return cls(**{f.name: getattr(config, f.name) for f in fields(cls)})


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
