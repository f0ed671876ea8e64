"""Students of a run, just trained or kept from an earlier command, and the rows of a table made from them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cotpress.config import EvaluateConfig, TrainConfig
from cotpress.errors import ConfigError
from cotpress.evaluation.config import Baseline, Prompted
from cotpress.invocation import as_typed
from cotpress.modeling.config import ORIGINAL_WEIGHTS
from cotpress.modeling.weights import TrainedWeights
from cotpress.records import BASE, MIXED, ORIGINAL, SHORTEST, Origin, System
from cotpress.report.students import Student, TrainedRun, open_student, write_students
from cotpress.store.artifacts import Artifact
from cotpress.store.students import name_student
from cotpress.tasks.flow import Flow
from cotpress.tasks.run_directory import artifact_store, essentials, row_settings, run_name
from cotpress.tasks.systems import Examinee, at_ratios, change_of, shortened


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A student, its artifact, and the shares of its training thinking, as in `Student`."""

    system: System
    artifact: Artifact
    reached: Mapping[str, float]
    loss_share: float | None = None

    def kept(self, name: str) -> Student:
        """The student as `students.json` holds it."""
        return Student(
            system=self.system,
            artifact=self.artifact.key,
            name=name,
            reached=self.reached,
            loss_share=self.loss_share,
        )

    def reached_ratio(self, marker_ratio: float | None) -> float | None:
        """See `Student.reached_ratio`."""
        return self.kept("").reached_ratio(marker_ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class Students:
    """The students that the rows of a run are made from.

    Attributes:
        original: The student of the uncompressed traces; None if the run did not need it.
        own: The student of the scorer; its system has no ratio if the student has a control marker.
        shortest: The student of the shortest right answers; None if no row of the run needed it.
    """

    original: Trained | None
    own: Trained
    shortest: Trained | None = None

    @property
    def all(self) -> list[Trained]:
        """All students that there are."""
        return [trained for trained in (self.original, self.shortest, self.own) if trained is not None]


def kept_students(run: TrainedRun, run_dir: Path) -> Students:
    """Open the students of a finished training, from its run directory.

    Raises:
        ArtifactError: An artifact is missing or damaged.
    """
    opened = {
        s.system.origin: Trained(
            system=s.system,
            artifact=open_student(run_dir, s, lambda root: artifact_store(str(root))),
            reached=s.reached,
            loss_share=s.loss_share,
        )
        for s in run.students
    }
    original, shortest = opened.get(Origin.original), opened.get(Origin.shortest)
    return Students(original=original, own=opened[Origin.scorer], shortest=shortest)


def examinees(config: TrainConfig | EvaluateConfig, students: Students) -> list[Examinee]:
    """Return the rows of a run's table: the baselines, then those of the scorer's student."""
    return [e for b in config.evaluation.baselines for e in _baseline(b, config, students)] + _own(config, students)


def needs_original(config: TrainConfig | EvaluateConfig) -> bool:
    """True if a row of a run needs the student Original, or other students start from it."""
    evaluation = config.evaluation
    changes = (change_of(kind, config) for kind in evaluation.baselines)
    prompts_it = evaluation.prompted is Prompted.student and any(change is not None for change in changes)
    starts_others = isinstance(config, TrainConfig) and config.sft.start == ORIGINAL_WEIGHTS
    return Baseline.original in evaluation.baselines or prompts_it or starts_others


def _baseline(kind: Baseline, config: TrainConfig | EvaluateConfig, students: Students) -> list[Examinee]:
    """Build the row of a baseline; its student, if it has one, may be trained for it."""
    match kind:
        case Baseline.base:
            return [Examinee(system=BASE, student=None, actual_ratio=1.0)]
        case Baseline.original:
            return [_original(students)]
        case Baseline.shortest:
            return [_shortest(students)]
        case Baseline.ratio_one:
            return []  # a row of the scorer's own student, see `_own`
    change = change_of(kind, config)
    if change is None:
        return []
    return [shortened(change, None if config.evaluation.prompted is Prompted.base else _original(students))]


def _original(students: Students) -> Examinee:
    if (trained := students.original) is None:
        raise ConfigError(
            "evaluation.baselines: these rows need the student Original, which this run has not trained. "
            "Fix: evaluation.baselines=[base], or another list without original and without prompts for it"
        )
    return Examinee(system=ORIGINAL, student=trained.artifact, actual_ratio=1.0)


def _shortest(students: Students) -> Examinee:
    if (trained := students.shortest) is None:
        raise ConfigError(
            "evaluation.baselines: got shortest, a student that this run has not trained. Fix: leave it out, or "
            f"{as_typed('train')} with evaluation.baselines+=shortest"
        )
    return Examinee(system=SHORTEST, student=trained.artifact, actual_ratio=1.0)


def _own(config: TrainConfig | EvaluateConfig, students: Students) -> list[Examinee]:
    """Rows of the scorer's student: at the run's ratio, and with a ratio marker at others before it."""
    trained = students.own
    is_mixed = trained.system.variant == MIXED
    student = Examinee(
        system=replace(trained.system, ratio=config.ratio) if is_mixed else trained.system,
        student=trained.artifact,
        marker_ratio=config.ratio if is_mixed else None,
        training_ratio=trained.reached_ratio(None),
        loss_share=trained.loss_share,
    )
    if is_mixed and Baseline.ratio_one in config.evaluation.baselines:
        student = replace(student, ratio_one=student.at(1.0))
    rows = at_ratios(student, config.evaluation.ratios if is_mixed else [])
    return [replace(row, actual_ratio=trained.reached_ratio(row.marker_ratio)) for row in rows]


def keep_students(config: TrainConfig, students: Students, flow: Flow, run_dir: Path) -> None:
    """Name all students of a run, and write all that asking them later needs into its directory."""
    kept = []
    for trained in students.all:
        weights = Path(TrainedWeights.of(trained.artifact).path)
        kept.append(trained.kept(name_student(_plain_name(trained.system), trained.artifact, weights)))
    run = TrainedRun(
        name=run_name(config),
        seed=config.seed,
        ratio=config.ratio,
        kinds={"benchmark": type(config.benchmark).__name__},
        students=tuple(kept),
        essentials=essentials(config),
        settings=row_settings(config),
        stages=tuple(flow.stages.values()),
    )
    write_students(run_dir, run)


def _plain_name(system: System) -> str:
    """`original`, `shortest`, `cts-0.7`, `cts-mixed`, `cts-mask_loss-0.7`, `first_solution`."""
    if system in (ORIGINAL, SHORTEST):
        return system.name.lower()
    ratio = "" if system.ratio is None else f"{system.ratio:g}"
    return "-".join(filter(None, (system.name, system.variant, ratio)))
