"""LLMLingua-2 as the release of TokenSkip runs it (`compression=llmlingua2_compat`), to compare with published rows.

Source    PyPI llmlingua 0.2.2, `compress_prompt_llmlingua2`, called by the release of arXiv 2502.12067 as
          `compress_prompt(thinking, rate=ratio)`, for Llama-3.1 with `force_tokens=["Step", ":"],
          force_reserve_digit=True, drop_consecutive=True`. Behaviour is repeated, no code; the texts are the release's
          own (see its test).

Unlike `scorer=tokenskip` with the exact selection:

1. The encoder's tokens are cut into chunks that end after the last `.` or line break within `window_tokens` + 1 tokens,
   and the text of each chunk is tokenized anew. One of `window_tokens` + 1 tokens loses the special token behind it.
2. The special tokens around a chunk are those of BERT, `[CLS]` and `[SEP]`, also for XLM-RoBERTa, which knows neither
   and reads its unknown token in their place.
3. Tokens become words by their spelling: with WordPiece each token without `##` begins one; else each with the sign
   `▁`, each punctuation mark and each forced token. A word has the mean probability of its tokens; forced tokens and,
   if digits are forced, tokens with a digit count as 1.
4. Words above a threshold stay, chunk by chunk: the percentile `int(100 * (1 - ratio) + 1)` of the probabilities, each
   as often as the word has tokens in the tokenizer of gpt-3.5-turbo. The last bits of the ratio decide: 0.9 and 0.8
   become percentiles 10 and 20, 0.7 to 0.5 become 31 to 51.
5. With `drop_consecutive` a forced word that repeats the one before it goes, if nothing between them stays.
6. The text is the tokenizer's of the words that stay, chunks without a space between them. Line breaks, other white
   space and symbols outside of the encoder's vocabulary are lost: `\\frac{48}{2}` may become `{48}`.

Forced texts that are no single token are replaced by added tokens, so they have random vectors; those are drawn as in
the release on a CPU with the same version of transformers.

Differences from the release, on purpose: it stops with an error at a chunk without any word, which here adds nothing,
and at a word that spells a special token of OpenAI, which here is counted as text; a thinking without a token is
refused and counted; at ratio 1 the text stays as it is, as in TokenSkip's training data.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from cotpress.errors import ConfigError, ModelError
from cotpress.modeling.selection import draw_ratio
from cotpress.modeling.word_weights import METASPACE, WordWeights, word_counter
from cotpress.records import REWRITTEN_FILE, RewrittenTrace, Trace
from cotpress.scoring.base import Tokens, TokenScorer
from cotpress.scoring.config import ScorerConfig
from cotpress.scoring.scorers.tokenskip import TokenskipConfig, TokenskipScorer

if TYPE_CHECKING:
    from cotpress.scoring.job import ChunkJob
    from cotpress.scoring.models import Models
    from cotpress.scoring.scorers.classifier import Classifier
    from cotpress.store.artifacts import Artifact

CHUNK_ENDS = (".", "\n")
FIRST, LAST, PADDING = "[CLS]", "[SEP]", "[PAD]"
NUM_STAND_INS = 100  # tokens that the release adds, needed or not; their number takes part in drawing their vectors
STAND_IN_SEED = 42


@dataclass(frozen=True, slots=True, kw_only=True)
class Llmlingua2Options:
    """Arguments of the release's call.

    Attributes:
        ratios: One ratio for all traces, or several of which each trace draws one by `seed`; in (0, 1].
        force_tokens: Texts that stay; at most 100.
        force_reserve_digit: Keep tokens with a digit.
        drop_consecutive: Drop repeated forced words.
        word_weights: Tokenizer that the length of words is counted in.
    """

    ratios: tuple[float, ...]
    seed: int = 0
    force_tokens: tuple[str, ...] = ()
    force_reserve_digit: bool = False
    drop_consecutive: bool = False
    word_weights: WordWeights = WordWeights.tiktoken


def llmlingua2_settings(config: ScorerConfig) -> TokenskipConfig:
    """Check that a scorer is a classifier of LLMLingua-2's kind (compression=llmlingua2_compat), and return it.

    Raises:
        ConfigError: It is another one.
    """
    if isinstance(config, TokenskipConfig):
        return config
    raise ConfigError(
        f"compression=llmlingua2_compat repeats LLMLingua-2. scorer: got '{config.name}', but that selects by a token "
        "classifier. Fix: scorer=tokenskip_xlmr, tokenskip_mbert or tokenskip"
    )


@dataclass(slots=True)
class Word:
    """A word of a chunk.

    Attributes:
        text: Its tokens as the encoder spells them, forced texts as they were written.
        probabilities: P(keep) of its tokens; 1.0 for what is forced.
        first: Index of its first token in the chunk.
        end: Index after its last token.
    """

    text: str
    probabilities: list[Any]
    first: int
    end: int


class Spelling:
    """Rules of words in the encoder's tokens."""

    def __init__(self, classifier: Classifier, force_tokens: Sequence[str], stand_ins: dict[str, str]) -> None:
        """Raises ModelError if the release has no rules for such a tokenizer."""
        kind = type(classifier.tokenizer.backend_tokenizer.model).__name__
        if kind not in ("WordPiece", "Unigram"):
            raise ModelError(
                f"compression=llmlingua2_compat: the encoder has a tokenizer of the kind {kind}, but LLMLingua-2 knows "
                "words of BERT (WordPiece) and XLM-RoBERTa (Unigram) alone. Fix: another scorer.path"
            )
        self._pieces = kind == "WordPiece"
        self._forced, self._stand_ins = {*force_tokens, *stand_ins.values()}, stand_ins

    def _bare(self, token: str) -> str:
        return token.lstrip("#" if self._pieces else METASPACE)

    def _begins(self, token: str) -> bool:
        if self._pieces:
            return self._bare(token) in self._forced or not token.startswith("##")
        # A part of `string.punctuation` as a whole, such as `()`, is a mark as well.
        return token.startswith(METASPACE) or token in self._forced or token in string.punctuation

    def words(self, tokens: Sequence[str | None], probabilities: Iterable[Any], *, digits: bool) -> list[Word]:
        """The words of a chunk; None stands for tokens that belong to no word."""
        words: list[Word] = []
        for i, (token, probability) in enumerate(zip(tokens, probabilities, strict=True)):
            if token is None:
                continue
            bare, begins = self._bare(token), self._begins(token) or not words
            text = token if begins else bare
            if begins:
                probability = 1.0 if bare in self._forced else probability
                for written, stand_in in self._stand_ins.items():
                    text = text.replace(stand_in, written)
            if digits and re.search(r"\d", text):
                probability = 1.0
            if begins:
                words.append(Word(text, [probability], i, i + 1))
            else:
                words[-1].text += text
                words[-1].probabilities.append(probability)
                words[-1].end = i + 1
        return words


def kept_words(
    words: Sequence[Word], ratio: float, count: Callable[[str], int], forced: Sequence[str], *, drop_consecutive: bool
) -> list[bool]:
    """Decide which words of a chunk stay at a ratio below 1; `count` gives the number of tokens of a word.

    `forced` are the forced texts, which matter for `drop_consecutive` alone.
    """
    if not words:
        return []
    # Plain lists, as the number format of the threshold depends on whether a value is forced.
    values = [sum(word.probabilities) / len(word.probabilities) for word in words]
    percent = 100 * (1 - ratio)
    if drop_consecutive:
        threshold, between, previous = np.percentile(values, int(percent)), False, None
        for i, word in enumerate(words):
            if word.text not in forced:
                between = between or bool(values[i] > threshold)
                continue
            if not between and word.text == previous:
                values[i] = 0.0
            between, previous = False, word.text
    weighted = [value for value, word in zip(values, words, strict=True) for _ in range(count(word.text))]
    threshold = np.percentile(weighted, int(percent + 1))
    kept, last = [], None
    for value, word in zip(values, words, strict=True):
        stays = bool(value > threshold or value == threshold == 1)
        if stays and drop_consecutive and word.text in forced and word.text == last:
            stays = False
        last = word.text if stays else last
        kept.append(stays)
    return kept


def chunks(tokens: Sequence[str], window: int, ends: Sequence[str]) -> list[slice]:
    """Consecutive ranges of tokens, each to the last of `ends` among `window` + 1 tokens, or else all of these."""
    ranges, start = [], 0
    while start < len(tokens):
        stop = len(tokens)
        if start + window < stop:
            last = start + window
            stop = next((i for i in range(last, start, -1) if tokens[i] in ends), last) + 1
        ranges.append(slice(start, stop))
        start = stop
    return ranges


def decision_job(config: ScorerConfig, options: Llmlingua2Options, *, traces: Artifact, models: Models) -> ChunkJob:
    """Build the job that rewrites all training traces, each at its ratio.

    Raises:
        ConfigError: The scorer is no token classifier.
        ModelError: The encoder cannot be found.
        DataError: The classifier is to be trained, and there are no labels.
    """
    from cotpress.devices.launch import Alike
    from cotpress.scoring.job import ChunkJob
    from cotpress.store.source import identified

    settings = llmlingua2_settings(config)
    identity = {
        "scorer": settings.identity(),
        **TokenskipScorer.identity(settings, models),
        "options": options,
        "traces": traces.key,
        **(models.tokenizer_identity if options.word_weights is WordWeights.student else {}),
    }
    make = partial(Llmlingua2Compat.built, settings, models, options)
    own = identified(identity, ChunkJob, Llmlingua2Compat)
    alike = Alike(partial(TokenskipScorer.identity, settings, models), settings.path)
    return ChunkJob(
        "decide", settings.name, own, make, traces, models.trainer, models.store, RewrittenTrace, REWRITTEN_FILE, alike
    )


class Llmlingua2Compat(TokenScorer[TokenskipConfig]):
    """Rewrites each trace at its ratio. It has the form of a scorer, but its values are 1 and 0, and it gives texts."""

    def __init__(
        self,
        config: TokenskipConfig,
        classifier: Classifier,
        options: Llmlingua2Options,
        count: Callable[[str], int],
        tokens_per_batch: int,
    ) -> None:
        """Raises ModelError if the release has no rules for the encoder's tokenizer."""
        super().__init__(config, classifier.tokenizer)
        self._classifier, self._options, self._count = classifier, options, count
        self._tokens_per_batch, self._window = tokens_per_batch, classifier.window_tokens
        self._stand_ins = _stand_ins(classifier, options.force_tokens)
        self._spelling = Spelling(classifier, options.force_tokens, self._stand_ins)
        self._ends = (*CHUNK_ENDS, *(self._stand_ins[end] for end in CHUNK_ENDS if end in self._stand_ins))
        names = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
        self._special = {getattr(classifier.tokenizer, f"{name}_token") for name in names}

    @classmethod
    def built(cls, config: TokenskipConfig, models: Models, options: Llmlingua2Options) -> Self:
        """Make it, in every process that decides; errors as those of `build_classifier` and `word_counter`."""
        from cotpress.scoring.scorers.classifier import build_classifier

        count = word_counter(options.word_weights, lambda: models.tokenizer)
        classifier = build_classifier(config, models.distilled, models.store, models.device)
        return cls(config, classifier, options, count, models.trainer.tokens_per_batch)

    def tokens(self, trace: Trace) -> Tokens:
        """Tokens of the thinking with the characters that they spell; white space may belong to none."""
        return self._split(trace.thinking)[1]

    def score(self, traces: Sequence[Trace]) -> Iterator[RewrittenTrace]:
        """Yield one record per trace, in order, as they are finished."""
        cuts = [self._cut(trace) for trace in traces]
        examples = [self._example(part) for cut in cuts for part in cut.texts]
        probabilities = self._classifier.probabilities(examples, self._tokens_per_batch)
        read = zip(examples, probabilities, strict=True)
        for trace, cut in zip(traces, cuts, strict=True):
            yield self._rewritten(trace, cut, [next(read) for _ in cut.texts])

    def _cut(self, trace: Trace) -> _Cut:
        """Split a trace into the texts of its chunks; none at ratio 1."""
        tokens, (ids, offsets) = self._split(trace.thinking)
        ratio = draw_ratio(self._options.ratios, self._options.seed, trace.id)
        parts = chunks(tokens, self._window, self._ends) if ratio < 1 else []
        texts = [self._tokenizer.convert_tokens_to_string(tokens[part]) for part in parts]
        return _Cut(ids=ids, offsets=offsets, ratio=ratio, parts=parts, texts=texts)

    def _split(self, text: str) -> tuple[list[str], Tokens]:
        """Tokens of a text with their ids, and the characters of `text` that they stand for."""
        spans = [(i, i + 1) for i in range(len(text))]
        for written, stand_in in self._stand_ins.items():
            text, spans = _replaced(text, spans, written, stand_in)
        # As the release does: a special token that the text spells out is one.
        encoded: Any = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        starts = [*(start for start, _ in spans), spans[-1][1] if spans else 0]
        tokens: list[str] = encoded.tokens()
        offsets = [
            # The sign before a word, if it is a token of its own, has the first character of the word as its place.
            (starts[a], spans[b - 1][1] if a < b and token.strip(METASPACE) else starts[a])
            for token, (a, b) in zip(tokens, encoded["offset_mapping"], strict=True)
        ]
        ids = np.asarray(encoded["input_ids"], dtype=np.int32)
        return tokens, (ids, np.asarray(offsets, dtype=np.int32).reshape(-1, 2))

    def _example(self, text: str) -> dict[str, list[int]]:
        """Put the tokens of a chunk between the release's special ones and cut the whole to its length."""
        limit = self._window + 2
        tokens = [FIRST, *self._tokenizer.tokenize(text, verbose=False), LAST][:limit]
        ids: list[int] = self._tokenizer.convert_tokens_to_ids(tokens)
        return {"input_ids": ids, "attention_mask": [int(token != PADDING) for token in tokens]}

    def _rewritten(
        self, trace: Trace, cut: _Cut, read: Sequence[tuple[dict[str, list[int]], NDArray[np.float32]]]
    ) -> RewrittenTrace:
        """Decide about the words of every chunk, from its tokens as they were read and their probabilities."""
        options, texts = self._options, []
        scores = np.full(len(cut.ids), float(not read), dtype=np.float32)
        for part, (example, probabilities) in zip(cut.parts, read, strict=True):
            tokens = [
                None if token in self._special or not seen else token
                for token, seen in zip(
                    self._tokenizer.convert_ids_to_tokens(example["input_ids"]), example["attention_mask"], strict=True
                )
            ]
            words = self._spelling.words(tokens, probabilities, digits=options.force_reserve_digit)
            kept = kept_words(
                words, cut.ratio, self._count, options.force_tokens, drop_consecutive=options.drop_consecutive
            )
            stay = [word for word, stays in zip(words, kept, strict=True) if stays]
            texts.append(self._tokenizer.convert_tokens_to_string([word.text for word in stay]))
            marked = np.zeros(len(tokens), dtype=np.float32)
            for word in stay:
                marked[word.first : word.end] = [token is not None for token in tokens[word.first : word.end]]
            for mine, chunk, size in _matches(cut.ids[part].tolist(), example["input_ids"]):
                scores[part.start + mine : part.start + mine + size] = marked[chunk : chunk + size]
        return RewrittenTrace(
            id=trace.id,
            token_ids=cut.ids,
            offsets=cut.offsets,
            scores=scores,
            tokenizer=self._fingerprint,
            scorer=self.name,
            text="".join(texts) if cut.ratio < 1 else trace.thinking,
            ratio=cut.ratio,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    ratio: float
    parts: list[slice]
    texts: list[str]


def _matches(ids: list[int], read: list[int]) -> list[tuple[int, int, int]]:
    """Places of equal tokens in a chunk of a text and in what was read of it: two starts and a length each."""
    if read[1 : len(ids) + 1] == ids:
        return [(0, 1, len(ids))]
    return [(m.a, m.b, m.size) for m in SequenceMatcher(None, ids, read, autojunk=False).get_matching_blocks()]


def _replaced(text: str, spans: list[tuple[int, int]], old: str, new: str) -> tuple[str, list[tuple[int, int]]]:
    """Replace a text and give every character of the new one the span of those that it stands for."""
    parts, mapped, at = [], [], 0
    while (found := text.find(old, at)) >= 0:
        parts += [text[at:found], new]
        whole = (spans[found][0], spans[found + len(old) - 1][1])
        mapped += [*spans[at:found], *[whole] * len(new)]
        at = found + len(old)
    return "".join(parts) + text[at:], mapped + spans[at:]


def _stand_ins(classifier: Classifier, force_tokens: Sequence[str]) -> dict[str, str]:
    """Add a token for every forced text that is no single one, with vectors drawn as in the release.

    Returns the added token by the text that it stands for.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    if len(force_tokens) > NUM_STAND_INS:
        raise ConfigError(
            f"compression.keep_strings: got {len(force_tokens)} texts, LLMLingua-2 allows {NUM_STAND_INS} at most"
        )
    tokenizer, names = classifier.tokenizer, [f"[NEW{i}]" for i in range(NUM_STAND_INS)]
    needed = {t: names[i] for i, t in enumerate(force_tokens) if len(tokenizer.tokenize(t)) != 1}
    if needed:
        tokenizer.add_tokens(names, special_tokens=True)
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()  # a hint about the vectors, which are drawn on purpose
        try:
            with torch.random.fork_rng():
                torch.manual_seed(STAND_IN_SEED)
                classifier.model.resize_token_embeddings(len(tokenizer))
        finally:
            transformers_logging.set_verbosity(verbosity)
    return needed
