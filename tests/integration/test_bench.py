"""The benchmark on the tiny model: all systems compute the same, and the results have the documented form."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer
from cotpress.store.artifacts import ArtifactStore
from experiments.speed.bench import Bench
from experiments.speed.checkpoint import write_checkpoint
from experiments.speed.environment import existing_release
from experiments.speed.figures import Bound, Figure, Target, judge, rates, ratios
from experiments.speed.processes import MeasurementError, System, alternate
from experiments.speed.settings import parse
from experiments.speed.texts import TraceMaker
from experiments.speed.worker import Measurement
from support.commands import ROOT, environment

QUICK = ["--quick", "--model", "tiny", "--threads", "1", "--device", "cpu", "--lengths", "64"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def bench(folder: Path) -> Iterator[Bench]:
    made = Bench(
        parse([*QUICK, "--without-release", "--output", str(folder / "out"), "--cache", str(folder / "cache")])
    )
    assert made.checkpoint("tiny").is_dir()
    return made


@pytest.mark.slow
def test_cotpress_and_the_naive_scorer_give_the_same_scores(bench: Bench) -> None:
    job = bench.job(bench.texts.rows(2, 64), ratios=[0.5], keep=True)
    systems = {"ours": bench.ours(job), "naive": bench.naive(job), "limit": bench.limit(job)}
    measurements = bench.measure("test", "two traces", systems, 1)
    assert [measurements[name][0].tokens for name in systems] == [128, 128, 128]
    for ours, naive in zip(
        measurements["ours"][0].facts["scores"], measurements["naive"][0].facts["scores"], strict=True
    ):
        np.testing.assert_allclose(ours, naive, atol=1e-4)
    assert all(0 < m.seconds < 60 for measured in measurements.values() for m in measured)


@pytest.mark.slow
def test_benchmark_writes_table_json_and_csv(folder: Path, bench: Bench) -> None:
    output = folder / "written"
    command = [sys.executable, "-m", "experiments.speed", *QUICK, "--only", "scoring", "--without-release"]
    done = subprocess.run(
        [*command, "--output", str(output), "--cache", str(bench.settings.cache)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
        env={**environment(), "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])},
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((output / "results.json").read_text())
    assert set(results) == {
        "format", "finished_at", "minutes", "machine", "versions", "dtypes", "settings", "targets", "figures",
        "measurements", "skipped",
    }  # fmt: skip
    names = {figure["name"] for figure in results["figures"]}
    assert {"cotpress", "naive", "limit", "time / limit", "faster than naive", "peak memory / naive"} <= names
    for figure in results["figures"]:
        assert figure["min"] <= figure["median"] <= figure["max"]
    assert {target["status"] for target in results["targets"]} <= {"met", "missed", "not measured"}
    assert results["machine"]["threads"] == 1
    assert results["versions"]["torch"]
    with (output / "figures.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(results["figures"])
    assert "time / limit" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stdout.startswith((output / "table.txt").read_text())
    assert str(folder) not in (output / "results.json").read_text()


def test_a_ratio_is_taken_repetition_by_repetition_after_the_first() -> None:
    slow = [Measurement(seconds=s, tokens=1) for s in (70.0, 2.0, 9.0, 4.0)]
    fast = [Measurement(seconds=s, tokens=1) for s in (1.0, 1.0, 3.0, 1.0)]
    assert ratios(slow[:1], fast[:1]) == (70.0,)
    assert rates(slow) == (1 / 2, 1 / 9, 1 / 4)
    figure = Figure(group="g", case="c", name="n", unit="x", values=ratios(slow, fast))
    assert figure.row() == {
        "group": "g", "case": "c", "name": "n", "unit": "x", "min": 2.0, "median": 3.0, "max": 4.0, "n": 3,
    }  # fmt: skip


def test_a_target_is_missed_if_one_case_misses_it() -> None:
    figures = [
        Figure(group="g", case=str(i), name="n", unit="x", values=(value,)) for i, value in enumerate((1.1, 1.4))
    ]
    targets = [Target(group="g", name="n", bound=Bound.at_most, value=v) for v in (1.3, 1.5)]
    missed, met, unknown = judge([*targets, Target(group="h", name="n", bound=Bound.at_least, value=1)], figures)
    assert (missed.status, missed.num_met, met.status, unknown.status) == ("missed", 1, "met", "not measured")
    assert missed.worst == figures[1]


def test_traces_have_the_asked_number_of_tokens(bench: Bench) -> None:
    tokenizer = bench.texts.tokenizer
    for length in (64, 300):
        for row in bench.texts.rows(2, length):
            assert length - 3 <= len(tokenize_with_offsets(tokenizer, row.thinking)[0]) <= length
            assert row.response


def test_texts_of_a_file_are_concatenated(tmp_path: Path, bench: Bench) -> None:
    row = {"question": "q", "thinking": "one two three. ", "response": "two", "answer": "2"}
    path = tmp_path / "traces.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (made,) = TraceMaker(bench.texts.tokenizer, path).rows(1, 40)
    assert made.thinking.startswith("one two three. \n\none two three.")


@pytest.mark.slow
def test_a_process_that_dies_is_an_error_with_its_last_lines(bench: Bench, tmp_path: Path) -> None:
    job = {**bench.job(bench.texts.rows(1, 64), ratios=[0.5]), "checkpoint": str(tmp_path / "nowhere")}
    with pytest.raises(MeasurementError, match="nowhere"):
        alternate({"naive": bench.naive(job)}, 1, tmp_path / "logs")


@pytest.mark.slow
def test_the_release_cuts_the_texts_that_llmlingua_compat_cuts(folder: Path, bench: Bench) -> None:
    python = existing_release(ROOT / ".bench")
    if python is None:
        pytest.skip("the release's environment is not there; make bench makes it")
    rows = bench.texts.rows(2, 400)
    job = bench.job(rows, ratios=[0.5], keep=True, release={"iterative_size": 100})
    release = System(module="experiments.speed.release_worker", job=job, python=python)
    (measurement,) = alternate({"release": release}, 1, folder / "logs")["release"]
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "compress.py"), "model=hub", f"model.path={job['checkpoint']}",
            "model.dtype=float32", "data=jsonl", f"data.path={job['traces']}", "data.validation_fraction=0",
            "reference=none", "scorer.template=plain", "compression=llmlingua_compat",
            "compression.iterative_size=100", "ratio=0.5", "export=openai", f"output={folder / 'compat'}",
            f"output_root={folder / 'outputs'}", "tracker=none",
        ],
        capture_output=True, text=True, timeout=240, cwd=folder, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (exported,) = (folder / "compat").glob("*.jsonl")
    texts = [json.loads(line)["messages"][-1]["content"] for line in exported.read_text().splitlines()]
    assert len(texts) == len(rows)
    for ours, theirs in zip(texts, measurement.facts["texts"][0], strict=True):
        assert theirs.strip() in ours


def test_the_checkpoint_is_written_once_and_names_rope_as_the_release_reads_it(tmp_path: Path) -> None:
    config = ModelConfig(name="tiny", source=ModelSource.tiny, path="llama")
    store = ArtifactStore(tmp_path)
    path = write_checkpoint(config, store, tmp_path / "model")
    values = json.loads((path / "config.json").read_text())
    assert "rope_theta" in values
    assert "rope_parameters" not in values
    before = (path / "config.json").stat().st_mtime_ns
    write_checkpoint(config, store, path)
    assert (path / "config.json").stat().st_mtime_ns == before
    assert load_tokenizer(ModelConfig(name="copy", path=str(path)), store).is_fast
