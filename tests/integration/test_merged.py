"""A LoRA student of SmolLM2 and its merged model, asked 100 problems: through PEFT, and by our own commands."""

from pathlib import Path

import pytest

from cotpress.modeling.config import Dtype
from cotpress.records import Prediction
from cotpress.store.tables import read_records
from experiments.merged_student.agreement import Student
from support.commands import Command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

COMMON = ["model=smollm2", "model.dtype=float32", "evaluation.baselines=[]", "benchmark.num_problems=100"]


@pytest.fixture(scope="module")
def run_dir(command: Command) -> Path:
    done = command(
        "train.py", *COMMON, "scorer=random", "ratio=0.9", "reference=none", "evaluation=students",
        "data.num_traces=80", "sft.validation_problems=0", timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (command.folder / "outputs" / "runs").glob("random-0.9-*")
    return folder


def test_adapter_and_merged_model_answer_alike(run_dir: Path, tmp_path: Path) -> None:
    row = Student(run_dir, tmp_path).compare(Dtype.float32, Dtype.float32, beside=True)
    print(row)
    assert row.problems == 100
    assert row.same_verdicts == 100
    assert row.same_texts >= 98  # PEFT adds in another order, so a tie of two tokens may end otherwise


def test_evaluate_knows_the_merged_model_and_gets_the_answers_of_the_run(run_dir: Path, command: Command) -> None:
    merged = command.module("cotpress.hub", f"run={run_dir}", "repo=me/x", "dry_run=true", "output=whole", "merge=true")
    assert merged.returncode == 0, merged.stderr[-3000:]
    done = command("evaluate.py", *COMMON, "model.source=hub", "model.path=whole", timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (command.folder / "outputs" / "runs").glob("evaluate-*")
    before, after = (read_records(place / "predictions.parquet", Prediction) for place in (run_dir, folder))
    same = sum(a.output == b.output for a, b in zip(before, after, strict=True))
    assert len(before) == 100
    assert same >= 98
    assert [p.num_thinking_tokens > 0 for p in after] == [p.num_thinking_tokens > 0 for p in before]
    other = command("evaluate.py", *COMMON, "model.source=hub", "model.path=whole", "model.chat.system=null")
    assert other.returncode == 2
    assert "was trained with another prompt" in other.stderr
