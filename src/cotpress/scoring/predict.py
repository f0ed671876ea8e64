"""Compute chunks of traces with Lightning's `Trainer.predict`: a dataset of chunks, a predict step, a writer.

Every device runs `predict` in a process of its own, on every n-th of the missing chunks. The processes exchange
nothing, so each has a trainer of one device: no collective call can block on a slower device, and Lightning's samplers,
which give ready-made batches to every rank, have nothing to distribute.
"""

import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter
from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from torch.utils.data import DataLoader, IterableDataset

from cotpress.devices.config import TrainerConfig
from cotpress.devices.launch import here, pick_device, report
from cotpress.devices.lightning import ctrl_c_stops, quiet_lightning
from cotpress.devices.memory import MEMORY_FIX, is_out_of_memory
from cotpress.errors import MemoryLimitError, ModelError
from cotpress.records import ReadTrace, ScoredTrace, Trace
from cotpress.scoring.parts import Chunk, Parts, Tally, read_chunks

_Batch = tuple[Chunk, list[Trace]]
_Rows = tuple[list[Any], Tally]


class Work(Protocol):
    """Computes one row per trace: a `Scorer`, or a `ConditionReading`."""

    name: str

    def num_tokens(self, trace: Trace) -> int:
        """Count the tokens of the row."""

    def refusal(self, trace: Trace) -> str | None:
        """Give the reason why `trace` gets no row, or None."""

    def in_windows(self, trace: Trace) -> bool:
        """True if `trace` is read in overlapping windows."""

    def score(self, traces: Sequence[Trace]) -> Iterable[ScoredTrace | ReadTrace]:
        """Yield one row per trace, in order, as they are finished."""


def predict(make: Callable[[], Work], parts: Parts, chunks: Sequence[Chunk], trainer: TrainerConfig) -> None:
    """Write the parts of this process's share of some chunks; `report` the characters of every finished trace.

    Args:
        make: Loads models and builds the work; not called without a chunk.
        parts: Place of the parts.
        chunks: Chunks of all devices together, in order.
        trainer: The hardware.

    Raises:
        ModelError: A model cannot be loaded, or a number is not finite.
        MemoryLimitError: A single text does not fit the memory.
    """
    own = chunks[here().rank :: here().num_workers]
    if not own:
        return
    module = PredictModule(make())
    with quiet_lightning():
        warnings.filterwarnings("ignore", module=r"pytorch_lightning\.")  # hints about workers and batch indices
        device = pick_device(trainer)
        lightning = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index or 0] if device.type == "cuda" else 1,
            plugins=[LightningEnvironment()],  # one device, whatever started this process, and no requeueing
            inference_mode=False,  # some scorers take gradients; the others switch them off themselves
            callbacks=[PartWriter(parts)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = DataLoader(ChunkDataset(parts, own), batch_size=None, collate_fn=_unchanged)
        with ctrl_c_stops(lightning):
            lightning.predict(module, loader, return_predictions=False)


class ChunkDataset(IterableDataset[_Batch]):
    """The traces of some chunks, which are in order; a chunk is a batch of Lightning's."""

    def __init__(self, parts: Parts, chunks: Sequence[Chunk]) -> None:
        self._parts, self._chunks = parts, chunks

    def __iter__(self) -> Iterator[_Batch]:
        return read_chunks(self._parts.traces, self._chunks)


class PredictModule(pl.LightningModule):
    """Wraps the work, which chooses its own forward passes and has put its models on the device."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work = work

    def predict_step(self, batch: _Batch, batch_idx: int) -> _Rows:
        """Compute the rows of one chunk, and the counts of its traces.

        Raises:
            ModelError: A number is not finite.
            MemoryLimitError: A single text does not fit the memory.
        """
        tally, admitted, rows = Tally(num_traces=len(batch[1])), [], []
        for trace in batch[1]:
            if (reason := self._work.refusal(trace)) is not None:
                tally.dropped[reason] += 1
                report(len(trace.thinking))
                continue
            admitted.append(trace)
            tally.num_tokens += self._work.num_tokens(trace)
            tally.num_in_windows += self._work.in_windows(trace)
        try:
            for trace, row in zip(admitted, self._work.score(admitted), strict=True):
                _check(row, self._work.name)
                rows.append(row)
                report(len(trace.thinking))
        except (MemoryError, RuntimeError, MemoryLimitError) as error:  # batches are as small as they can be made
            if not isinstance(error, MemoryLimitError) and not is_out_of_memory(error):
                raise
            why = error if isinstance(error, MemoryLimitError) else f"out of memory. {MEMORY_FIX}"
            raise MemoryLimitError(
                f"{self._work.name}, at trace '{admitted[len(rows)].id}' or soon after: {why}. Finished chunks are kept"
            ) from error
        return rows, tally

    def transfer_batch_to_device(self, batch: _Batch, device: torch.device, dataloader_idx: int) -> _Batch:
        """Leave the traces, which are texts."""
        return batch


class PartWriter(BasePredictionWriter):
    """Writes the part of a chunk as soon as the chunk is done, and keeps this process's handler of SIGTERM.

    Lightning's own handler notes the signal for training loops and goes on.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(write_interval="batch")
        self._parts, self._on_sigterm = parts, signal.getsignal(signal.SIGTERM)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the handler back."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: _Rows,
        batch_indices: Sequence[int] | None,
        batch: _Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write one part."""
        self._parts.write(batch[0], *prediction)


def _unchanged(batch: Any) -> Any:
    return batch


def _check(row: ScoredTrace | ReadTrace, name: str) -> None:
    arrays = [value for value in (getattr(row, f.name) for f in fields(row)) if isinstance(value, np.ndarray)]
    assert len({len(array) for array in arrays}) == 1, f"{name}: arrays of different length for trace {row.id}"
    for array in arrays:
        if bad := int((~np.isfinite(array)).sum()):
            raise ModelError(
                f"{name}: {bad} of {len(array)} scores of trace '{row.id}' are not finite. "
                "Fix: model.dtype=float32, or retrain the reference model with a lower learning rate"
            )
