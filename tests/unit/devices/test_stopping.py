import os
import signal
import time
from pathlib import Path

import pytest

from cotpress.devices.config import TrainerConfig
from cotpress.devices.launch import run_on_devices
from cotpress.devices.stopping import StopRequest, StopTraining
from cotpress.errors import Terminated
from support import device_jobs


def test_signal_to_one_worker_stops_all_of_them_at_the_same_point(tmp_path: Path) -> None:
    trainer = TrainerConfig(accelerator="cpu", devices=2, num_threads=1)
    with pytest.raises(Terminated, match="stopped"):
        run_on_devices(device_jobs.stops_together, (tmp_path,), trainer=trainer)
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text() == "3"


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "of another"])
def test_ctrl_c_is_noted_only_where_it_would_raise(handler: signal.Handlers) -> None:
    """Workers ignore it, and get SIGTERM from the process of the command."""
    before, stop = signal.signal(signal.SIGINT, handler), StopRequest()
    try:
        with stop.noted():
            assert signal.getsignal(signal.SIGINT) is handler
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            assert not stop.agreed()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("number", "error", "by"), [(signal.SIGTERM, Terminated, "SIGTERM"), (signal.SIGINT, KeyboardInterrupt, "Ctrl-C")]
)
def test_block_that_was_stopped_raises_by_what_it_was_and_puts_the_handlers_back(
    number: signal.Signals, error: type[BaseException], by: str
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        stop, handlers = StopRequest(), [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
        with pytest.raises(error) as raised, stop.noted():  # noqa: PT012 (the signal comes from inside)
            os.kill(os.getpid(), number)
            assert stop.agreed()
            raise StopTraining(f"stopped by {stop.by}")
        assert (type(raised.value), str(raised.value)) == (error, f"stopped by {by}")
        assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    finally:
        signal.signal(signal.SIGINT, before)
