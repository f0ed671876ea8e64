"""`compress.py data.field=...`: any text column, given its question."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir

from cotpress.config import CompressConfig, register_schemas, to_objects
from cotpress.errors import DataError
from cotpress.tasks.compress import compress
from support.commands import ROOT, Command

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def contexts(tmp_path: Path) -> Path:
    rows = [
        {"context": f"Room {i} opens at {i}. It is blue. The key hangs by the door.", "question": f"When opens {i}?"}
        for i in range(12)
    ]
    rows[3]["question"] = ""
    del rows[5]["question"]
    path = tmp_path / "contexts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"question": "And its text?"}]))
    return path


def test_texts_are_compressed_to_the_ratio_given_their_question(
    command: Command, contexts: Path, tmp_path: Path
) -> None:
    done = command(
        "compress.py", "data=jsonl", f"data.path={contexts}", "data.field=context", "scorer=cts",
        "scorer.condition=question", "ratio=0.5", f"output={tmp_path / 'out'}", "model=tiny",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1 dropped: missing field 'context'" in done.stderr
    assert "2 dropped: no question to condition on" in done.stderr
    assert "trained on 220 built-in traces" in done.stderr
    rows = pq.read_table(tmp_path / "out" / "compressed.parquet").to_pylist()
    assert [row["id"] for row in rows] == [f"row-{i + 1}" for i in range(12) if i not in (3, 5)]
    originals = [json.loads(line)["context"] for line in contexts.read_text().splitlines()[:12]]
    for row in rows:
        assert row["num_kept_tokens"] == round(0.5 * row["num_tokens"])
        rest = iter(originals[int(row["id"][4:]) - 1])
        assert all(character in rest for character in row["compressed_thinking"])


def compress_here(contexts: Path, output: Path, *overrides: str) -> None:
    """The command without a process of its own."""
    register_schemas()
    given = ["data=jsonl", f"data.path={contexts}", f"output={output}", f"output_root={output}", "model=tiny"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = to_objects(compose("compress", overrides=[*given, *overrides]))
    assert isinstance(config, CompressConfig)
    compress(config, output)


def test_scorer_without_condition_needs_no_question(contexts: Path, tmp_path: Path) -> None:
    compress_here(contexts, tmp_path, "data.field=context", "scorer=random", "ratio=0.3")
    assert pq.read_metadata(tmp_path / "compressed.parquet").num_rows == 12
    assert not (tmp_path / "artifacts" / "reference").exists()


def test_misspelt_column_names_the_nearest(contexts: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'contxt'\. Did you mean 'context'\?"):
        compress_here(contexts, tmp_path, "data.field=contxt")
    assert not (tmp_path / "artifacts" / "model").exists()
