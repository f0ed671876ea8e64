"""Students of a run, just trained or kept from an earlier command, and the rows of a table made from them."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any

from cotpress.config import EvaluateConfig, TrainConfig
from cotpress.errors import ConfigError
from cotpress.evaluation.config import Baseline, Prompted
from cotpress.invocation import as_typed
from cotpress.modeling.config import BASE_WEIGHTS, ORIGINAL_WEIGHTS
from cotpress.modeling.weights import TrainedWeights
from cotpress.records import BASE, MIXED, ORIGINAL, SHORTEST, Origin, System
from cotpress.report.students import Student, TrainedRun, open_student, write_students
from cotpress.store.artifacts import Artifact, plain
from cotpress.store.students import name_student
from cotpress.tasks.flow import Flow
from cotpress.tasks.run_directory import artifact_store, essentials, row_settings, run_name
from cotpress.tasks.systems import Examinee, at_ratios, change_of, random_beside, shortened
from cotpress.training.config import Method

_NO_ORIGINAL = (
    "these rows need the student Original, which this run has not trained. Fix: evaluation.baselines=[base], or "
    "another list without original and without prompts for it"
)
_NO_SHORTEST = (
    "got shortest, a student that this run has not trained. Fix: leave it out, or {train} with "
    "evaluation.baselines+=shortest"
)
_NO_RANDOM = (
    "got random, a student that this run has not trained. Fix: leave it out, or {train} with "
    "evaluation.baselines+=random"
)
"""Messages for rows of students that a run has not trained."""


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
        random: The student of the same traces cut at random; None if no row of the run needed it.
        shortest: The student of the shortest right answers; None if no row of the run needed it.
    """

    original: Trained | None
    own: Trained
    random: Trained | None = None
    shortest: Trained | None = None

    @property
    def all(self) -> list[Trained]:
        """All students that there are."""
        return [trained for trained in (self.original, self.shortest, self.random, self.own) if trained is not None]


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
    return Students(
        own=opened[Origin.scorer],
        **{origin.value: opened.get(origin) for origin in (Origin.original, Origin.random, Origin.shortest)},
    )


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
            return [_whole(SHORTEST, students.shortest, _NO_SHORTEST)]
        case Baseline.random:
            return _random(config, students)
        case Baseline.ratio_one:
            return []  # a row of the scorer's own student, see `_own`
    change = change_of(kind, config)
    if change is None:
        return []
    return [shortened(change, None if config.evaluation.prompted is Prompted.base else _original(students))]


def _original(students: Students) -> Examinee:
    return _whole(ORIGINAL, students.original, _NO_ORIGINAL)


def _whole(system: System, trained: Trained | None, absent: str) -> Examinee:
    """Build the row of a student of whole traces; an error with the text `absent` where the run has not trained it."""
    if trained is None:
        raise ConfigError(_told(absent))
    return Examinee(system=system, student=trained.artifact, actual_ratio=1.0)


def _random(config: TrainConfig | EvaluateConfig, students: Students) -> list[Examinee]:
    """The row of the traces cut at random; none where the run has nothing to cut."""
    if random_beside(students.own.system) is None:
        return []
    if students.random is not None:
        return [_at_ratio(students.random, config)]
    raise ConfigError(_told(_NO_RANDOM))


def _told(absent: str) -> str:
    return f"evaluation.baselines: {absent.format(train=as_typed('train'))}"


def _at_ratio(trained: Trained, config: TrainConfig | EvaluateConfig) -> Examinee:
    """A student of compressed traces at the run's ratio, which a control marker states to one of mixed ratios."""
    marker = config.ratio if trained.system.variant == MIXED else None
    return Examinee(
        system=trained.system if marker is None else replace(trained.system, ratio=marker),
        student=trained.artifact,
        marker_ratio=marker,
        actual_ratio=trained.reached_ratio(marker),
        training_ratio=trained.reached_ratio(None),
        loss_share=trained.loss_share,
    )


def _own(config: TrainConfig | EvaluateConfig, students: Students) -> list[Examinee]:
    """Rows of the scorer's student: at the run's ratio, and with a ratio marker at others before it."""
    trained = students.own
    is_mixed = trained.system.variant == MIXED
    student = _at_ratio(trained, config)
    if is_mixed and Baseline.ratio_one in config.evaluation.baselines:
        student = replace(student, ratio_one=student.at(1.0))
    rows = at_ratios(student, config.evaluation.ratios if is_mixed else [])
    return [replace(row, actual_ratio=trained.reached_ratio(row.marker_ratio)) for row in rows]


def keep_students(config: TrainConfig, students: Students, flow: Flow, run_dir: Path) -> None:
    """Name all students of a run, and write all that asking them later needs into its directory."""
    kept = []
    for trained in students.all:
        weights = Path(TrainedWeights.of(trained.artifact).path)
        kept.append(trained.kept(name_student(plain_name(trained.system, config), trained.artifact, weights)))
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


def plain_name(system: System, config: TrainConfig) -> str:
    """Name of a student: `original`, `cts-0.7`, `cts-mixed`, `cts-0.7-granularity-step-seed-43`.

    It has the settings that differ from the usual ones, so that the first student of several is named after its own.
    Settings that cannot be told in a word are left to the hash of `name_student`.
    """
    if system in (ORIGINAL, SHORTEST):
        parts = [system.name.lower()]
    else:
        parts = [system.name, system.variant, "" if system.ratio is None else f"{system.ratio:g}"]
    return "-".join(filter(None, [*parts, *(f"{key}-{value}" for key, value in _unusual(system, config))]))


_TOLD = ("condition", "baseline", "template")
"""Settings of scorers that names of students have; others belong to what a scorer is by its name."""
_IN_SYSTEM = ("mode", "length", "soft_weights", "mixed_ratios")
"""Settings of the compression that name and variant of a system stand for."""


def _unusual(system: System, config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Yield key and value of the settings of a student that differ from the usual ones."""
    sft, compression, scorer = config.sft, config.compression, config.scorer
    if system.origin in (Origin.scorer, Origin.random):
        yield from _differing(compression, {f.name for f in fields(compression)} - {*_IN_SYSTEM})
    if system.origin is Origin.scorer:
        if config.uses_scorer:
            yield from _differing(scorer, _TOLD)
        if config.needs_reference and config.reference.origin != Method.lora.value:
            yield "reference", Path(config.reference.origin).name
    if sft.start != BASE_WEIGHTS and not (sft.start == ORIGINAL_WEIGHTS and system.origin is Origin.original):
        yield "start", Path(sft.start).name
    yield from _differing(sft, ("question",))
    if sft.tune.method is not Method.lora:
        yield "sft", sft.tune.method.value
    yield from _differing(config, ("seed",))


def _differing(settings: Any, names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield name and value of those settings of a dataclass that are words or numbers other than the default."""
    for f in fields(settings):
        value = getattr(settings, f.name)
        if f.name in names and value != f.default and isinstance(value, Enum | bool | int):
            yield f.name, str(plain(value)).lower()
