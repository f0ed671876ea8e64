"""W&B workspace and report of a project, as objects of wandb-workspaces.

All metric names in the panels are names that `cotpress.tracking` sends.
"""

import json
from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces.expr import And

from cotpress.records import ORIGINAL
from cotpress.report.palette import BASELINES, baseline_style, style
from cotpress.tracking.wandb_runs import AGENT_JOB, REFERENCE_JOB, SYSTEM_JOB

TITLE = "Accuracy against tokens"
ACCURACY, TOKENS = "evaluate/accuracy", "evaluate/mean_generated_tokens"
TARGET, ACTUAL, GENERATED = "evaluate/target_ratio", "evaluate/actual_ratio", "evaluate/generated_ratio"
SYSTEM = "system"
"""Key of the W&B config with the system of a run: a scorer or a baseline."""
TIMED = ("data", "distill", "reference", "score", "compress", "sft")
"""Stages in the panel of seconds."""
HALF, WHOLE, HEIGHT = 12, 24, 9
"""Widths and height of panels on W&B's grid of 24 columns."""


def specifications(workspace: ws.Workspace, report: wr.Report) -> dict[str, Any]:
    """Return the content that `save()` sends for each view, as JSON types."""
    board, page = workspace._to_model(), report._to_model()
    return {
        "workspace": {
            "entity": board.entity, "project": board.project, "display_name": board.display_name,
            "spec": json.loads(board.spec.model_dump_json(by_alias=True, exclude_none=True)),
        },
        "report": {
            "entity": page.project.entity_name, "project": page.project.name, "display_name": page.display_name,
            "description": page.description,
            "spec": json.loads(page.spec.model_dump_json(by_alias=True, exclude_none=True)),
        },
    }  # fmt: skip


def make_views(*, entity: str, project: str, sweep: str | None, scorers: list[str]) -> tuple[ws.Workspace, wr.Report]:
    """Build the workspace and the report of a project, of one sweep (the W&B group) or of all its runs.

    The report has a separate section for each of `scorers`.
    """
    suffix = f" of sweep {sweep}" if sweep else ""
    sections = {
        "Accuracy against tokens": _accuracy_against_tokens(),
        "Ratio control": _ratio_control(),
        "Scorers and baselines": _bars_by_system(),
        "Training": _training(),
        "Time": _time(),
        "Answers and tokens": _tables(),
    }
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=f"cotpress{suffix}",
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
        runset_settings=ws.RunsetSettings(
            filters=_only(sweep),
            # Not grouped: W&B would show the mean of a sweep as one point.
            order=[ws.Ordering(ws.Metric("Group")), ws.Ordering(ws.Metric("JobType"))],
            pinned_columns=[
                "run:group", "run:jobType", f"config:{SYSTEM}.value", f"summary:{TARGET}", f"summary:{ACTUAL}",
                f"summary:{GENERATED}", f"summary:{ACCURACY}", f"summary:{TOKENS}",
            ],
        ),
    )  # fmt: skip
    report = wr.Report(
        entity=entity,
        project=project,
        title=f"{TITLE}{suffix}"[:128],
        description="Compressed chains of thought: what was kept, what it cost. Made by cotpress dashboard.",
        width="fluid",
        blocks=_blocks(sweep, scorers),
    )
    return workspace, report


def _blocks(sweep: str | None, scorers: list[str]) -> list[Any]:
    evaluated = _runs("systems", sweep)
    blocks: list[Any] = [
        wr.TableOfContents(),
        wr.H1(TITLE),
        wr.P(
            "Every point is a system on a benchmark; up and to the left is better. Original is trained on everything."
        ),
        wr.PanelGrid(runsets=[evaluated], panels=_accuracy_against_tokens()),
        wr.H1("Ratio control"),
        wr.P(
            "Three ratios: target_ratio is asked for, the fraction of the thinking tokens to keep; actual_ratio is "
            "what was kept in training; generated_ratio is what the student writes, relative to Original's tokens. "
            "On the diagonal the target is met."
        ),
        wr.PanelGrid(runsets=[evaluated], panels=_ratio_control()),
        wr.H1("Scorers and baselines"),
        _bars(scorers, sweep),
    ]
    for scorer in scorers:
        runs = _runs(scorer, sweep, system=scorer)
        blocks += [wr.H2(scorer), wr.PanelGrid(runsets=[runs], panels=_accuracy_against_tokens()[:2])]
    trained = [evaluated, _runs("reference models", sweep, REFERENCE_JOB)]
    return [
        *blocks,
        wr.H1("Training"),
        wr.PanelGrid(runsets=trained, panels=_training()),
        wr.PanelGrid(runsets=[wr.Runset(name="all runs", filters=_only(sweep))], panels=_time()),
        wr.H1("Answers and tokens"),
        wr.PanelGrid(runsets=[evaluated], panels=_tables()),
    ]


def _runs(
    name: str, sweep: str | None, kind: str = SYSTEM_JOB, *, system: str | None = None, groupby: Sequence[str] = ()
) -> wr.Runset:
    """Select the runs of one job type; without entity and project W&B uses the report's own and looks up no id."""
    # A run of a W&B agent holds everything.
    filters = [ws.Metric("JobType").isin([kind, AGENT_JOB])]
    if sweep:
        filters.append(ws.Metric("Group") == sweep)
    if system:
        filters.append(ws.Config(SYSTEM) == system)
    return wr.Runset(name=name, filters=And(*filters), groupby=list(groupby))


def _only(sweep: str | None) -> Any:
    return And(ws.Metric("Group") == sweep) if sweep else ""


def _accuracy_against_tokens() -> list[Any]:
    legend = "${config:system} ${summary:evaluate/target_ratio}"
    columns = ((wr.Config(SYSTEM), "system"), (wr.SummaryMetric(TARGET), "target ratio"),
               (wr.SummaryMetric(TOKENS), "generated tokens"), (wr.SummaryMetric(ACCURACY), "accuracy"))  # fmt: skip
    return [
        _scatter("Accuracy against generated tokens", TOKENS, ACCURACY, 0, legend_template=legend),
        _scatter("Accuracy against the share of Original's tokens", GENERATED, ACCURACY, HALF, legend_template=legend),
        wr.ParallelCoordinatesPlot(
            title="From scorer and ratio to tokens and accuracy",
            columns=[wr.ParallelCoordinatesPlotColumn(metric=m, display_name=name) for m, name in columns],
            layout=_at(0, 1, WHOLE),
        ),
    ]


def _ratio_control() -> list[Any]:
    limits: dict[str, Any] = {"range_x": (0.0, 1.05)}
    kept = {**limits, "range_y": (0.0, 1.05)}
    return [
        _scatter("Kept thinking tokens: target and actual ratio", TARGET, ACTUAL, 0, **kept),
        _scatter("Generated tokens: target and written ratio", TARGET, GENERATED, HALF, **limits),
    ]


def _bars(scorers: list[str], sweep: str | None) -> wr.PanelGrid:
    """Return the bars in the colours that scorers and baselines have in figures and pages.

    W&B colours groups of runs, so these runs are grouped by system.
    """
    name = "by system"
    looks = {system: style(i) for i, system in enumerate(scorers)}
    looks |= {baseline: look for baseline in (ORIGINAL.name, *BASELINES) if (look := baseline_style(baseline))}
    key = wr.Config(SYSTEM)
    return wr.PanelGrid(
        runsets=[_runs(name, sweep, groupby=[f"config.{SYSTEM}"])],
        panels=_bars_by_system(),
        custom_run_colors={
            wr.RunsetGroup(runset_name=name, keys=(wr.RunsetGroupKey(key=key, value=system),)): look.colour
            for system, look in looks.items()
        },
    )


def _bars_by_system() -> list[Any]:
    """Return one bar per scorer and baseline: means over ratios and seeds, with their range."""
    bars = (
        ("Accuracy", ACCURACY),
        ("Generated tokens per answer", TOKENS),
        ("Share of Original's tokens", GENERATED),
        ("Answers cut off by the budget", "evaluate/truncation_rate"),
    )
    return [
        wr.BarPlot(
            title=title,
            metrics=[metric],
            groupby=wr.Config(SYSTEM),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            orientation="h",
            layout=_at(HALF * (i % 2), i // 2),
        )
        for i, (title, metric) in enumerate(bars)
    ]


def _training() -> list[Any]:
    curves = (
        ("Loss of the students", "sft/step", "sft/loss"),
        ("Loss of the reference model", "reference/step", "reference/loss"),
        ("Validation accuracy of the students", "sft/step", "sft/val/accuracy"),
    )
    return [
        wr.LinePlot(title=title, x=x, y=[y], layout=_at(HALF * (i % 2), i // 2))
        for i, (title, x, y) in enumerate(curves)
    ]


def _time() -> list[Any]:
    seconds = [f"{stage}/seconds" for stage in TIMED]
    return [wr.BarPlot(title="Seconds per stage", metrics=seconds, orientation="h", layout=_at(0, 0))]


def _tables() -> list[Any]:
    names = ("evaluate/predictions", "compress/tokens")
    return [wr.WeavePanelSummaryTable(table_name=name, layout=_at(0, i, WHOLE)) for i, name in enumerate(names)]


def _scatter(title: str, x: str, y: str, column: int, **options: Any) -> wr.ScatterPlot:
    return wr.ScatterPlot(title=title, x=wr.SummaryMetric(x), y=wr.SummaryMetric(y), layout=_at(column, 0), **options)


def _at(column: int, row: int, width: int = HALF) -> wr.Layout:
    return wr.Layout(x=column, y=row * HEIGHT, w=width, h=HEIGHT)
