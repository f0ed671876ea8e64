"""Rows that nobody expects, through a whole command and into the report's viewer."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir

from cotpress.compression.config import ExportFormat
from cotpress.compression.export import FILES
from cotpress.config import CompressConfig, register_schemas, to_objects
from cotpress.records import Interval, SystemResult
from cotpress.report.results import RunResults, StageRecord, write_results
from cotpress.report.stage import report_run
from cotpress.store.artifacts import ArtifactStore
from cotpress.tasks.compress import compress
from support.commands import ROOT
from support.pages import Parsed, token_lengths

pytestmark = pytest.mark.slow

KEPT = {
    "most of a megabyte": "A sentence of words, 12 + 7 = 19. " * 29_000,
    "200,000 tokens": "1 " * 100_000,
    "only emoji": "\U0001f469\u200d\U0001f467\u200d\U0001f466\U0001f3f3\ufe0f\u200d\U0001f308\U0001f914" * 40,
    "right to left": "\u05e9\u05dc\u05d5\u05dd, \u200f12 + 7 = 19. \u0627\u0644\u0633\u0644\u0627\u0645.\n" * 20,
    "combining": "e\u0301\u0308\u0323" * 50 + "\u202e<script>alert(1)</script>\u202c",
    "../../escape": "Its id is a path.",
    "<script>alert(1)</script>": "Its id is a script.",
}
DROPPED = {
    "NUL character in 'thinking'": ("nul", "before\0after"),
    "lone surrogate in 'thinking'": ("surrogate", "before \ud83d after"),
    "empty thinking": ("blank", " \u2028\n"),
    "text over 1,000,000 bytes in 'thinking'": ("a megabyte", "A sentence of words, 12 + 7 = 19. " * 31_000),
}


def _row(name: str, thinking: str) -> str:
    return json.dumps({"id": name, "question": "How many?", "thinking": thinking, "response": "19", "answer": "19"})


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, object]]]:
    """The output root after `compress.py`, and the compressed rows."""
    folder = tmp_path_factory.mktemp("odd")
    rows = [*KEPT.items(), *DROPPED.values()]
    (folder / "rows.jsonl").write_text("".join(_row(*row) + "\n" for row in rows))
    given = [
        "data=jsonl", f"data.path={folder / 'rows.jsonl'}", "data.validation_fraction=0", "scorer=random", "ratio=0.5",
        "model=tiny", "reference=none", f"output={folder / 'out'}", f"output_root={folder / 'outputs'}",
        "export=openai",
    ]  # fmt: skip
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = to_objects(compose("compress", overrides=given))
    assert isinstance(config, CompressConfig)
    compress(config, folder)
    (made,) = (folder / "outputs" / "artifacts" / "compress").glob("*/compressed.parquet")
    return folder, pq.read_table(made).to_pylist()


def test_every_row_is_kept_completely_or_counted(flow: tuple[Path, list[dict[str, object]]]) -> None:
    folder, rows = flow
    assert [row["id"] for row in rows] == list(KEPT)
    (manifest,) = (folder / "outputs" / "artifacts" / "data").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["dropped"] == dict.fromkeys(DROPPED, 1)
    sizes = {row["id"]: row["num_tokens"] for row in rows}
    assert sizes["200,000 tokens"] >= 200_000  # type: ignore[operator]
    for row in rows:
        keep = row["keep_mask"]
        assert isinstance(keep, list)
        assert sum(keep) == row["num_kept_tokens"]
        assert abs(sum(keep) - round(0.5 * len(keep))) <= 2, "a character of up to four tokens is not divided"
        rest = iter(KEPT[str(row["id"])])
        assert all(character in rest for character in str(row["compressed_thinking"]))
    exported = (folder / "out" / FILES[ExportFormat.openai]).read_text(encoding="utf-8").splitlines()
    assert len(exported) == len(KEPT)
    outside = [p for p in folder.rglob("*") if "escape" in p.name or "script" in p.name]
    assert outside == []


def test_viewer_shows_odd_rows_as_text(flow: tuple[Path, list[dict[str, object]]]) -> None:
    folder, _ = flow
    root = folder / "outputs"
    keys = {
        p.parent.parent.name: f"{p.parent.parent.name}/{p.parent.name}"
        for p in (root / "artifacts").glob("*/*/manifest.json")
    }
    artifact = ArtifactStore(root).open(keys["compress"])
    assert artifact is not None
    many = Interval(value=0.5, low=0.4, high=0.6, n=4)
    row = SystemResult(
        system="<img src=x onerror=alert(1)>", target_ratio=0.5, actual_ratio=0.5, accuracy=many, mean_tokens=many,
        truncation_rate=0.0, seconds_per_sample=0.1,
    )  # fmt: skip
    stage = StageRecord(label="compress (random)", artifact=artifact.key, seconds=1.0, fresh=True)
    run_dir = root / "runs" / "odd"
    results = RunResults(name="</title><b>", model="$\\frac{", benchmark="|", seed=1, rows=(row,), stages=(stage,))
    write_results(run_dir, results)
    parsed = Parsed(report_run(run_dir).read_text(encoding="utf-8"))
    assert parsed.open == []
    assert len(parsed.scripts) == 2
    assert not {"img", "b"} & set(parsed.elements)
    assert not [a for a in parsed.attributes if a.startswith("on")]
    shown = {trace["id"]: trace for trace in parsed.viewer["data"][0]["traces"]}
    assert list(shown) == list(KEPT)
    for name, trace in shown.items():
        assert trace["text"] == KEPT[name]
        assert sum(token_lengths(trace)) == len(KEPT[name].encode("utf-16-le")) // 2
