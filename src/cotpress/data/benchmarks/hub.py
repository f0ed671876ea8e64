"""One file of a hub data set, as a local path."""

from pathlib import Path

from cotpress.data.config import HubFile
from cotpress.errors import DataError
from cotpress.hub_errors import HubProblem, answering_hub, hub_problem


def fetch(hub: HubFile, group: str = "benchmark") -> Path:
    """The file in the local hub cache, downloaded if it is not there yet.

    huggingface_hub comes with transformers and one file is all that a test set is, so the library `datasets` is not
    needed; nothing of the data set's own code is run.

    Args:
        hub: Which file.
        group: Configuration group of these settings, for messages.

    Raises:
        DataError: The data set, revision or file does not exist, is gated, or the hub cannot be reached.
    """
    from huggingface_hub import constants, hf_hub_download

    try:
        with answering_hub():
            file = hf_hub_download(
                hub.dataset,
                hub.file,
                repo_type="dataset",
                revision=hub.revision,
                etag_timeout=constants.HF_HUB_ETAG_TIMEOUT,
            )
    except Exception as error:
        problem = hub_problem(error)
        if problem is None:
            raise
        named = hub.dataset if hub.revision is None else f"{hub.dataset} (revision {hub.revision})"
        raise DataError(
            f"data set '{named}', file '{hub.file}': {problem.value}. Tried: the cache {constants.HF_HUB_CACHE}, "
            f"the hub {constants.ENDPOINT}. Fix: {_fix(problem, hub, group)}"
        ) from error
    return Path(file)


def _fix(problem: HubProblem, hub: HubFile, group: str) -> str:
    from huggingface_hub import constants

    local = f"give a local copy with {group}.path=FILE"
    match problem:
        case HubProblem.gated:
            page = f"{constants.ENDPOINT}/datasets/{hub.dataset}"
            return f"accept its licence at {page} and log in (hf auth login), or {local}"
        case HubProblem.unknown | HubProblem.no_id:
            return f"check {group}.hub.dataset, or {local}"
        case HubProblem.no_revision:
            return f"check {group}.hub.revision"
        case HubProblem.no_file:
            return f"check {group}.hub.file, or {local}"
        case HubProblem.unreachable:
            return (
                f"with a network, hf download --repo-type dataset {hub.dataset} {hub.file}; without, {local}. A gated "
                "one also needs its licence accepted and hf auth login. HF_HUB_OFFLINE=1 makes a filled cache enough"
            )
