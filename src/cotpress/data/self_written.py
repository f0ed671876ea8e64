"""Self-written data: the model answers training questions, and its right answers become traces.

There are two artifacts before the data itself. `write` holds the answers, so other filters generate nothing. `solve`
holds the traces made of the right ones; all other answers are counted by reason. The data artifact is identified by the
content of the traces, not by the code that selected them: after a change of the answer checker the same answers are
judged again in seconds, and students are trained again only if the traces differ.

An output without thinking tags is divided at the sentence that states its answer (see `statement`); the response is one
line with the gold answer.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cotpress.answers import Extractor, judge, package_versions
from cotpress.data.config import Format, Pick, SelfWrittenDataConfig
from cotpress.data.rows import reasons
from cotpress.data.statement import answer_line, before_answer
from cotpress.data.thinking import has_tags
from cotpress.devices.config import TrainerConfig
from cotpress.errors import DataError
from cotpress.generation.asking import ask, journal
from cotpress.generation.backends import (
    CTS_TEMPERATURE,
    CTS_TOP_P,
    REFUSED,
    STOP,
    KeptBackend,
    Request,
    generation_identity,
    sampling_of,
)
from cotpress.generation.config import ServerGenerationConfig
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.loading import load_tokenizer, prompt_identity
from cotpress.modeling.weights import TrainedWeights
from cotpress.progress import Progress
from cotpress.prompts import ChatFormat
from cotpress.records import PROBLEMS_FILE, TRACES_FILE, Problem, Trace
from cotpress.statistics import fraction_interval
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary, plain
from cotpress.store.source import identified
from cotpress.store.tables import read_records, write_records


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One answer of the model, not yet judged: answer `sample` to the question `id`; the rest is as in `Generation`."""

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


@dataclass(frozen=True, slots=True)
class _Judged:
    """One answer, divided and judged.

    Attributes:
        correct: True if it counts as right in the accuracy, as in evaluation.
        reason: Reason against a trace of it; empty if it can become one.
        distance: Number of checks from the failed one to the last, 0 if none failed; smaller is closer to a trace.
    """

    draft: Draft
    thinking: str
    response: str
    num_thinking_tokens: int
    correct: bool
    reason: str
    distance: int


def select(
    config: SelfWrittenDataConfig, problems: Sequence[Problem], drafts: Sequence[Draft], chat: ChatFormat
) -> tuple[list[Trace], Summary]:
    """The right answers to the distinct ones of `problems` as traces, in the order of the questions.

    The summary counts the questions without a trace by reason; of several answers, the reason closest to a trace. Its
    facts are the accuracy of the writer with its interval, its tokens, and its answers by outcome.

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
    dropped = Counter(
        min(answers[i], key=lambda j: (j.distance, j.reason)).reason for i, judged in picked.items() if judged is None
    )
    if repeated := len(problems) - len(questions):
        dropped["question asked before"] = repeated
    if not traces:
        raise DataError(
            f"data=self_written: none of {len(questions)} questions gave a trace ({reasons(dropped)}). Fix: easier "
            "questions, a larger data.max_new_tokens, several data.samples, or a model that solves them "
            "(data.writer=DIR or original: a student)"
        )
    outcomes = Counter(
        judged.reason or ("kept" if judged is picked[i] else "right, but another was kept")
        for i, samples in answers.items()
        for judged in samples
    )
    num_thinking_tokens = sum(judged.num_thinking_tokens for judged in picked.values() if judged)
    means = [sum(judged.correct for judged in samples) / len(samples) for samples in answers.values()]
    facts = {
        "writer_accuracy": plain(fraction_interval(means, len(drafts))),
        "writer_mean_tokens": round(sum(draft.num_tokens for draft in drafts) / len(drafts), 2),
        "answers": dict(outcomes),
        "format": format_.value,
        "mean_thinking_tokens": round(num_thinking_tokens / len(traces), 2),
    }
    return traces, Summary(num_rows=len(traces), dropped=dropped, facts=facts)


def _format(configured: Format, drafts: Sequence[Draft], chat: ChatFormat) -> Format:
    """The format of the answers; without tags it is `answer_line`."""
    if configured is not Format.auto:
        return configured
    closed = [chat.split_output(draft.text)[2] for draft in drafts if draft.finish_reason == STOP]
    is_tagged = chat.has_tags and closed and 2 * sum(closed) >= len(closed)
    return Format.tags if is_tagged else Format.answer_line


def _judge(draft: Draft, problem: Problem, format_: Format, chat: ChatFormat, limit: int | None) -> _Judged:
    if format_ is Format.tags:
        thinking, response, closed = chat.split_output(draft.text)
    else:
        thinking, response, closed = before_answer(draft.text), answer_line(problem.answer), True
    solution = response if format_ is Format.tags else draft.text
    verdict = judge(solution, problem.answer, Extractor(problem.extractor))
    num_tokens = len(chat.text_ids(thinking))
    checks = {
        "prompt and budget do not fit the context": draft.finish_reason != REFUSED,
        "budget ended the answer": draft.finish_reason == STOP,
        "thinking not closed": closed,
        "thinking tags in the text": not has_tags(thinking) and not has_tags(response),
        "no response after the thinking": bool(response),
        "no answer": bool(verdict.predicted),
        "wrong answer": verdict.correct,
        "no thinking before the answer": bool(thinking),
        "thinking too long": limit is None or num_tokens <= limit,
    }
    failed = [(reason, len(checks) - i) for i, (reason, passed) in enumerate(checks.items()) if not passed]
    reason, distance = failed[0] if failed else ("", 0)
    correct = draft.finish_reason == STOP and verdict.correct
    return _Judged(draft, thinking, response, num_tokens, correct, reason, distance)


def _pick(answers: Sequence[_Judged], pick: Pick) -> _Judged | None:
    """The answer to keep; of equally short ones the first."""
    right = sorted((judged for judged in answers if not judged.reason), key=lambda judged: judged.draft.sample)
    if pick is Pick.shortest:
        right.sort(key=lambda judged: judged.num_thinking_tokens)
    return right[0] if right else None


def questions_of(traces: Artifact, extractor: Extractor, store: ArtifactStore) -> Artifact:
    """The questions of traces with their gold answers: an artifact with `problems.parquet` (`Problem` records).

    Raises:
        DataError: No trace has a gold answer.
    """

    def produce(folder: Path) -> Summary:
        rows = read_records(traces.file(TRACES_FILE), Trace)
        asked = distinct([
            Problem(id=t.id, question=t.question, answer=t.answer, family=t.family, extractor=extractor.value)
            for t in rows
            if t.answer
        ])  # fmt: skip
        if not asked:
            raise DataError(
                f"none of {len(rows)} traces has a gold answer, with which answers to its question are compared. Fix: "
                "leave shortest out of evaluation.baselines, or give traces with answers"
            )
        write_records(folder / PROBLEMS_FILE, asked, Problem)
        without = Counter({"no gold answer": sum(not t.answer for t in rows)})
        return Summary(num_rows=len(asked), dropped=+without)

    identity = {"traces": traces.key, "extractor": extractor.value}
    return store.build("benchmark", identified(identity, questions_of), produce)


DRAFTS = "drafts.parquet"
SOLVED = "solved.parquet"


def solve(
    config: SelfWrittenDataConfig,
    questions: Artifact,
    model: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
    writer: TrainedWeights | None = None,
) -> Artifact:
    """Traces of the questions that were solved (`solved.parquet`: `Trace` records in the order of the questions).

    `writer` holds the weights that answer in the conversation format of `model`; None for those of `model` itself.

    Raises:
        DataError: Nothing was solved.
        GenerationError: The server fails.
        ModelError: The model or its adapter cannot be loaded.
    """
    drafts = write(config, questions, model, trainer, store, writer)
    identity = {
        "written": drafts.key,
        "packages": package_versions(),
        "thinking_tags": [model.chat.thinking_open, model.chat.thinking_close],
        "format": config.format,
        "pick": config.pick,
        "max_thinking_tokens": config.max_thinking_tokens,
    }

    def produce(folder: Path) -> Summary:
        traces, summary = select(
            config,
            read_records(questions.file(PROBLEMS_FILE), Problem),
            read_records(drafts.file(DRAFTS), Draft),
            ChatFormat(load_tokenizer(model, store), model.chat),
        )
        write_records(folder / SOLVED, traces, Trace)
        dropped = Counter(questions.manifest["dropped"]) + Counter(summary.dropped)
        return dataclasses.replace(summary, dropped=dropped)

    return store.build("solve", identified(identity, solve), produce)


def write(
    config: SelfWrittenDataConfig,
    questions: Artifact,
    model: ModelConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
    writer: TrainedWeights | None = None,
) -> Artifact:
    """The model's answers (`drafts.parquet`: `Draft` records in the order of the questions, then of the samples).

    The prompt is that of a student without a ratio marker. Of equal questions only the first is answered. A server has
    to serve the same model, because it gets the prompts as token ids. An interrupted call continues where it stopped,
    and a sampled answer depends on its question and index alone. Arguments and errors as for `solve`.
    """
    tokenizer, generation = load_tokenizer(model, store), config.generation
    weights, adapter = (model, None) if writer is None else writer.on(model)
    if config.samples > 1:
        generation = dataclasses.replace(
            generation,
            temperature=CTS_TEMPERATURE if generation.temperature is None else generation.temperature,
            top_p=CTS_TOP_P if generation.top_p is None else generation.top_p,
        )
    identity = {
        "questions": questions.key,
        "prompt": {**prompt_identity(tokenizer), "chat": [model.chat.system, model.chat.user, model.chat.template]},
        "max_new_tokens": config.max_new_tokens,
        "samples": config.samples,
        **generation_identity(generation, weights, trainer, adapter=adapter),
    }
    if isinstance(generation, ServerGenerationConfig):
        identity["context_tokens"] = model.context_tokens  # longer prompts are not sent

    def produce(folder: Path) -> Summary:
        problems = distinct(read_records(questions.file(PROBLEMS_FILE), Problem))
        chat, done, requests = ChatFormat(tokenizer, model.chat), journal(folder), dict[str, Request]()
        for problem in problems:
            prompt = chat.prompt_ids(problem.question)
            for key in (f"{problem.id}/{k}" for k in range(config.samples)):
                requests[key] = Request(prompt=prompt, max_new_tokens=config.max_new_tokens, stream=key)
        with KeptBackend() as opened:
            ask(
                [(requests, done)],
                lambda: opened(generation, weights, trainer, store, adapter=adapter),
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

    return store.build("write", identified(identity, write), produce)
