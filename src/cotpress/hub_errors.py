"""What went wrong at the Hugging Face hub, told apart for messages that a user can act on."""

from enum import Enum


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
