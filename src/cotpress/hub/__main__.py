"""`python -m cotpress.hub`: see `python -m cotpress.hub --help`."""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from cotpress.cli.commands import run_command
from cotpress.errors import ConfigError, HubError
from cotpress.hub.card import model_card
from cotpress.hub.publication import Publication, read_publication
from cotpress.modeling.hub import answering_hub
from cotpress.modeling.training_record import TRAINING_CONFIG
from cotpress.store.artifacts import write_text_atomic
from cotpress.store.redaction import masked, print_lines

PUSH_SILENCE_S = 300.0
"""Seconds without an answer after which a push fails; the hub needs time to store large files."""
USAGE = """\
python -m cotpress.hub - a trained student to the Hugging Face hub, with its model card

  python -m cotpress.hub run=outputs/runs/NAME repo=USER/NAME dry_run=true output=DIR
  python -m cotpress.hub run=outputs/runs/NAME repo=USER/NAME

  run=DIR              run directory of train.py
  repo=USER/NAME       repository of the student
  dry_run=true         write the folder and send nothing (output=DIR)
  private=false        make a new repository public; the default is private
  base_model=USER/NAME hub id of the base model, where the run does not know it
"""


@dataclass(kw_only=True, slots=True)
class HubConfig:
    """Settings of the command; `USAGE` describes each."""

    run: str = MISSING
    repo: str = MISSING
    dry_run: bool = False
    output: str | None = None
    private: bool = True
    base_model: str | None = None


def main(config: HubConfig) -> None:
    """Write or push the student and print its folder or address."""
    print_lines(publish(config))


def publish(config: HubConfig) -> str:
    """Write or push the student; return its folder or address.

    Raises:
        ConfigError: Settings contradict each other.
    """
    if config.repo.count("/") != 1:
        raise ConfigError(f"repo: got '{config.repo}', allowed: USER/NAME")
    if config.dry_run and config.output is None:
        raise ConfigError("dry_run=true writes a folder. Fix: output=DIR")
    if config.output is not None and not config.dry_run:
        raise ConfigError("output has no effect on a push. Fix: dry_run=true, or leave output out")
    publication = read_publication(Path(config.run), config.base_model)
    if config.output is not None:
        return str(write_folder(publication, config.repo, Path(config.output)))
    return push_to_hub(publication, config.repo, private=config.private)


def write_folder(publication: Publication, name: str, output: Path) -> Path:
    """Write the folder for the hub: weights, model card, and the record of the training.

    To the record beside the weights, if there is one, it adds the settings of the `run`, with masked secrets.

    Raises:
        ConfigError: The folder has other content.
    """
    if output.exists() and any(output.iterdir()) and not (output / TRAINING_CONFIG).exists():
        raise ConfigError(f"output: '{output}' is not empty and not of an earlier export. Fix: another output=DIR")
    prefix = f"{publication.weights.name}/"
    for file in publication.training["files"]:  # files without a checksum in the manifest are not published
        if file.startswith(prefix):
            target = output / file.removeprefix(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(publication.weights.parent / file, target)
    if publication.is_adapter:  # PEFT loads the base model that the adapter's configuration names
        path = output / "adapter_config.json"
        adapter = {**json.loads(path.read_text(encoding="utf-8")), "base_model_name_or_path": publication.base_model}
        write_text_atomic(path, json.dumps(adapter, indent=2, sort_keys=True) + "\n")
    path = output / TRAINING_CONFIG
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    record |= {"base_model": publication.base_model, "run": masked(publication.config.values)}
    write_text_atomic(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    write_text_atomic(output / "README.md", str(model_card(publication, name)))
    return output


def push_to_hub(publication: Publication, repo: str, *, private: bool) -> str:
    """Create the repository if it does not exist, upload the folder and return its address.

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
        except (OSError, ValueError) as error:  # huggingface_hub's errors for the network, the account and the name
            raise HubError(f"push to '{repo}' failed: {error}. Nothing else was changed; try again") from error
    return str(address)


if __name__ == "__main__":
    run_command(HubConfig, main, USAGE)
