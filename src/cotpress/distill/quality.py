"""The two quality filters of LLMLingua-2 for extractions: did the model copy, and was every copy found again?

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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from cotpress.distill.alignment import Word


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
