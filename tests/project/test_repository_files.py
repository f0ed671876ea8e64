"""Files for contributors: workflows, issue forms, CITATION.cff, CONTRIBUTING.md and CHANGELOG.md are true."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cotpress import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted(p for p in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if p.name != "config.yml")
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def _loaded(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def _jobs() -> dict[str, dict[str, Any]]:
    return {name: job for path in WORKFLOWS for name, job in _loaded(path)["jobs"].items()}


def _commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_workflows_run_targets_of_the_makefile() -> None:
    commands = [command for job in _jobs().values() for command in _commands(job)]
    assert {"make check", "make test", "make test-package", "make docs-site"} <= set(commands)
    assert {command.removeprefix("make ") for command in commands} <= TARGETS


def test_workflows_have_triggers_limits_and_pinned_actions() -> None:
    assert WORKFLOWS
    for path in WORKFLOWS:
        loaded = _loaded(path)
        assert {"push", "pull_request"} <= set(loaded[True])  # YAML 1.1 reads the key `on` as true
        assert loaded["permissions"] == {"contents": "read"}
        for name, job in loaded["jobs"].items():
            assert job["timeout-minutes"] <= 60, name
            for step in job["steps"]:
                assert "run" in step or re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]), step


def test_tests_run_on_every_supported_python() -> None:
    versions = _jobs()["test"]["strategy"]["matrix"]["python"]
    named = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert versions == named
    assert PROJECT["project"]["requires-python"] == f">={versions[0]}"


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_have_the_shape_that_github_reads(path: Path) -> None:
    form = _loaded(path)
    assert {"name", "description", "labels", "body"} == set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 2
    for field in fields:
        assert field["type"] in {"textarea", "input", "dropdown", "checkboxes"}
        assert field["attributes"]["label"]
        assert set(field) <= {"type", "id", "attributes", "validations"}
        if field["type"] in {"dropdown", "checkboxes"}:
            assert field["attributes"]["options"]


def test_there_is_a_form_for_bugs_scorers_and_results() -> None:
    assert [path.stem for path in FORMS] == ["bug", "new-scorer", "not-reproduced"]


def test_citation_agrees_with_the_package() -> None:
    citation = _loaded(ROOT / "CITATION.cff")
    project = PROJECT["project"]
    assert citation["version"] == __version__
    assert citation["license"] == project["license"]
    assert citation["keywords"] == project["keywords"]
    assert citation["authors"] == project["authors"]
    assert {reference["url"] for reference in citation["references"]} == set(project["urls"].values())
    assert "doi" not in citation


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_targets_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert (ROOT / target).exists(), target
    assert set(re.findall(r"`?make ([a-z-]+)", text)) <= TARGETS


def test_paths_in_contributing_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = [p for p in re.findall(r"`([\w./-]+)`", text) if "/" in p and not p.startswith((".site", "scoring/"))]
    assert len(paths) > 5
    assert [p for p in paths if not (ROOT / p).exists()] == []


def test_contributing_names_every_marker_with_a_target() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    markers = {m.partition(":")[0] for m in PROJECT["tool"]["pytest"]["ini_options"]["markers"]} - {"shared"}
    assert set(re.findall(r"^\| `(\w+)` \| `make", text, re.MULTILINE)) == markers


def test_changelog_begins_with_the_version() -> None:
    (first, *_) = re.findall(r"^## (\S+),", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first == __version__
