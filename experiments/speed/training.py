"""Fine-tuning speed: cotpress's trainer and TRL's packed `SFTTrainer` on the same token ids, model and adapter.

    python experiments/speed/training.py < job.json

reads `{"trainer": "cotpress" | "trl", "model": DIR, "rows": FILE, "settings": {...}}` and prints the result as JSON.
Run each trainer in a process of its own: the peak of memory is that of the process. Only the standard library is needed
to import this file, so an environment with TRL and without cotpress runs the `trl` side.

What is timed is the training call (Lightning's or the Trainer's own set-up, loading of batches, steps, logging), after
a short one that warms up. Loading the model, tokenizing and, for TRL, packing the data set are not timed.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
"""`ids` (token ids of prompt and completion) and `num_prompt` (how many of them are the prompt, without loss)."""
Result = dict[str, float]
"""`seconds`, `cpu_seconds` (of all threads: says more where the machine is shared), `tokens` (prompts included, padding
not), `tokens_per_s`, `peak_rss_bytes`, `final_loss`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Input of both trainers.

    Attributes:
        threads: CPU threads of torch.
        sequences_per_step: Sequences per optimizer step in cotpress.
        tokens_per_pack: Tokens of one packed row, at most; an optimizer step of TRL is one row. Fair is
            `sequences_per_step` times the mean length, rounded up: then a step is one row of about the same size in
            both.
        method: lora or full.
        lora_rank: Rank of the adapters on all linear layers; alpha is twice as much.
        learning_rate: Peak learning rate.
        dtype: float32 or bfloat16.
        activation_checkpointing: In both; TRL's own default is True, which is slower.
        device: cpu or cuda.
        warmup_rows: Rows of the call before the one that is timed.
    """

    threads: int = 1
    sequences_per_step: int = 4
    tokens_per_pack: int = 512
    method: str = "lora"
    lora_rank: int = 16
    learning_rate: float = 1e-3
    dtype: str = "float32"
    activation_checkpointing: bool = False
    device: str = "cpu"
    warmup_rows: int = 8


def cotpress_tokens_per_s(model: Path, rows: Sequence[Row], settings: Settings) -> Result:
    """One epoch with `cotpress.training`, as the sft stage runs it."""
    import torch

    from cotpress.devices.config import TrainerConfig
    from cotpress.training.adapters import make_trainable
    from cotpress.training.batching import Example, Examples
    from cotpress.training.config import Method, TuneConfig
    from cotpress.training.fit import fit
    from cotpress.training.module import SftModule

    torch.set_num_threads(settings.threads)
    hardware = TrainerConfig(
        accelerator="gpu" if settings.device == "cuda" else "cpu",
        tokens_per_batch=settings.tokens_per_pack,
        activation_checkpointing=settings.activation_checkpointing,
    )
    tune = TuneConfig(
        method=Method(settings.method),
        learning_rate=settings.learning_rate,
        epochs=1,
        sequences_per_step=settings.sequences_per_step,
        lora_rank=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank,
        seed=1,
    )
    student = make_trainable(_model(model, settings), tune)

    def train(chosen: Sequence[Row]) -> tuple[float, float, float]:
        kept = [Example(ids=tuple(row["ids"]), num_prompt=int(row["num_prompt"])) for row in chosen]
        with tempfile.TemporaryDirectory() as folder:
            started, used = time.perf_counter(), time.process_time()
            fitted = fit(
                student, SftModule, Examples(kept=kept, dropped={}), tune,
                workdir=Path(folder), trainer=hardware, log_metrics=lambda *_: None,
            )  # fmt: skip
            return time.perf_counter() - started, time.process_time() - used, fitted.final_loss

    train(rows[: settings.warmup_rows])
    return _result(rows, *train(rows))


def trl_tokens_per_s(model: Path, rows: Sequence[Row], settings: Settings) -> Result:
    """One epoch with TRL's `SFTTrainer(packing=True)`: best-fit packing, loss on the completions only."""
    import torch

    torch.set_num_threads(settings.threads)
    student = _model(model, settings)
    if settings.method == "lora":
        from peft import LoraConfig, get_peft_model

        rank = settings.lora_rank
        student = get_peft_model(
            student, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        )

    def train(chosen: Sequence[Row]) -> tuple[float, float, float]:
        with tempfile.TemporaryDirectory() as folder:
            trainer = _sft_trainer(student, model, chosen, settings, folder)
            started, used = time.perf_counter(), time.process_time()
            trainer.train()
            seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - used
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        last = losses[-max(len(losses) // 10, 1) :]
        return seconds, cpu_seconds, sum(last) / len(last)

    train(rows[: settings.warmup_rows])
    return _result(rows, *train(rows))


def _sft_trainer(student: Any, model: Path, rows: Sequence[Row], settings: Settings, folder: str) -> Any:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    def masked(row: Row) -> dict[str, list[int]]:
        ids, prompt = list(row["ids"]), int(row["num_prompt"])
        return {"input_ids": ids, "completion_mask": [0] * prompt + [1] * (len(ids) - prompt)}

    return SFTTrainer(
        student,
        train_dataset=Dataset.from_list([masked(row) for row in rows]),
        processing_class=AutoTokenizer.from_pretrained(model),
        args=SFTConfig(
            output_dir=folder,
            packing=True,
            completion_only_loss=True,
            max_length=settings.tokens_per_pack,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=1,
            gradient_checkpointing=settings.activation_checkpointing,
            num_train_epochs=1,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            bf16=settings.dtype == "bfloat16",
            use_cpu=settings.device == "cpu",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=1,
        ),
    )


def _model(path: Path, settings: Settings) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=getattr(torch, settings.dtype), attn_implementation="sdpa", local_files_only=True
    )
    return model.to(settings.device)


def _result(rows: Sequence[Row], seconds: float, cpu_seconds: float, final_loss: float) -> Result:
    tokens = sum(len(row["ids"]) for row in rows)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "tokens": tokens,
        "tokens_per_s": tokens / seconds,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "final_loss": final_loss,
    }


def main() -> None:
    """Run the job on standard input; libraries that print do not reach standard output."""
    answers, sys.stdout = sys.stdout, sys.stderr
    job = json.load(sys.stdin)
    rows = [json.loads(line) for line in Path(job["rows"]).read_text(encoding="utf-8").splitlines()]
    measure = {"cotpress": cotpress_tokens_per_s, "trl": trl_tokens_per_s}[job["trainer"]]
    result = measure(Path(job["model"]), rows, Settings(**job.get("settings", {})))
    answers.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
