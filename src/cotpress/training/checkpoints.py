"""Checkpoints of a training: every worker writes its part of them, while the training goes on.

    checkpoint-00000120/
        shard-00001-model-00001-of-00001.safetensors  ...   weights and moments, the part of one worker each
        state.json                                          finished steps, log, checksums of the other files

`torch.distributed.checkpoint` copies the tensors into main memory, writes them in the background, and reads them into
any division, so an interrupted run goes on with any strategy on any number of devices. A folder has its name only when
it is whole; until then its name begins with a point. No file is unpickled.
"""

import json
import logging
import shutil
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse, async_save

from cotpress.devices.launch import here, host_group
from cotpress.devices.stopping import StopTraining
from cotpress.errors import TrainingError
from cotpress.store.artifacts import fingerprint, write_text_atomic
from cotpress.store.paths import is_unreadable, unreadable
from cotpress.training.module import NextTokenModule

log = logging.getLogger(__name__)

STATE = "state.json"
FILE_BYTES = 2e9
"""Size of a file, which is put together in main memory before it is written."""
MOST_TIME = 0.02
"""Largest share of the training time in which a training waits for its checkpoints."""
_MOMENTS = ("exp_avg", "exp_avg_sq")
_CHECKSUM = ".crc32"
_HINT = ".*torch.distributed is disabled, unavailable or uninitialized.*"
"""Warning of `torch.distributed.checkpoint` where one process saves for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    step: int
    """Number of finished optimizer steps."""
    names: str
    """Fingerprint of names and shapes of its weights."""
    log: Mapping[str, Any]
    """The log of these steps, as the training has given it."""


class Checkpoints(pl.Callback):
    """Saves a training at intervals, and when it is stopped, and brings a new process to where it was.

    The interval is at least `every_s`, and so long that the training waits at most `MOST_TIME` of it for the copy into
    main memory.

    Args:
        folder: Folder of the checkpoints.
        every_s: Shortest interval in seconds; 0 saves after each step, however long that takes.
        start: The checkpoint to go on from.
        log_so_far: Returns the log to save.
    """

    def __init__(
        self, folder: Path, every_s: float, start: Checkpoint | None, log_so_far: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._folder, self._every_s, self._start, self._log_so_far = folder, every_s, start, log_so_far
        self._group: Any = None
        self._stager: DefaultStager | None = None
        self._writing: Future[Any] | None = None
        self._began = self._saved = time.monotonic()
        self._waited = 0.0
        self._count = 0
        self._saved_step = 0 if start is None else start.step

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare the workers, and read the checkpoint to go on from."""
        self._group = host_group()  # of its own, as the main thread uses the other one at the same time
        if here().is_first:
            self._folder.mkdir(parents=True, exist_ok=True)
            for unfinished in self._folder.glob(".checkpoint-*"):
                shutil.rmtree(unfinished)
        if self._group is not None:
            dist.barrier(self._group)
        assert isinstance(pl_module, NextTokenModule)
        pinned = torch.cuda.is_available()  # page-locked memory, which a GPU copies to at its full speed
        self._stager = DefaultStager(StagingOptions(pinned, False, False, False))  # no shared memory, no own thread
        if self._start is not None:
            _read(self._start, pl_module, trainer.optimizers[0], self._group)
        self._began = self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time on all workers."""
        assert isinstance(pl_module, NextTokenModule)
        if self._every_s > 0:
            idle = self._writing is None or self._writing.done()
            due = idle and time.monotonic() - self._saved >= max(self._every_s, self._cost / MOST_TIME)
            if not trainer.strategy.reduce_boolean_decision(due, all=True):
                return
        self._finish()
        self._save(pl_module, trainer.optimizers[0])

    @property
    def _cost(self) -> float:
        """Seconds that the training has waited for a checkpoint so far, in the mean."""
        return self._waited / self._count if self._count else 0.0

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save what is done when all workers stop; after an error keep the last checkpoint."""
        if isinstance(exception, StopTraining):
            assert isinstance(pl_module, NextTokenModule)
            self._finish()
            self._save(pl_module, trainer.optimizers[0])
            self._finish()
            if here().is_first:
                log.warning("%s; that is saved, and the same command goes on from there", exception)
        elif here().num_workers == 1:  # others may be gone
            with suppress(Exception):
                self._finish()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait until the last checkpoint is whole."""
        self._finish()
        if self._count and here().is_first:
            share = 100 * self._waited / (time.monotonic() - self._began)
            log.info("%d checkpoints, for which the training waited %.1f s (%.1f %%)", self._count, self._waited, share)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Release the memory of the copies."""
        if self._stager is not None:
            self._stager.close()
            self._stager = None

    def _save(self, module: NextTokenModule, optimizer: torch.optim.Optimizer) -> None:
        """Begin to save what no checkpoint holds yet."""
        if module.steps_done == self._saved_step:
            return
        began = time.monotonic()
        module.require_finite_weights()
        weights = trained(module)
        tensors = _tensors(weights, optimizer)
        state = {"step": module.steps_done, "names": names_of(weights), "log": self._log_so_far()}
        writing = async_save(
            tensors,
            storage_writer=_Writer(self._folder, state, tensors),
            process_group=self._group,
            async_stager=self._stager,
            no_dist=self._group is None,
        )
        self._writing = writing.upload_completion if isinstance(writing, AsyncSaveResponse) else writing
        self._saved, self._saved_step = time.monotonic(), module.steps_done
        self._waited += self._saved - began
        self._count += 1

    def _finish(self) -> None:
        """Wait for the checkpoint that is being written.

        Raises:
            OSError: It cannot be written.
        """
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except CheckpointException as error:  # holds the errors of the workers
            cause, _ = next(iter(error.failures.values()))
            raise cause from error


def trained(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def names_of(weights: Mapping[str, torch.Tensor]) -> str:
    """Fingerprint of names and shapes."""
    return fingerprint({"weights": {name: list(w.shape) for name, w in weights.items()}})


def _tensors(weights: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Weights and AdamW's moments by name, not copied; zeros for a weight that has had no gradient yet."""
    tensors = {f"weights.{name}": w.detach() for name, w in weights.items()}
    for name, w in weights.items():
        moments = optimizer.state.get(w) or {m: torch.zeros_like(w) for m in _MOMENTS}
        tensors |= {f"{m}.{name}": moments[m] for m in _MOMENTS}
    return tensors


class _Writer(HuggingFaceStorageWriter):
    """Writes into a hidden folder, which gets its name when all workers have written their files."""

    def __init__(self, folder: Path, state: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        self._state, self._whole = state, folder / f"checkpoint-{state['step']:08d}"
        files, size = dict[str, int](), 0.0
        for name, tensor in tensors.items():
            size += tensor.numel() * tensor.element_size() / here().num_workers
            files[name] = 1 + int(size // FILE_BYTES)
        numbers = {number: n for n, number in enumerate(dict.fromkeys(files.values()), start=1)}
        hidden = str(folder / f".{self._whole.name}")
        super().__init__(hidden, {name: numbers[n] for name, n in files.items()}, save_distributed=True)

    def write_data(self, plan: Any, planner: Any) -> Any:
        """Write the files of this worker, each with its checksum beside it."""
        written = super().write_data(plan, planner)
        for name in {result.storage_data.relative_path for result in written.value()}:
            path = Path(self.path, name)
            write_text_atomic(path.with_name(name + _CHECKSUM), str(_checksum(path)))
        return written

    def finish(self, metadata: Any, results: Any) -> None:
        """Name the whole folder, and remove the older one; called in the first worker, after all have written."""
        hidden = Path(self.path)
        names = sorted({r.storage_data.relative_path for of_worker in results for r in of_worker})
        sums = {name: int((hidden / f"{name}{_CHECKSUM}").read_text()) for name in names}
        write_text_atomic(hidden / STATE, json.dumps({**self._state, "files": sums}))
        for name in names:
            (hidden / f"{name}{_CHECKSUM}").unlink()
        older = _folders(hidden.parent)
        hidden.rename(self._whole)
        for folder in older:
            shutil.rmtree(folder)


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while part := file.read(1 << 24):
            value = zlib.crc32(part, value)
    return value


def _folders(folder: Path) -> list[Path]:
    """Folders of checkpoints, the newest first; `UnreadableError` if the system does not list them."""
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(folder, error) from error
    return [folder / name for name in sorted(names, reverse=True) if name.startswith("checkpoint-")]


def _read(start: Checkpoint, module: NextTokenModule, optimizer: torch.optim.Optimizer, group: Any) -> None:
    """Read weights, moments and position into a module and its optimizer, in their division.

    Raises:
        TrainingError: It holds other weights than are trained.
    """
    weights, named = trained(module), f"{module.stage}: the checkpoint '{start.path}' of the interrupted run"
    if start.names != names_of(weights):
        raise TrainingError(f"{named} holds other weights than are trained. Fix: remove it; training starts anew")
    for w in weights.values():
        step = torch.tensor(float(start.step), dtype=torch.float32, device=w.device)
        optimizer.state[w] = {"step": step, **{m: torch.zeros_like(w) for m in _MOMENTS}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_HINT)
        reader = HuggingFaceStorageReader(str(start.path))
        try:
            load(_tensors(weights, optimizer), storage_reader=reader, process_group=group, no_dist=group is None)
        except CheckpointException as error:
            cause, _ = next(iter(error.failures.values()))
            raise TrainingError(f"{named} cannot be read ({cause}). Fix: remove it; training starts anew") from error
    module.steps_done = start.step


def resume_point(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint in a folder, None if there is none; every worker calls it and gets the same one.

    A damaged one is set aside.

    Raises:
        UnreadableError: The system does not hand out a file.
    """
    for path in _shared(_folders(folder) if here().is_first else []):
        found, problem = _verified(path)
        problems = [p for p in _gathered(problem) if p]
        if found is not None and not problems:
            return found
        aside = path.with_name(f"damaged-{path.name}")
        if here().is_first:
            log.warning(
                "the checkpoint '%s' is damaged (%s): it is set aside as '%s', and the training starts from the "
                "one before or from the beginning", path, problems[0], aside.name,
            )  # fmt: skip
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
        _gathered("")  # the others wait until it is renamed
    return None


def _shared(paths: Sequence[Path]) -> Sequence[Path]:
    """The paths of the first worker."""
    if not dist.is_initialized():
        return paths
    texts: list[Any] = [[str(path) for path in paths]]
    dist.broadcast_object_list(texts)
    return [Path(text) for text in texts[0]]


def _gathered(problem: str) -> list[str]:
    """The problems of all workers."""
    if not dist.is_initialized():
        return [problem]
    problems: list[Any] = [""] * here().num_workers
    dist.all_gather_object(problems, problem)
    return problems


def _verified(path: Path) -> tuple[Checkpoint | None, str]:
    """A checkpoint, and its damage in this worker's share of the files, empty for none."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        files: dict[str, int] = state.pop("files")
        checkpoint = Checkpoint(path=path, **state)
        if not isinstance(checkpoint.step, int) or checkpoint.step < 1:
            raise ValueError(f"step is {checkpoint.step!r}")
        if present := {p.name for p in path.iterdir()} ^ {STATE, *files}:
            return None, f"files too many or missing: {sorted(present)[:3]}"
        for name in sorted(files)[here().rank :: here().num_workers]:
            if _checksum(path / name) != files[name]:
                return None, f"checksum of {name} differs"
    except OSError as error:
        if is_unreadable(error):
            raise unreadable(path, error) from error
        return None, f"{type(error).__name__}: {error}"
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return None, f"{STATE}: {type(error).__name__}: {error}".partition("\n")[0]
    return checkpoint, ""
