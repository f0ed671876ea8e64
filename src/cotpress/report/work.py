"""Work behind the results: training losses, and the time of every stage."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from cotpress.progress import duration
from cotpress.records import TRAIN_LOG_FILE, Origin, System
from cotpress.report.figure import PICTURE_WIDTH, Picture, legend_size
from cotpress.report.palette import INK, style, styles
from cotpress.report.results import Run, Sources, StageRecord

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
    """Mean loss per target token in nats after each of some optimizer steps; a reference model has the stage's name."""

    stage: str
    system: System
    steps: tuple[int, ...]
    losses: tuple[float, ...]

    @property
    def smooth(self) -> list[float]:
        """Running mean of the losses around each step."""
        reach = max(1, round(_SMOOTHING * len(self.losses) / 2))
        windows = (self.losses[max(0, i - reach) : i + reach + 1] for i in range(len(self.losses)))
        return [math.fsum(w) / len(w) for w in windows]


class Work(NamedTuple):
    """A stage of one or more runs.

    Attributes:
        num_tokens: Tokens that it processed; None if it is unknown.
        dropped: Rows that it left out, by reason.
    """

    stage: StageRecord
    num_tokens: int | None
    dropped: Mapping[str, int]


def work(runs: Sequence[Run], sources: Sources) -> list[Work]:
    """Return every artifact of the runs once, in the order of the flow, fresh if any of the runs computed it."""
    artifacts: dict[str, Work] = {}
    for run in runs:
        for stage in run.results.stages:
            first = artifacts[stage.artifact].stage if stage.artifact in artifacts else stage
            seconds, fresh = max(first.seconds, stage.seconds), first.fresh or stage.fresh
            artifact = sources.find(run.path, stage.artifact)
            facts = {} if artifact is None else artifact.facts
            num_tokens = next((int(facts[name]) for name in _COUNTED if name in facts), None)
            dropped = {} if artifact is None else artifact.manifest["dropped"]
            artifacts[stage.artifact] = Work(replace(first, seconds=seconds, fresh=fresh), num_tokens, dropped)
    return sorted(artifacts.values(), key=lambda w: FLOW.index(w.stage.stage) if w.stage.stage in FLOW else len(FLOW))


def curves(runs: Sequence[Run], sources: Sources) -> list[Curve]:
    """Return the loss of every trained model of the runs, each once."""
    by_artifact: dict[str, Curve] = {}
    for run, stage in [(r, stage) for r in runs for stage in r.results.stages]:
        artifact = None if stage.artifact in by_artifact else sources.find(run.path, stage.artifact)
        if artifact is None or TRAIN_LOG_FILE not in artifact.manifest["files"]:
            continue
        with artifact.file(TRAIN_LOG_FILE).open(encoding="utf-8", newline="") as handle:
            rows = [(int(r["step"]), float(r["loss"])) for r in csv.DictReader(handle)]
        if rows:
            steps, losses = zip(*rows, strict=True)
            system = stage.system or System(name=stage.label, origin=Origin.given)
            by_artifact[stage.artifact] = Curve(stage=stage.stage, system=system, steps=steps, losses=losses)
    return list(by_artifact.values())


def loss_picture(curves: Sequence[Curve]) -> Picture | None:
    """Plot the losses, one panel per kind of model; None without training logs."""
    if not curves:
        return None
    kinds = list(dict.fromkeys(c.stage for c in curves))
    ends = "; ".join(
        f"{c.system.title} from {c.losses[0]:.2f} to {c.smooth[-1]:.2f} in {len(c.steps)} steps" for c in curves
    )

    titles = list(dict.fromkeys(c.system.title for c in curves))
    columns, height = legend_size(titles)

    def draw(figure: "Figure") -> None:
        headings = {"sft": "students", "reference": "reference model"}
        for axes, kind in zip(figure.subplots(len(kinds), 1, squeeze=False)[:, 0], kinds, strict=True):
            members = [c for c in curves if c.stage == kind]
            systems = [c.system.label for c in members]
            looks = styles(sorted((c.system for c in members), key=lambda system: system.is_baseline))
            for i, (curve, name) in enumerate(zip(members, systems, strict=True)):
                colour, _, marker = looks[name]
                line = _LINES[systems[:i].count(name) % len(_LINES)]
                every = max(1, len(curve.steps) // 6)
                axes.plot(curve.steps, curve.losses, color=colour, linewidth=0.7, alpha=0.25)
                axes.plot(curve.steps, curve.smooth, color=colour, marker=marker, linestyle=line, linewidth=1.6,
                          markevery=every, markersize=5, label=curve.system.title)  # fmt: skip
            axes.set(title=headings.get(kind, kind), xlabel="optimizer step", ylabel="loss per target token (nats)")
        if len(titles) > 1:
            figure.legend(loc="outside lower center", ncols=columns, fontsize=9)

    return Picture(
        name="losses",
        title="Training loss",
        description=f"Loss per target token over optimizer steps: {ends}.",
        size=(PICTURE_WIDTH, 3.6 * len(kinds) + height),
        draw=draw,
        caption="Thin: every step. Bold: running mean.",
    )


def time_picture(artifacts: Sequence[Work]) -> Picture | None:
    """Plot the time per stage, each artifact once; None if no time was spent."""
    by_kind: dict[str, list[StageRecord]] = {}
    for stage, *_ in artifacts:
        by_kind.setdefault(stage.stage, []).append(stage)
    total = sum(work.stage.seconds for work in artifacts)
    if total <= 0:
        return None
    texts = [f"{kind} {duration(sum(s.seconds for s in stages))}" for kind, stages in by_kind.items()]

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        colour = style(0).colour
        for at, stages in enumerate(by_kind.values()):
            left = 0.0
            for stage in stages:
                look: dict[str, Any] = {"color": colour} if stage.fresh else {"color": "none", "hatch": "////"}
                axes.barh(at, stage.seconds, left=left, height=0.62, edgecolor=colour, linewidth=0.8, **look)
                left += stage.seconds
            times = f" ({len(stages)}x)" if len(stages) > 1 else ""
            axes.annotate(f"{duration(left)}, {100 * left / total:.0f} %{times}", (left, at), xytext=(6, 0),
                          textcoords="offset points", va="center", fontsize=9, color=INK)  # fmt: skip
        axes.set_yticks(range(len(by_kind)), list(by_kind))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.36)
        axes.set(xlabel="seconds")
        axes.set_xlim(left=0)

    return Picture(
        name="time",
        title="Where the time went",
        description=f"{duration(total)} for {len(artifacts)} artifacts: {', '.join(texts)}.",
        size=(PICTURE_WIDTH, 1.3 + 0.42 * len(by_kind)),
        draw=draw,
        caption="Every artifact once, whoever made it. Filled: computed by these runs; hatched: found done.",
    )
