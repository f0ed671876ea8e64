"""Workspace and report as wandb-workspaces makes them, before anything is sent."""

import json
from dataclasses import dataclass
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces.expr import And

from cotpress.dashboard import panels
from cotpress.tracking.wandb_runs import AGENT_JOB

TITLE = "Accuracy against tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """Both views of one project."""

    workspace: ws.Workspace
    report: wr.Report

    def specs(self) -> dict[str, Any]:
        """What `save()` would send of each, as JSON types."""
        workspace, report = self.workspace._to_model(), self.report._to_model()
        return {
            "workspace": {
                "entity": workspace.entity,
                "project": workspace.project,
                "display_name": workspace.display_name,
                "spec": _json(workspace.spec),
            },
            "report": {
                "entity": report.project.entity_name,
                "project": report.project.name,
                "display_name": report.display_name,
                "description": report.description,
                "spec": _json(report.spec),
            },
        }


def make_views(*, entity: str, project: str, sweep: str | None, scorers: list[str]) -> Views:
    """The workspace and the report of a project.

    Args:
        entity: W&B team or user.
        project: W&B project.
        sweep: Show the runs of this sweep (the W&B group) only; None shows all.
        scorers: Get a section of their own in the report.
    """
    where = f" of sweep {sweep}" if sweep else ""
    sections = {
        "Accuracy against tokens": panels.accuracy_against_tokens(),
        "Ratio control": panels.ratio_control(),
        "Scorers and baselines": panels.per_system(),
        "Training": panels.training(),
        "Time": panels.time(),
        "Answers and tokens": panels.tables(),
    }
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=f"cotpress{where}",
        sections=[ws.Section(name=name, panels=found, is_open=True) for name, found in sections.items()],
        runset_settings=ws.RunsetSettings(
            filters=_only(sweep),
            # Not grouped: W&B would show the mean of a sweep as one point.
            order=[ws.Ordering(ws.Metric("Group")), ws.Ordering(ws.Metric("JobType"))],
            pinned_columns=[
                "run:group", "run:jobType", f"config:{panels.SYSTEM}.value", f"summary:{panels.ASKED}",
                f"summary:{panels.ACTUAL}", f"summary:{panels.ACCURACY}", f"summary:{panels.TOKENS}",
            ],
        ),
    )  # fmt: skip
    report = wr.Report(
        entity=entity,
        project=project,
        title=f"{TITLE}{where}"[:128],
        description="Compressed chains of thought: what was kept, what it cost. Made by python -m cotpress.dashboard.",
        width="fluid",
        blocks=_blocks(sweep, scorers),
    )
    return Views(workspace=workspace, report=report)


def _blocks(sweep: str | None, scorers: list[str]) -> list[Any]:
    judged = _runs("evaluated systems", sweep, "evaluate")
    blocks: list[Any] = [
        wr.TableOfContents(),
        wr.H1(TITLE),
        wr.P(
            "Every point is a system on a benchmark; up and to the left is better. Original is trained on everything."
        ),
        wr.PanelGrid(runsets=[judged], panels=panels.accuracy_against_tokens()),
        wr.H1("Ratio control"),
        wr.P("The asked ratio is the fraction of thinking tokens kept; on the diagonal it is met."),
        wr.PanelGrid(runsets=[judged], panels=panels.ratio_control()),
        wr.H1("Scorers and baselines"),
        wr.PanelGrid(runsets=[judged], panels=panels.per_system()),
    ]
    for scorer in scorers:
        runs = _runs(scorer, sweep, "evaluate", system=scorer)
        blocks += [wr.H2(scorer), wr.PanelGrid(runsets=[runs], panels=panels.accuracy_against_tokens()[:2])]
    trained = [_runs("students", sweep, "sft"), _runs("reference models", sweep, "reference")]
    shown = [judged, _runs("compressed data", sweep, "compress")]
    return [
        *blocks,
        wr.H1("Training"),
        wr.PanelGrid(runsets=trained, panels=panels.training()),
        wr.PanelGrid(runsets=[wr.Runset(name="all stages", filters=_only(sweep))], panels=panels.time()),
        wr.H1("Answers and tokens"),
        wr.PanelGrid(runsets=shown, panels=panels.tables()),
    ]


def _runs(name: str, sweep: str | None, stage: str, *, system: str | None = None) -> wr.Runset:
    """Runs of one stage. Entity and project are left out: W&B then takes the report's own; no id is looked up."""
    # A run of a W&B agent holds every stage of its job.
    wanted = [ws.Metric("JobType").isin([stage, AGENT_JOB])]
    if sweep:
        wanted.append(ws.Metric("Group") == sweep)
    if system:
        wanted.append(ws.Config(panels.SYSTEM) == system)
    return wr.Runset(name=name, filters=And(*wanted))


def _only(sweep: str | None) -> Any:
    return And(ws.Metric("Group") == sweep) if sweep else ""


def _json(spec: Any) -> Any:
    return json.loads(spec.model_dump_json(by_alias=True, exclude_none=True))
