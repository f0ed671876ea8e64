"""Which settings fit into the memory of the devices, and the smallest one that does."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from cotpress.devices.config import Strategy
from cotpress.planning.memory import Usage, training_usage
from cotpress.planning.setting import Place, Setting
from cotpress.planning.shape import ModelShape

DEVICE_COUNTS = (1, 2, 4, 8)
"""Devices of one machine, which is what one training can share."""
GB = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Memory of a device.

    Attributes:
        device: All of it, in bytes.
        reserve: What is left to CUDA, its libraries and the allocator, in bytes.
    """

    device: int = 80 * GB
    reserve: int = 4 * GB

    def margin(self, usage: Usage) -> int:
        """Bytes that stay free; negative if it does not fit."""
        return self.device - self.reserve - usage.total


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A setting on some devices, and what it takes there."""

    setting: Setting
    place: Place
    usage: Usage
    margin: int


def fit(shape: ModelShape, setting: Setting, place: Place, room: Room) -> Fit:
    """How a setting fits."""
    usage = training_usage(shape, setting, place)
    return Fit(setting=setting, place=place, usage=usage, margin=room.margin(usage))


def smallest_fit(shape: ModelShape, setting: Setting, room: Room, *, longest: int) -> Fit | None:
    """The first that fits of: fewest devices, then no layer computed twice, then the largest micro-batch.

    Args:
        shape: The model.
        setting: What is wanted; checkpointing and the size of a micro-batch may be changed.
        room: Memory of a device.
        longest: Tokens of the longest sequence, which no micro-batch can be smaller than.

    Returns:
        On one device or with fsdp2, since ddp saves no memory; None if nothing
        fits on the largest number of devices.
    """
    for devices in DEVICE_COUNTS:
        place = Place(devices=devices, strategy=Strategy.ddp if devices == 1 else Strategy.fsdp2)
        for checkpointing in (False, True):
            for tokens in _halved(setting.tokens, longest):
                tried = replace(setting, checkpointing=checkpointing, tokens=tokens)
                found = fit(shape, tried, place, room)
                if found.margin >= 0:
                    return found
    return None


def _halved(tokens: int, longest: int) -> Iterator[int]:
    while tokens > longest:
        yield tokens
        tokens //= 2
    yield longest
