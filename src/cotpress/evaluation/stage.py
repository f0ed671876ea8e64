"""The evaluation stage: students answer all problems of a benchmark, or a few during their training, and are judged.

There are two artifacts, because answering is expensive and judging is not. `answer` holds the answers and depends on
the student, the questions and the protocol. `evaluate` holds the verdicts and depends on the checker as well, so a
change of the checker, of a gold answer or of the extractor judges again without generating anything.
"""

import dataclasses
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch

from cotpress.answers import package_versions
from cotpress.devices.config import TrainerConfig
from cotpress.errors import NotServedError
from cotpress.evaluation.judging import prediction
from cotpress.evaluation.protocol import Answer, Protocol, answer_key
from cotpress.generation.asking import Batch, ask, journal
from cotpress.generation.backends import GREEDY, REFUSED, Backend, OpenBackend, generation_identity, open_backend
from cotpress.generation.config import GenerationConfig, ServerGenerationConfig, VllmGenerationConfig
from cotpress.generation.hf import TransformersBackend
from cotpress.invocation import as_typed
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer, prompt_identity
from cotpress.modeling.sources import adapter_directory, model_directory, source_identity
from cotpress.modeling.training_record import TrainingRecord
from cotpress.modeling.weights import TrainedWeights
from cotpress.progress import Progress
from cotpress.prompts import ChatFormat
from cotpress.records import PREDICTIONS_FILE, PROBLEMS_FILE, Prediction, Problem, Trace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary, fingerprint
from cotpress.store.source import Identity, identified
from cotpress.store.students import student_name
from cotpress.store.tables import read_records, write_records

log = logging.getLogger(__name__)

ANSWERS = "answers.parquet"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A system to evaluate: its name in tables and requested kept fraction, both copied into the records.

    `student` is an artifact of the sft stage, directory or hub id of a PEFT adapter, or None for the base model.
    `answer_in_thinking` judges the thinking of an output that has no text after it.
    """

    system: str
    ratio: float
    student: Artifact | str | None
    protocol: Protocol
    answer_in_thinking: bool = False


def evaluate(
    candidates: Sequence[Candidate],
    *,
    model: ModelConfig,
    problems: Artifact,
    generation: GenerationConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
    opened: OpenBackend = open_backend,
    served: Mapping[str, str] | None = None,
) -> list[Artifact]:
    """Predictions of every candidate on all problems (`predictions.parquet`), in the order of the candidates.

    Candidates with the same weights generate their missing answers in one pass: the model is loaded once, and all
    ratios fill its batches together. Each artifact is the same as if its candidate had been evaluated alone; its
    seconds include answering and judging.

    `served` holds the names of whole models on the generation server: of fully tuned students by the keys of their
    artifacts, of the untuned model by an empty key. Without it the server serves the untuned model and no such student.

    Raises:
        NotServedError: Answers are missing of a whole model that the server does not serve.
        GenerationError: A server fails; finished answers are kept.
    """
    questions = read_records(problems.file(PROBLEMS_FILE), Problem)
    if served is None:
        served = {"": generation.model} if isinstance(generation, ServerGenerationConfig) else {}
    answering = _Answering(model, generation, trainer, store, opened, questions, served)
    answers = answering.artifacts(candidates)
    return [_judged(c, artifact, problems, answering) for c, artifact in zip(candidates, answers, strict=True)]


@dataclasses.dataclass(frozen=True)
class _Answering:
    """Generates the answers of students of one model; loads the model only if answers are missing."""

    model: ModelConfig
    generation: GenerationConfig
    trainer: TrainerConfig
    store: ArtifactStore
    open_backend: OpenBackend
    problems: Sequence[Problem]
    served: Mapping[str, str]

    @cached_property
    def chat(self) -> ChatFormat:
        """The students' conversation format."""
        return ChatFormat(load_tokenizer(self.model, self.store), self.model.chat)

    def artifacts(self, candidates: Sequence[Candidate]) -> list[Artifact]:
        """The answers of every candidate (`answers.parquet`), in the order of the problems."""
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for index, c in enumerate(candidates):
            weights = c.student.key if isinstance(c.student, Artifact) else c.student
            groups[weights, c.protocol.sampling].append(index)
        built: dict[int, Artifact] = {}
        for indices in sorted(groups.values(), key=lambda indices: self._starts_later(candidates[indices[0]])):
            # A limit on the thinking may depend on answers of the same weights without one, which come first.
            for is_relative in (False, True):
                members = [i for i in indices if _is_relative(candidates[i]) is is_relative]
                built.update(zip(members, self._together([self._limited(candidates[i]) for i in members]), strict=True))
        return [built[index] for index in range(len(candidates))]

    def _together(self, candidates: Sequence[Candidate]) -> list[Artifact]:
        """The answers of candidates with the same weights, the missing ones in one pass."""
        identities = [self._identity(candidate) for candidate in candidates]
        built: dict[int, Artifact] = {}
        if len(candidates) > 1:
            with self.store.unfinished("answer", identities) as folders:
                seconds = self._generate([(candidates[place], folder) for place, folder in folders.items()])
                for place, shared in zip(folders, seconds, strict=True):
                    built[place] = self._build(candidates[place], identities[place], shared)
        return [
            built.get(place) or self._build(candidate, identity)
            for place, (candidate, identity) in enumerate(zip(candidates, identities, strict=True))
        ]

    def _limited(self, candidate: Candidate) -> Candidate:
        """The candidate with its limit on the thinking in tokens."""
        asking = candidate.protocol
        if asking.forcing is None or not asking.forcing.is_relative:
            return candidate
        free = dataclasses.replace(candidate, protocol=dataclasses.replace(asking, forcing=None))
        rows = read_records(self._build(free, self._identity(free)).file(ANSWERS), Answer)
        mean = sum(row.num_thinking_tokens for row in rows) / len(rows)
        forcing = asking.forcing.at(mean)
        log.info("%s: thinking ends after %d tokens; the mean is %.1f", candidate.system, forcing.num_tokens, mean)
        return dataclasses.replace(candidate, protocol=dataclasses.replace(asking, forcing=forcing))

    def _starts_later(self, candidate: Candidate) -> bool:
        """True for a whole model on vLLM: a server that has room for adapters serves it as well, not vice versa."""
        if not isinstance(self.generation, VllmGenerationConfig):
            return False
        return candidate.student is None or not TrainedWeights.of(candidate.student).is_adapter

    def _build(self, candidate: Candidate, identity: Identity, shared_seconds: float = 0.0) -> Artifact:
        def produce(folder: Path) -> Summary:
            self._generate([(candidate, folder)])
            done = journal(folder)
            rows = [
                Answer.of(problem, sample, done[answer_key(problem.id, sample)], self.chat)
                for problem in self.problems
                for sample in range(candidate.protocol.samples)
            ]
            write_records(folder / ANSWERS, rows, Answer)
            reasons, retokenized = Counter(a.finish_reason for a in rows), sum(a.retokenized for a in rows)
            if reasons[REFUSED]:
                log.warning("%d of %d prompts leave no room in the model's context", reasons[REFUSED], len(rows))
            if retokenized:
                log.warning("%d answers came without token ids; their tokens are counted again", retokenized)
            facts = {"finish_reasons": reasons, "retokenized": retokenized}
            return Summary(num_rows=len(rows), facts=facts, shared_seconds=shared_seconds)

        return self.store.build("answer", identity, produce)

    def _generate(self, group: Sequence[tuple[Candidate, Path]]) -> list[float]:
        """Complete the journals of candidates with the same weights; returns the seconds per candidate."""
        if not group:
            return []
        first = group[0][0]
        names = ", ".join(dict.fromkeys(f"{c.system} at {c.ratio:g}" for c, _ in group))
        asked = [(c.protocol.forcing, c.protocol.requests(self.problems, self.chat), journal(f)) for c, f in group]
        for candidate, (forcing, wanted, _) in zip((c for c, _ in group), asked, strict=True):
            if forcing is not None and (num := forcing.num_without_room([*wanted.values()], self.chat)):
                log.warning(
                    "%s: the budget of %d of %d answers, of at most %d tokens, does not hold %d tokens of thinking and "
                    "the text after them, so a thinking that is longer has no answer. Fix: a larger "
                    "benchmark.max_new_tokens, a smaller evaluation.budget_forcing.thinking_tokens, or a shorter "
                    "evaluation.budget_forcing.text",
                    candidate.system, num, len(wanted), max(r.max_new_tokens for r in wanted.values()),
                    forcing.num_tokens,
                )  # fmt: skip

        def complete(batches: Sequence[Batch], label: str) -> list[float]:
            sampling = first.protocol.sampling or GREEDY
            return ask(
                batches,
                lambda: self._backend(first),
                label=label,
                unit="answers",
                sampling=sampling,
                decoded=self.chat.decoded,
            )

        context = first.protocol.context_tokens
        seconds = complete(
            [(wanted if f is None else f.first(wanted, context), done) for f, wanted, done in asked],
            f"evaluate {names}",
        )
        if all(forcing is None for forcing, *_ in asked):
            return seconds
        more = complete(
            [({} if f is None else f.second(wanted, done, self.chat), done) for f, wanted, done in asked],
            f"evaluate {names}, thinking closed",
        )
        for forcing, wanted, done in asked:
            if forcing is not None:
                forcing.join(wanted, done, self.chat)
        return [before + after for before, after in zip(seconds, more, strict=True)]

    def _backend(self, candidate: Candidate) -> Backend:
        model, adapter, generation = self.model, None, self.generation
        if candidate.student is not None:
            model, adapter = TrainedWeights.of(candidate.student).on(model)
        if isinstance(generation, ServerGenerationConfig) and adapter is None:
            name = self.served.get(candidate.student.key if isinstance(candidate.student, Artifact) else "")
            if name is None:
                raise NotServedError(
                    f"evaluation.generation: {candidate.system} is a whole model ({model.path}), which the server "
                    f"{generation.base_url} does not serve. Fix: vllm serve {model.path}, then "
                    f"{as_typed('evaluate')} runs=DIR"
                )
            generation = dataclasses.replace(generation, model=name)
        return self.open_backend(generation, model, self.trainer, self.store, adapter=adapter)

    def _identity(self, candidate: Candidate) -> Identity:
        """Everything that determines the answers; a server's address, a key or a speed does not."""
        generation, student = self.generation, candidate.student
        if (
            isinstance(generation, ServerGenerationConfig)
            and isinstance(student, Artifact)
            and not TrainedWeights.of(student).is_adapter
        ):
            generation = dataclasses.replace(generation, model=student.key)  # whatever its name on the server
        writer = generation_identity(generation, self.model, self.trainer)["model"]
        identity_of_student: object = student
        if isinstance(student, Artifact):
            identity_of_student = student.key
        elif isinstance(student, str):
            identity_of_student = source_identity(student, key="adapter")
        if isinstance(self.generation, ServerGenerationConfig):  # prompts are tokenized here
            writer = {**writer, **prompt_identity(load_tokenizer(self.model, self.store))}
        identity = {
            "model": writer,
            "student": identity_of_student,
            "chat": self.model.chat,
            "questions": fingerprint({"asked": [[p.id, p.question] for p in self.problems]}),
            "protocol": candidate.protocol,
        }
        return identified(identity, _Answering)


def _is_relative(candidate: Candidate) -> bool:
    forcing = candidate.protocol.forcing
    return forcing is not None and forcing.is_relative


def given_weights(adapter: str | None, model: ModelConfig, generation: GenerationConfig) -> tuple[str, Path | None]:
    """Name and folder of the weights that a user gives to be asked; no folder if they are not in one on this machine.

    A server has them under a name of its own. That name is the folder, or the name of the student in `model.path`; any
    other name stands for unknown weights.

    Raises:
        ModelError: The folder is missing or fails the checks of `modeling.foreign`, or the hub cannot be reached.
    """
    if adapter is not None:
        return adapter, adapter_directory(adapter)
    if isinstance(generation, ServerGenerationConfig) and generation.model != model.path:
        served = generation.model
        if (folder := Path(served).expanduser()).is_dir():
            return served, folder
        if student_name(model.path) != Path(served).name:
            return served, None
    if model.source is not ModelSource.hub:
        return model.name, None
    return model.path, model_directory(model.path, model.revision, weights=False)


def _thinks(candidate: Candidate, answering: _Answering) -> bool:
    """True if a candidate was trained here to think in the layout in which it is asked."""
    if isinstance(candidate.student, Artifact):
        return True
    named, folder = given_weights(candidate.student, answering.model, answering.generation)
    record = None if folder is None else TrainingRecord.beside(folder, named)
    return record is not None and record.thinks_as(answering.model.chat)


def _judged(candidate: Candidate, answers: Artifact, problems: Artifact, answering: _Answering) -> Artifact:
    system, ratio, thinks = candidate.system, candidate.ratio, _thinks(candidate, answering)
    identity = {
        "answers": answers.key,
        "problems": problems.key,
        "system": system,
        "ratio": ratio,
        "thinks": thinks,
        "answer_in_thinking": candidate.answer_in_thinking,
        "packages": package_versions(),
    }

    def produce(folder: Path) -> Summary:
        by_id, chat = {p.id: p for p in answering.problems}, answering.chat
        rows = read_records(answers.file(ANSWERS), Answer)
        predictions = []
        with Progress(f"judge {system}", len(rows), "answers") as progress:
            for row in rows:
                predictions.append(
                    prediction(
                        by_id[row.id],
                        row,
                        chat,
                        system=system,
                        ratio=ratio,
                        thinks=thinks,
                        answer_in_thinking=candidate.answer_in_thinking,
                    )
                )
                progress.advance(1)
        write_records(folder / PREDICTIONS_FILE, predictions, Prediction)
        return Summary(num_rows=len(predictions))

    judged = answering.store.build("evaluate", identified(identity, _judged, prediction), produce)
    return dataclasses.replace(judged, seconds=judged.seconds + answers.seconds, fresh=judged.fresh or answers.fresh)


ROOM = 2  # budget of an answer, relative to the longest trace; an answer beyond it will hardly end soon


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Accuracy and tokens of a student in training on a few validation problems; a `training.fit.Validate`.

    The problems come from the validation split of `traces`. Without a budget an answer has `ROOM` times the longest of
    the problems' own traces. With `marked` the prompt announces the ratio. Holds plain values only, so that it can be
    sent to a training process on another device.
    """

    traces: Path
    num_problems: int
    extractor: str
    model: ModelConfig
    store: ArtifactStore
    generation_tokens: int
    max_new_tokens: int | None
    system: str
    ratio: float
    marked: bool

    def __call__(self, model: torch.nn.Module) -> Mapping[str, float]:
        """Metrics of a model in eval mode; empty if there is no validation problem."""
        held_out = [t for t in read_records(self.traces, Trace) if t.split == "validation"][: self.num_problems]
        if not held_out:
            return {}
        problems = [
            Problem(id=t.id, question=t.question, answer=t.answer, family=t.family, extractor=self.extractor)
            for t in held_out
        ]
        tokenizer, context = load_tokenizer(self.model, self.store), self.model.context_tokens
        backend = TransformersBackend(
            model, tokenizer, context_tokens=context, generation_tokens=self.generation_tokens
        )
        chat = ChatFormat(tokenizer, self.model.chat)
        longest = max(len(chat.completion_ids(chat.text_ids(t.thinking), t.response)) for t in held_out)
        protocol = Protocol(
            max_new_tokens=self.max_new_tokens or ROOM * longest,
            context_tokens=context,
            marker_ratio=self.ratio if self.marked else None,
        )
        log.info("sft: validation: %d answers of at most %d tokens", len(problems), protocol.max_new_tokens)
        predictions = answer_problems(backend, chat, problems, protocol, system=self.system, ratio=self.ratio)
        return {
            "val/accuracy": sum(p.correct for p in predictions) / len(predictions),
            "val/tokens": sum(p.num_tokens for p in predictions) / len(predictions),
        }


def answer_problems(
    backend: Backend, chat: ChatFormat, problems: Sequence[Problem], protocol: Protocol, *, system: str, ratio: float
) -> list[Prediction]:
    """Greedy, judged answers of a student, one per problem in their order."""
    requests = protocol.requests(problems, chat)
    done = dict(zip(requests, backend.complete(list(requests.values())), strict=True))
    answers = [(p, Answer.of(p, 0, done[answer_key(p.id, 0)], chat)) for p in problems]
    return [prediction(p, answer, chat, system=system, ratio=ratio, thinks=True) for p, answer in answers]
