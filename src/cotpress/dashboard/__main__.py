"""`python -m cotpress.dashboard`: see `python -m cotpress.dashboard --help`."""

import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

from cotpress.cli.commands import run_command
from cotpress.errors import ConfigError, HubError, MissingExtraError
from cotpress.store.artifacts import write_text_atomic
from cotpress.store.redaction import without_secrets

log = logging.getLogger("cotpress.dashboard")

SPEC_FILE = "dashboard.json"
USAGE = """\
python -m cotpress.dashboard - the W&B workspace and report over the runs of tracker=wandb

  python -m cotpress.dashboard entity=TEAM project=cotpress
  python -m cotpress.dashboard entity=TEAM sweep=scorers scorers=[cts,random]
  python -m cotpress.dashboard --dry-run output=dashboard.json      no account: write what would be sent

  entity=TEAM       W&B team or user
  project=NAME      W&B project (default cotpress)
  sweep=NAME        only the runs of this sweep
  scorers=[A,B]     scorers with a separate section (default cts, tokenskip, random)
  dry_run=true      write the specification to a file and send nothing
  output=FILE       that file (default dashboard.json)
"""


@dataclass(kw_only=True, slots=True)
class DashboardConfig:
    """Settings of the command."""

    entity: str | None = None
    """W&B team or user."""
    project: str = "cotpress"
    """W&B project."""
    sweep: str | None = None
    """Only the runs of this sweep."""
    scorers: list[str] = field(default_factory=lambda: ["cts", "tokenskip", "random"])
    """Scorers with a separate section in the report."""
    dry_run: bool = False
    """Write the specification to a file and send nothing."""
    output: str = SPEC_FILE
    """File of the dry run."""


def main(config: DashboardConfig) -> None:
    """Write or send workspace and report.

    Raises:
        ConfigError: `entity` is missing and the run is not a dry run.
        MissingExtraError: The package wandb-workspaces is not installed.
        HubError: W&B refuses or cannot be reached.
    """
    try:
        from cotpress.dashboard.views import make_views
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("wandb"):
            raise
        raise MissingExtraError("the dashboard", "wandb-workspaces", "pip install 'cotpress[dashboard]'") from error
    if config.entity is None and not config.dry_run:
        raise ConfigError("entity: no W&B team or user given. Fix: entity=TEAM_OR_USER, or --dry-run")
    views = make_views(
        entity=config.entity or "entity", project=config.project, sweep=config.sweep, scorers=config.scorers
    )
    if config.dry_run:
        path = Path(config.output)
        write_text_atomic(path, json.dumps(views.specs(), indent=1, ensure_ascii=False) + "\n")
        sys.stdout.write(f"{path}\n")
        return
    try:
        report = views.report.save()  # first, as it creates a missing project
        workspace = views.workspace.save()
    except Exception as error:  # many types, from the login to the network, without a common base
        raise HubError(
            f"W&B did not take the dashboard: {without_secrets(str(error))}. Fix: wandb login, or WANDB_API_KEY; "
            "--dry-run writes it to a file"
        ) from error
    sys.stdout.write(f"report: {report.url}\nworkspace: {workspace.url}\n")


if __name__ == "__main__":
    run_command(DashboardConfig, main, USAGE)
