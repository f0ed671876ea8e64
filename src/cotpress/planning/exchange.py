"""What a device holds of the others' share: weights that are gathered, gradients on their way out.

ddp         nothing: gradients live in the buckets that are sent (`gradient_as_bucket_view`)
fsdp2       three layers: the one that runs, the next one, and the buffer that the next one arrives in; what is
            outside of the layers from the first forward to the last backward pass; gradients of a layer, and twice
            in float32, in which they are summed
"""

from cotpress.devices.config import Strategy
from cotpress.planning.setting import ADAPTER_BYTES, Place, Setting
from cotpress.planning.shape import ModelShape

_FLOAT = 4


def exchanged_bytes(shape: ModelShape, setting: Setting, place: Place, *, released: int) -> int:
    """Buffers of a device at the peak.

    Args:
        shape: The model.
        setting: How it is trained.
        place: On what.
        released: Bytes of activations that are free again when the last gradients are summed.
    """
    if place.devices == 1:
        return 0
    match place.strategy:
        case Strategy.ddp:
            return 0
        case Strategy.fsdp2:
            return _fsdp2(shape, setting, released)


def _fsdp2(shape: ModelShape, setting: Setting, released: int) -> int:
    b, layer, outer = setting.value_bytes, shape.num_layer_parameters, shape.num_outer_parameters
    if not setting.trains_all:
        adapter = shape.num_layer_adapter_parameters(setting.lora_rank) * ADAPTER_BYTES
        return 3 * (layer * b + adapter) + outer * b + 3 * adapter
    gathered, gradients = 3 * layer * b + outer * b, layer * (b + 2 * _FLOAT) + outer * b
    return gathered + gradients + max(0, outer * _FLOAT - released)
