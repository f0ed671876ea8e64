"""Names of students: links that are unique, stable, relative, and made by several jobs at once."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.students import name_student, output_root_of, student_folder, student_name


def _student(root: Path, number: int) -> Artifact:
    def produce(folder: Path) -> Summary:
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights").write_text(str(number))
        return Summary(num_rows=1)

    return ArtifactStore(root).build("sft", {"number": number}, produce)  # type: ignore[arg-type]


def _named(student: Artifact, name: str = "cts-0.7") -> str:
    return name_student(name, student, student.path / "adapter")


def test_first_student_of_a_name_has_it_and_others_add_their_hash(tmp_path: Path) -> None:
    first, second = _student(tmp_path, 1), _student(tmp_path, 2)
    assert [_named(first), _named(second)] == ["cts-0.7", f"cts-0.7-{second.fingerprint[:8]}"]
    assert [_named(second), _named(first)] == [f"cts-0.7-{second.fingerprint[:8]}", "cts-0.7"], "as before"
    assert (tmp_path / "students/cts-0.7/weights").read_text() == "1"
    (tmp_path / "students/cts-0.7").unlink()
    assert _named(second) == f"cts-0.7-{second.fingerprint[:8]}", "a name that becomes free changes no other"


def test_link_holds_in_a_copy_of_the_output_folder(tmp_path: Path) -> None:
    name = _named(_student(tmp_path / "here", 1))
    shutil.copytree(tmp_path / "here", tmp_path / "there", symlinks=True)
    shutil.rmtree(tmp_path / "here")
    assert (tmp_path / "there/students" / name / "weights").read_text() == "1"


def test_jobs_that_run_at_once_agree_on_the_names(tmp_path: Path) -> None:
    students = [_student(tmp_path, number) for number in (1, 2)]
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(_named, students * 20))
    assert len(set(names[::2])) == len(set(names[1::2])) == 1
    assert sorted(map(len, set(names))) == [len("cts-0.7"), len("cts-0.7") + 9]


def test_file_system_without_links_is_told_and_the_folder_of_the_artifact_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    student = _student(tmp_path, 1)
    name, weights = _named(student), student.path / "adapter"
    assert name == "cts-0.7"
    assert f"The student lies in '{weights}'" in caplog.text
    assert student_folder(name, weights, output_root_of(student)) == weights


def test_every_path_to_the_weights_has_the_name_of_the_student(tmp_path: Path) -> None:
    student = _student(tmp_path, 1)
    assert student_name(str(student.path / "adapter")) is None, "before it is named"
    _named(student)
    paths = [tmp_path / "students/cts-0.7", student.path, student.path / "adapter"]
    assert [student_name(str(path)) for path in paths] == ["cts-0.7"] * 3
    assert [student_name(text) for text in (str(tmp_path), "owner/cts", str(tmp_path / "artifacts"))] == [None] * 3
