"""Settings of the hardware, shared by every stage that runs a model."""

from dataclasses import dataclass
from enum import Enum


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

    accelerator: str = "auto"
    """auto (a GPU if there is one), cpu or gpu."""
    num_threads: int | None = None
    """CPU threads of torch; null leaves torch's choice."""
    tokens_per_batch: int = 2048
    """Most tokens per forward pass in training and scoring; a longer text is a pass by itself."""
    generation_tokens: int = 16384
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
    checkpoint_every_s: float = 60.0
    """Seconds between two resumable checkpoints of a training run."""
