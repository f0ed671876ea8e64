import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cotpress.generation.asking import ask, journal
from cotpress.generation.backends import Generation, Request, Sampling


class Echo:
    """A backend that writes the prompt's first token; it fails at the token 99."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[Request], Sampling]] = []

    def complete(self, requests: Sequence[Request], *, sampling: Sampling, on_done: Any) -> list[Generation]:
        self.calls.append((list(requests), sampling))
        made = []
        for index, request in enumerate(requests):
            token: Any = request.prompt[0]
            if token == 99:
                raise KeyboardInterrupt
            made.append(Generation(token_ids=(token,), text=str(token), finish_reason="stop", latency_s=token))
            on_done(index, made[-1])
        return made


def requests(*tokens: int) -> dict[str, Request]:
    return {f"q{t}/0": Request(prompt=[t], max_new_tokens=t + 1, stream=f"s{t}") for t in tokens}


def texts(completions: Any) -> dict[str, str]:
    return {key: generation.text for key, generation in completions.items()}


def test_batches_are_completed_in_one_call_and_kept_apart(tmp_path: Path) -> None:
    backend, first, second = Echo(), dict[str, Generation](), dict[str, Generation]()
    sampling = Sampling(temperature=0.5)
    batches = [(requests(1, 2), first), (requests(3), second)]
    seconds = ask(batches, lambda: backend, label="x", unit="answers", sampling=sampling)
    assert (texts(first), texts(second)) == ({"q1/0": "1", "q2/0": "2"}, {"q3/0": "3"})
    assert backend.calls == [(list(requests(1, 2, 3).values()), sampling)]
    assert seconds[0] == pytest.approx(seconds[1])  # in proportion to the latencies, 1 + 2 and 3


def test_interrupted_call_resumes_with_the_missing_requests(tmp_path: Path) -> None:
    broken, backend = Echo(), Echo()
    with pytest.raises(KeyboardInterrupt):
        ask([(requests(1, 2, 99, 3), journal(tmp_path))], lambda: broken, label="x", unit="answers")
    completions = journal(tmp_path)
    assert texts(completions) == {"q1/0": "1", "q2/0": "2"}
    ask([(requests(1, 2, 4, 3), completions)], lambda: backend, label="x", unit="answers")
    assert backend.calls[0][0] == list(requests(4, 3).values())
    assert dict(journal(tmp_path)) == dict(completions)  # token ids are tuples after reading, too


def test_backend_is_opened_only_if_something_is_missing() -> None:
    done = {"q1/0": Generation(token_ids=None, text="1", finish_reason="stop", latency_s=1.0)}
    assert ask([(requests(1), done)], lambda: pytest.fail("opened"), label="x", unit="answers") == [0.0]


def test_progress_shows_tokens_per_second(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("cotpress.progress.LINE_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO):
        ask([(requests(*range(1, 9)), dict[str, Generation]())], Echo, label="x", unit="answers")
    assert re.search(r"x: 8/8 answers .*, [\d,]+ tokens/s", caplog.text)
