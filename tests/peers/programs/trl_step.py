"""One step of TRL's SFTTrainer: MODEL DATA OUTPUT; prints the tokens of all rows and the log of the step as JSON."""

import json
import sys

from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

model, data, output = sys.argv[1:]
settings = SFTConfig(
    output_dir=output, max_steps=1, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, bf16=False,
    per_device_train_batch_size=2,
)  # fmt: skip
trainer = SFTTrainer(
    model=model, args=settings, train_dataset=load_dataset("json", data_files=data, split="train"),
)  # fmt: skip
rows = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in trainer.train_dataset]
trainer.train()
log = {**trainer.state.log_history[0], "global_step": trainer.state.global_step}
sys.stdout.write("\n" + json.dumps({"rows": rows, "log": log}) + "\n")
