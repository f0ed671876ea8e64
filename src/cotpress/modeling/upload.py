"""Upload of a folder to a repository of the Hugging Face hub, and the reasons why the hub would refuse it.

The account is checked before anything is computed for an upload, so that a missing token costs no hours.
"""

import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotpress.errors import ConfigError, HubError
from cotpress.modeling.hub import answering_hub
from cotpress.store.paths import disk_problem

_SILENCE_S = 300.0
"""Seconds without an answer after which an upload fails; the hub needs time to store large files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository to upload to.

    Attributes:
        name: Its hub id, `owner/name`.
        is_dataset: True for a data set, false for a model.
        setting: The setting that names it, up to the hub id: `repo=`, `output=hf://`.
        without_hub: The settings that write a folder instead, for messages.
    """

    name: str
    is_dataset: bool
    setting: str
    without_hub: str

    @property
    def kind(self) -> str | None:
        """The argument `repo_type` of huggingface_hub."""
        return "dataset" if self.is_dataset else None

    def check_name(self) -> None:
        """Raise a `ConfigError` unless the name is a hub id of an owner."""
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        key, start = self.setting.split("=")
        try:
            validate_repo_id(self.name)
            valid = self.name.count("/") == 1
        except HFValidationError:
            valid = False
        if not valid:
            raise ConfigError(
                f"{key}: got '{start}{self.name}', allowed: {start}OWNER/NAME, with letters, digits, '-', '_' and '.' "
                "in both"
            )

    def check_account(self) -> None:
        """Check that there is a token, that the hub accepts it, and that it may write to this owner's repositories.

        Raises:
            HubError: It may not, or the hub cannot be reached.
        """
        from huggingface_hub import HfApi, constants, get_token

        tokens = f"{constants.ENDPOINT}/settings/tokens"
        if get_token() is None:
            raise HubError(
                f"push to '{self.name}': there is no Hugging Face token. Fix: hf auth login, or HF_TOKEN in the "
                f"environment; {self.without_hub} writes the folder without one"
            )
        with self._refusals():
            me = HfApi().whoami()
        if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise HubError(
                f"push to '{self.name}': the token of '{me['name']}' may only read. Fix: one that may write, from "
                f"{tokens}, by hf auth login or as HF_TOKEN"
            )
        owner, _, name = self.name.partition("/")
        allowed = [me["name"], *(org["name"] for org in me.get("orgs", []))]
        if owner.lower() not in map(str.lower, allowed):
            others = f"; your organizations are {', '.join(allowed[1:])}" if allowed[1:] else ""
            raise HubError(
                f"push to '{self.name}': the token is that of '{allowed[0]}', who cannot write to repositories of "
                f"'{owner}'{others}. Fix: {self.setting}{allowed[0]}/{name}, or a token of '{owner}'"
            )

    def files(self) -> list[str]:
        """Names of the files in the repository; empty if it does not exist."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError

        with self._refusals():
            try:
                return list(HfApi().list_repo_files(self.name, repo_type=self.kind))
            except RepositoryNotFoundError:
                return []

    def read(self, file: str) -> bytes:
        """The content of a file in the repository."""
        from huggingface_hub import hf_hub_download

        with tempfile.TemporaryDirectory() as folder, self._refusals():
            return Path(hf_hub_download(self.name, file, repo_type=self.kind, local_dir=folder)).read_bytes()

    def upload(
        self, folder: Path, *, private: bool, message: str, leave_out: Sequence[str] = (), outdated: Sequence[str] = ()
    ) -> str:
        """Create the repository if it does not exist, upload a folder and return the address.

        Args:
            folder: Folder with the files.
            private: True to make a new repository private.
            message: Message of the commit.
            leave_out: Names of files that are not sent.
            outdated: Patterns of files that are removed from the repository where the folder has none of their name.

        Raises:
            HubError: The hub refuses or cannot be reached.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars

        if not sys.stderr.isatty():
            disable_progress_bars()
        with self._refusals():
            api, kind = HfApi(), self.kind
            address = api.create_repo(self.name, private=private, exist_ok=True, repo_type=kind)
            api.upload_folder(
                repo_id=self.name, folder_path=folder, commit_message=message, repo_type=kind,
                ignore_patterns=[*leave_out], delete_patterns=[*outdated] or None,
            )  # fmt: skip
        return str(address)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn failures of huggingface_hub inside into one message that says what to do."""
        from huggingface_hub import constants
        from huggingface_hub.errors import HfHubHTTPError

        try:
            with answering_hub(_SILENCE_S):
                yield
        except (HfHubHTTPError, OSError, ValueError) as error:
            if disk_problem(error) is not None:
                raise
            reason, fix = _reason(error), "try again; nothing else was changed"
            status = getattr(getattr(error, "response", None), "status_code", None)
            if constants.HF_HUB_OFFLINE:
                reason, fix = "HF_HUB_OFFLINE is set", "unset it"
            elif status == 401:
                reason = "the hub does not accept the token"
                fix = f"a new one with write access from {constants.ENDPOINT}/settings/tokens, by hf auth login or as "
                fix += "HF_TOKEN, which comes first"
            elif status == 403:
                fix = f"a token that may write to '{self.name}', or {self.setting}OWNER/NAME with an owner of its own"
            elif status is None and isinstance(error, OSError):
                reason = f"the hub {constants.ENDPOINT} cannot be reached: {reason}"
                fix = f"try again with a network; {self.without_hub} writes the folder without one"
            raise HubError(f"push to '{self.name}' failed: {reason}. Fix: {fix}") from error


def _reason(error: Any) -> str:
    """The words of the server, or else those of the error, in one line."""
    said = getattr(error, "server_message", None) or str(error) or type(error).__name__
    return textwrap.shorten(str(said), 300, placeholder=" ...").rstrip(".")
