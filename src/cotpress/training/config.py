"""Settings of fine-tuning, shared by the reference model and the student."""

import importlib.util
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from omegaconf import MISSING

from cotpress.devices.config import HeadLoss
from cotpress.errors import ConfigError, MissingExtraError, install_extra, require
from cotpress.modeling.config import BASE_WEIGHTS, ModelConfig
from cotpress.settings import Amount, Count, InputPath, Natural, interval


class Method(Enum):
    """The weights that are trained."""

    lora = "lora"
    """Low-rank adapters on all linear layers (PEFT)."""
    full = "full"
    """All weights."""
    none = "none"
    """None: the model is used unchanged."""


class Overlong(Enum):
    """Treatment of training sequences that are longer than `tune.max_tokens` or the model's context."""

    common = "common"
    """Train all systems of a run on the traces that each of them has and can hold."""
    drop = "drop"
    """Leave them out of the training of the one system."""
    cut = "cut"
    """Cut them as LLaMA-Factory does: answer and end token are lost."""


@dataclass(kw_only=True, slots=True)
class TuneConfig:
    """One fine-tuning run (AdamW, cosine schedule with warmup)."""

    method: Method = MISSING
    """Weights that are trained: lora, full or none."""
    learning_rate: Amount = MISSING
    """Peak learning rate."""
    epochs: int = MISSING
    """Passes over the data."""
    sequences_per_step: Count = MISSING
    """Sequences per optimizer step; the loss is the mean over all their target tokens."""
    warmup_fraction: Annotated[float, interval("[0, 1]")] = 0.1
    """Share of the steps with rising learning rate."""
    weight_decay: Amount = 0.0
    """Decoupled weight decay of AdamW."""
    beta1: Annotated[float, interval("[0, 1)")] = 0.9
    """First-moment decay of AdamW."""
    beta2: Annotated[float, interval("[0, 1)")] = 0.999
    """Second-moment decay of AdamW."""
    max_grad_norm: Amount = 1.0
    """Gradient norm above which gradients are scaled down; 0 turns it off."""
    max_tokens: Count = 4096
    """Longest training sequence, within the model's context; `overlong` says what becomes of longer ones."""
    lora_rank: Count = 8
    """Rank of the adapter matrices (LoRA only)."""
    lora_alpha: Count = 16
    """Adapter scale numerator (LoRA only)."""
    lora_dropout: Annotated[float, interval("[0, 1)")] = 0.0
    """Dropout before the adapter (LoRA only); its masks depend on `trainer.tokens_per_batch`."""
    seed: Natural = MISSING
    """Seed of adapter initialisation and data order."""

    def validate(self, key: str) -> None:
        """Refuse a training without epochs."""
        if self.method is not Method.none:
            require(f"{key}.epochs", self.epochs, self.epochs >= 1, "a whole number of at least 1")


@dataclass(kw_only=True, slots=True)
class ReferenceConfig:
    """The reference model (config group `reference`)."""

    base: ModelConfig | None = None
    """Model that it is trained from; null is the student's. Choose another with model@reference.base=NAME."""
    limit: Count | None = None
    """Train only on this number of first distilled traces."""
    tune: TuneConfig = field(default_factory=TuneConfig)
    """Recipe of its training; `tune.method: none` scores with the base model."""
    overlong: Overlong = Overlong.drop
    """Training sequences over `tune.max_tokens`: drop or cut (LLaMA-Factory's rule, so that of CTS)."""

    def validate(self, key: str) -> None:
        """Refuse `common`, as there is one reference model for all systems."""
        allowed = "drop, cut: one reference model serves all systems of a run"
        require(f"{key}.overlong", self.overlong.value, self.overlong is not Overlong.common, allowed)

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

    path: InputPath = MISSING
    """Folder of a PEFT adapter, of a whole model, or of an earlier reference artifact."""

    @property
    def exists(self) -> bool:
        return True

    @property
    def origin(self) -> str:
        return f"saved in {self.path}"


class StartAdapter(Enum):
    """Use of a LoRA adapter that a LoRA student starts from."""

    further = "further"
    """The adapter itself is trained further, so the recipe needs its rank and alpha."""
    merge = "merge"
    """It is added to the weights, which stay as they are, and a new adapter is trained on top. The student is saved as
    one adapter on the run's model, whose rank is the sum of both."""


@dataclass(kw_only=True, slots=True)
class SftConfig:
    """Fine-tuning of the student (config group `sft`)."""

    tune: TuneConfig = field(default_factory=TuneConfig)
    """Recipe of the training."""
    question: bool = True
    """False trains on the assistant's turn alone, without system text, question and chat template (QFFT, arXiv
    2506.12860); evaluations ask as ever. All students of the run are trained so."""
    start: InputPath = BASE_WEIGHTS
    """Weights that students start from: base (the run's model), original (the student Original of the run, which itself
    starts from the run's model), or the folder of a LoRA adapter, a whole model or an artifact of the stage sft, from
    which Original starts as well. A folder named base or original is ./base or ./original."""
    start_adapter: StartAdapter = StartAdapter.further
    """Use of an adapter that a LoRA student starts from: further (it is trained further) or merge (a new one on top).
    With sft=full it is merged in either case."""
    overlong: Overlong = Overlong.common
    """Training sequences over `tune.max_tokens`: common (all systems learn from the traces that each can hold), drop or
    cut (LLaMA-Factory's rule, so that of the papers). Where no sequence is too long, the student is the same."""
    validation_problems: Natural = 8
    """Validation problems that are answered during training; 0 turns validation off."""
    validation_max_new_tokens: Count | None = None
    """Budget of each such answer, in the student's tokens; null is twice the longest of the problems' own traces. The
    answers change no weight, so the setting is not part of the student's identity."""
    validations_per_run: Count = 1
    """Number of validations, evenly spread over the run, the last one at its end."""

    def validate(self, key: str) -> None:
        """Refuse a student that is not trained, and the use of an adapter where students start from none."""
        method = self.tune.method
        require(
            f"{key}.tune.method", method.value, method is not Method.none, "lora, full: a student has to be trained"
        )
        if self.start_adapter is not StartAdapter.further and self.start == BASE_WEIGHTS:
            raise ConfigError(
                f"{key}.start_adapter: got {self.start_adapter.value} with {key}.start={self.start}, whose weights are "
                f"no adapter. Fix: {key}.start=original, or {key}.start=DIR of an adapter, or leave it out"
            )


def liger_is_installed() -> bool:
    """True if the extra `gpu` is installed; imports nothing."""
    return importlib.util.find_spec("liger_kernel") is not None


def check_head_loss(choice: HeadLoss) -> None:
    """Check that liger is installed if it is the implementation of the loss."""
    if choice is HeadLoss.liger and not liger_is_installed():
        raise MissingExtraError("trainer.head_loss=liger", "liger-kernel", install_extra("gpu"))
