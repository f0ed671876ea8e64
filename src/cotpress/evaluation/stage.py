"""The evaluation stage: a student answers all problems of a benchmark; a killed run asks only what is unanswered."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cotpress.artifacts import SCRATCH, Artifact, ArtifactStore, Summary
from cotpress.evaluation.runner import Protocol, answer_problems
from cotpress.generation.base import Sampling
from cotpress.modeling.loading import load_model, load_tokenizer, model_identity, pick_device
from cotpress.modeling_config import ModelConfig
from cotpress.progress import Progress
from cotpress.records import Prediction, Problem
from cotpress.tables import read_records, write_records
from cotpress.trainer_config import TrainerConfig

PREDICTIONS = "predictions.parquet"


def evaluate(
    *,
    system: str,
    ratio: float,
    model: ModelConfig,
    student: Artifact | str | None,
    problems: Artifact,
    max_new_tokens: int,
    marker_ratio: float | None,
    samples: int = 1,
    sampling: Sampling | None = None,
    trainer: TrainerConfig,
    store: ArtifactStore,
) -> Artifact:
    """Predictions of a student on all problems (`predictions.parquet`).

    Args:
        system: Name of the student in tables.
        ratio: Asked kept fraction, carried into the records.
        model: The base model.
        student: A fine-tuned student of the sft stage, a PEFT adapter directory or hub id, or None for the base.
        problems: Artifact with `problems.parquet`.
        max_new_tokens: Budget per answer, in tokens.
        marker_ratio: Ratio announced in the prompt, or None.
        samples: Answers per problem.
        sampling: How tokens are chosen; None is greedy.
        trainer: Hardware.
        store: Where the result goes.
    """
    device = pick_device(trainer)
    protocol = Protocol(
        max_new_tokens=max_new_tokens,
        batch_tokens=trainer.generation_tokens,
        marker_ratio=marker_ratio,
        samples=samples,
        sampling=sampling,
    )
    identity = {
        "system": system,
        "ratio": ratio,
        "model": model_identity(model, store, device),
        "chat": model.chat,
        "student": student.key if isinstance(student, Artifact) else _adapter_identity(student),
        "problems": problems.key,
        **_protocol_identity(protocol),
    }
    respondent = _Respondent(system, ratio, model, student, protocol, store, device)

    def produce(workdir: Path) -> Summary:
        asked = read_records(problems.file("problems.parquet"), Problem)
        predictions = respondent.answers(asked, workdir / SCRATCH / "answers.jsonl")
        write_records(workdir / PREDICTIONS, predictions, Prediction)
        return Summary(num_rows=len(predictions))

    return store.build("evaluate", identity, produce)


def _protocol_identity(protocol: Protocol) -> dict[str, Any]:
    """What of the protocol determines the answers; and their columns, so that no older table is taken for one."""
    return {
        "max_new_tokens": protocol.max_new_tokens,
        "marker_ratio": protocol.marker_ratio,
        "samples": protocol.samples,
        "sampling": protocol.sampling,
        "columns": [field.name for field in dataclasses.fields(Prediction)],
    }


@dataclasses.dataclass(frozen=True, slots=True)
class _Respondent:
    """A student and how it is asked; loaded only if answers are missing."""

    system: str
    ratio: float
    model: ModelConfig
    student: Artifact | str | None
    protocol: Protocol
    store: ArtifactStore
    device: torch.device

    def answers(self, asked: Sequence[Problem], scratch: Path) -> list[Prediction]:
        """Predictions in the problems' order; those that `scratch` already holds are not generated again."""
        kept = _Kept(scratch)
        keys = [(p.id, k) for p in asked for k in range(self.protocol.samples)]
        waiting = [p for p in asked if any((p.id, k) not in kept.done for k in range(self.protocol.samples))]
        if waiting:
            each = f", {self.protocol.samples} samples each" if self.protocol.samples > 1 else ""
            label = f"evaluate {self.system} on {len(asked)} problems{each}"
            with Progress(label, len(keys), "answers", done=len(kept.done)) as progress:
                self._ask(waiting, kept, progress)
        return [kept.done[key] for key in keys]

    def _ask(self, waiting: Sequence[Problem], kept: "_Kept", progress: Progress) -> None:
        weights, adapter = _weights(self.model, self.student)
        answer_problems(
            load_model(weights, self.store, adapter=adapter, merge_adapter=True, device=self.device),
            load_tokenizer(self.model, self.store),
            self.model.chat,
            waiting,
            self.protocol,
            system=self.system,
            ratio=self.ratio,
            skip=frozenset(kept.done),
            on_done=kept.add,
            on_finished=progress.advance,
        )


class _Kept:
    """Answers of an interrupted evaluation, one JSON line each; a torn last line is asked again."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.done: dict[tuple[str, int], Prediction] = {}
        whole = b""
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
            if line.endswith(b"\n"):
                prediction = Prediction(**json.loads(line))
                self.done[prediction.id, prediction.sample] = prediction
                whole += line
        path.write_bytes(whole)
        self._path = path

    def add(self, prediction: Prediction) -> None:
        self.done[prediction.id, prediction.sample] = prediction
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(dataclasses.asdict(prediction)) + "\n")


def _weights(model: ModelConfig, student: Artifact | str | None) -> tuple[ModelConfig, str | None]:
    """The model to load and the adapter to put on it."""
    if isinstance(student, Artifact):
        if (student.path / "adapter").is_dir():
            return model, str(student.path / "adapter")
        return full_checkpoint(model, student.path / "model"), None
    return model, student


def full_checkpoint(model: ModelConfig, folder: Path) -> ModelConfig:
    """The same model with its weights from a local folder."""
    from cotpress.modeling_config import ModelSource

    return dataclasses.replace(model, source=ModelSource.hub, path=str(folder), revision=None)


def _adapter_identity(adapter: str | None) -> dict[str, Any] | None:
    from cotpress.modeling.sources import source_identity

    return None if adapter is None else dict(source_identity(adapter))
