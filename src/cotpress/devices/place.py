"""Which of the workers a process is, and its way to the process that started it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Hear = Callable[[Any], None]
"""Gets what workers `report`, in the order of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One of the workers that share a piece of work.

    Attributes:
        rank: Number among all workers, from 0.
        local_rank: Number among those of this machine, from 0: the device that is its own.
        num_workers: All workers, over all machines.
        num_local_workers: Those of this machine.
    """

    rank: int = 0
    local_rank: int = 0
    num_workers: int = 1
    num_local_workers: int = 1

    @property
    def is_first(self) -> bool:
        """True for the worker that speaks for all."""
        return self.rank == 0


def _nobody(message: Any) -> None:
    """Nobody listens."""


_place: Place = Place()
_hear: Hear = _nobody


def here() -> Place:
    """The place of this process; the only one outside of `run_on_devices`."""
    return _place


def report(message: Any) -> None:
    """Tell the process that called `run_on_devices`; a picklable object, small."""
    _hear(message)


@contextmanager
def working_at(place: Place, hear: Hear | None) -> Iterator[None]:
    """This process is one of the workers until the block ends."""
    global _place, _hear
    before = _place, _hear
    _place, _hear = place, hear or _nobody
    try:
        yield
    finally:
        _place, _hear = before
