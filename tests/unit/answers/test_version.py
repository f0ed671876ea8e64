import importlib.metadata

from cotpress.answers import checker_fingerprint


def test_fingerprint_follows_the_code_that_is_named(tmp_path):
    more = tmp_path / "more.py"
    more.write_text("x = 1\n")
    first = checker_fingerprint(more)
    assert first != checker_fingerprint()
    more.write_text("x = 2\n")
    checker_fingerprint.cache_clear()
    assert checker_fingerprint(more) != first


def test_fingerprint_follows_the_version_of_what_the_checker_builds_on(monkeypatch):
    first = checker_fingerprint()
    checker_fingerprint.cache_clear()
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "0")
    changed = checker_fingerprint()
    checker_fingerprint.cache_clear()
    assert changed != first
