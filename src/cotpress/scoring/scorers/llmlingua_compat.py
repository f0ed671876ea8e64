"""LLMLingua 0.2.2 as the release of CTS calls it (`compression=llmlingua_compat`).

Computes  the tokens that stay at one ratio; there is no score per token
Source    PyPI llmlingua 0.2.2, `compress_prompt([thinking], question=condition, rate=ratio, condition_compare=True,
          rank_method="longllmlingua", iterative_size=1800, concate_question=False)`, called so by the release of
          arXiv 2505.17827; with scorer=self_information instead: rank_method="llmlingua", condition_compare=False and
          no question, the LLMLingua rows of that paper. Behaviour is repeated here, no code: the kept tokens
          are the release's own (tests/unit/scoring/scorers/test_llmlingua_compat.py).

The formula of CTS (cts.py with `compression=single`) scores every token once, on the whole text, keeps it by its own
score, and meets the ratio to the token. The release does none of this:

1. A token stays or goes by the score of the token AFTER it; the last token always stays.
2. It works in windows of `iterative_size` tokens. After each window the kept tokens replace the text, so later tokens
   are scored after a text with holes, and a threshold is taken over the scores of everything that is left: new ones of
   this window, those of kept tokens, and for the text further on those of the very first reading.
3. The last window is never cut unless it is full; at iterative_size=1800 and ratio 0.5 that leaves 0.79 of 3,106 tokens
   and 0.66 of 4,318. A text of n tokens that is shorter than a window stays as it is only if its condition is short:
   one of iterative_size - n tokens or more has the first 2n + 2 - iterative_size tokens of the text cut.
4. The threshold is not set at the ratio but at ratio * (condition + thinking) / (thinking + 3), in tokens: the longer
   the condition, the less is cut. At 1 or above (a written solution half as long as the thinking, at ratio 0.7) the
   text stays as it is.
5. The condition stands before the thinking as plain text with a blank line, without chat template or bos, although
   the reference model was trained with a chat template. `scorer.template` therefore has no effect.
6. Digits and other tokens that were to be protected are not: the options are ignored on this path. Here they are
   refused in the configuration.

Differences from the release, on purpose:

- Kept are tokens of the thinking, as everywhere here: the text is that of their characters. The release decodes the
  kept ids, which is another text where a character of several tokens lost some of them (it writes a replacement
  character there; here the character stays whole), and is then tokenized anew.
- A text that does not fit `model.context_tokens` with its condition is refused and counted; the release cuts at 5,000
  tokens (its script), or drops the middle of the key-value cache. So is one whose condition leaves no room for two
  windows, which the release would cut.
- The release stops with an error where condition and thinking share a token when joined (a thinking that starts with
  a line break), and for a thinking of one token. Here the condition is tokenized by itself, and the token stays.
- Ratio 1 keeps everything; the release without condition then sets its threshold at n / (n + 3).
- Nothing is random or batched in either: one text at a time, with a key-value cache. Only the probabilities of the
  text's own tokens are computed, not the logits of the whole text.

The window loop: every token carries the value of the token AFTER it. Per window, the values of the remaining tokens are
ranked, a threshold is taken at the share, and the window's tokens at or under it go. Then the window that was cut and
the next one are read again, after the remaining prefix, and only they get new values.

Shape suffixes: L positions, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from cotpress.errors import ConfigError, ModelError
from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.records import Trace, Unit
from cotpress.scoring.base import TokenScorer
from cotpress.scoring.config import Condition, ReadBy, ScorerConfig
from cotpress.scoring.reader import TOO_LONG, condition_text, missing_text
from cotpress.scoring.scorers.cts import CtsConfig
from cotpress.scoring.scorers.self_information import SelfInformationConfig

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

    from cotpress.scoring.job import ChunkJob
    from cotpress.scoring.models import Models
    from cotpress.store.artifacts import Artifact

Settings = CtsConfig | SelfInformationConfig


def llmlingua_settings(config: ScorerConfig) -> Settings:
    """Check that LLMLingua 0.2.2 knows a score of these settings (compression=llmlingua_compat), and return them.

    Raises:
        ConfigError: It does not.
    """
    problem = None
    if isinstance(config, CtsConfig):
        if config.condition is Condition.none:
            problem = "scorer.condition: got 'none', which compares the text with itself. Fix: scorer.condition=answer"
        elif config.baseline is not Condition.none:
            problem = f"scorer.baseline: got '{config.baseline.value}', but the release compares with no condition. "
            problem += "Fix: scorer.baseline=none"
    elif isinstance(config, SelfInformationConfig):
        if config.condition is not Condition.none:
            problem = f"scorer.condition: got '{config.condition.value}', but plain LLMLingua knows no condition. "
            problem += "Fix: scorer.condition=none"
    else:
        problem = f"scorer: got '{config.name}', but the release knows two scores: scorer=cts, or "
        problem += "scorer=self_information scorer.condition=none (plain LLMLingua)"
    if problem is None:
        assert isinstance(config, CtsConfig | SelfInformationConfig)
        if config.pooling is Unit.token:
            return config
        problem = (
            f"scorer.pooling: got '{config.pooling.value}', but the release scores tokens. Fix: scorer.pooling=token"
        )
    raise ConfigError(f"compression=llmlingua_compat repeats LLMLingua 0.2.2. {problem}")


class Rereader:
    """Reads token ids after those in its key-value cache; a text is read piece by piece while its last part may change.

    Positions are those in the text at the time of reading.

    Args:
        model: A causal language model in eval mode.

    Raises:
        ModelError: The architecture cannot be split into body and head.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        from cotpress.modeling.loading import split_head

        self._split = split_head(model)
        self._device = next(model.parameters()).device
        self._cache = self._empty()

    @property
    def num_read(self) -> int:
        """Tokens in the cache."""
        return int(self._cache.get_seq_length())

    def surprisals(self, ids: Sequence[int] | NDArray[np.int32], num_unscored: int = 0) -> NDArray[np.float32]:
        """-log p(ids_i+1 | cache, ids_<=i) in nats, float32 `[len(ids) - num_unscored - 1]`; the ids are then cached.

        Args:
            ids: At least one token.
            num_unscored: Tokens at the beginning of `ids` that are only read; the first surprisal is that of token
                `num_unscored + 1`.
        """
        import torch

        from cotpress.modeling.head import target_logprobs
        from cotpress.modeling.loading import cache_argument

        with torch.inference_mode():
            ids_1L = torch.as_tensor(np.asarray(ids, dtype=np.int64), device=self._device)[None]
            output = self._split.decoder(input_ids=ids_1L, **cache_argument(self._cache), use_cache=True)
            hidden_LD = output.last_hidden_state[0, num_unscored:-1]
            targets_L = ids_1L[0, num_unscored + 1 :]
            values: NDArray[np.float32] = -target_logprobs(self._split.head, hidden_LD, targets_L).cpu().numpy()
        return values

    def forget_after(self, num_tokens: int) -> None:
        """Keep the first `num_tokens` of the cache; the next tokens to read follow them."""
        assert num_tokens <= self.num_read
        if num_tokens == 0:
            self._cache = self._empty()
        else:
            self._cache.crop(num_tokens - self.num_read)

    @staticmethod
    def _empty() -> DynamicCache:
        from transformers import DynamicCache

        # Without the model's config: every layer keeps everything, so that the end can be cut off anywhere.
        return DynamicCache()


class Measure(Protocol):
    """Gives each token of a text the value of the token after it; higher = keep."""

    def __call__(self, ids: NDArray[np.int32], since: int) -> NDArray[np.float32]:
        """Values of `ids[since:-1]`, float32 `[len(ids) - since - 1]`; `ids[:since]` are those of the previous call."""


def window_share(num_condition: int, num_text: int, num_special: int, ratio: float) -> float:
    """Share of the values that the threshold is set at, in [0, 1]: the ratio, as the release distorts it.

    The condition is budgeted to the text although it is not part of the result, so the share grows with its length.
    The order of operations is the release's: the share is later cut to a whole position, where a last bit counts.

    Args:
        num_condition: Tokens of the condition alone.
        num_text: Tokens of the text.
        num_special: Special tokens that the tokenizer puts around any text.
        ratio: Kept fraction.
    """
    instruction = num_special  # an empty text
    budget = (instruction + (num_condition + num_special) + (num_text + num_special)) * ratio - instruction
    return max(min(1.0, budget / (num_text + 3)), 0.0)


def kept_tokens(
    ids: NDArray[np.int32], measure: Measure, *, num_condition: int, share: float, iterative_size: int
) -> NDArray[np.bool_]:
    """Decide which tokens of a text stay, bool `[n]`.

    Args:
        ids: int32 `[n]`, the text.
        measure: Reads the text.
        num_condition: Tokens of the condition and the blank line after it, which stand before the text.
        share: See `window_share`.
        iterative_size: Tokens per window, at least 2.
    """
    cuttable = _first_window(num_condition, len(ids), iterative_size)
    if share >= 1 or not cuttable.any():
        return np.ones(len(ids), dtype=bool)
    places = np.arange(len(ids))
    values = measure(ids, 0)
    low, high = 0, iterative_size - 1
    while True:
        cut = cuttable.copy()
        cut[:-1] &= values <= _threshold(values, share)
        places, values = places[~cut], values[~cut[:-1]]
        # The cut window and its successor are read again; the border before them is not, and keeps the value of a
        # token that may be gone.
        again, low = low, high - int(cut.sum())
        high = low + iterative_size
        if len(ids) < iterative_size or high > len(places):
            break
        values[again : high - 1] = measure(ids[places[:high]], again)
        cuttable = np.zeros(len(places), dtype=bool)
        cuttable[low:high] = True
        cuttable[-1] = False
    mask = np.zeros(len(ids), dtype=bool)
    mask[places] = True
    return mask


def _threshold(values: NDArray[np.float32], share: float) -> np.float32:
    """The value that a token must exceed; the pool holds kept, current and, further on, outdated values alike."""
    position = max(0, min(len(values) - 1, int(len(values) * share) - 1))
    threshold: np.float32 = np.sort(values)[::-1][position]
    return threshold


def _first_window(num_condition: int, num_text: int, iterative_size: int) -> NDArray[np.bool_]:
    """Tokens of the text that the first window may cut, bool `[num_text]`.

    The release plans windows for three tokens more than there are and counts them from where a full window would end.
    In a text shorter than a window the borders can thus come out negative, which Python counts from the end.
    """
    end = num_condition + min(iterative_size, num_text)
    planned = min(iterative_size - 1, num_text + 2)
    upper, lower = end - iterative_size + planned, end - iterative_size
    cuttable = np.ones(num_condition + num_text, dtype=bool)
    cuttable[upper:] = False
    cuttable[:lower] = False
    cuttable[-1] = False
    return cuttable[num_condition:]


CONDITION_TOO_LONG = "condition leaves no room for two windows of compression.iterative_size"


def decision_job(
    config: ScorerConfig, *, ratio: float, iterative_size: int, traces: Artifact, models: Models
) -> ChunkJob:
    """Build the job that decides which tokens of all training traces stay, as scores of 1 and 0.

    Args:
        config: Settings of the score: `CtsConfig`, or `SelfInformationConfig` without condition.
        ratio: Kept fraction, in (0, 1]. Every ratio is read anew.
        iterative_size: Tokens per window, at least 2.
        traces: Output of the data stage.
        models: The model that reads.

    Raises:
        ConfigError: LLMLingua knows no such score.
        ModelError: A model cannot be found.
    """
    from cotpress.scoring.job import ChunkJob

    settings = llmlingua_settings(config)
    identity = {
        "scorer": {"name": settings.name, "condition": settings.condition},
        "ratio": ratio,
        "iterative_size": iterative_size,
        "traces": traces.key,
        "model": models.identity,
        "reference": None if models.reference is None else models.reference.key,
        "context_tokens": models.config.context_tokens,
    }
    return ChunkJob(
        stage="decide",
        label=settings.name,
        identity=identity,
        make=partial(_make, settings, ratio, iterative_size, models),
        traces=traces,
        trainer=models.trainer,
        store=models.store,
    )


def _make(settings: Settings, ratio: float, iterative_size: int, models: Models) -> LlmlinguaCompat:
    model, context_tokens = models.model(ReadBy.reference), models.config.context_tokens
    return LlmlinguaCompat(settings, model, models.tokenizer, context_tokens, ratio, iterative_size)


class LlmlinguaCompat(TokenScorer[ScorerConfig]):
    """Decides at one ratio. It has the form of a scorer, but its values are 1 and 0 and depend on the ratio.

    Args:
        config: Settings of the score.
        model: Reads the texts, in eval mode.
        tokenizer: Of the model.
        context_tokens: Longest sequence to read.
        ratio: Kept fraction, in (0, 1].
        iterative_size: Tokens per window, at least 2.
    """

    def __init__(
        self,
        config: Settings,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        context_tokens: int,
        ratio: float,
        iterative_size: int,
    ) -> None:
        super().__init__(config.name, tokenizer)
        self._condition, self._model = config.condition, model
        self._context_tokens, self._ratio, self._iterative_size = context_tokens, ratio, iterative_size
        self._num_special = len(tokenizer("")["input_ids"])

    @classmethod
    def build(cls, config: ScorerConfig, models: Models) -> LlmlinguaCompat:
        """Fail: its jobs are built by `decision_job`, which knows the ratio."""
        raise NotImplementedError

    def refusal(self, trace: Trace) -> str | None:
        """Refuse traces without their condition, and texts that the release would cut before it reads them."""
        if (reason := super().refusal(trace) or missing_text([self._condition], trace)) is not None:
            return reason
        thinking = self._ids(trace.thinking)
        num_condition = len(self._condition_ids(trace, thinking))
        if num_condition + len(thinking) > self._context_tokens:
            return TOO_LONG
        positions = getattr(self._model.config, "max_position_embeddings", None)
        room = None if positions is None else positions - 2 * self._iterative_size - self._num_special
        return CONDITION_TOO_LONG if num_condition and room is not None and num_condition > room else None

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """Yield 1 for tokens that stay and 0 for the others, float32 `[n]` per trace."""
        for trace in traces:
            yield self._decide(trace).astype(np.float32)

    def _decide(self, trace: Trace) -> NDArray[np.bool_]:
        thinking = self._ids(trace.thinking)
        condition = self._condition_ids(trace, thinking)
        num_budgeted = len(self._ids(condition_text(self._condition, trace)))
        return kept_tokens(
            thinking,
            _Reading(self._model, condition, trace.id),
            num_condition=len(condition),
            share=window_share(num_budgeted, len(thinking), self._num_special, self._ratio),
            iterative_size=self._iterative_size,
        )

    def _condition_ids(self, trace: Trace, thinking: NDArray[np.int32]) -> NDArray[np.int32]:
        """Token ids before the thinking, tokenized together with it; empty without a condition."""
        text = condition_text(self._condition, trace)
        if not text:
            return np.empty(0, dtype=np.int32)
        before = text + "\n\n"
        joint, offsets = tokenize_with_offsets(self._tokenizer, before + trace.thinking)
        border = len(joint) - len(thinking)
        apart = border > 0 and np.array_equal(joint[border:], thinking) and offsets[border, 0] == len(before)
        return joint[:border] if apart else self._ids(before)

    def _ids(self, text: str) -> NDArray[np.int32]:
        return tokenize_with_offsets(self._tokenizer, text)[0]


class _Reading:
    """The values of one text: surprise, or with a condition how much less of it there is after the condition."""

    def __init__(self, model: PreTrainedModel, condition: NDArray[np.int32], trace_id: str) -> None:
        self._condition, self._trace_id = condition, trace_id
        self._alone, self._conditioned = Rereader(model), Rereader(model)

    def __call__(self, ids: NDArray[np.int32], since: int) -> NDArray[np.float32]:
        """See `Measure`."""
        self._alone.forget_after(since)
        values = self._alone.surprisals(ids[since:])
        if len(self._condition):
            values = values - self._after_condition(ids, since)
        if not np.isfinite(values).all():
            raise ModelError(
                f"llmlingua_compat: scores of trace '{self._trace_id}' are not finite. "
                "Fix: model.dtype=float32, or retrain the reference model with a lower learning rate"
            )
        return values

    def _after_condition(self, ids: NDArray[np.int32], since: int) -> NDArray[np.float32]:
        num_condition = len(self._condition)
        if since:
            self._conditioned.forget_after(num_condition + since)
            return self._conditioned.surprisals(ids[since:])
        # From the start at once: without a cache the attention needs no mask, which is faster.
        self._conditioned.forget_after(0)
        return self._conditioned.surprisals(np.concatenate([self._condition, ids]), num_unscored=num_condition)
