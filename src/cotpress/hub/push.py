"""The folder that goes to the hub, and its upload."""

import json
import logging
import shutil
import tempfile
from pathlib import Path

from cotpress.errors import ConfigError, HubError
from cotpress.hub.card import model_card
from cotpress.hub.publication import Publication, read_publication
from cotpress.modeling.foreign import ADAPTER_CONFIG
from cotpress.modeling.hub import PUSH_SILENCE_S, answering_hub
from cotpress.store.artifacts import write_text_atomic
from cotpress.store.redaction import masked

log = logging.getLogger(__name__)

CARD_FILE = "README.md"
SETTINGS_FILE = "training_config.yaml"


def write_folder(publication: Publication, name: str, output: Path) -> Path:
    """The student as the hub takes it: weights, model card and settings, secrets masked.

    Raises:
        ConfigError: The folder holds something else already.
    """
    if output.exists() and any(output.iterdir()) and not (output / SETTINGS_FILE).exists():
        raise ConfigError(f"output: '{output}' is not empty and not of an earlier export. Fix: another output=DIR")
    inside = f"{publication.weights.name}/"
    for file in publication.training["files"]:  # only what the manifest vouches for
        if file.startswith(inside):
            target = output / file.removeprefix(inside)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(publication.weights.parent / file, target)
    if publication.is_adapter:
        _name_base(output / ADAPTER_CONFIG, publication.base_model)
    write_text_atomic(output / SETTINGS_FILE, _settings(publication))
    write_text_atomic(output / CARD_FILE, str(model_card(publication, name)))
    return output


def push_to_hub(publication: Publication, repo: str, *, private: bool) -> str:
    """Create the repository if need be, upload the folder and return its address.

    Raises:
        HubError: There is no token, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise HubError(
            f"push to '{repo}': there is no Hugging Face token. Fix: hf auth login, or HF_TOKEN in the environment; "
            "dry_run=true output=DIR writes the folder without one"
        )
    with tempfile.TemporaryDirectory() as folder:
        write_folder(publication, repo, Path(folder))
        try:
            api, message = HfApi(), "Student and model card from cotpress"
            with answering_hub(PUSH_SILENCE_S):
                address = api.create_repo(repo, private=private, exist_ok=True)
                api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
        except (OSError, ValueError) as error:  # what huggingface_hub raises for the network, the account and the name
            raise HubError(f"push to '{repo}' failed: {error}. Nothing else was changed; try again") from error
    return str(address)


def publish(run: str, *, repo: str, dry_run: bool, output: str | None, private: bool, base_model: str | None) -> str:
    """What the command does; returns where the student is now.

    Raises:
        ConfigError: Settings that do not go together.
    """
    if repo.count("/") != 1:
        raise ConfigError(f"repo: got '{repo}', allowed: USER/NAME")
    if dry_run and output is None:
        raise ConfigError("dry_run=true writes a folder. Fix: output=DIR")
    if output is not None and not dry_run:
        raise ConfigError("output has no effect on a push. Fix: dry_run=true, or leave output out")
    publication = read_publication(Path(run), base_model)
    if output is not None:
        return str(write_folder(publication, repo, Path(output)))
    return push_to_hub(publication, repo, private=private)


def _name_base(path: Path, base_model: str) -> None:
    """PEFT finds the base model by the name in the adapter."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_model
    write_text_atomic(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _settings(publication: Publication) -> str:
    import yaml

    return str(yaml.safe_dump(masked(publication.config.values), allow_unicode=True, sort_keys=False))
