import ctypes
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cotpress.devices.memory import SmallerBatches, is_out_of_memory
from cotpress.errors import MemoryLimitError

TOO_MUCH = 2**45
"""Number of floats that take more bytes than a process can address."""


@pytest.mark.parametrize("allocate", [torch.empty, np.empty, lambda n: bytearray(n * 2**15)])
def test_real_failures_to_allocate_are_recognised(allocate) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate(TOO_MUCH)
    assert is_out_of_memory(caught.value)


def test_other_errors_are_not_recognised_as_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(KeyError("out of memory"))


def _room_for(tokens: int, seen: list[int]):
    def work(batch):
        seen.append(sum(batch))
        if sum(batch) > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [10 * n for n in batch]

    return work


@settings(max_examples=30)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(20, 200))
def test_results_are_those_of_the_whole_batch_in_order(batch: list[int], room: int) -> None:
    assert SmallerBatches("x").run(batch, _room_for(room, []), lambda n: n) == [10 * n for n in batch]


def test_size_that_did_not_fit_is_not_tried_again_and_logged_once(caplog) -> None:
    smaller, seen = SmallerBatches("score x"), list[int]()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            smaller.run([5] * 8, _room_for(12, seen), lambda n: n)
    assert seen[:4] == [40, 20, 10, 10]
    assert 40 not in seen[1:]
    assert 20 not in seen[2:]
    assert len(caplog.records) == 1
    assert "trainer.tokens_per_batch=20" in caplog.text


def test_single_text_that_does_not_fit_is_a_clear_error() -> None:
    with pytest.raises(MemoryLimitError, match=r"single text of 30 tokens.*trainer\.tokens_per_batch.*Fix"):
        SmallerBatches("score x").run([5, 30, 5], _room_for(12, []), lambda n: n)


def test_errors_other_than_lack_of_memory_are_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        SmallerBatches("x").run([1, 2], lambda batch: [1 // 0], lambda n: n)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
@pytest.mark.parametrize(("variable", "kept"), [({}, True), ({"MALLOC_MMAP_THRESHOLD_": "1048576"}, False)])
def test_freed_memory_is_reused_unless_the_user_has_set_a_variable(variable, kept):
    program = """
import resource, torch
from cotpress.devices.memory import keep_freed_memory
keep_freed_memory()
def layer():
    [torch.zeros(2**21) for _ in range(6)]  # of 8 MB
layer()
layer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    layer()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | variable
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    pages = int(done.stdout)
    assert pages < 30_000 if kept else pages > 100_000  # 123,000 without reuse
