"""`cotpress hub`, also `python -m cotpress.hub`: see `cotpress hub --help`."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from cotpress.cli.commands import run_command
from cotpress.errors import ConfigError
from cotpress.hub.card import origin
from cotpress.hub.folder import CARD, OLD_WEIGHTS, check_content, write_folder
from cotpress.hub.publication import Publication, read_publication
from cotpress.invocation import Form, remember
from cotpress.modeling.hub import hub_licence
from cotpress.modeling.upload import Repository
from cotpress.settings import Location
from cotpress.store.redaction import print_lines

USAGE = """\
{command} - a trained student to the Hugging Face hub, with its model card

  {command} run=outputs/runs/NAME repo=USER/NAME dry_run=true output=DIR
  {command} run=outputs/runs/NAME repo=USER/NAME
  {command} run=outputs/runs/NAME repo=USER/NAME merge=true

  run=DIR              run directory of {train}
  repo=USER/NAME       repository of the student
  dry_run=true         write the folder and send nothing (output=DIR)
  private=false        make a new repository public; the default is private
  base_model=USER/NAME hub id of the base model, if the run does not have it
  license=ID           licence of the student, e.g. apache-2.0; by default that of the base model's card on the hub
  merge=true           the whole model, with the LoRA adapter folded into the weights of the base model
  base_path=DIR        folder of the base model for merge=true, if it lies elsewhere than in the run
  unchecked=true       merge even if it is unknown whether that is the model of the training
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
    license: str | None = None
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
    repository = Repository(name=config.repo, is_dataset=False, setting="repo=", without_hub="dry_run=true output=DIR")
    repository.check_name()
    if config.dry_run and config.output is None:
        raise ConfigError("dry_run=true writes a folder. Fix: output=DIR")
    if config.output is not None and not config.dry_run:
        raise ConfigError("output has no effect on a push. Fix: dry_run=true, or leave output out")
    if config.base_path is not None and not config.merge:
        raise ConfigError("base_path has no effect without a merge. Fix: merge=true, or leave base_path out")
    if config.unchecked and config.base_path is None:
        raise ConfigError("unchecked has no effect without base_path. Fix: base_path=DIR, or leave unchecked out")
    publication = read_publication(Path(config.run), config.base_model, merge=config.merge, licence=config.license)
    base: dict[str, Any] = {"base_path": config.base_path, "unchecked": config.unchecked}
    if config.output is not None:
        return str(write_folder(publication, config.repo, Path(config.output), **base))
    return push_to_hub(publication, repository, private=config.private, **base)


def push_to_hub(publication: Publication, repository: Repository, *, private: bool, **base: Any) -> str:
    """Create the repository if it does not exist, upload the folder and return its address; `base` see `write_folder`.

    Raises:
        ConfigError: The repository holds something else than an earlier export.
        HubError: There is no token, or the hub refuses or cannot be reached.
    """
    repository.check_account()
    held = {*repository.files()} - {CARD, ".gitattributes"}  # a new repository may have these
    check_content(held, f"repo: '{repository.name}'", "repo=OWNER/NAME with another name")
    hub_licence(publication.base_model)  # puts its card into the cache, where `write_folder` looks
    origin(publication, online=True)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(publication, repository.name, Path(folder), **base)
        return repository.upload(
            Path(folder), private=private, message="Student and model card from cotpress", outdated=OLD_WEIGHTS
        )


def run() -> None:
    """Run the command and exit with its code."""
    run_command("hub", HubConfig, main, USAGE)


if __name__ == "__main__":
    remember(Form.script)
    run()
