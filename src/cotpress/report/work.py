"""What the runs did to get there: losses of everything that was trained, and where the time went."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotpress.progress import duration
from cotpress.report.collect import Run, Sources
from cotpress.report.figure import INK, Picture, style
from cotpress.report.plots import is_original
from cotpress.store.artifacts import Artifact

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG_FILE = "train_log.csv"
FLOW = ("write", "solve", "data", "extract", "distill", "reference", "classifier", "score", "decide", "compress",
        "sft", "benchmark", "answer", "evaluate")  # fmt: skip
"""Order of the stages; a stage that is not here stands at the end."""
_COUNTED = ("num_training_tokens", "num_tokens")
"""Facts of a manifest that say how many tokens a stage went through."""
_LINES = ("-", "--", ":", "-.")
_SMOOTHING = 0.1
"""Share of the curve's length over which the bold line averages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Training loss of one model.

    Attributes:
        stage: `reference` or `sft`.
        label: Whose loss it is.
        steps: Optimizer steps.
        losses: Mean loss per target token, nats.
    """

    stage: str
    label: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]

    @property
    def system(self) -> str:
        """The label without its ratio."""
        return self.label.rpartition(" ")[0] or self.label

    @property
    def smooth(self) -> list[float]:
        """Running mean of the losses around each step."""
        reach = max(1, round(_SMOOTHING * len(self.losses) / 2))
        windows = (self.losses[max(0, i - reach) : i + reach + 1] for i in range(len(self.losses)))
        return [math.fsum(w) / len(w) for w in windows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One artifact that some runs share.

    Attributes:
        label: What it is, e.g. `sft (cts 0.5)`.
        stage: Kind of the stage.
        artifact: Its key.
        seconds: Wall time of computing it.
        fresh: True if one of the runs computed it.
        num_tokens: Tokens that it went through; None if its manifest does not say or is gone.
    """

    label: str
    stage: str
    artifact: str
    seconds: float
    fresh: bool
    num_tokens: int | None


def work(runs: Sequence[Run], sources: Sources) -> list[Work]:
    """Every artifact of the runs once, in the order of the flow."""
    found: dict[str, Work] = {}
    for run in runs:
        for stage in run.results.stages:
            earlier = found.get(stage.artifact)
            artifact = sources.find(run.path, stage.artifact)
            found[stage.artifact] = Work(
                label=earlier.label if earlier else _with_ratio(stage.label, run),
                stage=stage.artifact.partition("/")[0],
                artifact=stage.artifact,
                seconds=max(stage.seconds, earlier.seconds if earlier else 0.0),
                fresh=stage.fresh or (earlier is not None and earlier.fresh),
                num_tokens=None if artifact is None else _num_tokens(artifact),
            )
    return sorted(found.values(), key=lambda w: FLOW.index(w.stage) if w.stage in FLOW else len(FLOW))


def curves(runs: Sequence[Run], sources: Sources) -> list[Curve]:
    """The loss of every model that the runs trained or found, each once."""
    found: dict[str, Curve] = {}
    for run, stage in [(r, stage) for r in runs for stage in r.results.stages]:
        artifact = None if stage.artifact in found else sources.find(run.path, stage.artifact)
        if artifact is None or LOG_FILE not in artifact.manifest["files"]:
            continue
        with artifact.file(LOG_FILE).open(encoding="utf-8", newline="") as handle:
            rows = [(int(r["step"]), float(r["loss"])) for r in csv.DictReader(handle)]
        if rows:
            steps, losses = zip(*rows, strict=True)
            label = _with_ratio(stage.label, run).removeprefix("sft (").removesuffix(")")
            found[stage.artifact] = Curve(stage=artifact.stage, label=label, steps=steps, losses=losses)
    return list(found.values())


def loss_picture(found: Sequence[Curve]) -> Picture | None:
    """One panel per kind of model; None if nothing was trained, or its logs are gone."""
    if not found:
        return None
    ends = "; ".join(f"{c.label} from {c.losses[0]:.2f} to {c.smooth[-1]:.2f} in {len(c.steps)} steps" for c in found)
    panels = len({c.stage for c in found})
    return Picture(
        name="losses",
        title="Training loss",
        description=f"Loss per target token over optimizer steps: {ends}.",
        size=(8.0 if panels == 1 else 9.0, 4.8),
        draw=lambda figure: _draw_losses(figure, found),
    )


def time_picture(found: Sequence[Work]) -> Picture | None:
    """Time per stage, each artifact once; None if nothing took any."""
    total = sum(w.seconds for w in found)
    if total <= 0:
        return None
    kinds = list(dict.fromkeys(w.stage for w in found))
    texts = [f"{kind} {duration(sum(w.seconds for w in found if w.stage == kind))}" for kind in kinds]
    return Picture(
        name="time",
        title="Where the time went",
        description=f"{duration(total)} for {len(found)} artifacts: {', '.join(texts)}.",
        size=(8.0, 1.3 + 0.42 * len(kinds)),
        draw=lambda figure: _draw_time(figure, found, kinds),
    )


def _draw_losses(figure: "Figure", found: Sequence[Curve]) -> None:
    kinds = list(dict.fromkeys(c.stage for c in found))
    titles = {"sft": "students", "reference": "reference model"}
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        members = [c for c in found if c.stage == kind]
        names = list(dict.fromkeys(c.system for c in members if not is_original(c.label)))
        for i, curve in enumerate(members):
            colour, marker = (INK, "*") if is_original(curve.label) else style(names.index(curve.system))
            line = _LINES[sum(c.system == curve.system for c in members[:i]) % len(_LINES)]
            every = max(1, len(curve.steps) // 6)
            axes.plot(curve.steps, curve.losses, color=colour, linewidth=0.7, alpha=0.25)
            axes.plot(curve.steps, curve.smooth, color=colour, marker=marker, linestyle=line, linewidth=1.6,
                      markevery=every, markersize=5, label=curve.label)  # fmt: skip
        axes.set_title(titles.get(kind, kind))
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss per target token (nats)")
        if len(members) > 1:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8, ncols=3)


def _draw_time(figure: "Figure", found: Sequence[Work], kinds: Sequence[str]) -> None:
    axes = figure.add_subplot()
    total = sum(w.seconds for w in found)
    colour = style(0)[0]
    for at, kind in enumerate(kinds):
        left = 0.0
        members = [w for w in found if w.stage == kind]
        for w in members:
            axes.barh(at, w.seconds, left=left, height=0.62, color=colour if w.fresh else "none", edgecolor=colour,
                      hatch="" if w.fresh else "////", linewidth=0.8)  # fmt: skip
            left += w.seconds
        times = f" ({len(members)}x)" if len(members) > 1 else ""
        axes.annotate(f"{duration(left)}, {100 * left / total:.0f} %{times}", (left, at), xytext=(6, 0),
                      textcoords="offset points", va="center", fontsize=9, color=INK)  # fmt: skip
    axes.set_yticks(range(len(kinds)), kinds)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("seconds")
    axes.margins(x=0.22)
    axes.set_xlim(left=0)


def _with_ratio(label: str, run: Run) -> str:
    """`sft (cts)` as `sft (cts 0.5)`, so that the same scorer's students can be told apart."""
    if label.endswith(" (mixed))"):
        return label  # one student for several ratios
    ratios = {row.target_ratio for row in run.results.rows if f"({row.system})" in label and row.target_ratio < 1}
    return f"{label.removesuffix(')')} {ratios.pop():g})" if len(ratios) == 1 else label


def _num_tokens(artifact: Artifact) -> int | None:
    return next((int(artifact.facts[name]) for name in _COUNTED if name in artifact.facts), None)
