"""Mix: a weighted mean of the ranks that other scorers give.

Computes  s_i = sum over parts p of  w_p * rank_p(i)      / sum over p of w_p
          rank_p(i) = (number of the trace's tokens that p scores below i + half of those that it scores like i) / n
Source    ours. Ranks, because the parts' scores have units and spreads that cannot be added.

The parts may have different tokenizers: their scores meet on the base model's tokens through characters. A part may be
a mix itself. It is computed from the parts' score artifacts, which are those of the parts used alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cotpress.errors import ConfigError, did_you_mean
from cotpress.modeling.alignment import project_scores, tokenize_with_offsets
from cotpress.records import ScoredTrace, Trace
from cotpress.scoring.base import ScorerKind, scored
from cotpress.scoring.config import ScorerConfig

if TYPE_CHECKING:
    from cotpress.scoring.models import Models


@dataclass(kw_only=True, slots=True)
class MixConfig(ScorerConfig):
    """Weighted mean of the ranks that other scorers give."""

    parts: dict[str, ScorerConfig] = field(default_factory=dict)
    """The other scorers by names of your own."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weight of each part, >= 0; a part of weight 0 is left out."""

    @property
    def weighted(self) -> dict[str, ScorerConfig]:
        """The parts that count: those with a weight above 0."""
        return {name: part for name, part in self.parts.items() if self.weights.get(name, 0.0) > 0}

    @property
    def needs_reference(self) -> bool:
        """See `ScorerConfig`; like the next two, true if one of the parts that count does."""
        return any(part.needs_reference for part in self.weighted.values())

    @property
    def needs_labels(self) -> bool:
        """See `ScorerConfig`."""
        return any(part.needs_labels for part in self.weighted.values())

    @property
    def reads_with_model(self) -> bool:
        """See `ScorerConfig`."""
        return any(part.reads_with_model for part in self.weighted.values())

    def identity(self) -> dict[str, Any]:
        """The settings of the parts that count, and their weights."""
        return {
            "name": self.name,
            "parts": {name: part.identity() for name, part in self.weighted.items()},
            "weights": {name: self.weights[name] for name in self.weighted},
        }

    def check(self, *, has_reference: bool) -> None:
        """Refuse a part without weight, a weight without part, and weights of which none is above 0."""
        unknown = sorted(set(self.weights) - set(self.parts))
        if unknown:
            raise ConfigError(
                f"scorer.weights: got '{unknown[0]}', which is no part.{did_you_mean(unknown[0], self.parts)} "
                f"Fix: +scorer@scorer.parts.{unknown[0]}=SCORER, or ~scorer.weights.{unknown[0]}"
            )
        unweighted = sorted(set(self.parts) - set(self.weights))
        if unweighted:
            raise ConfigError(
                f"scorer.weights: part '{unweighted[0]}' has none. Fix: +scorer.weights.{unweighted[0]}=1"
            )
        if not all(math.isfinite(w) and w >= 0 for w in self.weights.values()) or not self.weighted:
            raise ConfigError(f"scorer.weights: got {self.weights}, allowed: finite numbers >= 0, at least one above 0")
        for part in self.weighted.values():
            part.check(has_reference=has_reference)


class MixScorer(ScorerKind):
    """Weighted mean of ranks, computed from the parts' scores; `models` gives the tokens in which they meet."""

    def __init__(self, config: MixConfig, models: "Models") -> None:
        self._config, self._models = config, models

    @classmethod
    def identity(cls, config: Any, models: "Models") -> dict[str, Any]:
        """See `ScorerKind`; those of the parts are added by `scorer_identity`."""
        return {"model": models.identity}

    def combine(self, trace: Trace, rows: Sequence[ScoredTrace | None]) -> ScoredTrace | str:
        """Compute the record of a trace from those of the weighted parts, or give the reason why it has none."""
        from scipy.stats import rankdata

        ids, offsets = tokenize_with_offsets(self._models.tokenizer, trace.thinking)
        tokenizer = self._models.tokenizer_identity["tokenizer"]
        weights = np.array([self._config.weights[name] for name in self._config.weighted])
        ranks = []
        for name, row in zip(self._config.weighted, rows, strict=True):
            if row is None:
                return f"no score from part {name}"
            scores = row.scores
            if row.tokenizer != tokenizer:
                scores = project_scores(row.offsets, scores, offsets, len(trace.thinking))
            ranks.append((rankdata(scores) - 0.5) / max(len(scores), 1))
        means = (weights @ np.stack(ranks) / weights.sum()).astype(np.float32)
        return scored(self._config, trace, (ids, offsets), means, tokenizer)
