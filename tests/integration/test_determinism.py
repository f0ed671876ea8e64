"""The same seed gives the same bytes in another folder and process; another seed gives different ones."""

import json
from pathlib import Path

import pytest

from cotpress.store.artifacts import file_sha256
from support.commands import Command

SMALL = [
    "scorer=cts", "ratio=0.5", "model=tiny", "data.num_traces=12", "benchmark.num_problems=3",
    "benchmark.max_new_tokens=12", "sft.validation_problems=0",
]  # fmt: skip
TIMED = {"latency_s", "seconds_per_sample", "seconds"}
"""Columns that hold durations."""
TIMED_FILES = ("timing.json", "predictions.parquet", "answers.parquet")
"""Files that hold latencies; their answers are compared without them."""


def _made(command: Command, folder: Path, *arguments: str) -> dict[str, str]:
    """Checksums of everything that a run computed, without times."""
    folder.mkdir()
    done = command("train.py", *SMALL, *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    checksums = {}
    for path in sorted((folder / "outputs" / "artifacts").rglob("*")):
        name = str(path.relative_to(folder / "outputs"))
        if path.is_file() and ".partial" not in name and path.name not in TIMED_FILES:
            checksums[name] = file_sha256(path)
    (results,) = (folder / "outputs" / "runs").glob("*/results.json")
    content = json.loads(results.read_text())
    rows = [{k: v for k, v in row.items() if k not in TIMED} for row in content["rows"]]
    stages = [(s["label"], s["artifact"]) for s in content["stages"]]
    return {**checksums, "rows": json.dumps(rows), "stages": json.dumps(stages), "answers": _answers(results.parent)}


def _answers(run_dir: Path) -> str:
    import pyarrow.parquet as pq

    table = pq.read_table(run_dir / "predictions.parquet").drop_columns(["latency_s"])
    return json.dumps(table.to_pylist())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(command: Command, tmp_path: Path) -> None:
    first = _made(command, tmp_path / "a", "seed=1")
    second = _made(command, tmp_path / "b", "seed=1", "trainer.deterministic=true")  # on a CPU it changes nothing
    manifests = {name for name in first if name.endswith("manifest.json")}
    assert {n: v for n, v in first.items() if n not in manifests} == {
        n: v for n, v in second.items() if n not in manifests
    }
    other = _made(command, tmp_path / "c", "seed=2")
    kinds = ("traces.parquet", "valuable.parquet", "scores.parquet", "compressed.parquet", "adapter_model.safetensors")
    for kind in kinds:
        ours, theirs = ({v for n, v in made.items() if n.endswith(kind)} for made in (first, other))
        assert ours
        assert not ours & theirs, kind


def test_deterministic_algorithms_are_off_by_default() -> None:
    import torch

    from cotpress.devices.config import TrainerConfig
    from cotpress.devices.launch import set_up_torch

    set_up_torch(TrainerConfig())
    assert not torch.are_deterministic_algorithms_enabled()
    try:
        set_up_torch(TrainerConfig(deterministic=True))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
