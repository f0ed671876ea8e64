"""LLMLingua 0.2.2 as the release of CTS calls it, beside the formula it stands for (`compression=llmlingua_compat`).

Computes  which tokens stay, for one ratio; no score per token comes out of it
Source    PyPI llmlingua 0.2.2, `compress_prompt([thinking], question=condition, rate=ratio, condition_compare=True,
          rank_method="longllmlingua", iterative_size=1800, concate_question=False)`, called so by the release of
          arXiv 2505.17827; with scorer=self_information instead: rank_method="llmlingua", condition_compare=False and
          no question, the LLMLingua rows of that paper. Behaviour is repeated here, no code: the kept tokens
          are the release's own (tests/unit/scoring/test_llmlingua_compat.py).

The formula of CTS (cts.py with `compression=single`) scores every token once, on the whole text, keeps it by its own
score, and meets the ratio to the token. The release does none of this:

1. A token stays or goes by the score of the token AFTER it; the last token always stays.
2. It works in windows of `iterative_size` tokens. After each window the kept tokens take the place of the text, so
   what comes later is scored after a text with holes, and a threshold is taken over the scores of all that is left:
   new ones of this window, those of kept tokens, and for the text further on those of the very first reading.
3. The last window is never cut unless it is full; at iterative_size=1800 and ratio .5 that leaves .79 of 3,106 tokens
   and .66 of 4,318. A text of n tokens that is shorter than a window stays as it is only if its condition is short:
   one of iterative_size - n tokens or more has the first 2n + 2 - iterative_size tokens of the text cut.
4. The threshold is not set at the ratio but at ratio * (condition + thinking) / (thinking + 3), in tokens: the longer
   the condition, the less is cut. At 1 or above (a written solution half as long as the thinking, at ratio .7) the
   text stays as it is.
5. The condition stands before the thinking as plain text with a blank line, without chat template or bos, although
   the reference model was trained with a chat template. `scorer.template` is therefore not looked at.
6. Digits and other tokens that were to be protected are not: the options are ignored on this path. Here they are
   refused in the configuration.

Where this differs from the release, on purpose:

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
  tokens that come are computed, not the logits of the whole text.

A text that is read piece by piece, while what was read last may change: its beginning stays in the cache.

Shape suffixes: L positions, D hidden size, V vocabulary.

The window loop of LLMLingua 0.2.2: which tokens it keeps of one text. See llmlingua_compat.py for what is odd in it.

A text is cut window by window. Every token carries the value of the token AFTER it. Per window, the values of what is
still there are ranked, a threshold is taken at the asked share, and the window's tokens at or under it go. Then the
window that was cut and the next one are read again, after the prefix that is left, and only they get new values.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.devices.config import TrainerConfig
from cotpress.devices.device import pick_device
from cotpress.errors import ModelError
from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.head import target_logprobs
from cotpress.modeling.loading import cache_argument, load_model, load_tokenizer, model_identity, split_head
from cotpress.records import Trace
from cotpress.scoring.base import Scorer, TokenScorer
from cotpress.scoring.config import Condition, CtsConfig, ScorerConfig, SelfInformationConfig, llmlingua_settings
from cotpress.scoring.job import ScoringJob
from cotpress.scoring.plan import reference_model
from cotpress.scoring.reader import NO_QUESTION, NO_RESPONSE, TOO_LONG, condition_text
from cotpress.store.artifacts import Artifact, ArtifactStore

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase


class Rereader:
    """Reads token ids after those in its key-value cache; positions are those in the text as it then is.

    Args:
        model: A causal language model in eval mode.

    Raises:
        ModelError: The architecture cannot be split into body and head.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._split = split_head(model)
        self._device = next(model.parameters()).device
        self._cache = self._empty()

    @property
    def num_read(self) -> int:
        """Tokens in the cache."""
        return int(self._cache.get_seq_length())

    @torch.inference_mode()
    def surprisals(self, ids: Sequence[int] | NDArray[np.int32], num_unscored: int = 0) -> NDArray[np.float32]:
        """-log p(ids_i+1 | cache, ids_<=i) in nats, float32 `[len(ids) - num_unscored - 1]`; the ids are then cached.

        The logits of the whole text never exist, only those of a bounded number of positions.

        Args:
            ids: At least one token.
            num_unscored: Tokens at the beginning of `ids` that are read only: the first number is that of the token
                two places after them, seen from the one next to them.
        """
        ids_1L = torch.as_tensor(np.asarray(ids, dtype=np.int64), device=self._device)[None]
        output = self._split.decoder(input_ids=ids_1L, **cache_argument(self._cache), use_cache=True)
        hidden_LD = output.last_hidden_state[0, num_unscored:-1]
        targets_L = ids_1L[0, num_unscored + 1 :]
        values: NDArray[np.float32] = -target_logprobs(self._split.head, hidden_LD, targets_L).cpu().numpy()
        return values

    def forget_after(self, num_tokens: int) -> None:
        """Keep the first `num_tokens` of the cache; what is read next follows them."""
        assert num_tokens <= self.num_read
        if num_tokens == 0:
            self._cache = self._empty()
        else:
            self._cache.crop(num_tokens - self.num_read)

    @staticmethod
    def _empty() -> "DynamicCache":
        from transformers import DynamicCache

        # Without the model's config: every layer keeps everything, so that the end can be cut off anywhere.
        return DynamicCache()


class Measure(Protocol):
    """Gives each token of a text the value of the token after it; higher = keep."""

    def __call__(self, ids: NDArray[np.int32], since: int) -> NDArray[np.float32]:
        """Values of `ids[since:-1]`, float32 `[len(ids) - since - 1]`; `ids[:since]` are those of the call before."""


def window_share(num_condition: int, num_text: int, num_special: int, ratio: float) -> float:
    """Share of the values that the threshold is set at, in [0, 1]: the asked ratio, as the release distorts it.

    The condition is budgeted to the text although it is not part of the result, so the share grows with its length.
    The order of operations is the release's: the share is later cut to a whole position, where a last bit counts.

    Args:
        num_condition: Tokens of the condition alone.
        num_text: Tokens of the text.
        num_special: Special tokens that the tokenizer puts around any text.
        ratio: Asked kept fraction.
    """
    instruction = num_special  # an empty text
    budget = (instruction + (num_condition + num_special) + (num_text + num_special)) * ratio - instruction
    return max(min(1.0, budget / (num_text + 3)), 0.0)


def kept_tokens(
    ids: NDArray[np.int32], measure: Measure, *, num_condition: int, share: float, iterative_size: int
) -> NDArray[np.bool_]:
    """Which tokens of a text stay, bool `[n]`.

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
        # What was cut and what follows is read again; the border before it is not, and keeps the value of a token
        # that may be gone by now.
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
    """Which tokens of the text the first window may cut, bool `[num_text]`.

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
    config: ScorerConfig,
    *,
    ratio: float,
    iterative_size: int,
    traces: Artifact,
    reference: Artifact | None,
    base: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
) -> ScoringJob:
    """What `ScoringJob.artifact` makes the decisions of: what stays of the training traces, as scores of 1 and 0.

    Args:
        config: Settings of the score: `CtsConfig`, or `SelfInformationConfig` without condition.
        ratio: Asked kept fraction, in (0, 1]. Every ratio is read anew.
        iterative_size: Tokens per window, at least 2.
        traces: Output of the data stage.
        reference: Output of the reference stage; None reads with the base model itself.
        base: The model that the reference model was made from.
        trainer: Hardware; does not change the result.
        store: Where artifacts are kept.

    Raises:
        ConfigError: LLMLingua knows no such score.
        ModelError: A model cannot be found.
    """
    settings = llmlingua_settings(config)
    identity = {
        "scorer": {"name": settings.name, "condition": settings.condition},
        "ratio": ratio,
        "iterative_size": iterative_size,
        "traces": traces.key,
        "model": model_identity(base, store, pick_device(trainer)),
        "reference": None if reference is None else reference.key,
        "context_tokens": base.context_tokens,
    }
    return ScoringJob(
        stage="decide",
        scorer=settings.name,
        identity=identity,
        make=partial(_make, settings, ratio, iterative_size, reference, base, trainer, store),
        traces=traces,
        trainer=trainer,
        store=store,
    )


def _make(
    settings: CtsConfig | SelfInformationConfig,
    ratio: float,
    iterative_size: int,
    reference: Artifact | None,
    base: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
) -> Scorer:
    device = pick_device(trainer)
    if reference is None:
        read = load_model(base, store, split=True, device=device)
    else:
        read = reference_model(base, reference, store, device)
    return LlmlinguaCompat(settings, read, load_tokenizer(base, store), base.context_tokens, ratio, iterative_size)


class LlmlinguaCompat(TokenScorer):
    """Decides at one ratio. In form a scorer, but its values are 1 and 0 and depend on the ratio.

    Args:
        config: Settings of the score.
        model: What reads, in eval mode.
        tokenizer: Of the model.
        context_tokens: Longest sequence to read.
        ratio: Asked kept fraction, in (0, 1].
        iterative_size: Tokens per window, at least 2.
    """

    def __init__(
        self,
        config: CtsConfig | SelfInformationConfig,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        context_tokens: int,
        ratio: float,
        iterative_size: int,
    ) -> None:
        super().__init__(config.name, tokenizer)
        self._condition, self._model = config.condition, model
        self._context_tokens, self._ratio, self._iterative_size = context_tokens, ratio, iterative_size
        self._num_special = len(tokenizer("")["input_ids"])

    def refusal(self, trace: Trace) -> str | None:
        """Refuses traces without their condition, and what the release would cut before it reads it."""
        asks_for_response = self._condition in (Condition.answer, Condition.question_answer)
        asks_for_question = self._condition in (Condition.question, Condition.question_answer)
        if asks_for_question and not trace.question.strip():
            return NO_QUESTION
        if asks_for_response and not trace.response.strip():
            return NO_RESPONSE
        thinking = self._ids(trace.thinking)
        num_condition = len(self._condition_ids(trace, thinking))
        if num_condition + len(thinking) > self._context_tokens:
            return TOO_LONG
        positions = getattr(self._model.config, "max_position_embeddings", None)
        room = None if positions is None else positions - 2 * self._iterative_size - self._num_special
        return CONDITION_TOO_LONG if num_condition and room is not None and num_condition > room else None

    def values(self, traces: Sequence[Trace]) -> Iterator[NDArray[np.float32]]:
        """Yields 1 for tokens that stay and 0 for the others, float32 `[n]` per trace."""
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
        """What stands before the thinking, tokenized together with it; empty without a condition."""
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

    def __init__(self, model: "PreTrainedModel", condition: NDArray[np.int32], trace_id: str) -> None:
        self._condition, self._trace_id = condition, trace_id
        self._alone, self._told = Rereader(model), Rereader(model)

    def __call__(self, ids: NDArray[np.int32], since: int) -> NDArray[np.float32]:
        """See `llmlingua_windows.Measure`."""
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
            self._told.forget_after(num_condition + since)
            return self._told.surprisals(ids[since:])
        # From the start at once: without a cache the attention needs no mask, which is faster.
        self._told.forget_after(0)
        return self._told.surprisals(np.concatenate([self._condition, ids]), num_unscored=num_condition)
