"""One file of a hub data set, as a local path."""

from pathlib import Path

from cotpress.data.config import HubFile
from cotpress.errors import DataError


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
    from huggingface_hub import errors as known

    def failed(why: str, fix: str) -> DataError:
        named = hub.dataset if hub.revision is None else f"{hub.dataset} (revision {hub.revision})"
        return DataError(
            f"data set '{named}', file '{hub.file}': {why}. Tried: the cache {constants.HF_HUB_CACHE}, "
            f"the hub {constants.ENDPOINT}. Fix: {fix}"
        )

    local = f"give a local copy with {group}.path=FILE"
    try:
        file = hf_hub_download(
            hub.dataset,
            hub.file,
            repo_type="dataset",
            revision=hub.revision,
            etag_timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )
    except known.GatedRepoError as error:
        page = f"{constants.ENDPOINT}/datasets/{hub.dataset}"
        raise failed(
            "access is gated", f"accept its licence at {page} and log in (hf auth login), or {local}"
        ) from error
    except known.RepositoryNotFoundError as error:
        raise failed("the hub does not know it", f"check {group}.hub.dataset, or {local}") from error
    except known.RevisionNotFoundError as error:
        raise failed("the hub has no such revision", f"check {group}.hub.revision") from error
    except known.RemoteEntryNotFoundError as error:
        raise failed("the data set has no such file", f"check {group}.hub.file, or {local}") from error
    except known.HFValidationError as error:
        raise failed("this is not a hub id (owner/name)", f"check {group}.hub.dataset, or {local}") from error
    except (OSError, known.HfHubHTTPError) as error:
        download = f"hf download --repo-type dataset {hub.dataset} {hub.file}"
        raise failed(
            "it is not on this machine and the hub cannot be reached",
            f"with a network, {download}; without, {local}. A gated one also needs its licence accepted and "
            "hf auth login. HF_HUB_OFFLINE=1 makes a filled cache enough",
        ) from error
    return Path(file)
