"""Trainings on two devices (processes on the CPU, with gloo) equal those on one; float32 masters of bfloat16 models."""

import dataclasses
import json
from collections import Counter

import pytest
import torch
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy
from transformers import AutoModelForCausalLM

from cotpress.devices import launch
from cotpress.devices.config import HeadLoss, Strategy, TrainerConfig
from cotpress.devices.launch import Place, join_process_group
from cotpress.errors import ConfigError, WorkerError
from cotpress.modeling.config import Dtype
from cotpress.modeling.loading import load_model
from cotpress.training import adapters
from cotpress.training.adapters import checkpointed_activations, make_trainable
from cotpress.training.batching import StepDataset, collate, plan_steps
from cotpress.training.config import Method
from cotpress.training.head_loss import pick_head_loss
from cotpress.training.module import LossOfModel
from cotpress.training.sharing import OneDevice, Sharded, offload_policy, pick_sharing
from support.training_jobs import (
    KilledOnce,
    losses,
    number_formats,
    rank_and_mode,
    steps_saved,
    trained_weights,
    weighted,
    weights,
)

MORE = pytest.mark.slow
CASES = [
    pytest.param(Strategy.ddp, Method.lora, {}, id="ddp-lora"),
    pytest.param(Strategy.fsdp2, Method.full, {}, id="fsdp2-full"),
    pytest.param(Strategy.ddp, Method.full, {}, id="ddp-full", marks=MORE),
    pytest.param(Strategy.fsdp2, Method.lora, {}, id="fsdp2-lora", marks=MORE),
    # in the default run: test_offloaded_training_equals_the_one_without_and_resumes_from_its_checkpoint
    pytest.param(Strategy.fsdp2, Method.full, {"offload": True}, id="fsdp2-full-offload", marks=MORE),
    pytest.param(Strategy.fsdp2, Method.lora, {"offload": True}, id="fsdp2-lora-offload", marks=MORE),
    pytest.param(Strategy.ddp, Method.lora, {"devices": 4}, id="ddp-four", marks=MORE),
    pytest.param(Strategy.fsdp2, Method.lora, {"devices": 4}, id="fsdp2-four", marks=MORE),
    *(
        pytest.param(
            s, m, {"activation_checkpointing": True, "head_loss": h}, id=f"{s.value}-{m.value}-{h.value}", marks=MORE
        )
        for s in (Strategy.ddp, Strategy.fsdp2)
        for m in (Method.lora, Method.full)
        for h in (HeadLoss.plain, HeadLoss.linear_cross_entropy)
    ),
]  # fmt: skip


@pytest.mark.parametrize(("strategy", "method", "hardware_too"), CASES)
def test_loss_curve_and_weights_of_several_devices_are_those_of_one(training, tune, strategy, method, hardware_too):
    tune.method = method
    if method is Method.full:
        tune.learning_rate = 1e-3
    single = training("one", checkpoint_every_s=60.0)
    training.messages.clear()
    several = training("several", **{"devices": 2, "strategy": strategy, "checkpoint_every_s": 60.0} | hardware_too)
    assert len(losses(single)) == 10
    for a, b in zip(losses(single), losses(several), strict=True):
        assert (a[0], a[2], a[3]) == (b[0], b[2], b[3])
        assert b[1] == pytest.approx(a[1], rel=2e-4), f"step {a[0]}"
    assert sum("loss" in metrics for _, metrics, _ in training.messages) == 10
    expected, got = weights(single), weights(several)
    assert {n: (w.shape, w.dtype) for n, w in got.items()} == {n: (w.shape, w.dtype) for n, w in expected.items()}
    for name, weight in expected.items():  # Adam amplifies the rounding of gradients near zero
        torch.testing.assert_close(got[name], weight, rtol=1e-2, atol=2e-3, msg=name)
    for file in ("adapter/adapter_config.json", "model/config.json"):
        if (single / file).exists():
            assert (several / file).read_text() == (single / file).read_text()


@pytest.mark.parametrize("soft", [False, True], ids=["masked", "soft"])
def test_several_devices_weigh_the_losses_of_a_step_as_one(training, tune, examples, soft):
    tune.lora_dropout = 0.0
    some = weighted(examples, soft=soft)
    single = training("one", examples=some, checkpoint_every_s=60.0, tokens_per_batch=1000)
    several = training("several", examples=some, devices=2, strategy=Strategy.ddp, checkpoint_every_s=60.0)
    assert [log[3] for log in losses(single)] == [log[3] for log in losses(several)]
    assert sum(log[3] for log in losses(single)) == 2 * sum(e.num_targets for e in some.kept)
    for a, b in zip(losses(single), losses(several), strict=True):
        assert b[1] == pytest.approx(a[1], rel=2e-4), f"step {a[0]}"
    for name, weight in weights(single).items():
        torch.testing.assert_close(weights(several)[name], weight, rtol=1e-2, atol=2e-3, msg=name)


@pytest.mark.parametrize(
    ("method", "strategy", "then", "dtype"),
    [
        pytest.param(Method.lora, Strategy.ddp, Strategy.ddp, Dtype.float32, marks=MORE),
        pytest.param(Method.full, Strategy.ddp, Strategy.ddp, Dtype.float32, marks=MORE),
        pytest.param(Method.lora, Strategy.fsdp2, Strategy.fsdp2, Dtype.float32, marks=MORE),
        pytest.param(Method.full, Strategy.fsdp2, Strategy.fsdp2, Dtype.float32, marks=MORE),
        pytest.param(Method.lora, Strategy.fsdp2, None, Dtype.float32, marks=MORE),
        pytest.param(Method.full, Strategy.ddp, None, Dtype.float32, marks=MORE),
        pytest.param(Method.full, Strategy.ddp, Strategy.ddp, Dtype.bfloat16, marks=MORE),
        pytest.param(Method.full, Strategy.fsdp2, Strategy.fsdp2, Dtype.bfloat16, marks=MORE),
    ],
)
def test_killed_training_resumes_without_a_step_lost_or_repeated(
    training, tune, tiny_config, tmp_path, monkeypatch, method, strategy, then, dtype
):
    tune.method = method
    base = dataclasses.replace(tiny_config, dtype=dtype)
    whole = training("whole", base=base, devices=2, strategy=strategy)
    monkeypatch.setenv("TEST_KILLED_ONCE", str(tmp_path / "was_killed"))
    with pytest.raises(WorkerError, match="rank 1 ended: killed by SIGKILL"):
        training("killed", base=base, devices=2, strategy=strategy, kind=KilledOnce)
    assert not (tmp_path / "killed" / "train_log.csv").exists()
    assert steps_saved(tmp_path / "killed") >= 1
    if then is None:  # on one device
        resumed = losses(training("killed", base=base))
        assert [r[1] for r in resumed] == pytest.approx([r[1] for r in losses(whole)], rel=2e-4)
        return
    assert losses(training("killed", base=base, devices=2, strategy=then)) == losses(whole)
    for name, weight in weights(whole).items():
        assert torch.equal(weights(tmp_path / "killed")[name], weight), name


def test_offloaded_training_equals_the_one_without_and_resumes_from_its_checkpoint(
    training, tune, tmp_path, monkeypatch
):
    """On a CPU the weights are in main memory anyway; what runs is FSDP2's code for offloading."""
    tune.method = Method.full
    whole = training("whole", devices=2, strategy=Strategy.fsdp2)
    monkeypatch.setenv("TEST_KILLED_ONCE", str(tmp_path / "was_killed"))
    offloaded = {"devices": 2, "strategy": Strategy.fsdp2, "offload": True, "kind": KilledOnce}
    with pytest.raises(WorkerError, match="rank 1 ended: killed by SIGKILL"):
        training("offloaded", **offloaded)
    assert losses(training("offloaded", **offloaded)) == losses(whole)


def test_adapter_of_lower_rank_than_there_are_workers_trains(training, tune):
    """The second worker's shard of a matrix of one row is empty."""
    tune.lora_rank = 1
    single, whole = training("one"), training("whole", devices=2, strategy=Strategy.fsdp2)
    assert [r[1] for r in losses(whole)] == pytest.approx([r[1] for r in losses(single)], rel=2e-4)


@pytest.mark.slow
def test_adapter_of_lower_rank_than_there_are_workers_resumes(training, tune, tmp_path, monkeypatch):
    tune.lora_rank = 1
    whole = training("whole", devices=2, strategy=Strategy.fsdp2)
    monkeypatch.setenv("TEST_KILLED_ONCE", str(tmp_path / "was_killed"))
    with pytest.raises(WorkerError, match="rank 1 ended: killed by SIGKILL"):
        training("killed", devices=2, strategy=Strategy.fsdp2, kind=KilledOnce)
    assert steps_saved(tmp_path / "killed") >= 1
    assert losses(training("killed", devices=2, strategy=Strategy.fsdp2)) == losses(whole)
    for name, weight in weights(whole).items():
        assert torch.equal(weights(tmp_path / "killed")[name], weight), name


@pytest.mark.parametrize("offload", [False, True])
def test_offloading_reaches_every_sharded_layer(monkeypatch, tmp_path, offload):
    """The policy that torch keeps for a layer; without a GPU there is no other sign of it."""
    asked = []

    def noted(device, **more):
        asked.append(more)
        join_process_group(device, **more)

    monkeypatch.setattr("cotpress.training.sharing.join_process_group", noted)
    monkeypatch.setattr(launch, "_place", Place(rendezvous=str(tmp_path / "store")))
    shared = Sharded(offload=offload)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    model._no_split_modules = ["Linear"]
    try:
        shared.load(torch.device("cpu"), lambda _: model)
        shared.ready(model)
        policies = [m._get_fsdp_state()._fsdp_param_group.offload_policy for m in (model[0], model)]
        assert shared.strategy().offload is offload
    finally:
        torch.distributed.destroy_process_group()
    assert asked == [{"host_tensors": offload}]
    assert [type(policy) for policy in policies] == [CPUOffloadPolicy if offload else OffloadPolicy] * 2


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("cpu", False)])
def test_offloaded_memory_is_page_locked_for_a_gpu(device, pinned):
    policy = offload_policy(torch.device(device), offload=True)
    assert isinstance(policy, CPUOffloadPolicy)
    assert policy.pin_memory is pinned


def test_offloading_on_one_device_is_refused():
    with pytest.raises(ConfigError, match=r"on one device, allowed: .*fsdp2 on at least 2 devices"):
        pick_sharing(TrainerConfig(devices=None, strategy=Strategy.fsdp2, offload=True))


@pytest.mark.slow
def test_the_first_of_several_devices_answers_validation_problems(training):
    training("validated", devices=2, validate=rank_and_mode)
    for name in ("val/rank", "val/training"):
        answers = [(stage, step, m[name]) for stage, m, step in training.messages if name in m]
        assert answers == [("sft", 5, 0.0), ("sft", 10, 0.0)]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [Strategy.ddp, Strategy.fsdp2])
@pytest.mark.parametrize("method", [Method.lora, Method.full])
def test_bfloat16_trains_on_several_devices_too(training, tune, tiny_config, strategy, method):
    tune.method, tune.lora_dropout = method, 0.0
    base = dataclasses.replace(tiny_config, dtype=Dtype.bfloat16)
    single = training("one", base=base)
    several = training("several", base=base, devices=2, strategy=strategy)
    for a, b in zip(losses(single), losses(several), strict=True):
        assert b[1] == pytest.approx(a[1], rel=2e-2)
    assert {n: w.dtype for n, w in weights(several).items()} == {n: w.dtype for n, w in weights(single).items()}


@pytest.mark.parametrize("strategy", [pytest.param(Strategy.ddp, marks=MORE), Strategy.fsdp2])
def test_masters_of_several_devices_are_those_of_one_and_are_saved_in_the_format_of_the_model(
    training, tune, tiny_config, strategy
):
    tune.method, tune.lora_dropout, tune.learning_rate = Method.full, 0.0, 1e-5
    base = dataclasses.replace(tiny_config, dtype=Dtype.bfloat16)
    single, several = training("one", base=base), training("several", base=base, devices=2, strategy=strategy)
    for a, b in zip(losses(single), losses(several), strict=True):
        assert b[1] == pytest.approx(a[1], rel=1e-3)
    start = dict(load_model(base, training.store).named_parameters())
    expected, got = trained_weights(single), trained_weights(several)
    assert got.keys() == expected.keys()
    for name, weight in got.items():
        assert weight.dtype == torch.float32
        before = start[name].float()
        moved, of_one = weight - before, expected[name] - before
        assert (of_one[moved == 0].abs() < tune.learning_rate).all(), name  # only what hardly moves on one device
        assert torch.cosine_similarity(moved.flatten(), of_one.flatten(), dim=0) > 0.9, name
    assert {w.dtype for w in weights(several).values()} == {torch.bfloat16}
    assert (several / "model" / "config.json").read_text() == (single / "model" / "config.json").read_text()


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4, 7])
def test_devices_share_the_micro_batches_of_a_step_and_make_the_same_number_of_passes(examples, tune, num_workers):
    tune.sequences_per_step, tune.epochs = 5, 1
    plan = plan_steps([len(e.ids) for e in examples.kept], tune, 60)
    single = StepDataset(examples.kept, plan)
    shares = [StepDataset(examples.kept, plan, Place(rank=r, num_workers=num_workers)) for r in range(num_workers)]
    assert len(single) == 4
    for index, whole in enumerate(single):
        steps = [share[index] for share in shares]
        assert {(s.num_targets, s.num_tokens) for s in steps} == {(whole.num_targets, whole.num_tokens)}
        assert len({len(s.batches) for s in steps}) == 1
        with_targets = {b.number: b for s in steps for b in s.batches if len(b.targets) > 0}
        assert sorted(with_targets) == list(range(len(whole.batches)))
        for number, batch in enumerate(whole.batches):
            assert torch.equal(with_targets[number].packed.ids, batch.packed.ids)
        numbers = [b.number for s in steps for b in s.batches]
        assert sorted(numbers) == list(range(len(numbers)))


CPU = torch.device("cpu")


@pytest.fixture
def bfloat16(tiny_config):
    return dataclasses.replace(tiny_config, dtype=Dtype.bfloat16)


@pytest.fixture
def full(tune):
    tune.method, tune.learning_rate, tune.lora_dropout = Method.full, 1e-5, 0.0
    return tune


def test_updates_smaller_than_bfloat16_can_represent_are_kept(training, full, bfloat16, tiny_config, store):
    start = dict(load_model(bfloat16, store).named_parameters())
    trained = trained_weights(training("bfloat16", base=bfloat16))
    exact = trained_weights(training("float32", base=dataclasses.replace(tiny_config, dtype=Dtype.float32)))
    before = dict(load_model(tiny_config, store).named_parameters())
    for name, weight in trained.items():
        assert weight.dtype == torch.float32
        moved, expected = weight - start[name].float(), exact[name] - before[name]
        assert (expected[moved == 0].abs() < full.learning_rate).all(), name  # only what hardly moves in float32
        assert torch.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.9, name


def test_loss_falls_as_in_float32(training, full, bfloat16, tiny_config):
    full.learning_rate, full.epochs = 1e-3, 4
    rounded = [r[1] for r in losses(training("bfloat16", base=bfloat16))]
    exact = [r[1] for r in losses(training("float32", base=dataclasses.replace(tiny_config, dtype=Dtype.float32)))]
    assert rounded == pytest.approx(exact, rel=5e-3)
    assert rounded[-1] < rounded[0] - 0.2


def test_saved_weights_have_the_format_of_the_model(training, full, bfloat16):
    folder = training("saved", base=bfloat16)
    rounded = {name: value.to(torch.bfloat16) for name, value in trained_weights(folder).items()}
    saved = weights(folder)
    assert saved.keys() == rounded.keys()
    for name, value in saved.items():
        assert torch.equal(value, rounded[name]), name
    assert json.loads((folder / "model" / "config.json").read_text())["dtype"] == "bfloat16"


def test_validation_problems_are_answered_by_the_model_as_it_will_be_saved(training, full, bfloat16):
    training("validated", base=bfloat16, validate=number_formats)
    answers = [item for _, metrics, _ in training.messages for item in metrics.items() if item[0].startswith("val/")]
    assert answers == [("val/bfloat16", 1.0), ("val/finite", 1.0)] * 2


@pytest.mark.parametrize("choice", [HeadLoss.chunked, HeadLoss.plain, HeadLoss.linear_cross_entropy])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_loss_and_gradients_are_those_of_the_bfloat16_model(choice, checkpointed, bfloat16, store, examples):
    batch, outcomes = collate(examples.kept[:5]), []
    for sharing in (OneDevice(), OneDevice(torch.bfloat16)):
        model = sharing.load(CPU, lambda _: load_model(bfloat16, store).requires_grad_(True).train())
        loss_sum = sharing.ready(LossOfModel(model, pick_head_loss(choice, CPU)))
        with checkpointed_activations(model, enabled=checkpointed):
            loss = loss_sum(batch)
            loss.backward()
        outcomes.append((loss.detach(), {name: p.grad for name, p in model.named_parameters()}))
    (expected_loss, expected), (loss, gradients) = outcomes
    assert torch.equal(loss, expected_loss)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert torch.equal(gradient, expected[name].float()), name


def test_gradients_of_micro_batches_add_up_in_float32(bfloat16, store, examples):
    sharing, batch = OneDevice(torch.bfloat16), collate(examples.kept[:2])
    model = sharing.load(CPU, lambda _: load_model(bfloat16, store).requires_grad_(True).train())
    loss_sum = sharing.ready(LossOfModel(model, pick_head_loss(HeadLoss.chunked, CPU)))
    loss_sum(batch).backward()
    once = {name: p.grad.clone() for name, p in model.named_parameters()}
    for _ in range(2):
        loss_sum(batch).backward()
    for name, p in model.named_parameters():
        assert torch.equal(p.grad, once[name] + once[name] + once[name]), name


def test_masters_come_back_after_a_context_and_after_an_error(bfloat16, store, examples):
    sharing = OneDevice(torch.bfloat16)
    model = sharing.load(CPU, lambda _: load_model(bfloat16, store).train())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def failing(*_):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        sharing.ready(LossOfModel(model, failing))(collate(examples.kept[:2]))
    with sharing.as_saved(model):
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with pytest.raises(RuntimeError, match="out of memory"), sharing.as_saved(model):
        failing()
    assert {name: p.dtype for name, p in model.named_parameters()} == dict.fromkeys(before, torch.float32)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_adapters_of_a_bfloat16_model_keep_no_float32_inputs_and_are_trained_in_float32(
    tune, bfloat16, store, examples
):
    tune.lora_dropout, batch, kept = 0.0, collate(examples.kept[:5]), []

    def note(tensor):
        kept[-1][tensor.dtype] += tensor.numel()
        return tensor

    for sharing in (OneDevice(), OneDevice(torch.bfloat16)):
        model = sharing.load(CPU, lambda _: make_trainable(load_model(bfloat16, store), tune))
        called = sharing.ready(LossOfModel(model, pick_head_loss(HeadLoss.chunked, CPU)))
        kept.append(Counter())
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = called(batch)
        loss.backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        assert {p.dtype for p in trained} == {p.grad.dtype for p in trained} == {torch.float32}
    of_peft, of_masters = kept
    assert of_masters[torch.float32] < 0.5 * of_peft[torch.float32]  # what is left is that of the norms


def test_adapters_are_saved_in_float32_and_answer_as_they_are_saved(training, tune, bfloat16):
    tune.lora_dropout = 0.0
    folder = training("saved", base=bfloat16)
    saved, masters = weights(folder), trained_weights(folder)
    assert len(saved) == len(masters)
    by_name = {name.replace(".default", ""): value for name, value in masters.items()}
    for name, value in saved.items():
        assert torch.equal(value, by_name[name]), name


@pytest.mark.parametrize("shard_bytes", [5e9, 100_000])
def test_weights_that_come_in_parts_are_saved_as_transformers_does(
    tune, bfloat16, store, tokenizer, tmp_path, monkeypatch, shard_bytes
):
    monkeypatch.setattr(adapters, "SHARD_BYTES", shard_bytes)
    tune.method, model = Method.full, load_model(bfloat16, store)
    names = [name for name, _ in model.named_parameters()]
    parts = ({n: model.get_parameter(n).detach() for n in names[i : i + 3]} for i in range(0, len(names), 3))
    adapters.save_trained(model, tokenizer, tune, "tiny", tmp_path / "parts", weights=parts)
    adapters.save_trained(model, tokenizer, tune, "tiny", tmp_path / "whole")
    got, expected = (AutoModelForCausalLM.from_pretrained(tmp_path / name / "model") for name in ("parts", "whole"))
    assert got.dtype is torch.bfloat16
    for name, weight in expected.state_dict().items():
        assert torch.equal(got.state_dict()[name], weight), name
    files = [{p.name for p in (tmp_path / name / "model").iterdir()} for name in ("parts", "whole")]
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (tmp_path / "parts/model" / name).read_bytes() == (tmp_path / "whole/model" / name).read_bytes(), name
    several = "model.safetensors.index.json" in files[0]
    assert several == (shard_bytes < 5e9)
    assert several or files[0] == files[1]
