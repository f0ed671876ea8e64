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


class Counter:
    """A backend that counts from the prompt's first token and ends after its second; a server without ids if told."""

    def __init__(self, *, with_ids: bool = True) -> None:
        self.with_ids, self.calls = with_ids, list[list[Request]]()

    def complete(self, requests: Sequence[Request], *, sampling: Sampling, on_done: Any) -> list[Generation]:
        self.calls.append(list(requests))
        made = []
        for index, request in enumerate(requests):
            start, length = request.prompt
            assert isinstance(start, int)
            assert isinstance(length, int)
            ids = tuple(range(start, start + min(length, request.max_new_tokens)))
            reason = "stop" if length < request.max_new_tokens else "length"
            made.append(
                Generation(
                    token_ids=ids if self.with_ids else None,
                    text=told(ids),
                    finish_reason=reason,
                    latency_s=float(len(ids)),
                    reported_tokens=len(ids),
                )
            )
            on_done(index, made[-1])
        return made


def told(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def counted(budget: int, lengths: Sequence[int]) -> dict[str, Request]:
    return {f"q{n}": Request(prompt=[10 * n, n], max_new_tokens=budget, stream=f"s{n}") for n in lengths}


def results(completions: Any) -> dict[str, tuple[str, str, float]]:
    return {key: (g.text, g.finish_reason, g.latency_s) for key, g in completions.items()}


@pytest.mark.parametrize("with_ids", [True, False])
@pytest.mark.parametrize("order", [[9, 4, 5], [4, 9, 5]])
def test_completion_of_a_smaller_budget_is_the_beginning_of_the_longer_one(order: list[int], with_ids: bool) -> None:
    lengths, shared, alone = [3, 4, 5, 8, 9, 12], Counter(with_ids=with_ids), Counter(with_ids=with_ids)
    together = [dict[str, Generation]() for _ in order]
    batches = [(counted(b, lengths), done) for b, done in zip(order, together, strict=True)]
    ask(batches, lambda: shared, label="x", unit="answers", decoded=told)
    for budget, done in zip(order, together, strict=True):
        apart: dict[str, Generation] = {}
        ask([(counted(budget, lengths), apart)], lambda: alone, label="x", unit="answers")
        assert results(done) == results(apart)
    asked = [(r.prompt[1], r.max_new_tokens) for call in shared.calls for r in call]
    assert asked[:6] == [(n, 9) for n in lengths]
    cut = [] if with_ids else [(4, 4), (5, 5), (8, 5), (9, 5), (12, 5)]
    assert {n for n, _ in asked[6:]} == {n for n, _ in cut}


def test_sampled_completions_share_nothing() -> None:
    backend, long, short = Counter(), dict[str, Generation](), dict[str, Generation]()
    batches = [(counted(9, [3]), long), (counted(4, [3]), short)]
    sampling = Sampling(temperature=0.5)
    ask(batches, lambda: backend, label="x", unit="answers", sampling=sampling, decoded=told)
    assert [r.max_new_tokens for call in backend.calls for r in call] == [9, 4]


def test_resumed_call_cuts_what_was_completed_before(tmp_path: Path) -> None:
    backend, long = Counter(), journal(tmp_path)
    ask([(counted(9, [3, 8]), long)], lambda: backend, label="x", unit="answers", decoded=told)
    short: dict[str, Generation] = {}
    ask([(counted(9, [3, 8]), long), (counted(5, [3, 8]), short)], lambda: 1 / 0, label="x", unit="", decoded=told)
    assert results(short) == {"q3": ("30 31 32", "stop", 3.0), "q8": ("80 81 82 83 84", "length", 5.0)}


def test_prompt_without_room_for_the_longer_budget_is_asked_with_the_smaller_one() -> None:
    class Bounded(Counter):
        """A backend whose context ends after a budget of 5 tokens."""

        def complete(self, requests: Sequence[Request], *, sampling: Sampling, on_done: Any) -> list[Generation]:
            refused = Generation(token_ids=(), text="", finish_reason="refused", latency_s=0.0)
            for index, request in enumerate(requests):
                if request.max_new_tokens > 5:
                    on_done(index, refused)
                else:
                    super().complete([request], sampling=sampling, on_done=lambda _, g, place=index: on_done(place, g))
            return []

    done = [dict[str, Generation]() for _ in (9, 4, 5)]
    batches = [(counted(budget, [3, 8]), made) for budget, made in zip((9, 4, 5), done, strict=True)]
    ask(batches, Bounded, label="x", unit="answers", decoded=told)
    assert [results(made) for made in done] == [
        {"q3": ("", "refused", 0.0), "q8": ("", "refused", 0.0)},
        {"q3": ("30 31 32", "stop", 3.0), "q8": ("80 81 82 83", "length", 4.0)},
        {"q3": ("30 31 32", "stop", 3.0), "q8": ("80 81 82 83 84", "length", 5.0)},
    ]


def test_prompts_are_shared_and_not_keys() -> None:
    backend, long, same, other = Counter(), dict[str, Generation](), dict[str, Generation](), dict[str, Generation]()
    alike = {"another key": Request(prompt=[80, 8], max_new_tokens=4, stream="s")}
    differs = {"q8": Request(prompt=[70, 8], max_new_tokens=4, stream="s")}
    batches = [(counted(9, [8]), long), (alike, same), (differs, other)]
    ask(batches, lambda: backend, label="x", unit="answers", decoded=told)
    assert texts(same) == {"another key": "80 81 82 83"}
    assert texts(other) == {"q8": "70 71 72 73"}
    assert [r.max_new_tokens for call in backend.calls for r in call] == [9, 4]


def test_completion_that_is_kept_is_not_written_again(tmp_path: Path) -> None:
    def written() -> list[bytes]:
        return [path.read_bytes() for path in sorted(tmp_path.rglob("*.jsonl"))]

    def asked() -> list[float]:
        batches = [(counted(b, [3, 8]), journal(tmp_path / str(b))) for b in (9, 5)]
        return ask(batches, Counter, label="x", unit="answers", decoded=told)

    asked()
    before = written()
    assert asked() == [0.0, 0.0]
    assert written() == before
    assert len(before) == 2
