"""Self-written data: the model answers training questions, and its right answers become traces.

There are two artifacts before the data itself. `write` holds the answers, so other filters generate nothing. `solve`
holds the traces made of the right ones; all other answers are counted by reason. The data artifact is identified by the
content of the traces, not by the code that selected them: after a change of the answer checker the same answers are
judged again in seconds, and students are trained again only if the traces differ.

An output without thinking tags is divided as follows. An instruct model reasons and then states its answer. The
thinking is the text before the sentence that states it, and the response is one line, `The final answer is:
$\\boxed{...}$`, as in TokenSkip (arXiv 2502.12067). If that sentence or a later one computes something
(`48 + 24 = \\boxed{72}`, a check at the end), or no answer is stated, the whole text is the thinking.
"""

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotpress.answers import Extractor, checker_fingerprint, judge, statement_range
from cotpress.data.config import Format, Pick, SelfWrittenDataConfig
from cotpress.devices.config import TrainerConfig
from cotpress.errors import DataError
from cotpress.generation.asking import ask, journal
from cotpress.generation.backends import (
    CTS_TEMPERATURE,
    CTS_TOP_P,
    LENGTH,
    REFUSED,
    STOP,
    Request,
    generation_identity,
    open_backend,
    sampling_of,
)
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.loading import load_tokenizer, tokenizer_fingerprint
from cotpress.modeling.segments import step_ranges
from cotpress.progress import Progress
from cotpress.prompts import ChatFormat
from cotpress.records import PROBLEMS_FILE, Problem, Trace
from cotpress.statistics import fraction_interval
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary, fingerprint, plain
from cotpress.store.tables import read_records, write_records

_OPENS = re.compile(r"(?:\\\[|\$\$|[^=]*:\**|[#*]+[^\n=]*\banswer\b[^\n=]*)\Z", re.IGNORECASE)
r"""A step that only introduces the next: `\[`, `$$`, a text that ends in a colon, a heading that names the answer."""


def answer_line(answer: str) -> str:
    r"""The response of a trace without one of its own: `The final answer is: $\boxed{72}$`."""
    return f"The final answer is: $\\boxed{{{answer}}}$"


def before_answer(text: str) -> str:
    """The reasoning before the sentence that states the answer, stripped; empty if there is none.

    It ends at the end of a sentence or line. Lines that only introduce the statement belong to the statement.
    """
    stated = statement_range(text)
    if stated is None:
        return text.strip()
    steps = step_ranges(text)
    at = next(i for i, (_, end) in enumerate(steps) if stated[0] < end)
    if "=" in text[steps[at][0] : stated[0]] + text[stated[1] :]:
        return text.strip()
    while at and _OPENS.match(text[slice(*steps[at - 1])].strip()):
        at -= 1
    return text[: steps[at][0]].strip()


SELECTION_VERSION = 1
"""Raise it with every change by which the same answers with the same verdicts give other traces."""

KEPT, SPARE = "kept", "right, but another was kept"
TOO_LONG = "thinking too long"
NO_THINKING = "no thinking before the answer"
NO_RESPONSE = "no response after the thinking"
WRONG = "wrong answer"
NO_ANSWER = "no answer"
UNCLOSED = "thinking not closed"
TRUNCATED = "budget ended the answer"
UNASKED = "prompt and budget do not fit the context"
REPEATED = "question asked before"
_NEAREST = (TOO_LONG, NO_THINKING, NO_RESPONSE, WRONG, NO_ANSWER, UNCLOSED, TRUNCATED, UNASKED)
"""Reasons, from the closest to a trace to the farthest; any other reason is farther still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One answer of the model, not yet judged.

    Attributes:
        id: The question.
        sample: Index of the answer for this question.
        text: The whole output.
        num_tokens: Generated tokens, the end token not counted.
        finish_reason: As in `cotpress.generation.backends.Generation`.
    """

    id: str
    sample: int
    text: str
    num_tokens: int
    finish_reason: str


def distinct(problems: Sequence[Problem]) -> list[Problem]:
    """The problems without those that repeat the question of an earlier one, word for word."""
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(problem.question, problem)
    return list(first.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """Result of the selection.

    Attributes:
        traces: One per solved question, in the order of the questions.
        dropped: Questions without a trace by reason; of several answers, the reason closest to a trace.
        facts: Accuracy of the writer (counted as in evaluation) with its interval, its tokens, its answers by outcome.
    """

    traces: Sequence[Trace]
    dropped: Counter[str]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Judged:
    """One answer, divided and judged; `reason` is empty if it can become a trace."""

    draft: Draft
    thinking: str
    response: str
    num_thinking_tokens: int
    correct: bool
    reason: str


def select(
    config: SelfWrittenDataConfig,
    problems: Sequence[Problem],
    drafts: Sequence[Draft],
    chat: ChatFormat,
) -> Selected:
    """The right answers to the distinct questions as traces; `problems` are all, repeated ones included.

    Raises:
        DataError: There is not one trace.
    """
    questions = distinct(problems)
    format_ = _format(config.format, drafts, chat)
    answers: dict[str, list[_Judged]] = defaultdict(list)
    by_id = {problem.id: problem for problem in questions}
    with Progress("check answers", len(drafts), "answers") as progress:
        for draft in drafts:
            answers[draft.id].append(_judge(draft, by_id[draft.id], format_, chat, config.max_thinking_tokens))
            progress.advance(1)
    picked = {problem.id: _pick(answers[problem.id], config.pick) for problem in questions}
    traces = [
        Trace(id=p.id, question=p.question, thinking=judged.thinking, response=judged.response, answer=p.answer,
              family=p.family)
        for p in questions
        if (judged := picked[p.id])
    ]  # fmt: skip
    dropped = Counter(_nearest(answers[i]) for i, judged in picked.items() if judged is None)
    if repeated := len(problems) - len(questions):
        dropped[REPEATED] = repeated
    if not traces:
        raise DataError(_nothing_kept(len(questions), dropped))
    outcomes = Counter(
        judged.reason or (KEPT if judged is picked[i] else SPARE) for i, tried in answers.items() for judged in tried
    )
    return Selected(traces=traces, dropped=dropped, facts=_facts(format_, answers, picked, outcomes))


def _format(configured: Format, drafts: Sequence[Draft], chat: ChatFormat) -> Format:
    """The format of this writer; without tags it is `answer_line`."""
    if configured is not Format.auto:
        return configured
    ended = [draft for draft in drafts if draft.finish_reason == STOP]
    if not chat.has_tags or not ended:
        return Format.answer_line
    closed = sum(chat.split_output(draft.text)[2] for draft in ended)
    return Format.tags if 2 * closed >= len(ended) else Format.answer_line


def _judge(draft: Draft, problem: Problem, format_: Format, chat: ChatFormat, limit: int | None) -> _Judged:
    if format_ is Format.tags:
        thinking, response, closed = chat.split_output(draft.text)
    else:
        thinking, response, closed = before_answer(draft.text), answer_line(problem.answer), True
    solution = response if format_ is Format.tags and closed and response else draft.text
    verdict = judge(solution, problem.answer, Extractor(problem.extractor))
    num_tokens = len(chat.text_ids(thinking))

    def reasons() -> Iterator[tuple[bool, str]]:
        ended = {STOP: "", LENGTH: TRUNCATED, REFUSED: UNASKED}
        yield draft.finish_reason != STOP, ended.get(draft.finish_reason, f"ended by server: {draft.finish_reason}")
        yield not closed, UNCLOSED
        yield not verdict.predicted, NO_ANSWER
        yield not verdict.correct, WRONG
        yield not response, NO_RESPONSE
        yield not thinking, NO_THINKING
        yield limit is not None and num_tokens > limit, TOO_LONG

    reason = next((why for applies, why in reasons() if applies), "")
    correct = draft.finish_reason == STOP and verdict.correct
    return _Judged(draft, thinking, response, num_tokens, correct, reason)


def _pick(answers: Sequence[_Judged], pick: Pick) -> _Judged | None:
    """The answer to keep; of equally short ones the first."""
    right = [judged for judged in answers if not judged.reason]
    match pick:
        case Pick.first:
            return min(right, key=lambda j: j.draft.sample, default=None)
        case Pick.shortest:
            return min(right, key=lambda j: (j.num_thinking_tokens, j.draft.sample), default=None)


def _nearest(answers: Sequence[_Judged]) -> str:
    order = {reason: place for place, reason in enumerate(_NEAREST)}
    return min((judged.reason for judged in answers), key=lambda reason: (order.get(reason, len(order)), reason))


def _facts(
    format_: Format,
    answers: Mapping[str, Sequence[_Judged]],
    picked: Mapping[str, _Judged | None],
    outcomes: Mapping[str, int],
) -> dict[str, Any]:
    every = [judged for tried in answers.values() for judged in tried]
    means = [sum(judged.correct for judged in tried) / len(tried) for tried in answers.values()]
    kept = [judged.num_thinking_tokens for judged in picked.values() if judged]
    return {
        "writer_accuracy": plain(fraction_interval(means, len(every))),
        "writer_mean_tokens": round(sum(judged.draft.num_tokens for judged in every) / len(every), 2),
        "answers": dict(outcomes),
        "format": format_.value,
        "mean_thinking_tokens": round(sum(kept) / len(kept), 2),
    }


def _nothing_kept(num_questions: int, dropped: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{n} x {why}" for why, n in sorted(dropped.items(), key=lambda item: -item[1]))
    return (
        f"data=self_written: none of {num_questions} questions gave a trace ({reasons}). Fix: easier questions, a "
        "larger data.max_new_tokens, several data.samples, or a model that solves them (data.adapter=DIR puts a "
        "student's adapter on it)"
    )


DRAFTS = "drafts.parquet"
SOLVED = "solved.parquet"


def solve(
    config: SelfWrittenDataConfig,
    questions: Artifact,
    *,
    model: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
) -> Artifact:
    """Traces of the questions that the model solved (`solved.parquet`: `Trace` records in the order of the questions).

    Raises:
        ConfigError: A value is out of range.
        DataError: Nothing was solved.
        GenerationError: The server fails.
        ModelError: The model or its adapter cannot be loaded.
    """
    drafts = write(config, questions, model=model, trainer=trainer, store=store)
    identity = {
        "written": drafts.key,
        "version": SELECTION_VERSION,
        "checker": checker_fingerprint(),
        "thinking_tags": [model.chat.thinking_open, model.chat.thinking_close],
        "format": config.format,
        "pick": config.pick,
        "max_thinking_tokens": config.max_thinking_tokens,
    }

    def produce(folder: Path) -> Summary:
        selected = select(
            config,
            read_records(questions.file(PROBLEMS_FILE), Problem),
            read_records(drafts.file(DRAFTS), Draft),
            ChatFormat(load_tokenizer(model, store), model.chat),
        )
        write_records(folder / SOLVED, selected.traces, Trace)
        dropped = Counter(questions.manifest["dropped"]) + selected.dropped
        return Summary(num_rows=len(selected.traces), dropped=dropped, facts=selected.facts)

    return store.build("solve", identity, produce)


def write(
    config: SelfWrittenDataConfig,
    questions: Artifact,
    *,
    model: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
) -> Artifact:
    """The model's answers (`drafts.parquet`: `Draft` records in the order of the questions, then of the samples).

    The prompt is that of a student without a ratio marker. Of equal questions only the first is answered. A server has
    to serve the same model, because it gets the prompts as token ids. An interrupted call continues where it stopped,
    and a sampled answer depends on its question and index alone. Arguments and errors as for `solve`.
    """
    tokenizer, generation = load_tokenizer(model, store), config.generation
    if config.samples > 1:
        generation = dataclasses.replace(
            generation,
            temperature=CTS_TEMPERATURE if generation.temperature is None else generation.temperature,
            top_p=CTS_TOP_P if generation.top_p is None else generation.top_p,
        )
    identity = {
        "questions": questions.key,
        "prompt": {
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "template": fingerprint({"template": tokenizer.chat_template}),
            "system": model.chat.system,
        },
        "max_new_tokens": config.max_new_tokens,
        "samples": config.samples,
        **generation_identity(generation, model, trainer, adapter=config.adapter),
    }

    def produce(folder: Path) -> Summary:
        problems = distinct(read_records(questions.file(PROBLEMS_FILE), Problem))
        chat, done, requests = ChatFormat(tokenizer, model.chat), journal(folder), dict[str, Request]()
        for problem in problems:
            prompt = chat.prompt_ids(problem.question)
            for key in (f"{problem.id}/{k}" for k in range(config.samples)):
                requests[key] = Request(prompt=prompt, max_new_tokens=config.max_new_tokens, stream=key)
        ask(
            [(requests, done)],
            lambda: open_backend(generation, model, trainer, store, adapter=config.adapter),
            label="write",
            unit="answers",
            sampling=sampling_of(generation),
        )
        drafts = [
            Draft(id=p.id, sample=k, text=g.text, num_tokens=g.num_tokens, finish_reason=g.finish_reason)
            for p in problems
            for k in range(config.samples)
            for g in [done[f"{p.id}/{k}"]]
        ]
        write_records(folder / DRAFTS, drafts, Draft)
        return Summary(num_rows=len(drafts), facts={"questions": len(problems)})

    return store.build("write", identity, produce)
