"""Completion of prompts with progress lines and a journal, so that no finished completion is repeated."""

import logging
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from cotpress.generation.backends import GREEDY, Backend, Generation, Request, Sampling
from cotpress.progress import Progress
from cotpress.store.artifacts import SCRATCH
from cotpress.store.journal import Journal

log = logging.getLogger(__name__)

Batch = tuple[Mapping[str, Request], MutableMapping[str, Generation]]
"""Requests of one artifact by key, and its completions so far by the same keys (a journal or a dict)."""


def journal(folder: Path) -> Journal[Generation]:
    """The completions so far of an artifact that is being made in `folder`."""
    return Journal(folder / SCRATCH / "completions.jsonl", _generation)


def _generation(token_ids: Sequence[int] | None, **fields: Any) -> Generation:
    return Generation(token_ids=None if token_ids is None else tuple(token_ids), **fields)


def ask(
    batches: Sequence[Batch], backend: Callable[[], Backend], *, label: str, unit: str, sampling: Sampling = GREEDY
) -> list[float]:
    """Complete the requests that have no completion yet, and add each completion as soon as it is finished.

    All batches go to the backend as one list, so that requests of several artifacts fill its batches together. A
    completion does not depend on the others.

    Args:
        batches: Requests and completions of each artifact.
        backend: Opens the backend; called only if something is missing.
        label: Name of the work in progress lines.
        unit: Name of one completion in progress lines, e.g. `answers`.
        sampling: Choice of the next token.

    Returns:
        Wall time in seconds per batch: the time of this call, divided in proportion to the latencies.

    Raises:
        GenerationError: A server fails; what was completed before stays in the journals.
    """
    total = sum(len(requests) for requests, _ in batches)
    missing = [(n, key) for n, (requests, done) in enumerate(batches) for key in requests if key not in done]
    latency, began = [0.0] * len(batches), time.monotonic()
    first, tokens = began, 0  # the rate begins with the first completion, after a model or server was loaded
    if missing:
        with Progress(label, total, unit, done=total - len(missing)) as progress:
            opened = backend()
            log.info("%s: %d of %d %s to be written", label, len(missing), total, unit)

            def keep(index: int, generation: Generation) -> None:
                nonlocal first, tokens
                number, key = missing[index]
                batches[number][1][key] = generation
                latency[number] += generation.latency_s
                now = time.monotonic()
                first, tokens = (now, 0) if first == began else (first, tokens + generation.num_tokens)
                progress.advance(1, f"{tokens / (now - first):,.0f} tokens/s" if tokens and now > first else "")

            opened.complete([batches[n][0][key] for n, key in missing], sampling=sampling, on_done=keep)
    elapsed = time.monotonic() - began
    return [elapsed * share / (sum(latency) or 1.0) for share in latency]
