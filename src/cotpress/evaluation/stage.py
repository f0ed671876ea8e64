"""The evaluate stage: a system's answers to a benchmark, kept batch by batch so that an interruption costs one."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch

from cotpress.artifacts import SCRATCH, Artifact, ArtifactStore, Summary
from cotpress.errors import DataError
from cotpress.evaluation.runner import Protocol, answer_problems
from cotpress.modeling.loading import load_model, load_tokenizer, model_identity, pick_device
from cotpress.modeling.sources import source_identity
from cotpress.modeling_config import ModelConfig, ModelSource
from cotpress.progress import Progress
from cotpress.prompts import ChatFormat
from cotpress.records import Prediction, Problem
from cotpress.tables import read_records, write_records
from cotpress.tracking import Tracker
from cotpress.trainer_config import TrainerConfig

log = logging.getLogger(__name__)

PROBLEMS_FILE = "problems.parquet"
PREDICTIONS_FILE = "predictions.parquet"


def evaluate(
    *,
    system: str,
    ratio: float,
    model: ModelConfig,
    adapter: Artifact | Path | None,
    problems: Artifact,
    max_new_tokens: int,
    trainer: TrainerConfig,
    tracker: Tracker,
    store: ArtifactStore,
    marker_ratio: float | None = None,
) -> Artifact:
    """Greedy answers of a system to a benchmark, checked.

    Args:
        system: Row of the results table.
        ratio: Kept fraction the student was trained for.
        model: The base model.
        adapter: Output of the sft stage, a PEFT adapter folder, or None for the model itself.
        problems: Output of the benchmark stage.
        max_new_tokens: Budget per answer; a truncated answer is wrong.
        trainer: Hardware; does not change the answers.
        tracker: Takes accuracy and token counts.
        store: Where artifacts are kept.
        marker_ratio: Ratio announced in the prompt; only students of mixed-ratio training know the marker.

    Raises:
        DataError: The benchmark is empty.
        ModelError: Model or adapter cannot be loaded.
    """
    identity = {
        "system": system,
        "ratio": ratio,
        "model": model_identity(model, store, pick_device(trainer)),
        "chat": model.chat,
        "adapter": _adapter_identity(adapter),
        "problems": problems.key,
        "max_new_tokens": max_new_tokens,
        "marker_ratio": marker_ratio,
    }
    protocol = Protocol(
        system=system,
        ratio=ratio,
        marker_ratio=marker_ratio,
        max_new_tokens=max_new_tokens,
        batch_size=trainer.generation_batch_size,
    )

    def produce(workdir: Path) -> Summary:
        asked = read_records(problems.file(PROBLEMS_FILE), Problem)
        if not asked:
            raise DataError(f"evaluate: benchmark {problems.key} has no problem. Fix: raise benchmark.limit")
        if trainer.num_threads is not None:
            torch.set_num_threads(trainer.num_threads)
        loaded = _load(model, adapter, trainer, store)
        tokenizer = load_tokenizer(model, store)
        predictions = _answer(loaded, tokenizer, ChatFormat(tokenizer, model.chat), asked, protocol, workdir)
        write_records(workdir / PREDICTIONS_FILE, predictions, Prediction)
        metrics = summarize(predictions)
        tracker.log("evaluate", {f"{system}/{name}": value for name, value in metrics.items()})
        return Summary(num_rows=len(predictions), facts={"system": system, **metrics})

    return store.build("evaluate", identity, produce)


def summarize(predictions: list[Prediction]) -> dict[str, float]:
    """Accuracy, tokens per answer and truncated share of a non-empty list."""
    n = len(predictions)
    return {
        "accuracy": sum(p.correct for p in predictions) / n,
        "tokens": sum(p.num_tokens for p in predictions) / n,
        "truncation_rate": sum(p.finish_reason == "length" for p in predictions) / n,
    }


def _adapter_identity(adapter: Artifact | Path | None) -> Any:
    if adapter is None or isinstance(adapter, Artifact):
        return None if adapter is None else adapter.key
    return source_identity(str(adapter))


def _load(model: ModelConfig, adapter: Artifact | Path | None, trainer: TrainerConfig, store: ArtifactStore) -> Any:
    device = pick_device(trainer)
    if isinstance(adapter, Artifact):
        if (adapter.path / "model").is_dir():  # a full fine-tune stands alone
            tuned = dataclasses.replace(model, source=ModelSource.hub, path=str(adapter.path / "model"), revision=None)
            return load_model(tuned, store, device=device)
        adapter = adapter.path / "adapter"
    return load_model(model, store, adapter=adapter, merge_adapter=True, device=device)


def _answer(
    model: Any, tokenizer: Any, chat: ChatFormat, problems: list[Problem], protocol: Protocol, workdir: Path
) -> list[Prediction]:
    """Predictions in the order of `problems`; batches that an interrupted call finished are read back."""
    scratch = workdir / SCRATCH
    scratch.mkdir(exist_ok=True)
    parts = sorted(scratch.glob("part-*.parquet"))
    found = {p.id: p for p in read_records(parts, Prediction)}
    open_problems = [p for p in problems if p.id not in found]
    open_problems.sort(key=lambda p: len(p.question))  # similar lengths, little padding
    size = protocol.batch_size
    with Progress(f"evaluate {protocol.system}", len(problems), "answers", len(found)) as progress:
        for start in range(0, len(open_problems), size):
            batch = answer_problems(model, tokenizer, chat, open_problems[start : start + size], protocol)
            number = len(parts) + start // size
            writing = scratch / "writing.parquet"
            write_records(writing, batch, Prediction)
            writing.rename(scratch / f"part-{number:06d}.parquet")  # a part under its final name is complete
            found |= {p.id: p for p in batch}
            seconds = sum(p.latency_s for p in batch)
            rate = sum(p.num_tokens for p in batch) / max(seconds, 1e-9)
            progress.advance(len(batch), f"{rate:.0f} tokens/s")
    return [found[p.id] for p in problems]
