"""What a device holds while a model is trained."""

from dataclasses import dataclass, fields

from cotpress.devices.config import Strategy
from cotpress.planning.activations import copied_layer_bytes, stored_bytes, working_bytes
from cotpress.planning.exchange import exchanged_bytes
from cotpress.planning.setting import ADAPTER_BYTES, MASTER_BYTES, Place, Setting
from cotpress.planning.shape import ModelShape

_MOMENTS = 2
"""Of AdamW, each in the number format of what is trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Memory of one device at its peak, in bytes.

    Attributes:
        weights: Model and adapter; float32 masters where all weights are trained.
        gradients: Of what is trained.
        optimizer: AdamW's moments.
        activations: Kept from the forward pass for the backward pass; copies of masters are, unless a layer runs again.
        working: Alive for a moment: the head's loss, or a layer in the backward pass, whichever is more.
        buffers: Weights and gradients that are on their way between devices.
    """

    weights: int
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    working: int = 0
    buffers: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        size: int = sum(getattr(self, f.name) for f in fields(self))
        return size


def num_trained(shape: ModelShape, setting: Setting) -> int:
    """Parameters that are trained."""
    return shape.num_parameters if setting.trains_all else shape.num_adapter_parameters(setting.lora_rank)


def training_usage(shape: ModelShape, setting: Setting, place: Place | None = None) -> Usage:
    """Peak memory of each device in training.

    Args:
        shape: The model.
        setting: How it is trained.
        place: On what; None is one device.
    """
    place = place or Place()
    trained = num_trained(shape, setting)
    whole = place.strategy is Strategy.ddp or place.devices == 1
    if setting.trains_all:
        weights = trained * MASTER_BYTES
    else:
        weights = shape.num_parameters * setting.value_bytes + trained * ADAPTER_BYTES
    # Copies that sharded strategies make are among what they exchange.
    activations = stored_bytes(shape, setting) + (copied_layer_bytes(shape, setting) if whole else 0)
    working = working_bytes(shape, setting, whole=whole)
    return Usage(
        weights=_share(weights, place),
        gradients=_share(trained * setting.trained_bytes, place),
        optimizer=_share(trained * _MOMENTS * setting.trained_bytes, place),
        activations=activations,
        working=working,
        buffers=exchanged_bytes(shape, setting, place, released=activations + working),
    )


def _share(size: int, place: Place) -> int:
    return -(-size // place.shards)
