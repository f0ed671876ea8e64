import logging
import time

import pytest

from cotpress.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Elapsed seconds, set by the test."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    return now


def test_lines_have_rate_and_time_left_after_a_sample(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Progress("answer", 200, "answers") as progress:
        for now, amount in ((2, 0), (11, 1), (22, 9), (23, 10), (40, 20)):
            clock[0] = now
            progress.advance(amount, note="loss 1" if now == 40 else "")
    assert caplog.messages == [
        "answer: 1/200 answers (0 %)",
        "answer: 10/200 answers (5 %), 0.5 answers/s, 6 min 58 s left",
        "answer: 40/200 answers (20 %), 1.0 answers/s, 2 min 40 s left, loss 1",
    ]


def test_rate_does_not_include_work_of_an_earlier_call(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Progress("answer", 200, "answers", done=100) as progress:
        clock[0] = 10
        progress.advance(4)
        clock[0] = 20
        progress.advance(6)
    assert caplog.messages == [
        "answer: 104/200 answers (52 %)",
        "answer: 110/200 answers (55 %), 0.5 answers/s, 3 min 00 s left",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599.6, "1 h 00 min"), (7260, "2 h 01 min")],
)
def test_durations_are_rounded(seconds: float, text: str) -> None:
    assert duration(seconds) == text
