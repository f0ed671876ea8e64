"""Who is asked, and how answers become artifacts: in one pass where the weights are the same, each kept by itself."""

import dataclasses
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cotpress.devices.config import TrainerConfig
from cotpress.errors import ConfigError
from cotpress.evaluation.asking import Answer, Inquiry, Protocol, ask
from cotpress.generation.backends import OpenBackend, generation_identity
from cotpress.generation.base import REFUSED, Backend
from cotpress.generation.config import GenerationConfig, ServerGenerationConfig
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer, tokenizer_fingerprint
from cotpress.modeling.sources import source_identity
from cotpress.progress import Progress
from cotpress.prompts import ChatFormat
from cotpress.records import Problem
from cotpress.store.artifacts import SCRATCH, Artifact, ArtifactStore, Summary, fingerprint
from cotpress.store.journal import Journal
from cotpress.store.tables import write_records

log = logging.getLogger(__name__)

ANSWERS = "answers.parquet"

_Journal = Journal[Answer, tuple[str, int]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Who is asked, and how.

    Attributes:
        system: Name in tables.
        ratio: Asked kept fraction, carried into the records.
        student: A fine-tuned student of the sft stage, a PEFT adapter directory or hub id, or None for the base.
        protocol: How it is asked.
    """

    system: str
    ratio: float
    student: Artifact | str | None
    protocol: Protocol


class Answering:
    """Gets answers from students of one model; a model is loaded only if answers are missing."""

    def __init__(
        self,
        model: ModelConfig,
        generation: GenerationConfig,
        trainer: TrainerConfig,
        store: ArtifactStore,
        opened: OpenBackend,
    ) -> None:
        self._model, self._generation, self._trainer, self._store = model, generation, trainer, store
        self._open = opened

    @cached_property
    def written(self) -> ChatFormat:
        """How conversations with the students are written."""
        return ChatFormat(load_tokenizer(self._model, self._store), self._model.chat)

    def answers(self, candidates: Sequence[Candidate], asked: Sequence[Problem]) -> list[Artifact]:
        """What every candidate writes (`answers.parquet`), in the problems' order."""
        identities = [self._identity(candidate, asked) for candidate in candidates]
        together: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for index, candidate in enumerate(candidates):
            together[_weights_key(candidate.student), candidate.protocol.sampling].append(index)
        made: dict[int, Artifact] = {}
        for indices in together.values():
            if len(indices) > 1:
                made |= self._made_together([(i, candidates[i], identities[i]) for i in indices], asked)
        return [
            made.get(index) or self._built(candidate, identity, asked)
            for index, (candidate, identity) in enumerate(zip(candidates, identities, strict=True))
        ]

    def _made_together(
        self, group: Sequence[tuple[int, Candidate, Mapping[str, Any]]], asked: Sequence[Problem]
    ) -> dict[int, Artifact]:
        """What is missing of candidates of the same weights, asked in one pass, by index."""
        with self._store.unfinished("answer", [identity for _, _, identity in group]) as folders:
            missing = [group[place] for place in folders]
            journals = [(group[place][1], _journal(folder)) for place, folder in folders.items()]
            seconds = self._ask(journals, asked)
            return {
                index: self._built(candidate, identity, asked, shared)
                for (index, candidate, identity), shared in zip(missing, seconds, strict=True)
            }

    def _built(
        self, candidate: Candidate, identity: Mapping[str, Any], asked: Sequence[Problem], shared_seconds: float = 0.0
    ) -> Artifact:
        def produce(workdir: Path) -> Summary:
            kept = _journal(workdir)
            self._ask([(candidate, kept)], asked)
            rows = [kept.done[p.id, k] for p in asked for k in range(candidate.protocol.samples)]
            write_records(workdir / ANSWERS, rows, Answer)
            reasons, counted_again = Counter(a.finish_reason for a in rows), sum(a.retokenized for a in rows)
            if reasons[REFUSED]:
                log.warning("%d of %d prompts leave no room in the model's context", reasons[REFUSED], len(rows))
            if counted_again:
                log.warning("%d answers came without token ids; their tokens are counted again", counted_again)
            facts = {"finish_reasons": reasons, "retokenized": counted_again}
            return Summary(num_rows=len(rows), facts=facts, shared_seconds=shared_seconds)

        return self._store.build("answer", identity, produce)

    def _identity(self, candidate: Candidate, asked: Sequence[Problem]) -> dict[str, Any]:
        """What determines the answers: never a server's address, a key, or a speed."""
        writer = generation_identity(self._generation, self._model, self._trainer, self._store)["model"]
        student = candidate.student
        if isinstance(student, Artifact):
            trained: object = student.key
        else:
            trained = None if student is None else source_identity(student, key="adapter")
        if isinstance(self._generation, ServerGenerationConfig):  # the prompts' token ids are made here
            writer = {**writer, "tokenizer": tokenizer_fingerprint(load_tokenizer(self._model, self._store))}
        return {
            "model": writer,
            "student": trained,
            "chat": self._model.chat,
            "questions": fingerprint({"asked": [[p.id, p.question] for p in asked]}),
            "protocol": candidate.protocol,
            "columns": [field.name for field in dataclasses.fields(Answer)],
        }

    def _ask(self, group: Sequence[tuple[Candidate, _Journal]], asked: Sequence[Problem]) -> list[float]:
        """Ask what the journals of candidates of the same weights do not hold yet; seconds per candidate."""
        totals = [len(asked) * candidate.protocol.samples for candidate, _ in group]
        missing = [total - len(kept.done) for total, (_, kept) in zip(totals, group, strict=True)]
        if not any(missing):
            return [0.0] * len(group)
        names = ", ".join(dict.fromkeys(f"{c.system} at {c.ratio:g}" for c, _ in group))
        latency, began = [0.0] * len(group), time.monotonic()
        with Progress(f"evaluate {names}", sum(totals), "answers", done=sum(totals) - sum(missing)) as progress:

            def inquiry(number: int, candidate: Candidate, kept: _Journal) -> Inquiry:
                def note(answer: Answer) -> None:
                    kept.add(answer)
                    latency[number] += answer.latency_s
                    progress.advance(1)

                return Inquiry(protocol=candidate.protocol, skip=frozenset(kept.done), on_done=note)

            inquiries = [inquiry(number, candidate, kept) for number, (candidate, kept) in enumerate(group)]
            ask(self._opened(group[0][0]), self.written, asked, inquiries)
        elapsed = time.monotonic() - began
        return [elapsed * share / (sum(latency) or 1.0) for share in latency]

    def _opened(self, candidate: Candidate) -> Backend:
        weights, adapter = self._weights(candidate)
        return self._open(self._generation, weights, self._trainer, self._store, adapter=adapter)

    def _weights(self, candidate: Candidate) -> tuple[ModelConfig, str | None]:
        """The model to load and the adapter to put on it."""
        student = candidate.student
        if not isinstance(student, Artifact):
            return self._model, student
        if (student.path / "adapter").is_dir():
            return self._model, str(student.path / "adapter")
        if isinstance(self._generation, ServerGenerationConfig):
            raise ConfigError(
                f"evaluation.generation: {candidate.system} is a whole model ({student.path / 'model'}), which no "
                "server loads on request. Fix: sft=lora, or generation@evaluation.generation=transformers, or serve "
                "that folder and evaluate it with evaluate.py"
            )
        return full_checkpoint(self._model, student.path / "model"), None


def full_checkpoint(model: ModelConfig, folder: Path) -> ModelConfig:
    """The same model with its weights from a local folder."""
    return dataclasses.replace(model, source=ModelSource.hub, path=str(folder), revision=None)


def _journal(folder: Path) -> _Journal:
    return Journal(folder / SCRATCH / "answers.jsonl", Answer, lambda answer: (answer.id, answer.sample))


def _weights_key(student: Artifact | str | None) -> str:
    return student.key if isinstance(student, Artifact) else student or ""
