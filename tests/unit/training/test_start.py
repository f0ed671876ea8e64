"""Students that start from other weights than those of the run's model: adapters and whole models, LoRA and full."""

import dataclasses
import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from cotpress.devices.config import Strategy
from cotpress.errors import ConfigError, ModelError, WorkerError
from cotpress.modeling.loading import load_model
from cotpress.modeling.tiny import tiny_model
from cotpress.modeling.weights import TrainedWeights
from cotpress.training.config import Method, SftConfig, StartAdapter
from cotpress.training.stage import train_student
from cotpress.training.start import Start, _add_adapter
from support.training_jobs import KilledOnce, losses, weights

IDS = torch.arange(20).view(1, -1)


def _adapter(folder, tiny_config, store, seed, **settings):
    """A LoRA adapter with random matrices, so that it changes the logits."""
    model = get_peft_model(load_model(tiny_config, store), LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(tiny_config, store, tmp_path):
    """An adapter with the rank, alpha and dropout of the fixture `tune`."""
    own = {"r": 4, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": "all-linear"}
    return _adapter(tmp_path / "start", tiny_config, store, 1, **own)


@pytest.fixture
def whole(tiny_config, adapter, store, tmp_path):
    """A whole model, the tiny one with the adapter in its weights."""
    folder = shutil.copytree(tiny_model(store).path, tmp_path / "whole")
    load_model(tiny_config, store, adapter=adapter, merge_adapter=True).save_pretrained(folder)
    return folder


@pytest.fixture
def student(tiny_config, store, compressed, hardware, tracker, tune):
    def trained(folder, how=StartAdapter.further, **changes):
        config = SftConfig(tune=dataclasses.replace(tune, **changes), start_adapter=how)
        start = None if folder is None else TrainedWeights.saved(folder, "sft.start")
        return train_student(
            config, model=tiny_config, compressed=compressed, trainer=hardware, tracker=tracker, store=store,
            start=start,
        )  # fmt: skip

    return trained


@torch.no_grad()
def _logits(made, tiny_config, store):
    """Logits of a finished student, loaded as every reader of students loads it."""
    model, adapter = TrainedWeights.of(made).on(tiny_config)
    return load_model(model, store, adapter=adapter, merge_adapter=True)(IDS).logits


KINDS = [
    pytest.param("adapter", StartAdapter.further, Method.lora, "adapter", id="adapter-further"),
    pytest.param("adapter", StartAdapter.merge, Method.lora, "adapter", id="adapter-merged"),
    pytest.param("adapter", StartAdapter.further, Method.full, "model", id="adapter-full"),
    pytest.param("whole", StartAdapter.further, Method.lora, "model", id="whole-lora"),
    pytest.param("whole", StartAdapter.further, Method.full, "model", id="whole-full"),
]


@pytest.mark.parametrize(("kind", "how", "method", "saved"), KINDS)
def test_student_without_a_step_is_its_start_and_training_goes_on_from_there(
    request, student, tiny_config, store, adapter, kind, how, method, saved
):
    folder = request.getfixturevalue(kind)
    started = load_model(tiny_config, store, adapter=adapter, merge_adapter=True)(IDS).logits
    still = student(folder, how, method=method, learning_rate=0.0)
    assert [path.name for path in sorted(still.path.iterdir()) if path.is_dir()] == [saved]
    torch.testing.assert_close(_logits(still, tiny_config, store), started, rtol=1e-3, atol=1e-3)
    assert (still.path / saved / "training_config.json").is_file()
    moved = student(folder, how, method=method)
    assert float((_logits(moved, tiny_config, store) - started).abs().max()) > 1e-2
    assert losses(moved.path)[0][1] == pytest.approx(losses(still.path)[0][1], rel=1e-5)
    assert abs(losses(moved.path)[0][1] - losses(student(None).path)[0][1]) > 1e-3  # not the loss of the base model


def test_merged_start_and_adapter_further_differ_in_rank_only(student, adapter, tiny_config):
    ranks = {}
    for how in StartAdapter:
        made = student(adapter, how)
        settings = json.loads((made.path / "adapter/adapter_config.json").read_text())
        ranks[how] = (settings["r"], settings["base_model_name_or_path"])
    assert ranks == {StartAdapter.further: (4, tiny_config.path), StartAdapter.merge: (8, tiny_config.path)}


def test_identity_is_the_content_of_the_start_and_names_it_only_if_there_is_one(student, adapter, tmp_path):
    assert "start" not in student(None).manifest["identity"]
    first = student(adapter)
    copied = shutil.copytree(adapter, tmp_path / "elsewhere")
    assert student(copied).key == first.key
    assert student(adapter, StartAdapter.merge).key != first.key
    settings = json.loads((copied / "adapter_config.json").read_text())
    (copied / "adapter_config.json").write_text(json.dumps({**settings, "revision": "other"}))
    assert student(copied).key != first.key


def test_sum_of_adapters_with_other_modules_ranks_and_scales_is_one_adapter(tiny_config, store, tmp_path):
    first = _adapter(
        tmp_path / "a", tiny_config, store, 1, r=3, lora_alpha=12, target_modules=["q_proj", "v_proj"], use_rslora=True
    )
    second = _adapter(tmp_path / "b", tiny_config, store, 2, r=5, lora_alpha=4, target_modules="all-linear")
    merged = load_model(tiny_config, store, adapter=first, merge_adapter=True)
    expected = PeftModel.from_pretrained(merged, second).eval()(IDS).logits
    _add_adapter(first, second)
    joined = load_model(tiny_config, store, adapter=second, merge_adapter=True)(IDS).logits
    torch.testing.assert_close(joined, expected, rtol=1e-4, atol=1e-4)
    assert json.loads((second / "adapter_config.json").read_text())["r"] == 8


def test_recipe_of_another_rank_is_refused_with_both_ways_out(student, adapter):
    with pytest.raises(ConfigError, match=r"got sft\.tune\.lora_rank=2.*Fix: sft\.tune\.lora_rank=4, or .*=merge"):
        student(adapter, lora_rank=2)
    assert student(adapter, StartAdapter.merge, lora_rank=2).manifest["num_rows"] == 5


@pytest.mark.parametrize(
    ("change", "how"),
    [
        ({"bias": "all"}, StartAdapter.further),
        ({"modules_to_save": ["lm_head"]}, StartAdapter.further),
        ({"use_dora": True}, StartAdapter.merge),
        ({"rank_pattern": {"q_proj": 2}}, StartAdapter.merge),
    ],
)
def test_adapter_that_is_more_than_low_rank_matrices_is_refused(student, adapter, change, how):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=rf"sft\.start: .* has {next(iter(change))}="):
        student(adapter, how)


def test_folder_that_holds_no_weights_or_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"sft\.start: there is no folder"):
        TrainedWeights.saved(tmp_path / "missing", "sft.start")
    with pytest.raises(ModelError, match=r"sft\.start: .* holds no weights"):
        TrainedWeights.saved(tmp_path, "sft.start")


def test_artifact_of_a_student_is_a_start(student, adapter):
    first = student(adapter)
    assert student(first.path).key == student(first.path / "adapter").key != first.key


def test_whole_model_with_another_tokenizer_is_refused(student, whole, tokenizer):
    changed = type(tokenizer).from_pretrained(whole)
    changed.add_tokens(["extra"])
    changed.save_pretrained(whole)
    with pytest.raises(ConfigError, match=r"sft\.start: .* another tokenizer than 'tiny'.*model=NAME"):
        student(whole)


SHARED = [
    pytest.param(Strategy.ddp, Method.lora, StartAdapter.further, id="ddp-further"),
    pytest.param(Strategy.fsdp2, Method.lora, StartAdapter.merge, id="fsdp2-merged"),
    pytest.param(Strategy.fsdp2, Method.full, StartAdapter.further, id="fsdp2-full"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "method", "how"), SHARED)
def test_several_devices_train_from_the_start_as_one_does(training, tune, adapter, strategy, method, how):
    tune.method = method
    if method is Method.full:
        tune.learning_rate = 1e-3
    start = Start.of(TrainedWeights.saved(adapter, "sft.start"), SftConfig(tune=tune, start_adapter=how))
    single = training("one", start=start)
    several = training("several", start=start, devices=2, strategy=strategy)
    assert [b[1] for b in losses(several)] == pytest.approx([a[1] for a in losses(single)], rel=2e-4)
    expected, got = weights(single), weights(several)
    assert got.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(got[name], weight, rtol=1e-2, atol=2e-3, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("how", list(StartAdapter))
def test_killed_training_from_a_start_resumes_with_the_same_student(
    training, tune, adapter, tmp_path, monkeypatch, how
):
    start = Start.of(TrainedWeights.saved(adapter, "sft.start"), SftConfig(tune=tune, start_adapter=how))
    hardware = {"start": start, "devices": 2, "strategy": Strategy.ddp}
    whole = training("undisturbed", **hardware)
    monkeypatch.setenv("TEST_KILLED_ONCE", str(tmp_path / "was_killed"))
    with pytest.raises(WorkerError, match="rank 1 ended: killed by SIGKILL"):
        training("killed", kind=KilledOnce, **hardware)
    assert losses(training("killed", **hardware)) == losses(whole)
    for name, weight in weights(whole).items():
        assert torch.equal(weights(tmp_path / "killed")[name], weight), name
