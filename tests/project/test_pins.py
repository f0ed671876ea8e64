"""Versions in constraints.txt: all that an install with any extra gets."""

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
PINNED = {canonicalize_name(name): version for name, version in PINS.items()}


def direct(extras: set[str]) -> Iterator[Requirement]:
    """Requirements of the package with some extras, without itself."""
    for requirement in map(Requirement, [*PROJECT["dependencies"], *_of_extras(extras)]):
        if requirement.name == PROJECT["name"]:
            yield from direct(requirement.extras)
        else:
            yield requirement


def _of_extras(extras: set[str]) -> Iterator[str]:
    for extra in extras:
        yield from PROJECT["optional-dependencies"][extra]


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_requirements_of_every_extra_are_pinned_to_an_allowed_version(extra: str) -> None:
    versions = {r: PINNED.get(canonicalize_name(r.name), "0") for r in direct({extra})}
    assert [str(r) for r, version in versions.items() if version not in r.specifier or version == "0"] == []


def test_what_the_requirements_need_is_pinned_as_far_as_it_is_installed() -> None:
    unpinned, seen = {}, set[tuple[str, frozenset[str]]]()
    left = [*direct(set(PROJECT["optional-dependencies"]))]
    while left:
        requirement = left.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            installed = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if name not in PINNED:
            unpinned[name] = installed.version
        for needed in map(Requirement, installed.requires or ()):
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras or {""}):
                left.append(needed)
    assert unpinned == {}


def test_current_versions_of_the_tools_that_read_exports_are_ours() -> None:
    pins = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "tests" / "peers" / "current.txt").read_text(), re.MULTILINE)
    other = {name: version for name, version in pins if PINNED.get(canonicalize_name(name), version) != version}
    assert len(pins) > 50
    assert other == {}
