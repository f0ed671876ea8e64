import importlib.metadata

from cotpress.answers import checker_fingerprint


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
