"""The evaluation stage: a student answers all problems of a benchmark; a killed run goes on after its last batch."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from cotpress.artifacts import SCRATCH, Artifact, ArtifactStore, Summary
from cotpress.evaluation.runner import Protocol, answer_problems
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
        trainer: Hardware.
        store: Where the result goes.
    """
    device = pick_device(trainer)
    identity = {
        "system": system,
        "ratio": ratio,
        "model": model_identity(model, store, device),
        "chat": model.chat,
        "student": student.key if isinstance(student, Artifact) else _adapter_identity(student),
        "problems": problems.key,
        "max_new_tokens": max_new_tokens,
        "marker_ratio": marker_ratio,
    }
    protocol = Protocol(
        max_new_tokens=max_new_tokens, batch_tokens=trainer.generation_tokens, marker_ratio=marker_ratio
    )

    def produce(workdir: Path) -> Summary:
        asked = read_records(problems.file("problems.parquet"), Problem)
        kept = _Kept(workdir / SCRATCH / "answers.jsonl")
        waiting = [p for p in asked if p.id not in kept.done]
        label = f"evaluate {system} on {len(asked)} problems"
        if waiting:
            weights, adapter = _weights(model, student)
            loaded = load_model(weights, store, adapter=adapter, merge_adapter=True, device=device)
            tokenizer = load_tokenizer(model, store)
            with Progress(label, len(asked), "answers", done=len(kept.done)) as progress:
                answer_problems(
                    loaded,
                    tokenizer,
                    model.chat,
                    waiting,
                    protocol,
                    system=system,
                    ratio=ratio,
                    on_done=kept.add,
                    on_finished=progress.advance,
                )
        write_records(workdir / PREDICTIONS, [kept.done[p.id] for p in asked], Prediction)
        return Summary(num_rows=len(asked))

    return store.build("evaluate", identity, produce)


class _Kept:
    """Answers of an interrupted evaluation, one JSON line each; a torn last line is asked again."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, Prediction] = {}
        whole = b""
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
            if line.endswith(b"\n"):
                prediction = Prediction(**json.loads(line))
                self.done[prediction.id] = prediction
                whole += line
        path.write_bytes(whole)
        self._path = path

    def add(self, prediction: Prediction) -> None:
        self.done[prediction.id] = prediction
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
