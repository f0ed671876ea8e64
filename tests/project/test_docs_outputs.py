"""Output that docs show in text blocks is what the commands print, word for word, for the example files made here."""

import csv
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from cotpress.config import CompressConfig, TrainConfig, register_schemas, to_objects
from cotpress.errors import DataError
from cotpress.tasks.compress import compress
from cotpress.tasks.train import train
from support.commands import ROOT
from support.trace_files import SHAPES

Printed = Callable[[], str]
"""Returns the messages since the last call, one a line."""
Rows = Iterable[dict[str, Any]]


def _row(i: int, **other: Any) -> dict[str, Any]:
    thinking = f"{i} and 4 ... wait, {i} + 4 = {i + 4}."
    return {
        "id": str(i), "question": f"What is {i} + 4?", "thinking": thinking, "response": f"{i} + 4 = {i + 4}.",
        "answer": str(i + 4), **other,
    }  # fmt: skip


def _write(path: str, rows: Rows) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def printed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> Printed:
    """Messages of the commands that a test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    register_schemas()
    caplog.set_level(logging.INFO)

    def messages() -> str:
        logged = "".join(f"{record.getMessage()}\n" for record in caplog.records)
        caplog.clear()
        return logged + capsys.readouterr().out

    return messages


def _configured(script: str, overrides: Iterable[str]) -> Any:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return to_objects(compose(script, ["model=tiny", "reference=none", "tracker=none", *overrides]))


def _compress(*overrides: str, scorer: str = "random") -> None:
    config = _configured("compress", [f"scorer={scorer}", "data=jsonl", "ratio=0.5", *overrides])
    assert isinstance(config, CompressConfig)
    compress(config, Path.cwd())


def _train(*overrides: str) -> None:
    config = _configured("train", ["scorer=random", "ratio=0.5", *overrides])
    assert isinstance(config, TrainConfig)
    train(config, Path.cwd())


def _folders() -> None:
    _write("mixed/a.jsonl", map(_row, range(3)))
    with Path("mixed/b.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(_row(3)))
        writer.writeheader()
        writer.writerows([_row(3), _row(4, thinking=" ")])
    Path("mixed/c.txt").touch()
    _compress("data.path=mixed")
    turns = [
        {"role": "user", "content": "What is 3 + 4?"},
        {"role": "assistant", "content": "<think>3 + 4 = 7.</think>7"},
    ]
    _write("formats/a.jsonl", [{"messages": turns}])
    Path("formats/b.json").write_text(json.dumps([_row(1)]), encoding="utf-8")
    _compress("data.path=formats", "output=formats")


def _repeated_ids() -> None:
    for name in "abcd":
        _write(f"parts/{name}.jsonl", (_row(i, thinking=f"In {name}: {i + 4}.") for i in range(3)))
    for option in ("number", "drop"):
        _compress("data.path=parts", f"data.duplicates={option}", f"output={option}")


def _shapes() -> None:
    _write("openr1.jsonl", SHAPES["OpenR1-Math-220k"].rows)
    _compress("data.path=openr1.jsonl", "output=openr1")
    _write("x.jsonl", [{"prob": "What is 3 + 4?", "gens": ["<think>3 + 4 = 7.</think>7", "<think>7.</think>7"]}])
    with pytest.raises(DataError) as refused:
        _compress("data.path=x.jsonl", "output=x")
    sys.stdout.write(f"{refused.value}\n")


def _lost_rows() -> None:
    others: dict[int, dict[str, str]] = {5: {"thinking": ""}, **{i: {"response": ""} for i in range(10, 20)}}
    _write("traces.jsonl", (_row(i, **others.get(i, {})) for i in range(40)))
    _write("p.jsonl", ({"id": i, "question": f"Is {i} prime?", "answer": [] if i == 0 else "no"} for i in range(8)))
    data = ["data=jsonl", "data.path=traces.jsonl", "until=data", "benchmark=jsonl"]
    _train(*data, "benchmark.path=p.jsonl")
    asked = [_row(i) for i in (4, *range(20, 25))]
    _write("b.jsonl", [*asked, {"id": "90", "question": "What is 90 - 3?", "answer": "87"}])
    _train(*data, "benchmark.path=b.jsonl")


def _exports() -> None:
    rows = [_row(i, **({"thinking": ""} if i in (3, 7, 11) else {})) for i in range(22)]
    rows[15]["response"] = ""
    _write("rows.jsonl", rows)
    with Path("rows.jsonl").open("a", encoding="utf-8") as handle:
        handle.write('{"id": "22", "question":\n')
    for scorer in ("cts", "random"):
        _compress("data.path=rows.jsonl", "export=trl", "output=DIR", f"output_root={scorer}", scorer=scorer)
        for file in Path("DIR").iterdir():
            file.unlink()


def _long_sequences() -> None:
    _train("data.num_traces=40", "sft.tune.max_tokens=330", "sft.validation_problems=0", "until=sft")


README_COMPRESSION = re.compile(r"^```bash\n(echo .*?)^```$\n+^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_compression_of_the_readme_prints_what_it_shows(tmp_path: Path) -> None:
    ((commands, shown),) = README_COMPRESSION.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    here = commands.replace("python compress.py", f"{sys.executable} {ROOT / 'compress.py'}")
    assert here != commands
    done = subprocess.run(["bash", "-ec", here], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, shown), done.stderr


def _shown(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize(
    ("page", "examples"),
    [
        ("data.md", [_folders, _repeated_ids, _shapes, _lost_rows, _exports]),
        ("evaluation.md", [_long_sequences]),
    ],
)
def test_shown_lines_are_printed(page: str, examples: list[Callable[[], None]], printed: Printed) -> None:
    shown, lines = _shown(page), list[str]()
    for example in examples:
        example()
        lines += printed().splitlines()
    assert shown
    assert [line for line in shown if not _is_printed(line, lines)] == []


def _is_printed(shown: str, lines: Iterable[str]) -> bool:
    """Check that a line of a page is a printed one; three dots at its end stand for the rest."""
    beginning = shown.removesuffix("...")
    return any(line == shown or (beginning != shown and line.startswith(beginning)) for line in lines)


def test_a_line_that_is_not_printed_is_noticed() -> None:
    assert _is_printed("data: 4 rows", ["data: 4 rows"])
    assert _is_printed("data: ...", ["data: 4 rows"])
    assert not _is_printed("data: 4", ["data: 4 rows"])
