"""API keys and passwords are in no file and in no output of a run."""

import logging
import sys
from pathlib import Path

import pytest

from cotpress.errors import ConfigError
from cotpress.store.redaction import Redacting, refuse_secrets, remember, shown, without_secrets
from support.commands import Command

KEY = "sk-Ab12Cd34Ef56Gh78Ij90"
WORD = "correct-horse-battery"
"""A password without a recognisable pattern."""


def secrets_below(folder: Path, *secrets: str) -> list[str]:
    """Files of any format that contain one of the secrets."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert files
    return [str(p) for p in files if any(s.encode() in p.read_bytes() for s in secrets)]


@pytest.mark.parametrize(
    "setting",
    [
        f"+api_key={WORD}",
        f"evaluation.generation.api_key_env={KEY}",
        f"evaluation.generation.base_url=http://me:{WORD}@host/v1",
        f"evaluation.generation.base_url=http://host/v1?key={WORD}",
        f"model.path=https://host/model?access_token={WORD}",
        f"name={KEY}",
        f"tracker.password={WORD}",
    ],
)
def test_settings_with_a_key_are_refused_before_anything_is_written(
    setting: str, tmp_path: Path, command: Command
) -> None:
    for more in ([], ["-m"]):
        done = command("train.py", *more, "generation@evaluation.generation=server", setting, cwd=tmp_path)
        assert done.returncode == 2
        assert "Fix: put the key into an environment variable" in done.stderr
        assert WORD not in done.stdout + done.stderr
        assert KEY not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nested_settings_with_a_key_are_refused_by_their_full_name() -> None:
    with pytest.raises(ConfigError, match=r"distill\.generation\.base_url: it holds a user name, password"):
        refuse_secrets({"distill": {"generation": {"base_url": f"https://me:{WORD}@host"}}})
    refuse_secrets({"api_key_env": "OPENAI_API_KEY", "path": "a/b", "prompt": "What is the key? {question}", "n": 3})


def test_logs_and_tracebacks_are_masked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOME_PASSWORD", WORD)
    remember("a-key-of-any-name")
    handler = logging.FileHandler(tmp_path / "log")
    handler.setFormatter(Redacting())
    try:
        raise RuntimeError(f"refused {WORD}, a-key-of-any-name, {KEY}, Authorization: Bearer abcdefgh12345678")
    except RuntimeError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "http://u:p@h/?api_key=%s", ("zz",), sys.exc_info())
        handler.emit(record)
    handler.close()
    text = (tmp_path / "log").read_text()
    assert "refused ***, ***, ***, Authorization: Bearer ***" in text
    assert "http://***@h/?api_key=***" in text


def test_key_in_a_configuration_file_is_refused_and_masked_in_hydras_files(tmp_path: Path, command: Command) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /generation@evaluation.generation: server\n"
        f"evaluation: {{generation: {{base_url: 'http://me:{WORD}@host/v1', model: x}}}}\n"
    )
    for more in ([], ["-m"]):
        done = command("train.py", *more, "--config-dir", "conf", "experiment=mine", "model=tiny", cwd=tmp_path)
        assert done.returncode in (1, 2)
        assert WORD not in done.stdout + done.stderr
    assert secrets_below(tmp_path / "outputs", WORD) == []


def test_control_characters_are_escaped() -> None:
    assert shown("half \ud83d") == "half \\ud83d"
    assert shown("id '\x1b]0;owned\x07' \x9b31m\nnext\tline") == "id '\\x1b]0;owned\\x07' \\x9b31m\n  next\tline"


def test_masking_does_not_change_other_text() -> None:
    text = "data.path=/a/key.jsonl ratio=0.5 https://host/v1?page=2#top fingerprint 0123456789abcdef monkey=1 a?b=c"
    assert without_secrets(text) == text


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_file_of_a_run_contains_a_key(tmp_path: Path, command: Command) -> None:
    """With keys in the environment and in a path, of a run that fails and of one that finishes."""
    keys = {"WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567", "OPENAI_API_KEY": KEY, "DB_PASSWORD": WORD}
    (tmp_path / WORD).mkdir()
    arguments = [
        "scorer=random", "reference=none", "ratio=0.5", "tracker=wandb", "model=tiny", "data.num_traces=8",
        "benchmark.num_problems=2", "benchmark.max_new_tokens=8",
        f"evaluation.reference_tokenizer={tmp_path / WORD}",
    ]  # fmt: skip
    for selected in (arguments, arguments[:-1]):
        done = command("train.py", *selected, cwd=tmp_path, variables=keys)
        assert done.returncode == (2 if selected is arguments else 0), done.stderr[-3000:]
        for secret in keys.values():
            assert secret not in done.stdout + done.stderr
    assert list((tmp_path / "outputs").rglob("*.wandb"))
    assert list((tmp_path / "outputs").rglob("report.html"))
    assert secrets_below(tmp_path / "outputs", *keys.values()) == []
    notes = [p.read_text() for p in (tmp_path / "outputs").rglob("job.json")]
    assert any("reference_tokenizer=" in note and "***" in note for note in notes)
