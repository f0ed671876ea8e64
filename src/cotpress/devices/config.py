"""Settings of the hardware, shared by every stage that runs a model."""

import importlib.util
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from cotpress.errors import MissingExtraError
from cotpress.settings import Amount, Count, Rule

_ACCELERATORS = ("auto", "cpu", "gpu", "cuda")
"""`cuda` is another word for `gpu`."""


class Strategy(Enum):
    """Ways to train on several devices; without effect on one."""

    ddp = "ddp"
    """Every device holds the whole model; gradients are summed over the devices."""
    fsdp2 = "fsdp2"
    """Weights, gradients and optimizer states are sharded over the devices (Lightning's ModelParallelStrategy)."""
    deepspeed = "deepspeed"
    """The same by DeepSpeed's ZeRO stage 3; needs GPUs and the extra `deepspeed`."""


class HeadLoss(Enum):
    """Implementations of the training loss on top of the last hidden states; they differ by rounding only."""

    auto = "auto"
    """liger on a GPU if it is installed, else chunked."""
    chunked = "chunked"
    """Chunked computation of loss and gradients, so that the logits of a whole batch never exist at once."""
    plain = "plain"
    """All logits of a micro-batch at once."""
    linear_cross_entropy = "linear_cross_entropy"
    """torch's chunked `linear_cross_entropy`."""
    liger = "liger"
    """Liger's fused kernel; needs a GPU and the extra `gpu`."""


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """Hardware (config group `trainer`); not part of any fingerprint."""

    accelerator: Annotated[str, Rule(_ACCELERATORS.__contains__, "auto, cpu, gpu")] = "auto"
    """auto (a GPU if there is one), cpu or gpu."""
    devices: Count | None = 1
    """Devices of each machine, at least 1; null takes all its GPUs. On a CPU a device is a process with its share of
    the cores, and null is 1."""
    num_nodes: Count = 1
    """Machines that run the same `compress.py` on a shared file system and divide its scoring; 1 in other scripts."""
    strategy: Strategy = Strategy.ddp
    """Training on several devices: ddp, fsdp2 or deepspeed."""
    num_threads: Count | None = None
    """CPU threads of torch in each process; null is torch's default, or a share of the cores with several processes."""
    tokens_per_batch: Count = 2048
    """Maximum tokens per forward pass in training and scoring; a longer text gets a pass of its own."""
    generation_tokens: Count = 16384
    """Maximum tokens of the answers generated at once, prompt and budget of each; bounds the key-value cache."""
    compile: bool = False
    """Compile the model with torch.compile for scoring; needs a C++ compiler, saves time only in runs of minutes."""
    head_loss: HeadLoss = HeadLoss.auto
    """Implementation of the training loss: auto, chunked, plain, linear_cross_entropy or liger."""
    activation_checkpointing: bool = False
    """Keep only the input of each layer in training and recompute the rest for the gradient: less memory, about a third
    more time."""
    deterministic: bool = False
    """Use only algorithms with bit-equal results on one GPU: slower, and an error where an operation has none. Without
    effect on a CPU."""
    checkpoint_every_s: Amount = 60.0
    """Seconds between two resumable checkpoints of a training."""


def check_strategy(strategy: Strategy) -> None:
    """Check that the package behind a strategy is installed.

    Raises:
        MissingExtraError: It is not.
    """
    if strategy is Strategy.deepspeed and importlib.util.find_spec("deepspeed") is None:
        raise MissingExtraError("trainer.strategy=deepspeed", "deepspeed", "pip install 'cotpress[deepspeed]'")
