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
    """How several devices share one training; with one device there is nothing to share."""

    ddp = "ddp"
    """Every device holds the whole model; gradients are summed over devices."""
    fsdp2 = "fsdp2"
    """Weights, gradients and optimizer states are cut over the devices (Lightning's ModelParallelStrategy)."""
    deepspeed = "deepspeed"
    """The same by DeepSpeed's ZeRO stage 3; needs GPUs and the extra `deepspeed`."""


class HeadLoss(Enum):
    """What computes the cross-entropy of training from the last hidden states; they differ by rounding only."""

    auto = "auto"
    """liger on a GPU where it is installed, else chunked."""
    chunked = "chunked"
    """Our own: gradients are taken chunk by chunk, so the logits of a whole batch never exist."""
    plain = "plain"
    """All logits of a micro-batch at once."""
    linear_cross_entropy = "linear_cross_entropy"
    """torch's chunked `linear_cross_entropy`."""
    liger = "liger"
    """Liger's fused kernel; needs a GPU and the extra `gpu`."""


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """Hardware (config group `trainer`); nothing here changes what an artifact is."""

    accelerator: Annotated[str, Rule(_ACCELERATORS.__contains__, "auto, cpu, gpu")] = "auto"
    """auto (a GPU if there is one), cpu or gpu."""
    devices: Count | None = 1
    """Devices of each machine, at least 1; null takes all its GPUs. On a CPU each is a process with its share of the
    cores, and null is one."""
    num_nodes: Count = 1
    """Machines that run the same `compress.py` over one shared filesystem and share its scoring; 1 elsewhere."""
    strategy: Strategy = Strategy.ddp
    """How several devices share a training: ddp, fsdp2 or deepspeed."""
    num_threads: Count | None = None
    """CPU threads of torch in each process; null leaves torch's choice, and several processes share the cores."""
    tokens_per_batch: Count = 2048
    """Most tokens per forward pass in training and scoring; a longer text is a pass by itself."""
    generation_tokens: Count = 16384
    """Answers generated at once, counted in tokens: prompt plus budget of each; bounds the key-value cache."""
    compile: bool = False
    """Compile the model with torch.compile before it scores texts; needs a C++ compiler, pays after minutes only."""
    head_loss: HeadLoss = HeadLoss.auto
    """What computes the loss in training: auto, chunked, plain, linear_cross_entropy or liger."""
    activation_checkpointing: bool = False
    """Keep only the input of each layer in training and compute the rest again for the gradient: less memory, about a
    third more time."""
    deterministic: bool = False
    """Use only algorithms that give the same bits every time on one GPU; slower, and an error where there is none. On a
    CPU nothing has to be chosen."""
    checkpoint_every_s: Amount = 60.0
    """Seconds between two resumable checkpoints of a training run."""


def check_strategy(strategy: Strategy) -> None:
    """Check that the package behind a strategy is installed.

    Raises:
        MissingExtraError: It is not.
    """
    if strategy is Strategy.deepspeed and importlib.util.find_spec("deepspeed") is None:
        raise MissingExtraError("trainer.strategy=deepspeed", "deepspeed", "pip install 'cotpress[deepspeed]'")
