"""`compress.py` on a file of the user: rows in, export out, bad rows counted."""

import json
from pathlib import Path

from support.commands import Command


def test_compress_exports_own_data(command: Command, tmp_path: Path) -> None:
    rows = [
        {
            "id": i,
            "question": f"{i} + 1?",
            "thinking": f"Okay. {i} + 1 = {i + 1}. Yes.",
            "response": f"{i + 1}",
            "answer": "",
        }
        for i in range(8)
    ]
    bad = [{"id": "x", "question": "q", "thinking": "", "response": "", "answer": ""}, {"id": "y"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows + bad) + "{broken\n")
    done = command(
        "compress.py", "data=jsonl", f"data.path={path}", "distill=overlap", "scorer=cts", "reference=none",
        "ratio=0.5", "export=trl", f"output={tmp_path / 'out'}", "model=tiny",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "3 dropped" in done.stderr.replace("1 dropped", "") or done.stderr.count("1 dropped") == 3
    assert "asked ratio 0.5" in done.stdout
    assert list((tmp_path / "out").iterdir())


def test_multirun_shows_a_warning_of_its_jobs_once(command: Command, tmp_path: Path) -> None:
    row = {"id": "a", "question": "q", "thinking": "2 plus 3 is 5.", "response": "5", "answer": "5"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n{broken\n")
    done = command(
        "compress.py", "-m", "model=tiny", "data=jsonl", f"data.path={tmp_path / 'rows.jsonl'}", "scorer=random,head",
        "ratio=0.5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("  warning: data=jsonl: 1 of 2 rows are used; 1 lost: 1 x invalid JSON") == 1
