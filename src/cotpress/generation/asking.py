"""Completion of prompts with progress lines and a journal, so that no finished completion is repeated."""

import logging
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cotpress.generation.backends import GREEDY, LENGTH, REFUSED, Backend, Generation, Request, Sampling
from cotpress.progress import Progress
from cotpress.store.artifacts import SCRATCH
from cotpress.store.journal import Journal

log = logging.getLogger(__name__)

Batch = tuple[Mapping[str, Request], MutableMapping[str, Generation]]
"""Requests of one artifact by key, and its completions so far by the same keys (a journal or a dict)."""
_Place = tuple[int, str]
"""Index of a batch, and key of a request in it."""
_Asked = tuple[_Place, Sequence[_Place]]


def journal(folder: Path) -> Journal[Generation]:
    """The completions so far of an artifact that is being made in `folder`."""
    return Journal(folder / SCRATCH / "completions.jsonl", _generation)


def _generation(token_ids: Sequence[int] | None, **fields: Any) -> Generation:
    return Generation(token_ids=None if token_ids is None else tuple(token_ids), **fields)


def ask(
    batches: Sequence[Batch],
    backend: Callable[[], Backend],
    *,
    label: str,
    unit: str,
    sampling: Sampling = GREEDY,
    decoded: Callable[[Sequence[int]], str] | None = None,
) -> list[float]:
    """Complete the requests that have no completion yet, and add each completion as soon as it is finished.

    All batches go to the backend as one list, so that requests of several artifacts fill its batches together. A
    completion does not depend on the others. Of greedy requests with the same prompt only that of the largest budget is
    written, as it begins with the completions of the others.

    Args:
        batches: Requests and completions of each artifact.
        backend: Opens the backend; called only if something is missing.
        label: Name of the work in progress lines.
        unit: Name of one completion in progress lines, e.g. `answers`.
        sampling: Choice of the next token.
        decoded: Text of generated tokens; without it every request is written.

    Returns:
        Wall time in seconds per batch: the time of this call, divided in proportion to the latencies.

    Raises:
        GenerationError: A server fails; what was completed before stays in the journals.
    """
    alike = _alike(batches, shared=decoded is not None and sampling.temperature == 0)
    latency, began = [0.0] * len(batches), time.monotonic()

    def keep(place: _Place, generation: Generation) -> None:
        number, key = place
        batches[number][1][key] = generation
        latency[number] += generation.latency_s

    def keep_beginnings(places: Sequence[_Place]) -> int:
        """Keep what the completions of alike requests say about those of smaller budgets; returns their number."""
        longer, num_kept = None, 0
        for number, key in places:
            requests, done = batches[number]
            if key not in done and longer is not None and decoded is not None:
                begun = _beginning(longer, requests[key].max_new_tokens, decoded)
                if begun is not None:
                    keep((number, key), begun)
                    num_kept += 1
            longer = done.get(key, longer)
        return num_kept

    def missing() -> list[_Asked]:
        """The first request without a completion of each group of alike ones, with its group."""
        firsts = ((next((p for p in places if p[1] not in batches[p[0]][1]), None), places) for places in alike)
        return [(first, places) for first, places in firsts if first is not None]

    total = sum(map(len, alike))
    for places in alike:
        keep_beginnings(places)
    num_missing = sum(key not in done for requests, done in batches for key in requests)
    first, tokens = began, 0  # the rate begins with the first completion, after a model or server was loaded
    if num_missing:
        with Progress(label, total, unit, done=total - num_missing) as progress:
            opened = backend()
            log.info("%s: %d of %d %s to be written", label, num_missing, total, unit)
            while asked := missing():

                def on_done(index: int, generation: Generation, asked: Sequence[_Asked] = asked) -> None:
                    nonlocal first, tokens
                    place, places = asked[index]
                    keep(place, generation)
                    now = time.monotonic()
                    first, tokens = (now, 0) if first == began else (first, tokens + generation.num_tokens)
                    rate = f"{tokens / (now - first):,.0f} tokens/s" if tokens and now > first else ""
                    progress.advance(1 + keep_beginnings(places), rate)

                opened.complete([batches[n][0][key] for (n, key), _ in asked], sampling=sampling, on_done=on_done)
    elapsed = time.monotonic() - began
    return [elapsed * share / (sum(latency) or 1.0) for share in latency]


def _alike(batches: Sequence[Batch], *, shared: bool) -> list[list[_Place]]:
    """All requests in groups of the same prompt, the largest budget first; each for itself if they are not shared."""
    groups: dict[object, list[_Place]] = {}
    for number, (requests, _) in enumerate(batches):
        for key, request in requests.items():
            groups.setdefault(repr(request.prompt) if shared else (number, key), []).append((number, key))
    return [
        sorted(group, key=lambda place: -batches[place[0]][0][place[1]].max_new_tokens) for group in groups.values()
    ]


def _beginning(longer: Generation, budget: int, decoded: Callable[[Sequence[int]], str]) -> Generation | None:
    """The greedy completion within a smaller budget; None if the longer one does not tell it.

    That is one of a server without token ids, or a refusal: the context may have room for the smaller budget.
    """
    if longer.finish_reason == REFUSED:
        return None
    if longer.num_tokens < budget or (longer.num_tokens == budget and longer.finish_reason == LENGTH):
        return longer
    if longer.token_ids is None:
        return None
    ids = longer.token_ids[:budget]
    latency = longer.latency_s * budget / longer.num_tokens
    return replace(longer, token_ids=ids, text=decoded(ids), finish_reason=LENGTH, latency_s=latency)
