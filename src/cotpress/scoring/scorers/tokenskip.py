"""TokenSkip: P(keep) of a bidirectional token classifier in the manner of LLMLingua-2.

Computes  s_i = mean over the sub-tokens j of i's word of  P(keep | x)_j
Source    TokenSkip, arXiv 2502.12067, section 3.1; LLMLingua-2, arXiv 2403.12968, section 4: a BERT-like encoder with
          a two-class head, class 1 = keep. Published: microsoft/llmlingua-2-xlm-roberta-large-meetingbank.

The thinking is read in windows of at most `window_tokens` encoder tokens, cut between words. Words are the units of
the encoder's own pre-tokenizer.

The released code (LLMLingua 0.2.2) deviates: it cuts windows after the last full stop or newline, takes a threshold
per window, counts the ratio in another tokenizer, and rebuilds the text from the encoder's tokens, so that symbols
outside its vocabulary and all newlines disappear (`\\frac{48}{2}` becomes `{48}`); for XLM-R it also splits off a
punctuation mark that is a token by itself as a word. Here scores leave this module with character offsets that
cover the whole text, and selection and text rebuilding are done elsewhere, for all scorers alike.
"""

from collections.abc import Iterator, Sequence

from cotpress.modeling.alignment import pool
from cotpress.modeling.loading import tokenizer_fingerprint
from cotpress.records import ScoredTrace, Trace
from cotpress.scoring.config import TokenskipConfig
from cotpress.scoring.scorers.classifier import Classifier, encode


class TokenskipScorer:
    """Word-averaged keep probability; the scored tokens are the encoder's."""

    def __init__(self, config: TokenskipConfig, classifier: Classifier, tokens_per_batch: int) -> None:
        self.name = config.name
        self._classifier, self._tokens_per_batch = classifier, tokens_per_batch
        self._fingerprint = tokenizer_fingerprint(classifier.tokenizer)

    def num_tokens(self, trace: Trace) -> int:
        """See `Scorer`."""
        return len(encode(self._classifier.tokenizer, trace.thinking).token_ids)

    def refusal(self, trace: Trace) -> str | None:
        """Every length fits: long texts are read window by window."""
        return None

    def in_windows(self, trace: Trace) -> bool:
        """Its windows belong to the method and do not overlap: no trace is read otherwise than short ones."""
        return False

    def score(self, traces: Sequence[Trace]) -> Iterator[ScoredTrace]:
        """See `Scorer`."""
        encoded = [encode(self._classifier.tokenizer, trace.thinking) for trace in traces]
        keep = self._classifier.keep_probabilities(encoded, self._tokens_per_batch)
        for trace, tokens, probabilities in zip(traces, encoded, keep, strict=True):
            yield ScoredTrace(
                id=trace.id,
                token_ids=tokens.token_ids,
                offsets=tokens.offsets,
                scores=pool(probabilities, tokens.word_ids),
                tokenizer=self._fingerprint,
                scorer=self.name,
            )
