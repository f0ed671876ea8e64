"""SIGTERM, by which schedulers stop a job: noted while a training runs, and acted on by all workers together."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from cotpress.devices.launch import host_group
from cotpress.errors import Terminated


class StopTraining(Exception):  # noqa: N818 (it is no error)
    """Ends a training between two micro-batches, in all workers at the same one."""


class StopRequest:
    """Notes SIGTERM, and tells all workers together that one of them has got it."""

    def __init__(self) -> None:
        self._got = False
        self._group: Any = None

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note SIGTERM inside of the block, which ends with `Terminated` if it ends with `StopTraining`."""
        if self._group is None:
            self._group = host_group()  # so that no GPU has to be waited for
        in_main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGTERM)
        if in_main:
            self.take()
        try:
            yield
        except StopTraining as error:
            raise Terminated(str(error)) from None
        finally:
            if in_main:
                signal.signal(signal.SIGTERM, before)

    def take(self) -> None:
        """Take SIGTERM, also from a library that has taken it."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: object) -> None:
        self._got = True

    def agreed(self) -> bool:
        """True, in all workers, if it has reached one of them; every worker has to ask equally often."""
        if self._group is None:
            return self._got
        flag = torch.tensor(int(self._got), dtype=torch.int32)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        return bool(flag)
