"""LLMLingua 0.2.2 as the release of CTS calls it (`compression=llmlingua_compat`).

Computes  the tokens that stay at one ratio; there is no score per token
Source    PyPI llmlingua 0.2.2, `compress_prompt([thinking], question=condition, rate=ratio, condition_compare=True,
          rank_method="longllmlingua", iterative_size=1800, concate_question=False)`, called so by the release of
          arXiv 2505.17827; with scorer=self_information instead: rank_method="llmlingua", condition_compare=False and
          no question. Behaviour is repeated, no code; the kept tokens are the release's own (see its test).

Unlike CTS (cts.py with `compression=single`), which scores every token once and meets the ratio to the token:

1. A token stays or goes by the value of the token AFTER it; the last token always stays.
2. Per window of `iterative_size` tokens a threshold is taken over the values of all that is left: new ones, those of
   kept tokens, and further on those of the first reading. Then the window that was cut and the next one are read again,
   after the remaining prefix, and only they get new values.
3. The last window is never cut unless it is full. A text of n tokens that is shorter than a window is cut only if its
   condition has iterative_size - n tokens or more, and then in its first 2n + 2 - iterative_size tokens.
4. The threshold is set at ratio * (condition + thinking) / (thinking + 3), in tokens; at 1 or above the text stays.
5. The condition stands before the thinking as plain text, without chat template or bos, whatever `scorer.template` is.

Differences from the release, on purpose: the text is that of the kept tokens' characters, not of their decoded ids, and
the compress stage lets the tokens of one character stay or go together, by the larger share; a text or condition over
the context is refused and counted instead of cut; a condition that shares a token with the thinking is tokenized by
itself, and a thinking of one token stays, where the release stops with an error; ratio 1 keeps everything. Only the
probabilities of the text's own tokens are computed, one text at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from cotpress.errors import ConfigError, ModelError
from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.records import Trace, Unit
from cotpress.scoring.base import TokenScorer
from cotpress.scoring.config import Condition, ReadBy, ScorerConfig
from cotpress.scoring.reader import TOO_LONG, check_cache, condition_text, missing_text
from cotpress.scoring.scorers.cts import CtsConfig
from cotpress.scoring.scorers.self_information import SelfInformationConfig

if TYPE_CHECKING:
    import torch

    from cotpress.scoring.job import ChunkJob
    from cotpress.scoring.models import Models
    from cotpress.store.artifacts import Artifact

CONDITION_TOO_LONG = "condition leaves no room for two windows of compression.iterative_size"
Settings = CtsConfig | SelfInformationConfig
Measure = Callable[[NDArray[np.int32], int], NDArray[np.float32]]
"""Gives each token of a text the value of the token after it: from `ids` and `since` the values of `ids[since:-1]`;
`ids[:since]` are those of the previous call."""


def llmlingua_settings(config: ScorerConfig) -> Settings:
    """Check that LLMLingua 0.2.2 knows a score of these settings (compression=llmlingua_compat), and return them.

    Raises:
        ConfigError: It does not.
    """
    if not isinstance(config, CtsConfig | SelfInformationConfig):
        problem = f"scorer: got '{config.name}', but the release knows two scores: scorer=cts, or "
        problem += "scorer=self_information scorer.condition=none (plain LLMLingua)"
    elif isinstance(config, CtsConfig) and config.baseline is not Condition.none:
        problem = f"scorer.baseline: got '{config.baseline.value}', but the release compares with no condition. "
        problem += "Fix: scorer.baseline=none"
    elif isinstance(config, SelfInformationConfig) and config.condition is not Condition.none:
        problem = f"scorer.condition: got '{config.condition.value}', but plain LLMLingua knows no condition. "
        problem += "Fix: scorer.condition=none"
    elif config.pooling is not Unit.token:
        problem = f"scorer.pooling: got '{config.pooling.value}', but the release scores tokens. "
        problem += "Fix: scorer.pooling=token"
    else:
        return config
    raise ConfigError(f"compression=llmlingua_compat repeats LLMLingua 0.2.2. {problem}")


class Rereader:
    """Reads a text after a fixed prefix, again and again while its end changes; its beginning stays in a cache.

    Positions are those in the text at the time of reading.
    """

    def __init__(self, model: torch.nn.Module, prefix: Sequence[int] | NDArray[np.int32] = ()) -> None:
        """Raises ModelError if the architecture of `model`, in eval mode, cannot be split into body and head."""
        from transformers import DynamicCache

        from cotpress.modeling.loading import split_head

        self._split, self._device = split_head(model), next(model.parameters()).device
        self._prefix = np.asarray(prefix, dtype=np.int64)
        # Without the model's config: every layer keeps everything, so that the end can be cut off anywhere.
        self._cache = DynamicCache()

    def surprisals(self, ids: NDArray[np.int32], since: int = 0) -> NDArray[np.float32]:
        """-log p(ids_i+1 | prefix, ids_<=i) in nats for i >= since, float32 `[len(ids) - since - 1]`.

        `ids[:since]` are those of the previous call. With since=0 the prefix is read together with the text: without a
        cache the attention needs no mask, which is faster.
        """
        import torch

        from cotpress.modeling.head import target_logprobs
        from cotpress.modeling.loading import cache_argument

        if since:
            self._cache.crop(len(self._prefix) + since - self._cache.get_seq_length())
            read, num_unscored = ids[since:].astype(np.int64), 0
        else:
            self._cache = type(self._cache)()
            read, num_unscored = np.concatenate([self._prefix, ids]), len(self._prefix)
        with torch.inference_mode():
            ids_1L = torch.as_tensor(read, device=self._device)[None]
            output = self._split.decoder(input_ids=ids_1L, **cache_argument(self._cache), use_cache=True)
            hidden_LD = output.last_hidden_state[0, num_unscored:-1]
            targets_L = ids_1L[0, num_unscored + 1 :]
            values: NDArray[np.float32] = -target_logprobs(self._split.head, hidden_LD, targets_L).cpu().numpy()
        return values


def window_share(num_condition: int, num_text: int, num_special: int, ratio: float) -> float:
    """Share of the values that the threshold is set at, in [0, 1]: the ratio, as the release distorts it.

    The condition is budgeted to the text although it is not part of the result, so the share grows with its length.
    The arguments are tokens of the condition alone, of the text, of special ones around any text, and the ratio.
    """
    # The instruction is an empty text. The order of operations is the release's: the share is later cut to a whole
    # position, where a last bit counts.
    budget = (num_special + (num_condition + num_special) + (num_text + num_special)) * ratio - num_special
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
        iterative_size: Tokens per window.
    """
    cuttable = _first_window(num_condition, len(ids), iterative_size)
    if share >= 1 or not cuttable.any():
        return np.ones(len(ids), dtype=bool)
    places = np.arange(len(ids))
    values = measure(ids, 0)
    low, high = 0, iterative_size - 1
    while True:
        cut = cuttable.copy()
        # The pool holds kept, current and, further on, outdated values alike.
        position = max(0, min(len(values) - 1, int(len(values) * share) - 1))
        cut[:-1] &= values <= np.sort(values)[::-1][position]
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


def decision_job(
    config: ScorerConfig, *, ratio: float, iterative_size: int, traces: Artifact, models: Models
) -> ChunkJob:
    """Build the job that decides which tokens of all training traces stay, as scores of 1 and 0.

    Every ratio, in (0, 1], is read anew, in windows of `iterative_size` tokens, at least 2.

    Raises:
        ConfigError: LLMLingua knows no such score.
        ModelError: A model cannot be found.
    """
    from cotpress.devices.launch import Alike
    from cotpress.scoring.job import ChunkJob
    from cotpress.scoring.models import Models as AllModels
    from cotpress.store.source import identified

    settings, models = _reading(config, models)
    identity = {
        "scorer": {"name": settings.name, "condition": settings.condition},
        "ratio": ratio,
        "iterative_size": iterative_size,
        "traces": traces.key,
        "model": models.identity,
        "reference": None if models.reference is None else models.reference.key,
        "context_tokens": models.config.context_tokens,
    }
    make = partial(LlmlinguaCompat, settings, models, ratio, iterative_size)
    own = identified(identity, ChunkJob, LlmlinguaCompat, AllModels)
    alike = Alike(partial(models.reading_identity, settings.template, reference=True), models.config.path)
    return ChunkJob("decide", settings.name, own, make, traces, models.trainer, models.store, alike=alike)


def _reading(config: ScorerConfig, models: Models) -> tuple[Settings, Models]:
    """Return the settings of the score and the models in its number format; raises `ConfigError`."""
    from cotpress.scoring.table import model_to_read

    settings = llmlingua_settings(config)
    return settings, models.reading_with(model_to_read(settings, models.config))


class LlmlinguaCompat(TokenScorer[Settings]):
    """Decides at one ratio. It has the form of a scorer, but its values are 1 and 0 and depend on the ratio."""

    def __init__(self, config: Settings, models: Models, ratio: float, iterative_size: int) -> None:
        super().__init__(config, models.tokenizer)
        self._model, self._context_tokens = models.model(ReadBy.reference), models.config.context_tokens
        check_cache(f"{config.name} with compression=llmlingua_compat", self._model)
        self._ratio, self._iterative_size = ratio, iterative_size
        self._num_special = len(self._tokenizer("")["input_ids"])

    @classmethod
    def deciding(cls, config: ScorerConfig, models: Models, *, ratio: float, iterative_size: int) -> Self:
        """Load what decides in the calling process; arguments and errors as `decision_job`."""
        return cls(*_reading(config, models), ratio, iterative_size)

    def refusal(self, trace: Trace) -> str | None:
        """Refuse traces without their condition, and texts that the release would cut before it reads them."""
        from cotpress.modeling.loading import check_ids

        if (reason := super().refusal(trace) or missing_text([self.config.condition], trace)) is not None:
            return reason
        thinking = self._ids(trace.thinking)
        condition = self._condition_ids(trace, thinking)
        check_ids(self._model, [*condition, *thinking], f"{self.name}: trace '{trace.id}'")
        num_condition = len(condition)
        if num_condition + len(thinking) > self._context_tokens:
            return TOO_LONG
        positions = getattr(self._model.config, "max_position_embeddings", None)
        room = None if positions is None else positions - 2 * self._iterative_size - self._num_special
        return CONDITION_TOO_LONG if num_condition and room is not None and num_condition > room else None

    def token_values(self, trace: Trace) -> NDArray[np.float32]:
        """Compute 1 for tokens that stay and 0 for the others, float32 `[n]`."""
        thinking = self._ids(trace.thinking)
        condition = self._condition_ids(trace, thinking)
        alone, conditioned = Rereader(self._model), Rereader(self._model, condition)

        def measure(ids: NDArray[np.int32], since: int) -> NDArray[np.float32]:
            """Surprise, or with a condition how much less of it there is after the condition."""
            values = alone.surprisals(ids, since)
            if len(condition):
                values = values - conditioned.surprisals(ids, since)
            if not np.isfinite(values).all():
                raise ModelError(
                    f"llmlingua_compat: scores of trace '{trace.id}' are not finite. "
                    "Fix: model.dtype=float32, or retrain the reference model with a lower learning rate"
                )
            return values

        num_budgeted = len(self._ids(condition_text(self.config.condition, trace)))
        share = window_share(num_budgeted, len(thinking), self._num_special, self._ratio)
        size = self._iterative_size
        kept = kept_tokens(thinking, measure, num_condition=len(condition), share=share, iterative_size=size)
        return kept.astype(np.float32)

    def _condition_ids(self, trace: Trace, thinking: NDArray[np.int32]) -> NDArray[np.int32]:
        """Token ids before the thinking, tokenized together with it; empty without a condition."""
        text = condition_text(self.config.condition, trace)
        if not text:
            return np.empty(0, dtype=np.int32)
        before = text + "\n\n"
        joint, offsets = tokenize_with_offsets(self._tokenizer, before + trace.thinking)
        border = len(joint) - len(thinking)
        apart = border > 0 and np.array_equal(joint[border:], thinking) and offsets[border, 0] == len(before)
        return joint[:border] if apart else self._ids(before)

    def _ids(self, text: str) -> NDArray[np.int32]:
        return tokenize_with_offsets(self._tokenizer, text)[0]
