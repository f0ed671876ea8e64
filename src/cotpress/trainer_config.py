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
    """Most tokens per forward pass in training and scoring; a longer text is a pass by itself."""
    generation_tokens: int = 16384
    """Answers generated at once, counted in tokens: prompt plus budget of each; bounds the key-value cache."""
    compile: bool = False
    """Compile the model with torch.compile before it scores texts; needs a C++ compiler, pays after minutes only."""
    checkpoint_every_s: float = 60.0
    """Seconds between two resumable checkpoints of a training run."""
