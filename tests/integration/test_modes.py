"""Modes of compression and training without questions, through `train.py` and `compress.py` on the tiny model."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cotpress.records import COMPRESSED_FILE, CompressedTrace
from cotpress.store.tables import read_records
from support.commands import SMALL, Command

pytestmark = pytest.mark.timeout(300)
UNSCORED = ["compression.mode=first_solution", "compression.statement=concluded"]


def trained(command: Command, *arguments: str) -> tuple[Any, list[dict[str, Any]], str]:
    """Train with some settings; the finished command, the rows of its results and the name of its run directory."""
    done = command("train.py", "scorer=random", "reference=none", *SMALL, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = command.folder / done.stdout.splitlines()[-1].removeprefix("run directory: ")
    return done, json.loads((folder / "results.json").read_text())["rows"], folder.name


def facts_of(command: Command, stage: str, row: dict[str, Any]) -> dict[str, Any]:
    manifest = command.folder / "outputs" / "artifacts" / row["artifacts"][stage] / "manifest.json"
    facts: dict[str, Any] = json.loads(manifest.read_text())["facts"]
    return facts


@pytest.mark.parametrize("soft", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_student_of_whole_traces_has_a_loss_on_a_part_of_them(command: Command, soft: bool) -> None:
    softly = ["compression.soft_weights=true"] if soft else []
    done, rows, name = trained(command, "compression.mode=mask_loss", "ratio=0.5", *softly)
    original, own = rows
    assert own["system"] == f"random ({'soft_weights' if soft else 'mask_loss'})"
    assert name.startswith("random-0.5-mask_loss-tiny")
    assert (own["target_ratio"], own["actual_ratio"], own["training_reduction"]) == (0.5, 1.0, 0.0)
    assert own["loss_share"] == pytest.approx(0.5, abs=0.02)
    assert original["loss_share"] is None
    facts, whole = (facts_of(command, "sft", row) for row in (own, original))
    assert facts["num_training_tokens"] == whole["num_training_tokens"]
    assert (facts["num_target_tokens"] == whole["num_target_tokens"]) == soft
    assert "trained on the whole thinking, with this share of the loss" in done.stdout
    assert ("trainer.head_loss=auto: chunked, as it weighs" in done.stderr) == soft


def test_student_of_first_solutions_needs_no_scores(command: Command) -> None:
    done, rows, name = trained(command, *UNSCORED)
    own = rows[-1]
    assert (own["system"], own["identity"]["ratio"], own["target_ratio"]) == ("first_solution", None, 1.0)
    assert 0 < own["actual_ratio"] < 1
    assert own["training_reduction"] == pytest.approx(1 - own["actual_ratio"])
    assert name.startswith("first_solution-tiny")
    assert re.search(r"^first_solution +own ", done.stdout, re.MULTILINE)
    stages = {path.name for path in (command.folder / "outputs" / "artifacts").iterdir()}
    again = command("train.py", "scorer=cts", *SMALL, *UNSCORED)  # the scorer has no effect
    assert again.returncode == 0, again.stderr[-3000:]
    assert {path.name for path in (command.folder / "outputs" / "artifacts").iterdir()} == stages
    assert "reference" not in stages


def test_student_of_ratio_zero_learns_the_response_alone(command: Command) -> None:
    _, rows, _ = trained(
        command, "ratio=0", "evaluation.baselines=[original,lc_prompt,truncation]"
    )  # fmt: skip
    assert [row["system"] for row in rows] == ["Original", "random"]
    assert (rows[1]["target_ratio"], rows[1]["actual_ratio"], rows[1]["training_reduction"]) == (0.0, 0.0, 1.0)
    assert (
        facts_of(command, "sft", rows[1])["num_target_tokens"] < facts_of(command, "sft", rows[0])["num_target_tokens"]
    )


def test_student_without_questions_is_asked_them_all_the_same(command: Command) -> None:
    _, rows, _ = trained(command, "ratio=0.5", "sft.question=false")
    _, usual, _ = trained(command, "ratio=0.5")
    assert all(row["accuracy"]["n"] == 6 for row in rows)
    for own, other in zip(rows, usual, strict=True):
        facts, asked = facts_of(command, "sft", own), facts_of(command, "sft", other)
        assert facts["num_training_tokens"] < asked["num_training_tokens"]
        assert abs(facts["num_target_tokens"] - asked["num_target_tokens"]) <= 24  # the first token of each sequence
    done = command("report.py", "runs=outputs/runs")
    assert done.returncode == 0, done.stderr[-3000:]
    names = {line.partition(",")[0] for line in (command.folder / "outputs/runs/results.csv").read_text().splitlines()}
    assert {"random", "random question=False", "Original", "Original question=False"} <= names


def exported(command: Command, output: Path, *arguments: str) -> str:
    done = command(
        "compress.py", "model=tiny", "data.num_traces=24", "scorer=random", f"output={output}", *arguments
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_exports_hold_what_each_mode_trains_on(command: Command, tmp_path: Path) -> None:
    for soft in (False, True):
        output = tmp_path / f"masked-{soft}"
        shown = exported(command, output, "compression.mode=mask_loss", "ratio=0.5", f"compression.soft_weights={soft}")
        rows = read_records(output / COMPRESSED_FILE, CompressedTrace)
        weights = np.concatenate([row.loss_weights for row in rows if row.loss_weights is not None])
        assert weights.mean() == pytest.approx(0.5, abs=0.02)
        assert set(weights.tolist()) == {0.0, 1.0} or soft
        assert "actual 1.000" in shown
        assert "the thinking is whole; mean weight of the loss over its tokens: 0.5" in shown
    output = tmp_path / "trl"
    exported(command, output, "compression.mode=mask_loss", "ratio=0.5", "export=trl")
    lines = [json.loads(line) for line in (output / "compressed.trl.jsonl").read_text().splitlines()]
    assert all(len(line["input_ids"]) == len(line["assistant_masks"]) for line in lines)
    output = tmp_path / "first"
    shown = exported(command, output, *UNSCORED, "export=openai")
    assert "own length, actual 0." in shown
    assert "rows never state the right answer and stay whole" in shown
    about = json.loads((output / "manifest.json").read_text())
    assert (about["mode"], about["scorer"], about["ratio"], about["scores"]) == ("first_solution", None, None, None)


def test_kind_of_the_answers_of_a_file_decides_about_its_first_solutions(command: Command, tmp_path: Path) -> None:
    texts = {"question": "Which is the largest?", "response": "B", "answer": "B"}
    thinking = "Nine is more than eight. Option B is correct. Let me check: ten is not among them."
    file = tmp_path / "letters.jsonl"
    file.write_text("".join(json.dumps({"id": str(i), "thinking": thinking, **texts}) + "\n" for i in range(4)))
    given = ["model=tiny", "data=jsonl", f"data.path={file}", "compression.mode=first_solution"]
    kept = {}
    for extractor in ("letter", "math"):
        done = command("compress.py", *given, f"data.extractor={extractor}", f"output={tmp_path / extractor}")
        assert done.returncode == 0, done.stderr[-3000:]
        rows = read_records(tmp_path / extractor / COMPRESSED_FILE, CompressedTrace)
        (kept[extractor],) = {row.compressed_thinking for row in rows}
    assert kept == {"letter": "Nine is more than eight. Option B is correct.", "math": thinking}


def test_shards_of_first_solutions_make_one_export(command: Command, tmp_path: Path) -> None:
    for number in (1, 2):
        shown = exported(command, tmp_path / "sharded", *UNSCORED, f"shard={number}/2", "data.seed=7")
    whole = exported(command, tmp_path / "whole", *UNSCORED, "data.seed=7")
    counted = [line.partition(":")[0] for line in (shown.splitlines()[0], whole.splitlines()[0])]
    assert counted[0] == counted[1]
    files = [(tmp_path / name / COMPRESSED_FILE).read_bytes() for name in ("sharded", "whole")]
    assert files[0] == files[1]
