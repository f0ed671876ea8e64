"""The smallest setting that fits, and that it does."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cotpress.devices.config import Strategy
from cotpress.planning.search import DEVICE_COUNTS, GB, Room, fit, smallest_fit
from cotpress.planning.setting import Place, Setting
from cotpress.planning.shapes import PUBLISHED
from cotpress.training.config import Method

QWEN = {size: PUBLISHED[f"Qwen/Qwen2.5-{size}-Instruct"] for size in ("7B", "14B", "32B", "72B")}
METHODS = st.sampled_from([Method.full, Method.lora])


@given(size=st.sampled_from(sorted(QWEN)), method=METHODS, gigabytes=st.integers(16, 200))
def test_what_is_found_fits_and_nothing_with_fewer_devices_does(size: str, method: Method, gigabytes: int) -> None:
    room, setting = Room(device=gigabytes * GB), Setting(method=method)
    found = smallest_fit(QWEN[size], setting, room, longest=4096)
    frugal = replace(setting, checkpointing=True, tokens=4096)
    for devices in (n for n in DEVICE_COUNTS if found is None or n < found.place.devices):
        place = Place(devices=devices, strategy=Strategy.fsdp2)
        assert fit(QWEN[size], frugal, place, room).margin < 0
    if found is not None:
        assert found.margin == room.margin(found.usage) >= 0
        assert 4096 <= found.setting.tokens <= setting.tokens


def test_more_memory_never_needs_more_devices() -> None:
    for size, method in ((s, m) for s in QWEN for m in (Method.full, Method.lora)):
        counts = []
        for gigabytes in (24, 48, 80, 141, 192):
            found = smallest_fit(QWEN[size], Setting(method=method), Room(device=gigabytes * GB), longest=4096)
            counts.append(99 if found is None else found.place.devices)
        assert counts == sorted(counts, reverse=True)


def test_nothing_is_changed_where_everything_fits() -> None:
    setting = Setting(method=Method.lora)
    found = smallest_fit(QWEN["7B"], setting, Room(device=1000 * GB), longest=4096)
    assert found is not None
    assert (found.setting, found.place) == (setting, Place())


def test_smaller_batches_come_before_computing_twice_and_both_before_more_devices() -> None:
    found = smallest_fit(QWEN["7B"], Setting(method=Method.lora), Room(), longest=4096)
    assert found is not None
    assert (found.place.devices, found.setting.checkpointing, found.setting.tokens) == (1, False, 4096)
    found = smallest_fit(QWEN["7B"], Setting(method=Method.full), Room(device=141 * GB), longest=4096)
    assert found is not None
    assert (found.place.devices, found.setting.checkpointing) == (1, True)
