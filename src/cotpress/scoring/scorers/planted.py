"""Planted: the labels of the built-in data as scores, the ceiling of every scorer.

Computes  s_i = order of the kind of text that most characters of token i belong to (`ORDER`): the equations first,
          then the events that they follow from, the closing, the restated question, and what only repeats results last
Source    none: no scorer of traces that a model wrote can know these labels.

A student of these scores shows what compression could reach on the built-in data, as that of random scores shows what
any scorer has to exceed. Traces without labels are refused.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cotpress.records import Trace
from cotpress.scoring.base import TokenScorer
from cotpress.scoring.config import ScorerConfig

ORDER = ("repeat", "double_check", "dead_end", "hesitation", "restatement", "closing", "event")
"""Kinds of redundant text, the least important first."""
NO_LABELS = "no planted labels"


@dataclass(kw_only=True, slots=True)
class PlantedConfig(ScorerConfig):
    """Labels of the built-in data."""


class PlantedScorer(TokenScorer[PlantedConfig]):
    """Scores by the kind of text."""

    def refusal(self, trace: Trace) -> str | None:
        """See `TokenScorer`."""
        return super().refusal(trace) if trace.spans else NO_LABELS

    def token_values(self, trace: Trace) -> NDArray[np.float32]:
        """See `TokenScorer`."""
        characters = np.zeros(len(trace.thinking), dtype=np.float32)
        for span in trace.spans:
            characters[span.start : span.end] = len(ORDER) if span.essential else ORDER.index(span.kind)
        _, offsets = self.tokens(trace)
        return np.array([np.median(characters[start:end]) for start, end in offsets.tolist()], dtype=np.float32)
