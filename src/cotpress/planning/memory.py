"""What a device holds while a model is trained."""

from dataclasses import dataclass, fields

from cotpress.planning.activations import head_bytes, stored_bytes, working_bytes
from cotpress.planning.exchange import exchanged_bytes
from cotpress.planning.setting import ADAPTER_BYTES, Place, Setting
from cotpress.planning.shape import ModelShape
from cotpress.trainer_config import Strategy

_FLOAT = 4
_MOMENTS = 2
"""Of AdamW, each in the number format of the weights that are trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Memory of one device at its peak, in bytes.

    Attributes:
        weights: Model and adapter.
        gradients: Of what is trained.
        optimizer: AdamW's moments.
        activations: Kept from the forward pass for the backward pass.
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
    weights = shape.num_parameters * setting.value_bytes
    weights += 0 if setting.trains_all else trained * ADAPTER_BYTES
    state_bytes = _MOMENTS * setting.trained_bytes
    if place.strategy is Strategy.deepspeed and place.devices > 1:
        state_bytes = (1 + _MOMENTS) * _FLOAT  # ZeRO keeps a float32 copy of what it trains, and moments of that
    activations = stored_bytes(shape, setting)
    working = max(working_bytes(shape, setting), head_bytes(shape, setting))
    return Usage(
        weights=_share(weights, place),
        gradients=_share(trained * setting.trained_bytes, place),
        optimizer=_share(trained * state_bytes, place),
        activations=activations,
        working=working,
        buffers=exchanged_bytes(shape, setting, place, released=activations + working),
    )


def _share(size: int, place: Place) -> int:
    return -(-size // place.shards)
