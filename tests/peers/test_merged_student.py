"""A merged student, scored by lm-evaluation-harness and by `evaluate.py` on the same prompts."""

import json
from pathlib import Path

import pytest

from cotpress.records import Prediction
from cotpress.store.tables import read_records
from peers.conftest import Peer
from support.commands import Command

pytestmark = [pytest.mark.peers, pytest.mark.timeout(1800)]

NUM_PROBLEMS, MAX_NEW_TOKENS = 40, 256
TASK = {
    "task": "planted",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": MAX_NEW_TOKENS},
    "filter_list": [
        {
            "name": "boxed",
            "filter": [
                {"function": "regex", "regex_pattern": r"</think>[\s\S]*\\boxed\{([^}]*)\}"},
                {"function": "take_first"},
            ],
        }
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture(scope="module")
def merged(peers_command: Command) -> Path:
    trained = peers_command(
        "train.py", "model=smollm2", "model.dtype=float32", "scorer=random", "ratio=0.9", "reference=none",
        "evaluation=students", "evaluation.baselines=[]", "data.num_traces=160", "benchmark.num_problems=4",
        "sft.validation_problems=0", timeout=900,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr[-3000:]
    (run_dir,) = (peers_command.folder / "outputs" / "runs").glob("random-0.9-*")
    done = peers_command.module(
        "cotpress.hub", f"run={run_dir}", "repo=me/x", "dry_run=true", "output=merged", "merge=true"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return peers_command.folder / "merged"


@pytest.fixture(scope="module")
def ours(merged: Path, peers_command: Command) -> list[Prediction]:
    """The answers of the merged model to `evaluate.py`, which knows it as a student."""
    done = peers_command(
        "evaluate.py", "model=smollm2", "model.source=hub", f"model.path={merged}", "model.dtype=float32",
        "evaluation.baselines=[]", f"benchmark.num_problems={NUM_PROBLEMS}",
        f"benchmark.max_new_tokens={MAX_NEW_TOKENS}", timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (run_dir,) = (peers_command.folder / "outputs" / "runs").glob("evaluate-*")
    return read_records(run_dir / "predictions.parquet", Prediction)


def test_lm_evaluation_harness_agrees_with_evaluate(
    merged: Path, ours: list[Prediction], current: Peer, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(json.dumps({"question": p.question, "answer": p.answer}) + "\n" for p in ours))
    task = {**TASK, "dataset_kwargs": {"data_files": {"test": str(problems)}}}
    (tmp_path / "planted.yaml").write_text(json.dumps(task))  # JSON is YAML
    current(
        "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={merged},dtype=float32", "--device", "cpu",
        "--tasks", "planted", "--include_path", str(tmp_path), "--apply_chat_template", "--batch_size", "8",
        "--output_path", str(tmp_path / "out"), "--log_samples", cwd=tmp_path,
    )  # fmt: skip
    (samples,) = (tmp_path / "out").rglob("samples_planted_*.jsonl")
    theirs = sorted((json.loads(line) for line in samples.read_text().splitlines()), key=lambda s: s["doc_id"])
    prompts = [sample["arguments"]["gen_args_0"]["arg_0"] for sample in theirs]
    texts = [sample["resps"][0][0].strip() for sample in theirs]
    tokenizer = AutoTokenizer.from_pretrained(merged)
    for prompt, own in zip(prompts, ours, strict=True):
        turns = [{"role": "system", "content": ""}, {"role": "user", "content": own.question}]
        assert prompt == tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    same = sum(text == own.output.strip() for text, own in zip(texts, ours, strict=True))
    verdicts = [bool(sample["exact_match"]) for sample in theirs]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    score = json.loads(results.read_text())["results"]["planted"]["exact_match,boxed"]
    accuracy = sum(own.correct for own in ours) / len(ours)
    print(
        f"\nlm-evaluation-harness: {score:.3f}, evaluate.py: {accuracy:.3f}; {same} of {len(ours)} texts and "
        f"{sum(v == o.correct for v, o in zip(verdicts, ours, strict=True))} verdicts are the same"
    )
    assert len(ours) == NUM_PROBLEMS
    assert accuracy > 0, "two scores of 0 would agree whatever the prompts"
    assert same >= len(ours) - 1
    assert score == pytest.approx(accuracy, abs=1 / len(ours) + 1e-9)
