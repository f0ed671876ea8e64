"""What goes wrong at the Hugging Face hub: it does not answer, or it refuses, told apart for messages.

A hub that accepts a connection and then says nothing would be waited for without end, or for many minutes:
huggingface_hub sets a limit for some of its requests only, and tries some of them again with a larger one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

PUSH_SILENCE_S = 300.0
"""Seconds of silence after which a push is given up; the hub takes its time to put large files in place."""


class HubProblem(Enum):
    """Why a request to the hub failed; the value completes a message."""

    gated = "access is gated"
    unknown = "the hub does not know it"
    no_revision = "the hub has no such revision"
    no_file = "it has no such file"
    no_id = "this is not a hub id (owner/name)"
    unreachable = "it is not on this machine and the hub cannot be reached"


def hub_problem(error: Exception) -> HubProblem | None:
    """The problem behind an exception of huggingface_hub; None if it is of another kind."""
    from huggingface_hub import errors as hub

    kinds: tuple[tuple[type[Exception], HubProblem], ...] = (  # a gated repository is also one that is not found
        (hub.GatedRepoError, HubProblem.gated),
        (hub.RepositoryNotFoundError, HubProblem.unknown),
        (hub.RevisionNotFoundError, HubProblem.no_revision),
        (hub.RemoteEntryNotFoundError, HubProblem.no_file),
        (hub.HFValidationError, HubProblem.no_id),
        (hub.HfHubHTTPError, HubProblem.unreachable),
        (OSError, HubProblem.unreachable),
    )
    return next((problem for kind, problem in kinds if isinstance(error, kind)), None)


@contextmanager
def answering_hub(silence_s: float | None = None) -> Iterator[None]:
    """Requests of huggingface_hub inside end when the hub is silent for so long.

    Args:
        silence_s: Seconds without a byte; None stands for `HF_HUB_DOWNLOAD_TIMEOUT` (10 unless the environment says
            otherwise).

    Raises:
        ConnectionError: The hub was silent, or the connection broke.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    limit = float(constants.HF_HUB_DOWNLOAD_TIMEOUT) if silence_s is None else silence_s

    def limited(request: Any) -> None:
        given = request.extensions.get("timeout", {})
        kinds = ("connect", "read", "write", "pool")
        # Where it does set one, it may be a minute, six times.
        request.extensions["timeout"] = {k: min(limit, given.get(k) or limit) for k in kinds}

    def client() -> Any:
        made = default_client_factory()
        made.event_hooks = {**made.event_hooks, "request": [*made.event_hooks["request"], limited]}
        return made

    set_client_factory(client)
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0].startswith("httpx"):  # httpx2 as well, which the hub now uses
            raise ConnectionError(str(error) or f"no answer within {limit:g} s") from error
        raise
    finally:
        set_client_factory(default_client_factory)
