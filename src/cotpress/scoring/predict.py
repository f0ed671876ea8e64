"""Scores chunks of traces with Lightning's `Trainer.predict`: a dataset of chunks, a predict step, a writer of parts.

Every device runs this function in a process of its own, on every so-many-th of the chunks that are missing. The
processes have nothing to tell each other, so each has a trainer of one device: no collective call can hang because
another device is slower or gone, and Lightning's samplers, which hand every row to every rank when the batches are
ready-made, have nothing to distribute.
"""

import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter
from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from torch.utils.data import DataLoader, IterableDataset

from cotpress.devices.config import TrainerConfig
from cotpress.devices.device import pick_device
from cotpress.devices.launch import here, report
from cotpress.devices.lightning import ctrl_c_stops, quiet_lightning
from cotpress.devices.memory import MEMORY_FIX, is_out_of_memory
from cotpress.errors import MemoryLimitError, ModelError
from cotpress.records import ScoredTrace, Trace
from cotpress.scoring.base import NO_TOKENS, Scorer
from cotpress.scoring.parts import Chunk, Parts, Tally, read_chunks

_Batch = tuple[Chunk, list[Trace]]
_Prediction = tuple[list[ScoredTrace], Tally]


def predict(make: Callable[[], Scorer], parts: Parts, chunks: Sequence[Chunk], trainer: TrainerConfig) -> None:
    """Write the parts of this process's share of some chunks; `report`s the characters of every trace that is done.

    Args:
        make: Loads what the scorer needs and builds it; not called if there is nothing to score here.
        parts: Where the parts go.
        chunks: What all devices together are to score, in order.
        trainer: The hardware.

    Raises:
        ModelError: A model cannot be loaded, or a score is not finite.
        MemoryLimitError: A single text does not fit the memory.
    """
    own = chunks[here().rank :: here().num_workers]
    if not own:
        return
    module = ScoringModule(make())
    with quiet_lightning():
        warnings.filterwarnings("ignore", module=r"pytorch_lightning\.")  # hints about workers and batch indices
        device = pick_device(trainer)
        lightning = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index or 0] if device.type == "cuda" else 1,
            plugins=[LightningEnvironment()],  # whatever started this process: one device, no requeueing of its own
            inference_mode=False,  # some scorers take gradients; the others forbid them themselves
            callbacks=[PartWriter(parts), _OwnHandlers()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = DataLoader(ChunkDataset(parts.traces, own), batch_size=None, collate_fn=_as_it_is)
        with ctrl_c_stops(lightning):
            lightning.predict(module, loader, return_predictions=False)


class ChunkDataset(IterableDataset[_Batch]):
    """The traces of some chunks; a chunk is what Lightning calls a batch.

    Args:
        traces: File with the traces.
        chunks: Which chunks, in order.
    """

    def __init__(self, traces: Path, chunks: Sequence[Chunk]) -> None:
        self._traces, self._chunks = traces, chunks

    def __iter__(self) -> Iterator[_Batch]:
        return read_chunks(self._traces, self._chunks)


class ScoringModule(pl.LightningModule):
    """A scorer as Lightning sees it. What goes into one forward pass is the scorer's own business.

    Args:
        scorer: It has put its models on the device.
    """

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self._scorer = scorer

    def predict_step(self, batch: _Batch, batch_idx: int) -> _Prediction:
        """The scores of one chunk, and what became of its traces.

        Raises:
            ModelError: A score is not finite.
            MemoryLimitError: A single text does not fit the memory.
        """
        _, traces = batch
        tally, admitted = Tally(), []
        for trace in traces:
            if self._admit(trace, tally):
                admitted.append(trace)
            else:
                report(len(trace.thinking))
        scored = []
        try:
            for trace, record in zip(admitted, self._scorer.score(admitted), strict=True):
                _check(record, self._scorer.name)
                scored.append(record)
                report(len(trace.thinking))
        except (MemoryError, RuntimeError, MemoryLimitError) as error:  # batches are as small as they can be made
            if not isinstance(error, MemoryLimitError) and not is_out_of_memory(error):
                raise
            why = error if isinstance(error, MemoryLimitError) else f"out of memory. {MEMORY_FIX}"
            raise MemoryLimitError(
                f"scorer {self._scorer.name}, at trace '{admitted[len(scored)].id}' or soon after: {why}. "
                "Finished chunks are kept"
            ) from error
        return scored, tally

    def _admit(self, trace: Trace, tally: Tally) -> bool:
        """Whether a trace can be scored; it is counted either way."""
        tally.num_traces += 1
        num_tokens = self._scorer.num_tokens(trace)
        reason = self._scorer.refusal(trace) if num_tokens else NO_TOKENS
        if reason is not None:
            tally.dropped[reason] += 1
            return False
        tally.num_tokens += num_tokens
        tally.num_in_windows += self._scorer.in_windows(trace)
        return True

    def transfer_batch_to_device(self, batch: _Batch, device: torch.device, dataloader_idx: int) -> _Batch:
        """Traces are texts: there is nothing to move."""
        return batch


class PartWriter(BasePredictionWriter):
    """Writes the part of a chunk as soon as the chunk is scored.

    Args:
        parts: Where the parts go.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(write_interval="batch")
        self._parts = parts

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: _Prediction,
        batch_indices: Sequence[int] | None,
        batch: _Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """See `BasePredictionWriter`."""
        scored, tally = prediction
        self._parts.write(batch[0], scored, tally)


class _OwnHandlers(pl.Callback):
    """Takes back Lightning's handler of SIGTERM, which notes the signal for training loops and goes on."""

    def __init__(self) -> None:
        self._before = signal.getsignal(signal.SIGTERM)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)


def _as_it_is(batch: Any) -> Any:
    return batch


def _check(record: ScoredTrace, scorer: str) -> None:
    shapes = (record.scores.shape, record.token_ids.shape, record.offsets.shape[:1])
    assert len(set(shapes)) == 1, f"{scorer} gave {shapes} for trace {record.id}"
    bad = int((~np.isfinite(record.scores)).sum())
    if bad:
        raise ModelError(
            f"scorer {scorer}: {bad} of {len(record.scores)} scores of trace '{record.id}' are not finite. "
            "Fix: model.dtype=float32, or retrain the reference model with a lower learning rate"
        )
