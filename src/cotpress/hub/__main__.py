"""`python -m cotpress.hub`: see `python -m cotpress.hub --help`."""

import sys
from dataclasses import dataclass

from omegaconf import MISSING

from cotpress.cli.commands import run_command
from cotpress.hub.push import publish

USAGE = """\
python -m cotpress.hub - a trained student to the Hugging Face hub, with its model card

  python -m cotpress.hub run=outputs/runs/NAME repo=USER/NAME dry_run=true output=DIR
  python -m cotpress.hub run=outputs/runs/NAME repo=USER/NAME

  run=DIR              run directory of train.py
  repo=USER/NAME       where the student goes
  dry_run=true         write the folder and send nothing (output=DIR)
  private=false        make a new repository public; the default is private
  base_model=USER/NAME hub id of the base model, where the run does not know it
"""


@dataclass(kw_only=True, slots=True)
class HubConfig:
    """Settings of the command."""

    run: str = MISSING
    """Run directory of train.py."""
    repo: str = MISSING
    """Repository, USER/NAME."""
    dry_run: bool = False
    """Write the folder and send nothing."""
    output: str | None = None
    """Folder of the dry run."""
    private: bool = True
    """A new repository is private."""
    base_model: str | None = None
    """Hub id of the base model; null takes the run's."""


def main(config: HubConfig) -> None:
    """Write or push the student."""
    where = publish(
        config.run,
        repo=config.repo,
        dry_run=config.dry_run,
        output=config.output,
        private=config.private,
        base_model=config.base_model,
    )
    sys.stdout.write(f"{where}\n")


if __name__ == "__main__":
    run_command(HubConfig, main, USAGE)
