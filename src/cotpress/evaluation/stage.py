"""The evaluation stage: a student answers all problems of a benchmark, and its answers are judged.

Two artifacts, because asking is dear and judging is not: `answer` holds what was written and depends on the student,
the questions and the protocol; `evaluate` holds the verdicts and depends on the checker too. So a better checker, a
corrected gold answer or another extractor judges again and asks nobody. A killed run asks only what is unanswered.
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cotpress.artifacts import SCRATCH, Artifact, ArtifactStore, Summary, fingerprint
from cotpress.errors import ConfigError
from cotpress.evaluation.asking import Answer, Protocol, ask
from cotpress.evaluation.judging import prediction, verdict_identity
from cotpress.generation.backends import generation_identity, open_backend
from cotpress.generation.base import REFUSED
from cotpress.generation_config import GenerationConfig, ServerGenerationConfig
from cotpress.journal import Journal
from cotpress.modeling.loading import load_tokenizer, tokenizer_fingerprint
from cotpress.modeling.sources import source_identity
from cotpress.modeling_config import ModelConfig, ModelSource
from cotpress.progress import Progress
from cotpress.prompts import ChatFormat
from cotpress.records import Prediction, Problem
from cotpress.tables import read_records, write_records
from cotpress.trainer_config import TrainerConfig

log = logging.getLogger(__name__)

ANSWERS = "answers.parquet"
PREDICTIONS = "predictions.parquet"


def evaluate(
    *,
    system: str,
    ratio: float,
    model: ModelConfig,
    student: Artifact | str | None,
    problems: Artifact,
    protocol: Protocol,
    generation: GenerationConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
) -> Artifact:
    """Predictions of a student on all problems (`predictions.parquet`).

    Args:
        system: Name of the student in tables.
        ratio: Asked kept fraction, carried into the records.
        model: The base model; with a server only its tokenizer and chat format are used.
        student: A fine-tuned student of the sft stage, a PEFT adapter directory or hub id, or None for the base.
        problems: Artifact with `problems.parquet`.
        protocol: How it is asked.
        generation: Which backend writes.
        trainer: Hardware.
        store: Where the result goes.

    Returns:
        The artifact; its seconds are those of asking and judging together.

    Raises:
        ConfigError: A student whose every weight was trained is asked of a server, which cannot load it.
        GenerationError: A server fails; what was answered is kept.
    """
    asked = read_records(problems.file("problems.parquet"), Problem)
    respondent = _Respondent(system, model, student, protocol, generation, trainer, store)
    answers = respondent.answers(asked)
    thinks = isinstance(student, Artifact)
    identity = {
        "answers": answers.key,
        "problems": problems.key,
        "system": system,
        "ratio": ratio,
        "thinks": thinks,
        **verdict_identity(),
        "columns": [field.name for field in dataclasses.fields(Prediction)],
    }

    def produce(workdir: Path) -> Summary:
        by_id, written = {p.id: p for p in asked}, respondent.written
        rows = read_records(answers.file(ANSWERS), Answer)
        judged = []
        with Progress(f"judge {system}", len(rows), "answers") as progress:
            for row in rows:
                judged.append(prediction(by_id[row.id], row, written, system=system, ratio=ratio, thinks=thinks))
                progress.advance(1)
        write_records(workdir / PREDICTIONS, judged, Prediction)
        return Summary(num_rows=len(judged))

    found = store.build("evaluate", identity, produce)
    return dataclasses.replace(found, seconds=found.seconds + answers.seconds, fresh=found.fresh or answers.fresh)


@dataclasses.dataclass(frozen=True, slots=True)
class _Respondent:
    """A student and how it is asked; loaded only if answers are missing."""

    system: str
    model: ModelConfig
    student: Artifact | str | None
    protocol: Protocol
    generation: GenerationConfig
    trainer: TrainerConfig
    store: ArtifactStore

    @property
    def written(self) -> ChatFormat:
        """How conversations with the student are written."""
        return ChatFormat(load_tokenizer(self.model, self.store), self.model.chat)

    def answers(self, asked: Sequence[Problem]) -> Artifact:
        """What the student writes (`answers.parquet`), in the problems' order."""
        identity = {
            **self._identity(),
            "chat": self.model.chat,
            "questions": fingerprint({"asked": [[p.id, p.question] for p in asked]}),
            "protocol": self.protocol,
            "columns": [field.name for field in dataclasses.fields(Answer)],
        }

        def produce(workdir: Path) -> Summary:
            rows = self._collected(asked, workdir / SCRATCH / "answers.jsonl")
            write_records(workdir / ANSWERS, rows, Answer)
            reasons, counted_again = Counter(a.finish_reason for a in rows), sum(a.retokenized for a in rows)
            if reasons[REFUSED]:
                log.warning("%d of %d prompts leave no room in the model's context", reasons[REFUSED], len(rows))
            if counted_again:
                log.warning("%d answers came without token ids; their tokens are counted again", counted_again)
            return Summary(num_rows=len(rows), facts={"finish_reasons": reasons, "retokenized": counted_again})

        return self.store.build("answer", identity, produce)

    def _identity(self) -> dict[str, Any]:
        """Who writes: never a server's address, a key, or a speed."""
        writer = generation_identity(self.generation, self.model, self.trainer, self.store)["model"]
        student = self.student
        if isinstance(student, Artifact):
            trained: object = student.key
        else:
            trained = None if student is None else source_identity(student)
        if isinstance(self.generation, ServerGenerationConfig):  # the prompts' token ids are made here
            writer = {**writer, "tokenizer": tokenizer_fingerprint(load_tokenizer(self.model, self.store))}
        return {"model": writer, "student": trained}

    def _collected(self, asked: Sequence[Problem], scratch: Path) -> list[Answer]:
        """Answers in the problems' order; those that `scratch` already holds are not asked for again."""
        kept = Journal(scratch, Answer, lambda answer: (answer.id, answer.sample))
        samples = self.protocol.samples
        keys = [(p.id, k) for p in asked for k in range(samples)]
        waiting = [p for p in asked if any((p.id, k) not in kept.done for k in range(samples))]
        if waiting:
            each = f", {samples} samples each" if samples > 1 else ""
            label = f"evaluate {self.system} on {len(asked)} problems{each}"
            weights, adapter = self._weights()
            with Progress(label, len(keys), "answers", done=len(kept.done)) as progress:
                ask(
                    open_backend(self.generation, weights, self.trainer, self.store, adapter=adapter),
                    self.written,
                    waiting,
                    self.protocol,
                    skip=frozenset(kept.done),
                    on_done=kept.add,
                    on_finished=progress.advance,
                )
        return [kept.done[key] for key in keys]

    def _weights(self) -> tuple[ModelConfig, str | None]:
        """The model to load and the adapter to put on it."""
        student = self.student
        if not isinstance(student, Artifact):
            return self.model, student
        if (student.path / "adapter").is_dir():
            return self.model, str(student.path / "adapter")
        if isinstance(self.generation, ServerGenerationConfig):
            raise ConfigError(
                f"evaluation.generation: {self.system} is a whole model ({student.path / 'model'}), which no server "
                "loads on request. Fix: sft=lora, or generation@evaluation.generation=transformers, or serve that "
                "folder and evaluate it with evaluate.py"
            )
        return full_checkpoint(self.model, student.path / "model"), None


def full_checkpoint(model: ModelConfig, folder: Path) -> ModelConfig:
    """The same model with its weights from a local folder."""
    return dataclasses.replace(model, source=ModelSource.hub, path=str(folder), revision=None)
