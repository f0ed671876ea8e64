"""The functions that `cotpress` exports."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from cotpress.answers import Extractor, Verdict, judge
from cotpress.api.inputs import Row, Words, is_row, place, traces_of
from cotpress.api.results import Compressed, Scores, columns
from cotpress.api.settings import OWNERS, settings
from cotpress.compression.allocation import allocate
from cotpress.compression.config import Allocation, CompressionConfig, Protection, Selection
from cotpress.compression.cutting import Cutter
from cotpress.compression.ranking import Rules, TokenizedTrace, rank_traces, student_scores
from cotpress.data.rows import kind_of, short_text
from cotpress.data.thinking import response_of
from cotpress.errors import ConfigError, DataError, did_you_mean
from cotpress.records import ScoredTrace, Trace, Unit
from cotpress.scoring.base import NO_QUESTION, NO_RESPONSE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cotpress.api.opened import Opened

__all__ = [
    "Compressed",
    "Scores",
    "Verdict",
    "columns",
    "compress",
    "evaluate_answers",
    "free_models",
    "score",
    "select",
]

Model: TypeAlias = "str | Path | tuple[PreTrainedModel, PreTrainedTokenizerBase]"
"""A name of `--help model`, a folder, a hub id, or a loaded causal language model with its tokenizer."""
Numbers: TypeAlias = NDArray[np.floating[Any]] | Sequence[float]
"""One number per token."""
Gold: TypeAlias = str | int | float | None
"""A right answer; None for a question that has no answer."""

SCORER, MODEL = "cts", "smollm2"
"""Scorer and model of a call that names none."""
_NUMBERS = "numbers"
"""Tokenizer of scores that are plain numbers."""
_FIX = {
    NO_QUESTION: "question=TEXT, or another condition",
    NO_RESPONSE: "answer=TEXT or response=TEXT, or condition='question' with question=TEXT",
}
_MOST_NAMED = 5
"""Rows that a message names."""


@overload
def score(
    data: Row,
    scorer: str = ...,
    *,
    model: Model = ...,
    reference: str | Path | None = ...,
    question: Words = ...,
    response: Words = ...,
    answer: Words = ...,
    **options: Any,
) -> Scores: ...
@overload
def score(
    data: Iterable[Row],
    scorer: str = ...,
    *,
    model: Model = ...,
    reference: str | Path | None = ...,
    question: Words = ...,
    response: Words = ...,
    answer: Words = ...,
    **options: Any,
) -> list[Scores]: ...
def score(
    data: Row | Iterable[Row],
    scorer: str = SCORER,
    *,
    model: Model = MODEL,
    reference: str | Path | None = None,
    question: Words = None,
    response: Words = None,
    answer: Words = None,
    **options: Any,
) -> Scores | list[Scores]:
    """Return the importance of every token, of one text or row, or of several in a list.

    Args:
        data: A text; a row, which is a mapping or dataclass with `thinking` and perhaps `question`, `response`,
            `answer` and `id`; or several of them, such as a list or a `datasets.Dataset`.
        scorer: A scorer by its name on the command line.
        model: A name on the command line, a folder, a hub id, or a loaded `(model, tokenizer)`. It is loaded once per
            process and kept until `free_models`.
        reference: Folder of a reference model, or a choice on the command line; None reads with the model itself.
        question: Question of a text, or one for each text.
        response: Written response of a text, or one for each; by default the answer.
        answer: Gold answer of a text, or one for each.
        **options: Settings of the scorer by name, as `condition="question"`; see docs/api.md for others.

    Raises:
        ConfigError: An option is unknown or has a value that is not allowed.
        DataError: A row has no usable text, or the scorer lacks one, such as the question of its condition.
        ModelError: The model cannot be found, loaded or used.
    """
    traces, alone = traces_of(data, question, response, answer), is_row(data)
    use = _opened(scorer, 0.5, model, reference, options, ("scorer",))  # at ratio 1 nothing would be scored
    results = []
    for trace, record in zip(traces, _scored(use, traces, alone=alone), strict=True):
        assert record is not None
        tokens = use.cutter.tokenized(trace, record, anew=False)
        assert not isinstance(tokens, str)
        results.append(
            Scores(
                text=trace.thinking, scores=tokens.scores, offsets=tokens.offsets, scorer=record.scorer, trace=trace,
                record=record, tokenizer=use.cutter.tokenizer, tokenizer_key=use.cutter.tokenizer_key,
            )
        )  # fmt: skip
    return results[0] if alone else results


@overload
def compress(
    data: Row,
    scorer: str = ...,
    ratio: float | None = ...,
    *,
    model: Model = ...,
    reference: str | Path | None = ...,
    question: Words = ...,
    response: Words = ...,
    answer: Words = ...,
    **options: Any,
) -> Compressed: ...
@overload
def compress(
    data: Iterable[Row],
    scorer: str = ...,
    ratio: float | None = ...,
    *,
    model: Model = ...,
    reference: str | Path | None = ...,
    question: Words = ...,
    response: Words = ...,
    answer: Words = ...,
    **options: Any,
) -> list[Compressed]: ...
def compress(
    data: Row | Iterable[Row],
    scorer: str = SCORER,
    ratio: float | None = None,
    *,
    model: Model = MODEL,
    reference: str | Path | None = None,
    question: Words = None,
    response: Words = None,
    answer: Words = None,
    **options: Any,
) -> Compressed | list[Compressed]:
    """Return one text or row compressed, or several in a list; the texts and masks are those of `compress.py`.

    Args:
        data: As for `score`, like the arguments that are not listed here.
        scorer: A scorer by its name on the command line.
        ratio: Kept fraction of the tokens, in [0, 1]; by default 0.5, and 1 where texts have a length of their own.
        model: As for `score`.
        reference: As for `score`.
        question: As for `score`.
        response: As for `score`.
        answer: As for `score`.
        **options: Settings of the scorer and of the compression by name, as `granularity="step"`.

    Raises:
        ConfigError: An option is unknown or has a value that is not allowed.
        DataError: A row has no usable text, or the scorer lacks one, such as the question of its condition.
        ModelError: The model cannot be found, loaded or used.
    """
    traces, alone = traces_of(data, question, response, answer), is_row(data)
    use = _opened(scorer, ratio, model, reference, options, OWNERS)
    results = _cut(use.cutter, traces, _scored(use, traces, alone=alone), alone=alone)
    return results[0] if alone else results


@overload
def select(
    scores: Scores, ratio: float, *, granularity: str | None = ..., protection: str = ..., **options: Any
) -> Compressed: ...
@overload
def select(
    scores: Numbers, ratio: float, *, granularity: str | None = ..., protection: str = ..., **options: Any
) -> NDArray[np.bool_]: ...
@overload
def select(
    scores: Iterable[Scores], ratio: float, *, granularity: str | None = ..., protection: str = ..., **options: Any
) -> list[Compressed]: ...
def select(
    scores: Scores | Numbers | Iterable[Scores],
    ratio: float,
    *,
    granularity: str | None = None,
    protection: str = "none",
    **options: Any,
) -> Compressed | NDArray[np.bool_] | list[Compressed]:
    """Return texts compressed by scores that are known, at any ratio; no model is used.

    Args:
        scores: What `score` returned, for one text or several; or plain numbers, one per token.
        ratio: Kept fraction of the tokens, in [0, 1].
        granularity: Unit that is kept or dropped as one; None for words, and for tokens where there are only numbers.
        protection: Tokens that are kept whatever their score: none, digits, math or answer.
        **options: Further settings of the compression by name.

    Returns:
        `Compressed` for scores of texts; for numbers the mask of the tokens that are kept, bool `[n]`.

    Raises:
        ConfigError: An option is unknown, has a value that is not allowed, or needs texts or a model.
        DataError: A number is not finite.
    """
    texts = _texts(scores)
    values = {"granularity": granularity or (Unit.token if texts is None else Unit.word), "protection": protection}
    config = settings(
        scorer="random", model="tiny", ratio=ratio, reference=None, options=values | options, owners=("compression",)
    )
    if config.compression.selection is not Selection.exact:
        raise ConfigError(
            f"compression.selection: got '{config.compression.selection.value}', which decides with a model. "
            "Fix: cotpress.compress"
        )
    if texts is None:
        return _mask(_numbers(scores), config.compression, config.ratio)
    if (num := len({own.tokenizer_key for own in texts})) != 1:
        raise ConfigError(f"scores: got those of {num} tokenizers. Fix: one call for each model")
    cutter = Cutter.of(
        config.compression, ratio=config.ratio, seed=config.seed, is_scored=True, tokenizer=texts[0].tokenizer,
        tokenizer_key=texts[0].tokenizer_key, extractor=config.data.extractor,
    )  # fmt: skip
    records = [own.record if cutter.is_scored else None for own in texts]
    results = _cut(cutter, [own.trace for own in texts], records, alone=isinstance(scores, Scores))
    return results[0] if isinstance(scores, Scores) else results


@overload
def evaluate_answers(  # type: ignore[overload-overlap]  # a str comes first
    gold: Gold, outputs: str, *, extractor: str = ...
) -> Verdict: ...
@overload
def evaluate_answers(gold: Gold | Iterable[Gold], outputs: Iterable[str], *, extractor: str = ...) -> list[Verdict]: ...
def evaluate_answers(
    gold: Gold | Iterable[Gold], outputs: str | Iterable[str], *, extractor: str = "math"
) -> Verdict | list[Verdict]:
    """Return the verdict on the output of a model, or on several in a list.

    A verdict is a tuple of the answer that was found (`predicted`, may be empty), of `correct`, and of `declined`: True
    if the output says that its question has no answer. Of an output with thinking tags the text after the thinking is
    judged; a thinking that was left open is no answer.

    Args:
        gold: The right answer, or one for each output; None for a question without an answer, where only declining is
            right.
        outputs: Text that a model wrote, or several. One that its budget cut off may state an answer by chance.
        extractor: Kind of the answers: math, number, integer or letter.

    Raises:
        ConfigError: The extractor is unknown, or there are not as many answers as outputs.
        DataError: An output is no text, or an answer is empty.
        CotpressError: The process that compares formulas does not start.
    """
    if extractor not in (kinds := [kind.value for kind in Extractor]):
        raise ConfigError(f"extractor: got '{extractor}'.{did_you_mean(str(extractor), kinds)}")
    alone = isinstance(outputs, str)
    written: list[Any] = [outputs] if isinstance(outputs, str) else list(outputs)
    several = isinstance(gold, Iterable) and not isinstance(gold, str)
    answers: list[Any] = list(gold) if several else [gold] * len(written)  # type: ignore[arg-type]
    if len(answers) != len(written) or (alone and several):
        raise ConfigError(f"gold: got {len(answers)} answers for {len(written)} outputs, allowed: one for all, or each")
    verdicts = [
        _verdict(answer, output, Extractor(extractor), "" if alone else f"[{number}]")
        for number, (answer, output) in enumerate(zip(answers, written, strict=True))
    ]
    return verdicts[0] if alone else verdicts


def free_models() -> None:
    """Forget all models and scorers that calls have loaded, also loaded models that were given to them."""
    if (module := sys.modules.get("cotpress.api.opened")) is not None:
        module.free_models()


def _opened(
    scorer: str,
    ratio: float | None,
    model: Model,
    reference: str | Path | None,
    options: Mapping[str, Any],
    owners: tuple[str, ...],
) -> Opened:
    from cotpress.api.opened import opened  # not at the top: it imports torch

    chosen = None if reference is None else str(reference)
    return opened(scorer=scorer, ratio=ratio, model=model, reference=chosen, options=options, owners=owners)


def _scored(use: Opened, traces: Sequence[Trace], *, alone: bool) -> list[ScoredTrace | None]:
    """Return the scores of all traces; None for each where nothing has to be scored."""
    if use.scorer is None:
        return [None] * len(traces)
    with use.reading():
        _refuse([use.scorer.refusal(trace) for trace in traces], alone=alone)  # before anything is computed
        results = list(use.scorer.score(traces))
    _refuse([result if isinstance(result, str) else None for result in results], alone=alone)
    return [None if isinstance(result, str) else result for result in results]


def _refuse(reasons: Sequence[str | None], *, alone: bool) -> None:
    """Raise a `DataError` if there is a reason for one of the rows."""
    refused = [(place(number, alone=alone), reason) for number, reason in enumerate(reasons) if reason is not None]
    if not refused:
        return
    named = "; ".join(f"{where}: {reason}" for where, reason in refused[:_MOST_NAMED])
    more = f" and {len(refused) - _MOST_NAMED} more" if len(refused) > _MOST_NAMED else ""
    count = "" if alone else f"{len(refused)} of {len(reasons)} rows cannot be scored: "
    raise DataError(f"{count}{named}{more}. Fix: {_FIX.get(refused[0][1], 'leave such texts out')}")


def _cut(
    cutter: Cutter, traces: Sequence[Trace], records: Sequence[ScoredTrace | None], *, alone: bool
) -> list[Compressed]:
    """Return traces compressed by their scores."""
    results = [cutter.tokenized(trace, row, anew=False) for trace, row in zip(traces, records, strict=True)]
    _refuse([result if isinstance(result, str) else None for result in results], alone=alone)
    tokens = [result for result in results if isinstance(result, TokenizedTrace)]
    if not tokens:
        return []
    shares = None
    if cutter.allocation is not Allocation.fixed:
        surveyed = cutter.survey(tokens)
        ((shares,),) = allocate(cutter.allocation, cutter.plan.ratios, lambda: iter([[*surveyed]]))
    return [
        Compressed(
            text=row.compressed_thinking, mask=row.keep_mask, scores=own.scores if cutter.is_scored else None,
            ratio=row.actual_ratio, original=own.trace.thinking, offsets=own.offsets, row=row,
        )
        for own, row in zip(tokens, cutter.rows(tokens, shares), strict=True)
    ]  # fmt: skip


def _texts(scores: object) -> list[Scores] | None:
    """The scores of texts; None for plain numbers."""
    if isinstance(scores, Scores):
        return [scores]
    if isinstance(scores, np.ndarray) or not isinstance(scores, Iterable):
        return None
    texts = list(scores)
    return texts if texts and all(isinstance(own, Scores) for own in texts) else None


def _numbers(scores: Any) -> NDArray[np.float32]:
    """Return plain numbers as float32 `[n]`."""
    allowed = "allowed: what cotpress.score returned, or finite numbers, one per token of one text"
    try:
        numbers = np.asarray(scores)
    except (TypeError, ValueError):  # lists of different lengths, a tensor on another device
        raise DataError(f"scores: got a {type(scores).__name__} that is no list of numbers, {allowed}") from None
    if numbers.ndim != 1 or numbers.dtype.kind not in "fiub":
        got = f"{numbers.dtype} of the shape {numbers.shape}" if numbers.ndim else f"a {type(scores).__name__}"
        raise DataError(f"scores: got {got}, {allowed}")
    values = numbers.astype(np.float32)
    if bad := int((~np.isfinite(values)).sum()):
        raise DataError(f"scores: {bad} of {len(values)} are not finite; {allowed}")
    return values


def _mask(values: NDArray[np.float32], config: CompressionConfig, ratio: float) -> NDArray[np.bool_]:
    """Return the mask of the tokens that are kept by plain numbers, bool `[n]`."""
    texts = {
        "granularity": config.granularity is not Unit.token,
        "protection": config.protection is not Protection.none,
        "keep_strings": bool(config.keep_strings),
    }
    if needing := [name for name, needed in texts.items() if needed]:
        raise ConfigError(
            f"compression.{needing[0]}: needs the text of the tokens, which numbers do not have. Fix: the scores "
            f"that cotpress.score returned, or leave {needing[0]} out"
        )
    if not len(values):
        return np.zeros(0, dtype=np.bool_)
    ids = np.arange(len(values), dtype=np.int32)
    offsets = np.stack([ids, ids + 1], axis=1)
    trace = Trace(id=_NUMBERS, question="", thinking="x" * len(values), response="", answer="")
    record = ScoredTrace(
        id=_NUMBERS, token_ids=ids, offsets=offsets, scores=values, tokenizer=_NUMBERS, scorer=_NUMBERS
    )
    aligned = student_scores(config.alignment, record, trace, ids, offsets, _NUMBERS)
    tokens = TokenizedTrace(trace=trace, ids=ids, offsets=offsets, scores=aligned)
    return rank_traces(Rules.of(config), [tokens]).cut(np.array([ratio]))


def _verdict(gold: Any, output: Any, extractor: Extractor, place: str) -> Verdict:
    """Judge one output; `place` is its index for messages."""
    if not isinstance(output, str):
        raise DataError(f"outputs{place}: got {kind_of(output)}, allowed: text")
    answer = "" if gold is None else short_text(gold.item() if isinstance(gold, np.generic) else gold)
    if not isinstance(answer, str) or (gold is not None and not answer.strip()):
        got = repr(gold) if isinstance(gold, str) else kind_of(gold)
        raise DataError(f"gold{place}: got {got}, allowed: an answer, or None for a question that has none")
    return judge(response_of(output), answer, extractor, unanswerable=gold is None)
