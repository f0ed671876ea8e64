"""Settings of fine-tuning, shared by the reference model and the student."""

import importlib.util
from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from cotpress.devices.config import HeadLoss
from cotpress.errors import MissingExtraError
from cotpress.modeling.config import ModelConfig


class Method(Enum):
    """The weights that are trained."""

    lora = "lora"
    """Low-rank adapters on all linear layers (PEFT)."""
    full = "full"
    """All weights."""
    none = "none"
    """None: the model is used unchanged."""


@dataclass(kw_only=True, slots=True)
class TuneConfig:
    """One fine-tuning run (AdamW, cosine schedule with warmup)."""

    method: Method = MISSING
    """Weights that are trained: lora, full or none."""
    learning_rate: float = MISSING
    """Peak learning rate."""
    epochs: int = MISSING
    """Passes over the data."""
    sequences_per_step: int = MISSING
    """Sequences per optimizer step; the loss is the mean over all their target tokens."""
    warmup_fraction: float = 0.1
    """Share of the steps with rising learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""
    beta1: float = 0.9
    """First-moment decay of AdamW."""
    beta2: float = 0.999
    """Second-moment decay of AdamW."""
    max_grad_norm: float = 1.0
    """Gradient norm above which gradients are scaled down; 0 turns it off."""
    max_tokens: int = 4096
    """Longest training sequence; longer ones are dropped and counted, never cut."""
    lora_rank: int = 8
    """Rank of the adapter matrices (LoRA only)."""
    lora_alpha: int = 16
    """Adapter scale numerator (LoRA only)."""
    lora_dropout: float = 0.0
    """Dropout before the adapter (LoRA only); its masks depend on `trainer.tokens_per_batch`."""
    seed: int = MISSING
    """Seed of adapter initialisation and data order."""


@dataclass(kw_only=True, slots=True)
class ReferenceConfig:
    """The reference model (config group `reference`)."""

    base: ModelConfig | None = None
    """Model that it is trained from; null is the student's. Choose another with model@reference.base=NAME."""
    limit: int | None = None
    """Train only on this number of first distilled traces."""
    tune: TuneConfig = field(default_factory=TuneConfig)
    """How it is trained; `tune.method: none` scores with the base model."""

    @property
    def exists(self) -> bool:
        """False if the base model is used as the reference model."""
        return self.tune.method is not Method.none

    @property
    def origin(self) -> str:
        """Description of the origin for people."""
        return self.tune.method.value


@dataclass(kw_only=True, slots=True)
class SavedReferenceConfig(ReferenceConfig):
    """A finished reference model; nothing is trained."""

    path: str = MISSING
    """Folder of a PEFT adapter, of a whole model, or of an earlier reference artifact."""

    @property
    def exists(self) -> bool:
        """See `ReferenceConfig`."""
        return True

    @property
    def origin(self) -> str:
        """See `ReferenceConfig`."""
        return f"saved in {self.path}"


@dataclass(kw_only=True, slots=True)
class SftConfig:
    """Fine-tuning of the student (config group `sft`)."""

    tune: TuneConfig = field(default_factory=TuneConfig)
    """How it is trained."""
    validation_problems: int = 8
    """Validation problems that are answered during training; 0 turns validation off."""
    validation_max_new_tokens: int | None = None
    """Budget of each such answer, in the student's tokens; null is twice the longest of the problems' own traces. The
    answers change no weight, so the setting is not part of the student's identity."""
    validations_per_run: int = 1
    """Number of validations, evenly spread over the run, the last one at its end."""


def liger_is_installed() -> bool:
    """True if the extra `gpu` is installed; imports nothing."""
    return importlib.util.find_spec("liger_kernel") is not None


def check_head_loss(choice: HeadLoss) -> None:
    """Check that the implementation of the loss is installed.

    Raises:
        MissingExtraError: It is liger, which is not.
    """
    if choice is HeadLoss.liger and not liger_is_installed():
        raise MissingExtraError("trainer.head_loss=liger", "liger-kernel", "pip install 'cotpress[gpu]'")
