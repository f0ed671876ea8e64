"""Names in data, manifests and results cannot lead outside the output directory."""

import json
from pathlib import Path
from typing import Any

import pytest

from cotpress.errors import ArtifactError
from cotpress.hub.__main__ import HubConfig, publish
from cotpress.report.results import Sources, read_results
from cotpress.store.artifacts import ArtifactStore, Summary, file_sha256
from cotpress.store.paths import checked_key, safe_name, stays_below
from security.conftest import edit

ELSEWHERE = ["../secret.txt", "/etc/passwd", "a/../../secret.txt", "..", "", "a\\..\\b", "a\0b", 7]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A private file that an attack tries to publish."""
    path = tmp_path / "outputs" / "secret.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("private")
    return path


@pytest.mark.parametrize("name", ELSEWHERE)
def test_names_that_lead_elsewhere_are_refused(name: Any) -> None:
    assert not stays_below(name)


@pytest.mark.parametrize("name", ["scores.parquet", "adapter/adapter_model.safetensors", "a..b"])
def test_names_below_the_folder_are_accepted(name: str) -> None:
    assert stays_below(name)


@pytest.mark.parametrize("name", ["../../secret.txt", "/etc/hostname"])
def test_manifest_that_names_files_elsewhere_is_refused(name: str, tmp_path: Path, secret: Path) -> None:
    def produce(folder: Path) -> Summary:
        (folder / "rows.txt").write_text("x")
        return Summary(num_rows=1)

    made = ArtifactStore(tmp_path / "outputs").build("data", {"a": 1}, produce)
    digests = {"rows.txt": file_sha256(made.path / "rows.txt"), name: file_sha256(secret)}
    edit(made.path / "manifest.json", files=digests)
    for verify in (lambda s: s.open(made.key), lambda s: s.find("data", {"a": 1})):
        with pytest.raises(ArtifactError, match="its manifest names"):
            verify(ArtifactStore(tmp_path / "outputs"))
    again = ArtifactStore(tmp_path / "outputs").build("data", {"a": 1}, produce)
    assert list(again.manifest["files"]) == ["rows.txt"]
    assert secret.read_text() == "private"


@pytest.mark.parametrize("key", ["../../secret/x", "/etc/x", "data/..", "data", "data/0/1", "data/../../x", 3, None])
def test_malformed_artifact_keys_are_refused(key: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="allowed: stage/fingerprint"):
        checked_key(key)
    with pytest.raises(ArtifactError):
        ArtifactStore(tmp_path).open(key)
    assert Sources().find(tmp_path, key) is None


def _rename_student(run_dir: Path, key: str) -> None:
    rows = json.loads((run_dir / "results.json").read_text())["rows"]
    rows[-1]["artifacts"]["sft"] = key
    edit(run_dir / "results.json", rows=rows)


def test_publication_has_no_files_from_outside_the_artifact(finished_run: Path, secret: Path, tmp_path: Path) -> None:
    config = HubConfig(run=str(finished_run), repo="me/x", dry_run=True, output=str(tmp_path / "hub"))
    student = read_results(finished_run).rows[-1].artifacts["sft"]
    folder = tmp_path / "outputs" / "artifacts" / student
    (folder / "adapter" / "stowaway.txt").symlink_to(secret)
    publish(config)
    assert not (tmp_path / "hub" / "stowaway.txt").exists()  # not in the manifest
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit(folder / "manifest.json", files={**files, "adapter/stowaway.txt": file_sha256(secret)})
    with pytest.raises(ArtifactError, match="which lie elsewhere"):
        publish(config)
    _rename_student(finished_run, "../../elsewhere")
    with pytest.raises(ArtifactError, match="allowed: stage/fingerprint"):
        publish(config)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "<script>", "a\nb", "x" * 5000, "\ud800", "\0", ""])
def test_safe_name_is_one_part_of_a_path(name: str, tmp_path: Path) -> None:
    made = f"{safe_name(name)}-12345678"
    assert Path(made).name == made
    (tmp_path / made).mkdir()
    assert [p.name for p in tmp_path.iterdir()] == [made]
