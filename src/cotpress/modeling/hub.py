"""Failures of the Hugging Face hub: their kinds and messages, and a time limit for a hub that does not answer.

huggingface_hub limits the time of some requests only, and repeats some of them with a longer limit, so that a hub that
accepts a connection and sends nothing would block for many minutes or forever.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from cotpress.errors import CotpressError
from cotpress.store.paths import disk_problem

_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_LICENCE = re.compile(
    r"^(license(?:_name|_link)?):[ \t]*(?:\n[ \t]*-[ \t]+)?['\"]?([^\s'\"#\[\]{}&*!|>][^\n'\"#]*)", re.MULTILINE
)
"""A licence in the metadata of a card; of a list the first one."""
_CARD_CHARS = 100_000


class HubProblem(Enum):
    """Reason of a failed request to the hub; the value completes a message."""

    gated = "access is gated"
    unknown = "the hub does not know it"
    no_revision = "the hub has no such revision"
    no_file = "it has no such file"
    no_id = "this is not a hub id (owner/name)"
    unreachable = "it is not on this machine and the hub cannot be reached"


def hub_problem(error: Exception) -> HubProblem | None:
    """The problem behind an exception of huggingface_hub; None for other exceptions."""
    from huggingface_hub import errors as hub

    kinds: tuple[tuple[type[Exception], HubProblem], ...] = (  # GatedRepoError is a RepositoryNotFoundError too
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
def from_hub(
    key: str,
    hub_id: str,
    *,
    local: str,
    error: type[CotpressError],
    revision: str | None = None,
    file: str | None = None,
    is_dataset: bool = False,
) -> Iterator[None]:
    """Fetch a model, a data set or a `file` of one inside; a failure becomes an `error` that names the setting.

    Args:
        key: Setting that holds the hub id, e.g. `model.path`.
        hub_id: Its value.
        local: Setting that takes a local copy instead, e.g. `model.path=DIR`.
        error: Class of the error.
        revision: Commit, tag or branch; its setting stands beside `key`, as does that of `file`.
        file: File of a data set; None for a model, or for a whole data set.
        is_dataset: True for a whole data set.
    """
    from huggingface_hub import constants

    try:
        with answering_hub():
            yield
    except Exception as failure:
        if (full := disk_problem(failure)) is not None:
            raise error(
                f"{key}: '{hub_id}': the cache of the hub, {constants.HF_HUB_CACHE}, cannot be used: {full}. "
                "Fix: HF_HUB_CACHE=DIR in the environment, a folder that can be read and written"
            ) from failure
        if (problem := hub_problem(failure)) is None:
            raise
        beside = key.rpartition(".")[0]
        named = hub_id if revision is None else f"{hub_id} (revision {revision})"
        kind, download = ("datasets/", f"--repo-type dataset {hub_id}") if file or is_dataset else ("", hub_id)
        download += f" {file}" if file else ""
        fix = {
            HubProblem.gated: f"accept its licence at {constants.ENDPOINT}/{kind}{hub_id} and log in (hf auth login), "
            f"or give {local}",
            HubProblem.unknown: f"check the spelling of {key}; a private one needs hf auth login; or give {local}",
            HubProblem.no_revision: f"check {beside}.revision",
            HubProblem.no_id: f"give {key}=OWNER/NAME or {local}",
            HubProblem.no_file: f"check {beside}.file, or give {local}" if file else f"give {local} or another hub id",
            HubProblem.unreachable: f"with a network, hf download {download}; without, copy it over and give {local}. "
            "A gated one also needs its licence accepted and hf auth login. HF_HUB_OFFLINE=1 makes a filled cache "
            "enough",
        }[problem]
        raise error(
            f"{key}: '{named}'{f', file {file!r}' if file else ''}: {problem.value}. Tried: a folder of this name, the "
            f"cache {constants.HF_HUB_CACHE}, the hub {constants.ENDPOINT}. Fix: {fix}"
        ) from failure


@contextmanager
def answering_hub(silence_s: float | None = None) -> Iterator[None]:
    """Limit the time without an answer for all requests of huggingface_hub inside.

    Args:
        silence_s: Seconds without a byte; None stands for `HF_HUB_DOWNLOAD_TIMEOUT` (default 10).

    Raises:
        ConnectionError: The hub did not answer in time, or the connection broke.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    limit = float(constants.HF_HUB_DOWNLOAD_TIMEOUT) if silence_s is None else silence_s

    def limited(request: Any) -> None:
        current = request.extensions.get("timeout", {})
        kinds = ("connect", "read", "write", "pool")
        # huggingface_hub's own limit may be a minute, six times in a row.
        request.extensions["timeout"] = {k: min(limit, current.get(k) or limit) for k in kinds}

    def client() -> Any:
        new = default_client_factory()
        new.event_hooks = {**new.event_hooks, "request": [*new.event_hooks["request"], limited]}
        return new

    set_client_factory(client)
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0].startswith("httpx"):  # or httpx2, by version of huggingface_hub
            raise ConnectionError(str(error) or f"no answer within {limit:g} s") from error
        raise
    finally:
        set_client_factory(default_client_factory)


def hub_licence(
    hub_id: str, *, revision: str | None = None, is_dataset: bool = False, online: bool = True
) -> dict[str, str]:
    """The licence that the card of a model or data set names: `license`, and `license_name` and `license_link`.

    Args:
        hub_id: Its hub id.
        revision: Commit, tag or branch.
        is_dataset: True for a data set.
        online: False looks into the cache alone.

    Returns:
        Empty if the card names none, or cannot be read.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    kind = "dataset" if is_dataset else None
    try:
        if online:
            with answering_hub():
                hf_hub_download(hub_id, "README.md", revision=revision, repo_type=kind)
        card = try_to_load_from_cache(hub_id, "README.md", revision=revision, repo_type=kind)
    except (HfHubHTTPError, OSError, ValueError):
        return {}
    return licence_of(Path(card)) if isinstance(card, str) else {}


def licence_of(card: Path) -> dict[str, str]:
    """The licence in the metadata of a card, a `README.md`; empty if there is none. Nothing in it is executed."""
    try:
        with card.open(encoding="utf-8", errors="replace") as file:
            matter = _FRONT_MATTER.match(file.read(_CARD_CHARS))
    except OSError:
        return {}
    return {} if matter is None else {key: value.strip() for key, value in _LICENCE.findall(matter[1])}
