"""How a model is trained and on what: the two things that its memory follows from, beside its shape."""

from dataclasses import dataclass

from cotpress.devices.config import HeadLoss, Strategy
from cotpress.modeling.config import Attention
from cotpress.training.config import Method

ADAPTER_BYTES = 4
"""PEFT keeps adapters in float32, also on a model in bfloat16 (`autocast_adapter_dtype`)."""
MASTER_BYTES = 4
"""Where all weights are trained they are float32, whatever the model computes in (`training.sharing`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to train.

    Attributes:
        method: All weights, or an adapter on every matrix.
        lora_rank: Rank of the adapter.
        value_bytes: Of an activation and of a weight as the forward pass takes it: 2 (bfloat16) or 4 (float32).
        tokens: Tokens of the largest micro-batch.
        checkpointing: Layers keep only their input (`trainer.activation_checkpointing`).
        attention: What computes attention.
        head_loss: What computes the loss.
    """

    method: Method
    lora_rank: int = 8
    value_bytes: int = 2
    tokens: int = 16384
    checkpointing: bool = False
    attention: Attention = Attention.sdpa
    head_loss: HeadLoss = HeadLoss.chunked

    @property
    def trains_all(self) -> bool:
        """True if the model's own weights are trained."""
        return self.method is Method.full

    @property
    def mixed(self) -> bool:
        """True if a float32 adapter sits on a model of another number format: its inputs are copied into float32."""
        return not self.trains_all and self.value_bytes != ADAPTER_BYTES

    @property
    def copied(self) -> bool:
        """True if the forward pass computes with copies of float32 masters."""
        return self.trains_all and self.value_bytes != MASTER_BYTES

    @property
    def trained_bytes(self) -> int:
        """Of a trained value, of its gradient, and of each of AdamW's two moments."""
        return MASTER_BYTES if self.trains_all else ADAPTER_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What it is trained on.

    Attributes:
        devices: How many, over all machines.
        strategy: How they share the training; means nothing for one device.
    """

    devices: int = 1
    strategy: Strategy = Strategy.ddp

    @property
    def shards(self) -> int:
        """Parts that weights, gradients and optimizer states are cut into."""
        return 1 if self.strategy is Strategy.ddp else self.devices
