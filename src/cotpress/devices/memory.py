"""Out of memory: smaller batches are tried, then a clear error. And what is free again is kept at hand.

What a batch holds is a matter of the hardware, never of the result, so a batch that does not fit is halved and the work
goes on. Only what cannot be halved any more, a single text, ends it.
"""

import ctypes
import functools
import gc
import logging
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

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
"""glibc's environment variable, number of the parameter in malloc.h, bytes. It allows no higher mmap threshold."""
_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""How torch words it: its CPU allocator, also on Windows, MPS, and cuBLAS; CUDA has an exception of its own."""


@functools.cache
def keep_freed_memory() -> None:
    """Have glibc keep up to 256 MB of what this process frees for its next tensors.

    It would give the memory back to the system and ask for it again, page by page, in every layer of a forward pass.
    What the user set by an environment variable stays; another C library has no such parameter.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for variable, (parameter, num_bytes) in _MALLOPT.items():
        if mallopt is not None and variable not in os.environ:
            mallopt(parameter, num_bytes)


def is_out_of_memory(error: BaseException) -> bool:
    """True if a device or this machine had no room for what was asked."""
    if isinstance(error, MemoryError):  # Python, NumPy, arrow
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def release() -> None:
    """Give back what a failed attempt held; call it outside the `except`, whose traceback holds the tensors."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class SmallerBatches:
    """Runs batches; halves what does not fit the memory, and from then on stays below what did not.

    Args:
        what: What is done, for the log, e.g. `score cts`.
        setting: What bounds a batch, e.g. `trainer.tokens_per_batch`.
    """

    def __init__(self, what: str, setting: str = "trainer.tokens_per_batch") -> None:
        self._what, self._setting = what, setting
        self._most: int | None = None

    @property
    def most(self) -> int | None:
        """Tokens that a batch of several texts may have by what has failed so far; None if nothing has."""
        return self._most

    def lower(self, num_tokens: int, error: BaseException, *, indivisible: bool) -> None:
        """Note that a batch of `num_tokens` did not fit; the next ones have half of them at most.

        Raises:
            MemoryLimitError: It was a single text.
        """
        if indivisible:
            raise MemoryLimitError(
                f"{self._what}: out of memory on a single text of {num_tokens} tokens, which no {self._setting} can "
                "make smaller. Fix: fewer jobs at a time, model.dtype=bfloat16, a lower model.context_tokens (longer "
                "texts are dropped or read in windows), in training trainer.activation_checkpointing=true, in "
                "generation a lower benchmark.max_new_tokens. What was finished is kept"
            ) from error
        if self._most is None:
            log.warning(
                "%s: out of memory with %d tokens at once; going on with at most %d (%s=%d spares the failed attempt)",
                self._what, num_tokens, num_tokens // 2, self._setting, num_tokens // 2,
            )  # fmt: skip
        self._most = num_tokens // 2

    def run(self, batch: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]], size: Callable[[T], int]) -> list[R]:
        """`work(batch)`, or as many parts of the batch as the memory needs, in order.

        Args:
            batch: At least one item.
            work: Gives one result per item, each independent of what else is in the batch.
            size: Tokens of an item.

        Raises:
            MemoryLimitError: A single item does not fit.
        """
        num_tokens = sum(map(size, batch))
        if self._most is None or num_tokens <= self._most or len(batch) == 1:
            try:
                return list(work(batch))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self.lower(num_tokens, error, indivisible=len(batch) == 1)
            release()
        middle = len(batch) // 2
        return [*self.run(batch[:middle], work, size), *self.run(batch[middle:], work, size)]


_of_owners: "weakref.WeakKeyDictionary[Any, dict[str, SmallerBatches]]" = weakref.WeakKeyDictionary()


def smaller_batches(owner: object, what: str, setting: str = "trainer.tokens_per_batch") -> SmallerBatches:
    """The batches that one owner runs, in most cases a model: what did not fit beside it once is not tried again.

    Args:
        owner: Is held weakly.
        what: As for `SmallerBatches`.
        setting: As for `SmallerBatches`.
    """
    return _of_owners.setdefault(owner, {}).setdefault(what, SmallerBatches(what, setting))
