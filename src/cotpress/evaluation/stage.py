"""The evaluation stage: students answer all problems of a benchmark, and their answers are judged.

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
from typing import Any

from cotpress.devices.config import TrainerConfig
from cotpress.errors import ConfigError
from cotpress.evaluation.judging import prediction, verdict_identity
from cotpress.evaluation.protocol import Answer, Protocol, answer_key
from cotpress.generation.asking import ask, journal
from cotpress.generation.backends import GREEDY, REFUSED, Backend, OpenBackend, generation_identity, open_backend
from cotpress.generation.config import GenerationConfig, ServerGenerationConfig
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.loading import load_tokenizer, tokenizer_fingerprint
from cotpress.modeling.sources import source_identity
from cotpress.modeling.weights import TrainedWeights
from cotpress.progress import Progress
from cotpress.prompts import ChatFormat
from cotpress.records import PREDICTIONS_FILE, PROBLEMS_FILE, Prediction, Problem
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary, fingerprint
from cotpress.store.tables import read_records, write_records

log = logging.getLogger(__name__)

ANSWERS = "answers.parquet"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A system to evaluate.

    Attributes:
        system: Name in tables.
        ratio: Requested kept fraction, copied into the records.
        student: Artifact of the sft stage, directory or hub id of a PEFT adapter, or None for the base model.
        protocol: How problems are put to it.
    """

    system: str
    ratio: float
    student: Artifact | str | None
    protocol: Protocol


def evaluate(
    candidates: Sequence[Candidate],
    *,
    model: ModelConfig,
    problems: Artifact,
    generation: GenerationConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
    opened: OpenBackend = open_backend,
) -> list[Artifact]:
    """Predictions of every candidate on all problems (`predictions.parquet`), in the order of the candidates.

    Candidates with the same weights generate their missing answers in one pass: the model is loaded once, and all
    ratios fill its batches together. Each artifact is the same as if its candidate had been evaluated alone.

    Returns:
        The artifacts; their seconds include answering and judging.

    Raises:
        ConfigError: A fully fine-tuned student should be evaluated on a server, which cannot load it.
        GenerationError: A server fails; finished answers are kept.
    """
    questions = read_records(problems.file(PROBLEMS_FILE), Problem)
    answering = _Answering(model, generation, trainer, store, opened, questions)
    return [
        _judged(candidate, answers, problems, answering, store)
        for candidate, answers in zip(candidates, answering.artifacts(candidates), strict=True)
    ]


class _Answering:
    """Generates the answers of students of one model; loads the model only if answers are missing."""

    def __init__(
        self,
        model: ModelConfig,
        generation: GenerationConfig,
        trainer: TrainerConfig,
        store: ArtifactStore,
        opened: OpenBackend,
        problems: Sequence[Problem],
    ) -> None:
        self._model, self._generation, self._trainer, self._store = model, generation, trainer, store
        self._open, self.problems = opened, problems

    @cached_property
    def chat(self) -> ChatFormat:
        """The students' conversation format."""
        return ChatFormat(load_tokenizer(self._model, self._store), self._model.chat)

    def artifacts(self, candidates: Sequence[Candidate]) -> list[Artifact]:
        """The answers of every candidate (`answers.parquet`), in the order of the problems."""
        identities = [self._identity(candidate) for candidate in candidates]
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for index, c in enumerate(candidates):
            weights = c.student.key if isinstance(c.student, Artifact) else c.student
            groups[weights, c.protocol.sampling].append(index)
        built: dict[int, Artifact] = {}
        for indices in groups.values():
            if len(indices) == 1:
                continue
            with self._store.unfinished("answer", [identities[i] for i in indices]) as folders:
                missing = {indices[place]: folder for place, folder in folders.items()}
                seconds = self._generate([(candidates[i], folder) for i, folder in missing.items()])
                for index, shared in zip(missing, seconds, strict=True):
                    built[index] = self._build(candidates[index], identities[index], shared)
        return [
            built.get(index) or self._build(candidate, identity)
            for index, (candidate, identity) in enumerate(zip(candidates, identities, strict=True))
        ]

    def _build(self, candidate: Candidate, identity: Mapping[str, Any], shared_seconds: float = 0.0) -> Artifact:
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

        return self._store.build("answer", identity, produce)

    def _generate(self, group: Sequence[tuple[Candidate, Path]]) -> list[float]:
        """Complete the journals of candidates with the same weights; returns the seconds per candidate."""
        if not group:
            return []
        first = group[0][0]
        names = ", ".join(dict.fromkeys(f"{c.system} at {c.ratio:g}" for c, _ in group))
        return ask(
            [(c.protocol.requests(self.problems, self.chat), journal(folder)) for c, folder in group],
            lambda: self._backend(first),
            label=f"evaluate {names}",
            unit="answers",
            sampling=first.protocol.sampling or GREEDY,
        )

    def _backend(self, candidate: Candidate) -> Backend:
        model, adapter = self._model, None
        if candidate.student is not None:
            weights = TrainedWeights.of(candidate.student)
            if not weights.is_adapter and isinstance(self._generation, ServerGenerationConfig):
                raise ConfigError(
                    f"evaluation.generation: {candidate.system} is a whole model ({weights.path}), which no server "
                    "loads on request. Fix: sft=lora, or generation@evaluation.generation=transformers, or serve "
                    "that folder and evaluate it with evaluate.py"
                )
            model, adapter = weights.on(model)
        return self._open(self._generation, model, self._trainer, self._store, adapter=adapter)

    def _identity(self, candidate: Candidate) -> dict[str, Any]:
        """Everything that determines the answers; a server's address, a key or a speed does not."""
        writer = generation_identity(self._generation, self._model, self._trainer)["model"]
        student: object = candidate.student
        if isinstance(student, Artifact):
            student = student.key
        elif isinstance(student, str):
            student = source_identity(student, key="adapter")
        if isinstance(self._generation, ServerGenerationConfig):  # prompts are tokenized here
            writer = {**writer, "tokenizer": tokenizer_fingerprint(load_tokenizer(self._model, self._store))}
        return {
            "model": writer,
            "student": student,
            "chat": self._model.chat,
            "questions": fingerprint({"asked": [[p.id, p.question] for p in self.problems]}),
            "protocol": candidate.protocol,
            "columns": [field.name for field in dataclasses.fields(Answer)],
        }


def _judged(
    candidate: Candidate, answers: Artifact, problems: Artifact, answering: _Answering, store: ArtifactStore
) -> Artifact:
    system, ratio, thinks = candidate.system, candidate.ratio, isinstance(candidate.student, Artifact)
    identity = {
        "answers": answers.key,
        "problems": problems.key,
        "system": system,
        "ratio": ratio,
        "thinks": thinks,
        **verdict_identity(),
        "columns": [field.name for field in dataclasses.fields(Prediction)],
    }

    def produce(folder: Path) -> Summary:
        by_id, chat = {p.id: p for p in answering.problems}, answering.chat
        rows = read_records(answers.file(ANSWERS), Answer)
        predictions = []
        with Progress(f"judge {system}", len(rows), "answers") as progress:
            for row in rows:
                predictions.append(prediction(by_id[row.id], row, chat, system=system, ratio=ratio, thinks=thinks))
                progress.advance(1)
        write_records(folder / PREDICTIONS_FILE, predictions, Prediction)
        return Summary(num_rows=len(predictions))

    judged = store.build("evaluate", identity, produce)
    return dataclasses.replace(judged, seconds=judged.seconds + answers.seconds, fresh=judged.fresh or answers.fresh)
