"""Modules and validations for tests on several devices; workers can import them, unlike those of a test module."""

import csv
import json
import os
import signal
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from cotpress.devices.launch import here
from cotpress.store.artifacts import SCRATCH
from cotpress.training.batching import Example, Examples
from cotpress.training.module import SftModule


class KilledOnce(SftModule):
    """Kills the second worker after the third step, the first time."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        flag = Path(os.environ["TEST_KILLED_ONCE"])
        if batch_idx == 2 and here().rank == 1 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def rank_and_mode(model: torch.nn.Module) -> Mapping[str, float]:
    """A validation that returns the rank of its worker and whether the model is in training mode."""
    return {"val/rank": float(here().rank), "val/training": float(model.training)}


def number_formats(model: torch.nn.Module) -> Mapping[str, float]:
    """A validation that returns whether all weights are bfloat16 and the logits finite."""
    language_model: Any = model
    logits = language_model(torch.arange(5).view(1, -1)).logits
    is_bfloat16 = all(p.dtype is torch.bfloat16 for p in model.parameters())
    return {"val/bfloat16": float(is_bfloat16), "val/finite": float(logits.isfinite().all())}


def weighted(examples: Examples, *, soft: bool) -> Examples:
    """Give the losses of every second example weights: of each third token none, of others 1 or a soft one."""

    def weights_of(example: Example, i: int) -> tuple[float, ...] | None:
        weights = [(k * 7 % 11 + 1) / 12 if soft else 1.0 for k in range(example.num_completion)]
        return None if i % 2 else (*(0.0 if k % 3 == 1 else w for k, w in enumerate(weights[:-1])), 1.0)

    kept = [replace(example, weights=weights_of(example, i)) for i, example in enumerate(examples.kept)]
    return replace(examples, kept=kept)


def losses(folder: Path) -> list[tuple[int, float, float, int]]:
    """Read step, loss, learning rate and target tokens of every step of a finished training."""
    with (folder / "train_log.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    return [(int(r["step"]), float(r["loss"]), float(r["lr"]), int(r["num_target_tokens"])) for r in rows]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read the saved weights of a finished training."""
    return load_file(next(folder.glob("*/*.safetensors")))


def checkpoint_folder(folder: Path) -> Path:
    """Return the only whole checkpoint of a training."""
    (path,) = (folder / SCRATCH).glob("checkpoint-*")
    return path


def checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """Read weights (`weights.NAME`) and moments of the checkpoint of a training, whole tensors."""
    reader = HuggingFaceStorageReader(str(checkpoint_folder(folder)))
    kinds = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(kind.size, dtype=kind.properties.dtype)
        for name, kind in kinds.items()
        if isinstance(kind, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def trained_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read the trained weights in the checkpoint of a training, by their names in the model."""
    named = checkpoint(folder).items()
    return {n.removeprefix("weights.loss_sum.model."): w for n, w in named if n.startswith("weights.")}


def steps_saved(folder: Path) -> int:
    """Read the number of finished steps in the checkpoint of a training."""
    return int(json.loads((checkpoint_folder(folder) / "state.json").read_text())["step"])
