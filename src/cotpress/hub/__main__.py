"""`cotpress hub`, also `python -m cotpress.hub`: see `cotpress hub --help`."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from cotpress.cli.commands import run_command
from cotpress.errors import ConfigError, HubError
from cotpress.hub.folder import write_folder
from cotpress.hub.publication import Publication, read_publication
from cotpress.invocation import Form, remember
from cotpress.modeling.hub import answering_hub
from cotpress.settings import Location
from cotpress.store.redaction import print_lines

PUSH_SILENCE_S = 300.0
"""Seconds without an answer after which a push fails; the hub needs time to store large files."""
USAGE = """\
{command} - a trained student to the Hugging Face hub, with its model card

  {command} run=outputs/runs/NAME repo=USER/NAME dry_run=true output=DIR
  {command} run=outputs/runs/NAME repo=USER/NAME
  {command} run=outputs/runs/NAME repo=USER/NAME merge=true

  run=DIR              run directory of {train}
  repo=USER/NAME       repository of the student
  dry_run=true         write the folder and send nothing (output=DIR)
  private=false        make a new repository public; the default is private
  base_model=USER/NAME hub id of the base model, where the run does not know it
  merge=true           the whole model, with the LoRA adapter folded into the weights of the base model
  base_path=DIR        folder of the base model for merge=true, where it is not the run's on this machine
  unchecked=true       merge also where it is not known whether that is the model of the training
"""


@dataclass(kw_only=True, slots=True)
class HubConfig:
    """Settings of the command; `USAGE` describes each."""

    run: Location = MISSING
    repo: str = MISSING
    dry_run: bool = False
    output: Location | None = None
    private: bool = True
    base_model: str | None = None
    merge: bool = False
    base_path: Location | None = None
    unchecked: bool = False


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
    if config.base_path is not None and not config.merge:
        raise ConfigError("base_path has no effect without a merge. Fix: merge=true, or leave base_path out")
    if config.unchecked and config.base_path is None:
        raise ConfigError("unchecked has no effect without base_path. Fix: base_path=DIR, or leave unchecked out")
    publication = read_publication(Path(config.run), config.base_model, merge=config.merge)
    base: dict[str, Any] = {"base_path": config.base_path, "unchecked": config.unchecked}
    if config.output is not None:
        return str(write_folder(publication, config.repo, Path(config.output), **base))
    return push_to_hub(publication, config.repo, private=config.private, **base)


def push_to_hub(publication: Publication, repo: str, *, private: bool, **base: Any) -> str:
    """Create the repository if it does not exist, upload the folder and return its address; `base` see `write_folder`.

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
        write_folder(publication, repo, Path(folder), **base)
        try:
            api, message = HfApi(), "Student and model card from cotpress"
            with answering_hub(PUSH_SILENCE_S):
                address = api.create_repo(repo, private=private, exist_ok=True)
                api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
        except (OSError, ValueError) as error:  # huggingface_hub's errors for the network, the account and the name
            raise HubError(f"push to '{repo}' failed: {error}. Nothing else was changed; try again") from error
    return str(address)


def run() -> None:
    """Run the command and exit with its code."""
    run_command("hub", HubConfig, main, USAGE)


if __name__ == "__main__":
    remember(Form.script)
    run()
