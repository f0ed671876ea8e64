"""Settings of the hardware, shared by every stage that runs a model."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """Hardware (config group `trainer`); nothing here changes what an artifact is."""

    accelerator: str = "auto"
    """auto (a GPU if there is one), cpu or gpu."""
    num_threads: int | None = None
    """CPU threads of torch; null leaves torch's choice."""
    tokens_per_batch: int = 2048
    """Tokens per forward pass, padding included, in training and scoring."""
    generation_tokens: int = 16384
    """Answers generated at once, counted in tokens: prompt plus budget of each; bounds the key-value cache."""
    checkpoint_every_s: float = 60.0
    """Seconds between two resumable checkpoints of a training run."""
