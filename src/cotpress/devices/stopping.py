"""SIGTERM, by which schedulers stop a job, and Ctrl-C: noted in a training, and acted on by all workers together.

Ctrl-C is noted where Python would raise a `KeyboardInterrupt`: in the process of the command. Workers ignore it, and
get SIGTERM from that process.
"""

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
    """Notes SIGTERM and Ctrl-C, and tells all workers together that one of them has got it."""

    def __init__(self) -> None:
        self._got: int | None = None
        self._group: Any = None

    @property
    def by(self) -> str:
        """What has stopped the training, in words."""
        return "Ctrl-C" if self._got == signal.SIGINT else "SIGTERM"

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note SIGTERM and Ctrl-C inside of the block.

        If it ends with `StopTraining`, that becomes `Terminated`, after Ctrl-C a `KeyboardInterrupt`. A second Ctrl-C
        raises it at once.
        """
        if self._group is None:
            self._group = host_group()  # so that no GPU has to be waited for
        in_main = threading.current_thread() is threading.main_thread()
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        if in_main:
            self.take()
            if before[signal.SIGINT] is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._note)
        try:
            yield
        except StopTraining as error:
            raise (KeyboardInterrupt if self._got == signal.SIGINT else Terminated)(str(error)) from None
        finally:
            if in_main:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def take(self) -> None:
        """Take SIGTERM, also from a library that has taken it."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, _: object) -> None:
        self._got = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def agreed(self) -> bool:
        """True, in all workers, if it has reached one of them; every worker has to ask equally often."""
        if self._group is None:
            return self._got is not None
        flag = torch.tensor(int(self._got is not None), dtype=torch.int32)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        return bool(flag)
