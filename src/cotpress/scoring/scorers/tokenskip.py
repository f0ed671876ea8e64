"""TokenSkip: P(keep) of a bidirectional token classifier in the manner of LLMLingua-2.

Computes  s_i = mean over the sub-tokens j of i's word of  P(keep | x)_j
Source    TokenSkip, arXiv 2502.12067, section 3.1; LLMLingua-2, arXiv 2403.12968, section 4: a BERT-like encoder with
          a two-class head, class 1 = keep. Published: microsoft/llmlingua-2-xlm-roberta-large-meetingbank.

The thinking is read in windows of at most `window_tokens` encoder tokens, cut between words of the encoder's own
pre-tokenizer.

The released code (LLMLingua 0.2.2) deviates: it cuts windows after the last full stop or newline, takes a threshold
per window, counts the ratio in another tokenizer, and rebuilds the text from the encoder's tokens, which loses symbols
outside its vocabulary and all newlines (`\\frac{48}{2}` becomes `{48}`). Here selection works on character offsets;
`compression=llmlingua2_compat` (llmlingua2_compat.py) repeats the release.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from omegaconf import MISSING

from cotpress.modeling.alignment import pool
from cotpress.records import Trace
from cotpress.scoring.base import TokenScorer
from cotpress.scoring.config import ScorerConfig
from cotpress.settings import Amount, Count, InputPath, Natural

if TYPE_CHECKING:
    from cotpress.scoring.models import Models
    from cotpress.scoring.scorers.classifier import Classifier


@dataclass(kw_only=True, slots=True)
class TokenskipConfig(ScorerConfig):
    """P(keep) of an LLMLingua-2-style token classifier (arXiv 2502.12067, 2403.12968)."""

    path: InputPath = MISSING
    """Hub id or directory of the encoder; `package:NAME` for one that a Python package carries."""
    train: bool = MISSING
    """Train a keep/drop head on the distilled labels first; false when `path` is a published classifier."""
    learning_rate: Amount = 3e-4
    """Peak learning rate of the classifier training."""
    epochs: Count = 2
    """Passes over the distilled traces."""
    trained_layers: Natural | None = 2
    """Topmost encoder layers that are tuned with the head; null tunes all weights."""
    batch_size: Count = 16
    """Chunks per training step."""
    window_tokens: Count = 510
    """Longest chunk the encoder sees, in its tokens without the two special ones."""
    seed: Natural = MISSING
    """Seed of the head's initialisation and the data order."""

    @property
    def needs_labels(self) -> bool:
        """See `ScorerConfig`."""
        return self.train

    def identity(self) -> dict[str, Any]:
        """Leave out the settings of a training that does not happen; a published classifier has its files' identity."""
        if self.train:
            return ScorerConfig.identity(self)
        return {"name": self.name, "train": False, "window_tokens": self.window_tokens}


class TokenskipScorer(TokenScorer[TokenskipConfig]):
    """Word-averaged keep probability; the scored tokens are the encoder's.

    Its windows belong to the method and do not overlap, so no trace is too long.
    """

    def __init__(self, config: TokenskipConfig, classifier: "Classifier", tokens_per_batch: int) -> None:
        super().__init__(config, classifier.tokenizer)
        self._classifier, self._tokens_per_batch = classifier, tokens_per_batch

    @classmethod
    def identity(cls, config: TokenskipConfig, models: "Models") -> dict[str, Any]:
        """See `ScorerKind`."""
        from cotpress.scoring.scorers.classifier import classifier_identity

        return {"classifier": classifier_identity(config, models.distilled)}

    @classmethod
    def build(cls, config: TokenskipConfig, models: "Models") -> Self:
        """See `TokenScorer`."""
        from cotpress.scoring.scorers.classifier import build_classifier

        classifier = build_classifier(config, models.distilled, models.store, models.device)
        return cls(config, classifier, models.trainer.tokens_per_batch)

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """See `TokenScorer`."""
        encoded = [self._classifier.encode(trace.thinking) for trace in traces]
        probabilities = self._classifier.keep_probabilities(encoded, self._tokens_per_batch)
        return (pool(values, text.word_ids) for text, values in zip(encoded, probabilities, strict=True))
