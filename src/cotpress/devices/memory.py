"""Out of memory: halve a batch that does not fit; keep freed memory cached for reuse.

The size of a batch never changes a result, so a batch that does not fit is halved and the work goes on. A single text
cannot be halved: it ends the work with an error that names the settings.
"""

import ctypes
import functools
import gc
import logging
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from cotpress.errors import MemoryLimitError

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

MEMORY_FIX = (
    "Fix: a lower trainer.tokens_per_batch (generation: trainer.generation_tokens), fewer jobs at a time, "
    "model.dtype=bfloat16, or in training trainer.activation_checkpointing=true"
)
_MALLOPT = {
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**28),
    "MALLOC_TOP_PAD_": (-2, 2**25),
    "MALLOC_MMAP_THRESHOLD_": (-3, 2**25),
}
"""glibc's environment variable, number of the parameter in malloc.h, bytes. A higher mmap threshold is not allowed."""
_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Messages of torch: of its CPU allocator, also on Windows, of MPS and of cuBLAS. CUDA has an exception of its own."""


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep up to 256 MB of freed memory for the next tensors of this process.

    By default it returns the memory to the system and requests it again, page by page, in every layer of a forward
    pass. Variables that the user has set take precedence; other C libraries have no such parameter.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for variable, (parameter, num_bytes) in _MALLOPT.items():
        if mallopt is not None and variable not in os.environ:
            mallopt(parameter, num_bytes)


def is_out_of_memory(error: BaseException) -> bool:
    """True if an allocation failed, on a device (torch) or in main memory (Python, NumPy, arrow or torch)."""
    in_torch = isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)
    return in_torch or isinstance(error, MemoryError)


def release() -> None:
    """Free the memory of a failed attempt; call it outside the `except`, whose traceback holds the tensors."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class SmallerBatches:
    """Runs batches; halves one that does not fit the memory, and keeps later ones below its size.

    Args:
        what: Name of the work for the log, e.g. `score cts`.
        setting: Setting that bounds a batch.
    """

    def __init__(self, what: str, setting: str = "trainer.tokens_per_batch") -> None:
        self.what, self._setting = what, setting
        self.most: int | None = None
        """Most tokens of a batch of several texts, given the failures so far; None without failures."""

    def lower(self, num_tokens: int, error: BaseException, *, indivisible: bool) -> None:
        """Limit later batches to half of `num_tokens`, which did not fit; an `indivisible` text is an error."""
        if indivisible:
            raise MemoryLimitError(
                f"{self.what}: out of memory on a single text of {num_tokens} tokens, which no {self._setting} can "
                "reduce. Fix: fewer jobs at a time, model.dtype=bfloat16, a lower model.context_tokens (longer "
                "texts are dropped or read in windows), in training trainer.activation_checkpointing=true, in "
                "generation a lower benchmark.max_new_tokens. Finished work is kept"
            ) from error
        if self.most is None:
            log.warning(
                "%s: out of memory with %d tokens at once; continuing with at most %d (%s=%d avoids the attempt)",
                self.what, num_tokens, num_tokens // 2, self._setting, num_tokens // 2,
            )  # fmt: skip
        self.most = num_tokens // 2

    def attempts(self, batch: Sequence[T], size: Callable[[T], int]) -> Iterator["Attempt[T]"]:
        """Yield the batch, or parts of it that fit the memory, in order; a part that does not fit is halved.

        for attempt in smaller.attempts(batch, size):
            with attempt:
                results += work(attempt.items)

        Args:
            batch: At least one item, whose result is independent of the other items of its batch.
            size: Tokens of an item.

        Raises:
            MemoryLimitError: A single item does not fit.
        """
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            num_tokens = sum(map(size, part))
            if self.most is None or num_tokens <= self.most or len(part) == 1:
                attempt = Attempt(part)
                yield attempt
                if attempt.error is None:
                    continue
                self.lower(num_tokens, attempt.error, indivisible=len(part) == 1)
                del attempt
                release()
            middle = len(part) // 2
            waiting += [part[middle:], part[:middle]]

    def run(self, batch: Sequence[T], work: Callable[[Sequence[T]], Iterable[R]], size: Callable[[T], int]) -> list[R]:
        """Return one result per item, in order; `work` computes those of some items, see `attempts`."""
        results: list[R] = []
        for attempt in self.attempts(batch, size):
            with attempt:
                results += list(work(attempt.items))
        return results


class Attempt(Generic[T]):
    """A context for work on some items that may not fit the memory; keeps that error, which ends the context only."""

    def __init__(self, items: Sequence[T]) -> None:
        self.items = items
        self.error: BaseException | None = None

    def __enter__(self) -> None:
        """Begin the work."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """Keep an error of memory, without its traceback, which holds tensors."""
        if error is None or not is_out_of_memory(error):
            return False
        self.error = error.with_traceback(None)
        return True


_of_owners: "weakref.WeakKeyDictionary[Any, dict[str, SmallerBatches]]" = weakref.WeakKeyDictionary()


def smaller_batches(owner: object, what: str, setting: str = "trainer.tokens_per_batch") -> SmallerBatches:
    """The `SmallerBatches` of an owner (held weakly), so that a size that failed beside it is not tried again."""
    return _of_owners.setdefault(owner, {}).setdefault(what, SmallerBatches(what, setting))
