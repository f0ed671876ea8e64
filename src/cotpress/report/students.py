"""Files of a run directory about a run before its answers.

`students.json` holds the trained students and all that is needed to ask them in another command, `until-STAGE.json` the
artifacts of a run that ended after an earlier stage.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cotpress.errors import ArtifactError
from cotpress.modeling.weights import TrainedWeights
from cotpress.records import STUDENTS_FILE, UNTIL_FILES, Origin, System
from cotpress.report.results import Collection, StageRecord, output_root_of_run, read_stage, read_system
from cotpress.store.artifacts import Artifact, ArtifactStore
from cotpress.store.paths import safe_name
from cotpress.store.results import read_results_file, write_results_file
from cotpress.store.students import STUDENTS, student_folder

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A trained student of a run.

    Attributes:
        system: Its identity; the ratio is the requested one, None for mixed ratios and traces of their own length.
        artifact: Key of its artifact.
        name: Name of its link, `students/NAME`.
        reached: Kept fraction of all its training thinking under an empty key, with mixed ratios also that of the
            traces whose marker states a ratio, under the ratio as a text.
        loss_share: Mean weight of the loss over its training thinking; None where all tokens have a loss.
    """

    system: System
    artifact: str
    name: str
    reached: Mapping[str, float]
    loss_share: float | None = None

    def reached_ratio(self, marker_ratio: float | None) -> float | None:
        """Kept fraction of the traces whose marker states a ratio, None for all traces; None if there are none."""
        return self.reached.get("" if marker_ratio is None else str(float(marker_ratio)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRun:
    """Students and settings of a run whose training is finished.

    Attributes:
        kinds: Names of the settings classes of groups with several ones, by their place.
        essentials: As in `RunResults`.
        settings: As in `RunResults`.
        stages: Stages up to the students.
    """

    name: str
    seed: int
    ratio: float
    kinds: Mapping[str, str]
    students: tuple[Student, ...]
    essentials: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[StageRecord, ...] = ()

    @property
    def own(self) -> System:
        """System of the student of the run's scorer."""
        return next(student.system for student in self.students if student.system.origin is Origin.scorer)


def write_students(run_dir: Path, run: TrainedRun) -> Path:
    """Write `students.json` into a run directory."""
    return write_results_file(run_dir, _VERSION, run, STUDENTS_FILE)


def read_students(run_dir: Path) -> TrainedRun:
    """Read the students of a run.

    Raises:
        ArtifactError: There is no `students.json`, or it is damaged or of another version.
    """

    def made(content: dict[str, Any]) -> TrainedRun:
        stages = tuple(read_stage(stage) for stage in content.pop("stages"))
        students = tuple(_student(student) for student in content.pop("students"))
        if [s.system.origin for s in students].count(Origin.scorer) != 1:
            raise ValueError("it has not one student of a scorer")
        return TrainedRun(stages=stages, students=students, **content)

    return read_results_file(run_dir, (_VERSION,), made, STUDENTS_FILE)


def _student(content: dict[str, Any]) -> Student:
    system = read_system(content.pop("system"))
    if system is None or safe_name(content["name"]) != content["name"]:
        raise ValueError("a student has no system, or a name that is no name of a folder")
    return Student(system=system, **content)


def open_student(run_dir: Path, student: Student, store_of: Callable[[Path], ArtifactStore]) -> Artifact:
    """Open the artifact of a student from the nearest `artifacts/` at or above its run directory.

    `store_of` returns the store of an output folder.

    Raises:
        ArtifactError: It is not there, or damaged.
    """
    root = output_root_of_run(run_dir, student.artifact)
    artifact = None if root is None else store_of(root).open(student.artifact, verify=True)
    if artifact is None:
        place = (run_dir.absolute().parent.parent if root is None else root) / "artifacts" / student.artifact
        raise ArtifactError(
            f"runs: the student {student.system.title} of '{run_dir}' is missing: there is no '{place}'. Fix: copy the "
            "folder artifacts/sft of the machine that trained it, beside the folder of the runs"
        )
    return artifact


def student_lines(run_dir: Path) -> list[str]:
    """One line per student of a run with its folder; none for a run without students."""
    try:
        run = read_students(run_dir)
    except ArtifactError:
        return []
    return [f"student {s.system.title}: {_folder(run_dir, s)}" for s in run.students]


def without_answered(collection: Collection) -> Collection:
    """Leave out runs without results whose students have answered in other runs, as with settings of `evaluate.py`."""
    answered = {stage.artifact for run in collection.runs for stage in run.results.stages}

    def is_answered(run_dir: Path) -> bool:
        try:
            return all(student.artifact in answered for student in read_students(run_dir).students)
        except ArtifactError:
            return False

    return replace(collection, unfinished=tuple(u for u in collection.unfinished if not is_answered(u.path)))


def _folder(run_dir: Path, student: Student) -> Path:
    root = output_root_of_run(run_dir, student.artifact)
    if root is None:
        return run_dir.parent.parent / STUDENTS / student.name
    weights = TrainedWeights.below(root / "artifacts" / student.artifact)
    place = root / "artifacts" / student.artifact if weights is None else Path(weights.path)
    return student_folder(student.name, place, root)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Outcome of a run that ended after a stage: the keys of the stage's artifacts by their titles."""

    until: str
    made: Mapping[str, str]


def write_until(run_dir: Path, ended: Ended) -> Path:
    """Write `until-STAGE.json` into a run directory."""
    return write_results_file(run_dir, _VERSION, ended, UNTIL_FILES.replace("*", ended.until))


def until_lines(run_dir: Path, until: str | None = None) -> list[str]:
    """One line per artifact of the stage `until` that a run ended after, by default of all such stages."""
    if until is None:
        notes = sorted(run_dir.glob(UNTIL_FILES), key=lambda note: note.stat().st_mtime_ns)
        return [line for note in notes for line in until_lines(run_dir, note.stem.partition("-")[2])]
    try:
        name = UNTIL_FILES.replace("*", until)
        ended = read_results_file(run_dir, (_VERSION,), lambda content: Ended(**content), name)
    except ArtifactError:
        return []
    if not ended.made:
        return [f"{ended.until}: this run needs none"]
    roots = {key: output_root_of_run(run_dir, key) or run_dir.parent.parent for key in ended.made.values()}
    return [f"{title}: {roots[key] / 'artifacts' / key}" for title, key in ended.made.items()]
