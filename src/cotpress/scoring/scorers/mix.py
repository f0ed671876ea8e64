"""Mix: a weighted mean of the ranks that other scorers give.

Computes  s_i = sum over parts p of  w_p * rank_p(i)      / sum over p of w_p
          rank_p(i) = (number of the trace's tokens that p scores below i + half of those that it scores like i) / n
Source    ours. Ranks, because the parts' scores have units and spreads that cannot be added.

The parts may have different tokenizers: their scores meet on the base model's tokens through characters. A part may be
a mix itself. It is computed from the parts' score artifacts, which are those of the parts used alone.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cotpress.errors import ConfigError, did_you_mean
from cotpress.modeling.alignment import project_scores, tokenize_with_offsets
from cotpress.records import ScoredTrace, Trace
from cotpress.scoring.base import ScorerKind
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
    def weighted(self) -> list[str]:
        """Names of the parts that count: those with a weight above 0."""
        return [name for name in self.parts if self.weights.get(name, 0.0) > 0]

    @property
    def needs_reference(self) -> bool:
        """True if one of the parts that count does."""
        return any(self.parts[name].needs_reference for name in self.weighted)

    @property
    def needs_labels(self) -> bool:
        """True if one of the parts that count does."""
        return any(self.parts[name].needs_labels for name in self.weighted)

    @property
    def reads_with_model(self) -> bool:
        """True if one of the parts that count does."""
        return any(self.parts[name].reads_with_model for name in self.weighted)

    def identity(self) -> dict[str, Any]:
        """The settings of the parts that count, and their weights."""
        return {
            "name": self.name,
            "parts": {name: self.parts[name].identity() for name in self.weighted},
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
        for name in self.weighted:
            self.parts[name].check(has_reference=has_reference)


class MixScorer(ScorerKind):
    """Weighted mean of ranks, computed from the parts' scores.

    Args:
        config: Parts and weights.
        models: Gives the tokenizer in whose tokens the mix is scored.
    """

    def __init__(self, config: MixConfig, models: "Models") -> None:
        self._weights = np.array([config.weights[name] for name in config.weighted])
        self._tokenizer, self.fingerprint = models.tokenizer, models.tokenizer_identity["tokenizer"]

    @classmethod
    def num_passes(cls, config: Any) -> int | None:
        """See `ScorerKind`."""
        from cotpress.scoring.table import scorer_of

        parts = [config.parts[name] for name in config.weighted]
        passes = [scorer_of(part).num_passes(part) for part in parts]
        known = [n for n in passes if n is not None]
        return sum(known) if len(known) == len(passes) else None

    @classmethod
    def reads_windows(cls, config: Any) -> bool:
        """See `ScorerKind`."""
        from cotpress.scoring.table import scorer_of

        parts = [config.parts[name] for name in config.weighted]
        return any(scorer_of(part).reads_windows(part) for part in parts)

    @classmethod
    def identity(cls, config: Any, models: "Models") -> dict[str, Any]:
        """See `ScorerKind`."""
        from cotpress.scoring.table import scorer_of

        parts = {name: config.parts[name] for name in config.weighted}
        identities = {name: scorer_of(part).identity(part, models) for name, part in parts.items()}
        return {"model": models.identity, "parts": identities}

    def tokens(self, trace: Trace) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token ids of the thinking, int32 `[n]`, and the characters they stand for, int32 `[n, 2]`."""
        return tokenize_with_offsets(self._tokenizer, trace.thinking)

    def score(self, trace: Trace, *parts: ScoredTrace) -> NDArray[np.float32]:
        """Compute the score of every thinking token, float32 `[n]`, from those of the weighted parts, in order."""
        ranks = np.stack([self._ranks(trace, part) for part in parts])
        mixed: NDArray[np.float32] = (self._weights @ ranks / self._weights.sum()).astype(np.float32)
        return mixed

    def _ranks(self, trace: Trace, part: ScoredTrace) -> NDArray[np.float64]:
        from scipy.stats import rankdata

        scores = part.scores
        if part.tokenizer != self.fingerprint:
            scores = project_scores(part.offsets, part.scores, self.tokens(trace)[1], len(trace.thinking))
        ranks: NDArray[np.float64] = (rankdata(scores) - 0.5) / max(len(scores), 1)
        return ranks
