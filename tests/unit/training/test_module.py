import dataclasses
import itertools

import pytest
import torch

from cotpress.devices.config import HeadLoss
from cotpress.devices.memory import SmallerBatches
from cotpress.errors import ConfigError, MemoryLimitError, ModelError, TrainingError
from cotpress.modeling.loading import load_model
from cotpress.training.adapters import checkpointed_activations, make_trainable
from cotpress.training.batching import Examples, collate
from cotpress.training.config import Method, TuneConfig
from cotpress.training.fit import fit
from cotpress.training.head_loss import chunked_loss
from cotpress.training.module import LossOfModel, SftModule, accumulate, rate_factor
from support.hybrid import build
from support.training_jobs import weighted

TUNE = TuneConfig(method=Method.lora, learning_rate=1.0, epochs=1, sequences_per_step=1, seed=0)


def _module(model):
    return SftModule(model, TUNE, 20, chunked_loss)


def _naive(model, example):
    """Sum of -log p(token | everything before it) over the completion times its weights, with full logits."""
    ids = torch.tensor([example.ids])
    logprobs = model(ids, use_cache=False).logits[0].log_softmax(-1)
    weights = example.weights or [1.0] * example.num_completion
    return -sum(w * logprobs[i - 1, ids[0, i]] for i, w in enumerate(weights, example.num_prompt))


@pytest.mark.parametrize("kind", ["whole", "masked", "soft"])
def test_packed_batch_has_the_loss_and_gradient_of_its_sequences_alone(model, examples, kind):
    examples = examples if kind == "whole" else weighted(examples, soft=kind == "soft")
    model.requires_grad_(True)
    expected = sum(_naive(model, e) for e in examples.kept[:5])
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    loss = _module(model).loss_sum(collate(examples.kept[:5]))
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for name, p in model.named_parameters():
        scale = max(gradients[name].abs().max().item(), 1.0)
        torch.testing.assert_close(p.grad, gradients[name], rtol=0, atol=1e-5 * scale, msg=name)


def _step_gradients(model, examples, cuts, **more):
    """Gradients and loss of one optimizer step whose examples are split into micro-batches at `cuts`."""
    module, micros = _module(model), []
    for start, end in itertools.pairwise([0, *cuts, len(examples)]):
        micros.append(collate(examples[start:end]))
    weight = sum(e.weight for e in examples)
    model.zero_grad()
    torch.manual_seed(5)
    with checkpointed_activations(model, enabled=more.get("checkpointed", False)):
        total = 0.0
        for micro in micros:
            loss = module.loss_sum(micro) / weight
            loss.backward()
            total += loss.item()
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("soft", [None, False, True], ids=["whole", "masked", "soft"])
@pytest.mark.parametrize("cuts", [[1], [1, 2, 9], list(range(1, 18))])
def test_uneven_micro_batches_have_the_loss_and_gradient_of_one_big_batch(model, examples, cuts, soft):
    examples = examples if soft is None else weighted(examples, soft=soft)
    model.requires_grad_(True)
    whole, expected = _step_gradients(model, examples.kept, [])
    loss, gradients = _step_gradients(model, examples.kept, cuts)
    assert loss == pytest.approx(whole, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("method", [Method.lora, Method.full])
def test_activation_checkpointing_changes_neither_loss_nor_gradient_nor_dropout(model, examples, tune, method):
    tune.method = method
    trained = make_trainable(model, tune)
    whole, expected = _step_gradients(trained, examples.kept, [7])
    runs = []
    layer = trained.get_submodule("base_model.model.model" if method is Method.lora else "model").layers[0].mlp
    hook = layer.register_forward_pre_hook(lambda *_: runs.append(1))
    loss, gradients = _step_gradients(trained, examples.kept, [7], checkpointed=True)
    hook.remove()
    assert len(runs) == 4  # twice per micro-batch
    assert loss == whole
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, expected[name]), name


def test_activation_checkpointing_of_a_model_without_it_is_an_error(model):
    model.supports_gradient_checkpointing = False
    with pytest.raises(ConfigError, match=r"Fix: trainer\.activation_checkpointing=false"):  # noqa: SIM117
        with checkpointed_activations(model, enabled=True):
            pass


def test_hardware_settings_reach_the_training(tiny_config, store, examples, tune, hardware, tracker, tmp_path):
    losses = []
    for name, choice, checkpointed in (("a", HeadLoss.chunked, False), ("b", HeadLoss.plain, True)):
        hardware.head_loss, hardware.activation_checkpointing = choice, checkpointed
        model = make_trainable(load_model(tiny_config, store), tune)
        fitted = fit(
            model, SftModule, examples, tune, workdir=tmp_path / name, trainer=hardware, log_metrics=tracker.log
        )
        losses.append(fitted.final_loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert not model.get_base_model().is_activation_checkpointing


def test_micro_batching_does_not_change_the_training(tiny_config, store, examples, tune, hardware, tracker, tmp_path):
    tune.lora_dropout, weights = 0.0, []
    for budget in (60, 10_000):
        hardware.tokens_per_batch = budget
        model = make_trainable(load_model(tiny_config, store), tune)
        fit(model, SftModule, examples, tune, workdir=tmp_path / str(budget), trainer=hardware, log_metrics=tracker.log)
        weights.append([p.detach() for p in model.parameters() if p.requires_grad])
    # Adam turns rounding of near-zero gradients into small steps, so this is looser than the loss itself.
    for small, large in zip(*weights, strict=True):
        torch.testing.assert_close(small, large, rtol=1e-2, atol=2e-3)


def test_weights_of_one_change_no_number(tiny_config, store, examples, tune, hardware, tracker, tmp_path):
    ones = [dataclasses.replace(e, weights=(1.0,) * e.num_completion) for e in examples.kept]
    logs = []
    for name, some in (("none", examples), ("ones", dataclasses.replace(examples, kept=ones))):
        (tmp_path / name).mkdir()
        torch.manual_seed(0)
        model = make_trainable(load_model(tiny_config, store), tune)
        fit(model, SftModule, some, tune, workdir=tmp_path / name, trainer=hardware, log_metrics=tracker.log)
        logs.append((tmp_path / name / "train_log.csv").read_bytes())
    assert logs[0] == logs[1]


def test_learning_rate_rises_then_falls_towards_zero():
    factors = [rate_factor(TUNE, 20, step) for step in range(20)]
    assert factors[:2] == [0.5, 1.0]
    assert factors[2:] == sorted(factors[2:], reverse=True)
    assert 0 < factors[-1] < 0.02


def test_loss_that_is_not_finite_names_the_step(model, examples, tune, hardware, tracker, tmp_path):
    tune.method = Method.full
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"step 1 is nan.*learning rate"):
        fit(
            make_trainable(model, tune),
            SftModule,
            examples,
            tune,
            workdir=tmp_path,
            trainer=hardware,
            log_metrics=tracker.log,
        )


def test_training_without_examples_is_an_error(model, tune, hardware, tracker, tmp_path):
    with pytest.raises(TrainingError, match="no example"):
        fit(model, SftModule, Examples(kept=[], dropped={"x": 1}), tune, workdir=tmp_path, trainer=hardware, log_metrics=tracker.log)  # fmt: skip  # noqa: E501


def _gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_step_that_does_not_fit_is_restarted_and_has_the_same_gradient(model, examples, caplog):
    """A backward pass that fails half-way has already added to some gradients."""
    model.requires_grad_(True)
    module, batches = _module(model), [collate(examples.kept[:6]), collate(examples.kept[6:])]
    sizes = []

    def backward(micro):
        loss = module.loss_sum(micro)
        loss.backward()
        if sum(micro.packed.lengths) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(sum(micro.packed.lengths))
        return loss.detach()

    whole = sum(module.loss_sum(b) for b in batches)
    whole.backward()
    expected = _gradients(model)
    model.zero_grad()
    with caplog.at_level("WARNING"):
        losses, parts = accumulate(batches, backward, model.zero_grad, SmallerBatches("sft: train"), fixed="")
    assert float(sum(losses)) == pytest.approx(whole.item(), rel=1e-5)
    assert len(losses) == len(parts)
    for name, gradient in _gradients(model).items():
        scale = max(expected[name].abs().max().item(), 1.0)
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-5 * scale, msg=name)
    assert len(caplog.records) == 1
    assert "trainer.tokens_per_batch" in caplog.text


def test_training_with_too_little_memory_equals_the_one_with_enough(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path, monkeypatch
):
    tune.lora_dropout, losses = 0.0, []
    hardware.tokens_per_batch = 10_000
    forward, sizes = LossOfModel.forward, []

    def limited(module, batch):
        if sum(batch.packed.lengths) > 70:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(sum(batch.packed.lengths))
        return forward(module, batch)

    for name in ("enough", "little"):
        if name == "little":
            monkeypatch.setattr(LossOfModel, "forward", limited)
        model = make_trainable(load_model(tiny_config, store), tune)
        fitted = fit(
            model, SftModule, examples, tune, workdir=tmp_path / name, trainer=hardware, log_metrics=tracker.log
        )
        losses.append(fitted.final_loss)
    assert max(sizes) <= 70
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_batch_that_does_not_fit_is_not_split_where_dropout_draws_by_batch(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path, monkeypatch
):
    def limited(module, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LossOfModel, "forward", limited)
    tune.lora_dropout = 0.1
    model = make_trainable(load_model(tiny_config, store), tune)
    with pytest.raises(MemoryLimitError, match=r"with dropout, .* Fix: a lower trainer\.tokens_per_batch"):
        fit(model, SftModule, examples, tune, workdir=tmp_path, trainer=hardware, log_metrics=tracker.log)


def _full(_):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


def test_sequence_that_does_not_fit_alone_is_an_error_that_names_the_setting(examples):
    batches = [collate(examples.kept[:4])]
    with pytest.raises(MemoryLimitError, match=r"sft: train: .*single text of \d+ tokens.*trainer\.tokens_per_batch"):
        accumulate(batches, _full, lambda: None, SmallerBatches("sft: train"), fixed="")


def test_one_of_several_devices_does_not_split_its_batches(examples):
    with pytest.raises(MemoryLimitError, match=r"one of several devices.*trainer\.tokens_per_batch"):
        accumulate(
            [collate(examples.kept[:4])],
            _full,
            lambda: None,
            SmallerBatches("sft: train"),
            fixed="on one of several devices",
        )


def test_lora_on_layers_that_it_cannot_adapt_is_one_message(tune):
    with pytest.raises(ModelError, match=r"LoRA cannot adapt FalconH1ForCausalLM: .*Fix: sft=full reference=full"):
        make_trainable(build("FalconH1"), tune)
