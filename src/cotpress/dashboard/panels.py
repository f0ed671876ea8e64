"""The panels that workspace and report share; every name in them is one that `cotpress.tracking` sends."""

from typing import Any

import wandb_workspaces.reports.v2 as wr

ACCURACY, TOKENS = "evaluate/accuracy", "evaluate/mean_generated_tokens"
ASKED, ACTUAL, GENERATED = "evaluate/target_ratio", "evaluate/actual_ratio", "evaluate/generated_ratio"
SYSTEM = "system"
"""Key of the W&B config: whose run it is, a scorer or a baseline."""
PREDICTIONS, KEPT_TOKENS = "evaluate/predictions", "compress/tokens"
TIMED = ("data", "distill", "reference", "score", "compress", "sft")
"""Stages whose seconds are shown."""
HALF, WHOLE, HEIGHT = 12, 24, 9
"""Widths and height of panels on W&B's grid of 24 columns."""


def _at(column: int, row: int, width: int = HALF) -> wr.Layout:
    return wr.Layout(x=column, y=row * HEIGHT, w=width, h=HEIGHT)


def accuracy_against_tokens() -> list[Any]:
    """What a compression is judged by; up and to the left is better."""
    return [
        wr.ScatterPlot(
            title="Accuracy against generated tokens",
            x=wr.SummaryMetric(TOKENS),
            y=wr.SummaryMetric(ACCURACY),
            legend_template="${config:system} ${summary:evaluate/target_ratio}",
            layout=_at(0, 0),
        ),
        wr.ScatterPlot(
            title="Accuracy against the share of Original's tokens",
            x=wr.SummaryMetric(GENERATED),
            y=wr.SummaryMetric(ACCURACY),
            legend_template="${config:system} ${summary:evaluate/target_ratio}",
            layout=_at(12, 0),
        ),
        wr.ParallelCoordinatesPlot(
            title="From scorer and ratio to tokens and accuracy",
            columns=[
                wr.ParallelCoordinatesPlotColumn(metric=wr.Config(SYSTEM), display_name="system"),
                wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(ASKED), display_name="asked ratio"),
                wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(TOKENS), display_name="generated tokens"),
                wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(ACCURACY), display_name="accuracy"),
            ],
            layout=_at(0, 1, WHOLE),
        ),
    ]


def ratio_control() -> list[Any]:
    """Whether the training data and the student's own writing meet the asked ratio."""
    return [
        wr.ScatterPlot(
            title="Kept thinking tokens: asked and actual ratio",
            x=wr.SummaryMetric(ASKED),
            y=wr.SummaryMetric(ACTUAL),
            range_x=(0.0, 1.05),
            range_y=(0.0, 1.05),
            layout=_at(0, 0),
        ),
        wr.ScatterPlot(
            title="Generated tokens: asked and written ratio",
            x=wr.SummaryMetric(ASKED),
            y=wr.SummaryMetric(GENERATED),
            range_x=(0.0, 1.05),
            layout=_at(12, 0),
        ),
    ]


def per_system() -> list[Any]:
    """One bar per scorer and baseline: means over ratios and seeds, with their range."""
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
            layout=_at(12 * (i % 2), i // 2),
        )
        for i, (title, metric) in enumerate(bars)
    ]


def training() -> list[Any]:
    """Losses of students and reference models, and validation."""
    curves = (
        ("Loss of the students", "sft/step", ["sft/loss"]),
        ("Loss of the reference model", "reference/step", ["reference/loss"]),
        ("Validation accuracy of the students", "sft/step", ["sft/val/accuracy"]),
    )
    return [
        wr.LinePlot(title=title, x=x, y=list(y), layout=_at(12 * (i % 2), i // 2))
        for i, (title, x, y) in enumerate(curves)
    ]


def time() -> list[Any]:
    """Where the time went."""
    seconds = [f"{stage}/seconds" for stage in TIMED]
    return [wr.BarPlot(title="Seconds per stage", metrics=seconds, orientation="h", layout=_at(0, 0))]


def tables() -> list[Any]:
    """What was written, and which tokens were kept."""
    return [
        wr.WeavePanelSummaryTable(table_name=name, layout=_at(0, i, WHOLE))
        for i, name in enumerate((PREDICTIONS, KEPT_TOKENS))
    ]
