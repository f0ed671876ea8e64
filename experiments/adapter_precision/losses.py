"""Losses of LoRA training by the number format in which the adapters compute, over seeds.

    python -m experiments.adapter_precision.losses CSV [SETTING...]

SETTINGs are overrides as train.py takes them. Each student is trained on the built-in traces at ratio 1 from the
bfloat16 model, and each row of the csv file is one training:

    bfloat16   float32 master adapters, the forward pass computes with bfloat16 copies (as train.py trains)
    float32    PEFT's own: the forward pass computes with the float32 adapters
"""

import csv
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hydra import compose, initialize_config_dir

from cotpress.config import TrainConfig, register_schemas, to_objects
from cotpress.data.stage import traces
from cotpress.devices.launch import set_up_torch
from cotpress.modeling.config import Dtype
from cotpress.modeling.loading import load_model, load_tokenizer
from cotpress.modeling.packing import pack
from cotpress.prompts import ChatFormat
from cotpress.records import TRACES_FILE, Trace
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records
from cotpress.training.adapters import make_trainable
from cotpress.training.batching import Example, Examples, MicroBatch
from cotpress.training.fit import fit
from cotpress.training.head_loss import plain_loss
from cotpress.training.module import LossOfModel, SftModule
from cotpress.training.sharing import OneDevice

CONF = Path(__file__).parents[2] / "conf"
SEEDS = (1, 2, 3)
VARIANTS = {"bfloat16": torch.bfloat16, "float32": None}
"""Number format of the copies that the forward pass computes with; None computes with the float32 adapters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training. Losses are in nats per target token."""

    adapters: str
    seed: int
    steps: int
    last_tenth: float
    """Mean training loss of the last tenth of the steps."""
    held_out: float
    """Loss on the traces that are held out of the training."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Training and held-out sequences."""

    train: Sequence[Example]
    held_out: Sequence[Example]


def examples(config: TrainConfig, store: ArtifactStore) -> Data:
    """[question, whole thinking, response] of the built-in traces, by split."""
    tokenizer = load_tokenizer(config.model, store)
    chat = ChatFormat(tokenizer, config.model.chat)
    made = traces(config.data, store, model=config.model, trainer=config.trainer, group="data")
    by_split: dict[str, list[Example]] = {"train": [], "validation": []}
    for trace in read_records(made.file(TRACES_FILE), Trace):
        thinking = tokenizer(trace.thinking, add_special_tokens=False)["input_ids"]
        prompt, completion = chat.prompt_ids(trace.question), chat.completion_ids(thinking, trace.response)
        by_split[trace.split].append(Example(ids=(*prompt, *completion), num_prompt=len(prompt), row=trace.id))
    return Data(train=by_split["train"], held_out=by_split["validation"])


def held_out_loss(model: torch.nn.Module, held_out: Sequence[Example]) -> float:
    """Nats per target token, each sequence read alone."""
    model.eval()
    loss, total, count = LossOfModel(model, plain_loss), 0.0, 0
    with torch.inference_mode():
        for example in held_out:
            predicting = torch.arange(example.num_prompt - 1, len(example.ids) - 1)
            targets = torch.tensor(example.ids[example.num_prompt :])
            batch = MicroBatch(packed=pack([example.ids]), predicting=predicting, targets=targets, number=0)
            total, count = total + float(loss(batch)), count + len(targets)
    return total / count


def train(config: TrainConfig, store: ArtifactStore, data: Data, variant: str, seed: int) -> Row:
    """One training from the base model."""
    tune = replace(config.sft.tune, seed=seed)
    # The initial adapters are float32, as PEFT makes them; with float32 the module makes no copies of them.
    model = make_trainable(load_model(replace(config.model, dtype=Dtype.bfloat16), store, split=True), tune)
    with TemporaryDirectory() as folder:
        began = time.monotonic()
        fitted = fit(
            model, SftModule, Examples(kept=data.train, dropped={}), tune,
            workdir=Path(folder), trainer=config.trainer, log_metrics=lambda *_: None,
            sharing=OneDevice(VARIANTS[variant]),
        )  # fmt: skip
        seconds = time.monotonic() - began
    return Row(
        adapters=variant, seed=seed, steps=fitted.num_steps, last_tenth=round(fitted.final_loss, 5),
        held_out=round(held_out_loss(model, data.held_out), 5), seconds=round(seconds, 1),
    )  # fmt: skip


def main(target: Path, overrides: Sequence[str]) -> None:
    """Train with every variant and seed, print and write."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = to_objects(compose("train", overrides=["model=smollm2", "trainer=cpu", *overrides]))
    assert isinstance(config, TrainConfig)
    set_up_torch(config.trainer)
    store = ArtifactStore(Path(config.output_root))
    data = examples(config, store)
    with target.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for seed in SEEDS:
            for variant in VARIANTS:
                row = train(config, store, data, variant, seed)
                writer.writerow(asdict(row))
                handle.flush()
                sys.stdout.write(
                    f"adapters in {row.adapters}, seed {row.seed}: {row.last_tenth:.5f} nats per token in the last "
                    f"tenth of {row.steps} steps, {row.held_out:.5f} held out; {row.seconds:.0f} s\n"
                )
                sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
