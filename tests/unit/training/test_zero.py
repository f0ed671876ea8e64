"""DeepSpeed's ZeRO stage 3 with two processes on the CPU, which DeepSpeed can do, and Lightning is made to."""

import dataclasses

import pytest
import torch

from cotpress.devices.config import Strategy
from cotpress.errors import WorkerError
from cotpress.modeling.config import Dtype
from cotpress.training.config import Method
from support.training_jobs import KilledOnceOnCpu, OnCpu, losses, weights

pytestmark = pytest.mark.slow
ZERO = {"devices": 2, "strategy": Strategy.deepspeed, "kind": OnCpu}


@pytest.fixture(autouse=True)
def deepspeed_on_the_cpu(monkeypatch):
    pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


@pytest.mark.parametrize("method", [Method.lora, Method.full])
def test_loss_curve_and_weights_are_those_of_one_device(training, tune, method):
    tune.method = method
    one, several = training("one"), training("several", **ZERO)
    for a, b in zip(losses(one), losses(several), strict=True):
        assert (a[0], a[2], a[3]) == (b[0], b[2], b[3])
        assert b[1] == pytest.approx(a[1], rel=2e-4), f"step {a[0]}"
    expected, got = weights(one), weights(several)
    assert {n: (w.shape, w.dtype) for n, w in got.items()} == {n: (w.shape, w.dtype) for n, w in expected.items()}
    for name, weight in expected.items():
        torch.testing.assert_close(got[name], weight, rtol=1e-2, atol=2e-3, msg=name)


@pytest.mark.parametrize("then", [ZERO, {}, {"devices": 2, "strategy": Strategy.fsdp2}], ids=["zero", "one", "fsdp2"])
@pytest.mark.parametrize("method", [Method.lora, Method.full])
def test_killed_training_goes_on_without_a_step_lost_or_repeated(training, tune, tmp_path, monkeypatch, method, then):
    tune.method = method
    whole = losses(training("whole", **ZERO))
    monkeypatch.setenv("TEST_KILLED_ONCE", str(tmp_path / "was_killed"))
    with pytest.raises(WorkerError, match="rank 1 ended: killed by SIGKILL"):
        training("killed", **{**ZERO, "kind": KilledOnceOnCpu})
    assert (tmp_path / "killed" / "scratch" / "last.ckpt").is_file()
    resumed = losses(training("killed", **then))
    assert [r[0] for r in resumed] == [r[0] for r in whole]
    exact = 0.0 if then is ZERO else 2e-4
    assert [r[1] for r in resumed] == pytest.approx([r[1] for r in whole], rel=exact, abs=exact)


def test_bfloat16_weights_train_and_leave_in_the_same_format_as_on_one_device(training, tune, tiny_config):
    tune.method, tune.lora_dropout = Method.full, 0.0
    base = dataclasses.replace(tiny_config, dtype=Dtype.bfloat16)
    one, several = training("one", base=base), training("several", base=base, **ZERO)
    for a, b in zip(losses(one), losses(several), strict=True):
        assert b[1] == pytest.approx(a[1], rel=2e-2)
    assert {n: w.dtype for n, w in weights(several).items()} == {n: w.dtype for n, w in weights(one).items()}
