"""`cotpress dashboard`, also `python -m cotpress.dashboard`: see `cotpress dashboard --help`."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from cotpress.cli.commands import run_command
from cotpress.errors import ConfigError, HubError, MissingExtraError, install_extra
from cotpress.invocation import Form, remember
from cotpress.settings import Location
from cotpress.store.artifacts import write_text_atomic
from cotpress.store.redaction import print_lines, without_secrets

USAGE = """\
{command} - the W&B workspace and report over the runs of tracker=wandb

  {command} entity=TEAM project=cotpress
  {command} entity=TEAM sweep=scorers scorers=[cts,random]
  {command} --dry-run output=dashboard.json      no account: write what would be sent

  entity=TEAM       W&B team or user
  project=NAME      W&B project (default cotpress)
  sweep=NAME        only the runs of this sweep
  scorers=[A,B]     scorers with a separate section (default cts, tokenskip, random)
  dry_run=true      write the specification to a file and send nothing
  output=FILE       that file (default dashboard.json)
"""


@dataclass(kw_only=True, slots=True)
class DashboardConfig:
    """Settings of the command; `USAGE` describes each."""

    entity: str | None = None
    project: str = "cotpress"
    sweep: str | None = None
    scorers: list[str] = field(default_factory=lambda: ["cts", "tokenskip", "random"])
    dry_run: bool = False
    output: Location = "dashboard.json"


def main(config: DashboardConfig) -> None:
    """Write or send workspace and report.

    Raises:
        ConfigError: `entity` is missing and the run is not a dry run.
        MissingExtraError: The package wandb-workspaces is not installed.
        HubError: W&B refuses or cannot be reached.
    """
    try:
        from cotpress.dashboard.views import make_views, specifications
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("wandb"):
            raise
        raise MissingExtraError("the dashboard", "wandb-workspaces", install_extra("dashboard")) from error
    if config.entity is None and not config.dry_run:
        raise ConfigError("entity: no W&B team or user given. Fix: entity=TEAM_OR_USER, or --dry-run")
    workspace, report = make_views(
        entity=config.entity or "entity", project=config.project, sweep=config.sweep, scorers=config.scorers
    )
    if config.dry_run:
        path, content = Path(config.output), specifications(workspace, report)
        write_text_atomic(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        print_lines(str(path))
        return
    try:
        report = report.save()  # first, as it creates a missing project
        workspace = workspace.save()
    except Exception as error:  # many types, from the login to the network, without a common base
        raise HubError(
            f"W&B did not take the dashboard: {without_secrets(str(error))}. Fix: wandb login, or WANDB_API_KEY; "
            "--dry-run writes it to a file"
        ) from error
    print_lines(f"report: {report.url}", f"workspace: {workspace.url}")


def run() -> None:
    """Run the command and exit with its code."""
    run_command("dashboard", DashboardConfig, main, USAGE)


if __name__ == "__main__":
    remember(Form.script)
    run()
