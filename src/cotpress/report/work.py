"""Work behind the results: training losses, and the time of every stage."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotpress.progress import duration
from cotpress.records import TRAIN_LOG_FILE, Origin
from cotpress.report.figure import INK, Picture, style
from cotpress.report.results import Run, Sources

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOW = ("write", "solve", "data", "extract", "distill", "reference", "classifier", "score", "decide", "compress",
        "sft", "benchmark", "answer", "evaluate")  # fmt: skip
"""Order of the stages; others stand at the end."""
_COUNTED = ("num_training_tokens", "num_tokens")
"""Facts of a manifest that count the tokens processed by a stage."""
_LINES = ("-", "--", ":", "-.")
_SMOOTHING = 0.1
"""Share of the curve's length over which the bold line is averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Training loss of one model.

    Attributes:
        stage: `reference` or `sft`.
        label: System and ratio, or the stage.
        system: Label of the system, without its ratio.
        is_original: True for the student of the whole traces.
        losses: Mean loss per target token after each of `steps` optimizer steps, nats.
    """

    stage: str
    label: str
    system: str
    is_original: bool
    steps: tuple[int, ...]
    losses: tuple[float, ...]

    @property
    def smooth(self) -> list[float]:
        """Running mean of the losses around each step."""
        reach = max(1, round(_SMOOTHING * len(self.losses) / 2))
        windows = (self.losses[max(0, i - reach) : i + reach + 1] for i in range(len(self.losses)))
        return [math.fsum(w) / len(w) for w in windows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One artifact, which several runs may share.

    Attributes:
        label: Stage, system and ratio, e.g. `sft (cts 0.5)`.
        artifact: Its key.
        seconds: Wall time of computing it.
        fresh: True if one of the runs computed it.
        num_tokens: Tokens processed; None if the manifest does not contain the number or is missing.
    """

    label: str
    stage: str
    artifact: str
    seconds: float
    fresh: bool
    num_tokens: int | None


def work(runs: Sequence[Run], sources: Sources) -> list[Work]:
    """Return every artifact of the runs once, in the order of the flow."""
    artifacts: dict[str, Work] = {}
    for run in runs:
        for stage in run.results.stages:
            earlier = artifacts.get(stage.artifact)
            artifact = sources.find(run.path, stage.artifact)
            facts = {} if artifact is None else artifact.facts
            artifacts[stage.artifact] = Work(
                label=earlier.label if earlier else stage.title,
                stage=stage.stage,
                artifact=stage.artifact,
                seconds=max(stage.seconds, earlier.seconds if earlier else 0.0),
                fresh=stage.fresh or (earlier is not None and earlier.fresh),
                num_tokens=next((int(facts[name]) for name in _COUNTED if name in facts), None),
            )
    return sorted(artifacts.values(), key=lambda w: FLOW.index(w.stage) if w.stage in FLOW else len(FLOW))


def curves(runs: Sequence[Run], sources: Sources) -> list[Curve]:
    """Return the loss of every trained model of the runs, each once."""
    losses_by_key: dict[str, Curve] = {}
    for run, stage in [(r, stage) for r in runs for stage in r.results.stages]:
        system = stage.system
        artifact = None if stage.artifact in losses_by_key else sources.find(run.path, stage.artifact)
        if artifact is None or TRAIN_LOG_FILE not in artifact.manifest["files"]:
            continue
        with artifact.file(TRAIN_LOG_FILE).open(encoding="utf-8", newline="") as handle:
            rows = [(int(r["step"]), float(r["loss"])) for r in csv.DictReader(handle)]
        if rows:
            steps, losses = zip(*rows, strict=True)
            losses_by_key[stage.artifact] = Curve(
                stage=artifact.stage,
                label=stage.label if system is None else system.title,
                system=stage.label if system is None else system.label,
                is_original=system is not None and system.origin is Origin.original,
                steps=steps,
                losses=losses,
            )
    return list(losses_by_key.values())


def loss_picture(curves: Sequence[Curve]) -> Picture | None:
    """Plot the losses, one panel per kind of model; None without training logs."""
    if not curves:
        return None
    ends = "; ".join(f"{c.label} from {c.losses[0]:.2f} to {c.smooth[-1]:.2f} in {len(c.steps)} steps" for c in curves)
    panels = len({c.stage for c in curves})
    return Picture(
        name="losses",
        title="Training loss",
        description=f"Loss per target token over optimizer steps: {ends}.",
        size=(8.0 if panels == 1 else 9.0, 4.8),
        draw=lambda figure: _draw_losses(figure, curves),
    )


def time_picture(artifacts: Sequence[Work]) -> Picture | None:
    """Plot the time per stage, each artifact once; None if no time was spent."""
    total = sum(w.seconds for w in artifacts)
    if total <= 0:
        return None
    kinds = list(dict.fromkeys(w.stage for w in artifacts))
    texts = [f"{kind} {duration(sum(w.seconds for w in artifacts if w.stage == kind))}" for kind in kinds]
    return Picture(
        name="time",
        title="Where the time went",
        description=f"{duration(total)} for {len(artifacts)} artifacts: {', '.join(texts)}.",
        size=(8.0, 1.3 + 0.42 * len(kinds)),
        draw=lambda figure: _draw_time(figure, artifacts, kinds),
    )


def _draw_losses(figure: "Figure", curves: Sequence[Curve]) -> None:
    kinds = list(dict.fromkeys(c.stage for c in curves))
    titles = {"sft": "students", "reference": "reference model"}
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        members = [c for c in curves if c.stage == kind]
        names = list(dict.fromkeys(c.system for c in members if not c.is_original))
        for i, curve in enumerate(members):
            colour, marker = (INK, "*") if curve.is_original else style(names.index(curve.system))
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


def _draw_time(figure: "Figure", artifacts: Sequence[Work], kinds: Sequence[str]) -> None:
    axes = figure.add_subplot()
    total = sum(w.seconds for w in artifacts)
    colour = style(0)[0]
    for at, kind in enumerate(kinds):
        left = 0.0
        members = [w for w in artifacts if w.stage == kind]
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
