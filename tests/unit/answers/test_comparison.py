import importlib.metadata
import shutil
from pathlib import Path

from cotpress.answers import checker_fingerprint, comparison


def test_fingerprint_depends_on_the_given_code(tmp_path):
    more = tmp_path / "more.py"
    more.write_text("x = 1\n")
    first = checker_fingerprint(more)
    assert first != checker_fingerprint()
    more.write_text("x = 2\n")
    checker_fingerprint.cache_clear()
    assert checker_fingerprint(more) != first


def test_fingerprint_depends_on_the_versions_of_packages(monkeypatch):
    first = checker_fingerprint()
    checker_fingerprint.cache_clear()
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "0")
    changed = checker_fingerprint()
    checker_fingerprint.cache_clear()
    assert changed != first


def test_fingerprint_depends_on_the_table_of_words(tmp_path, monkeypatch):
    folder = shutil.copytree(Path(comparison.__file__).parent, tmp_path / "answers")
    monkeypatch.setattr(comparison, "__file__", str(folder / "comparison.py"))
    checker_fingerprint.cache_clear()
    first = checker_fingerprint()
    words = folder / "words.toml"
    words.write_text(words.read_text(encoding="utf-8").replace('"hence"', '"ergo"'), encoding="utf-8")
    checker_fingerprint.cache_clear()
    changed = checker_fingerprint()
    checker_fingerprint.cache_clear()
    assert changed != first
