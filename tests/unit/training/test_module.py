import itertools

import pytest
import torch

from cotpress.devices.config import HeadLoss
from cotpress.errors import ConfigError, TrainingError
from cotpress.training.adapters import checkpointed_activations, make_trainable
from cotpress.training.batching import collate
from cotpress.training.config import Method
from cotpress.training.examples import Examples
from cotpress.training.fit import fit
from cotpress.training.head_loss import chunked_loss
from cotpress.training.module import Schedule, SftModule

SCHEDULE = Schedule(
    learning_rate=1.0,
    num_steps=20,
    warmup_fraction=0.1,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    max_grad_norm=1.0,
    seed=0,
)


def _naive(model, example):
    """Sum of -log p(token | everything before it) over the completion, with full logits."""
    ids = torch.tensor([example.ids])
    logprobs = model(ids, use_cache=False).logits[0].log_softmax(-1)
    return -sum(logprobs[i - 1, ids[0, i]] for i in range(example.num_prompt, len(example.ids)))


def test_packed_batch_has_the_loss_and_gradient_of_its_sequences_alone(model, examples):
    model.requires_grad_(True)
    expected = sum(_naive(model, e) for e in examples.kept[:5])
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    loss = SftModule(model, SCHEDULE, chunked_loss).loss_sum(collate(examples.kept[:5]))
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for name, p in model.named_parameters():
        scale = max(gradients[name].abs().max().item(), 1.0)
        torch.testing.assert_close(p.grad, gradients[name], rtol=0, atol=1e-5 * scale, msg=name)


def _step_gradients(model, examples, cuts, **more):
    """Gradients and loss of one optimizer step whose examples are cut into micro-batches at `cuts`."""
    module, micros = SftModule(model, SCHEDULE, chunked_loss), []
    for start, end in itertools.pairwise([0, *cuts, len(examples)]):
        micros.append(collate(examples[start:end]))
    num_targets = sum(e.num_targets for e in examples)
    model.zero_grad()
    torch.manual_seed(5)
    with checkpointed_activations(model, wanted=more.get("checkpointed", False)):
        total = 0.0
        for micro in micros:
            loss = module.loss_sum(micro) / num_targets
            loss.backward()
            total += loss.item()
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("cuts", [[1], [1, 2, 9], list(range(1, 18))])
def test_uneven_micro_batches_have_the_loss_and_gradient_of_one_big_batch(model, examples, cuts):
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


def test_activation_checkpointing_that_the_model_cannot_do_is_an_error(model):
    model.supports_gradient_checkpointing = False
    with pytest.raises(ConfigError, match=r"Fix: trainer\.activation_checkpointing=false"):  # noqa: SIM117
        with checkpointed_activations(model, wanted=True):
            pass


def test_hardware_settings_reach_the_training(tiny_config, store, examples, tune, hardware, tracker, tmp_path):
    from cotpress.modeling.loading import load_model

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
    from cotpress.modeling.loading import load_model

    tune.lora_dropout, weights = 0.0, []
    for budget in (60, 10_000):
        hardware.tokens_per_batch = budget
        model = make_trainable(load_model(tiny_config, store), tune)
        fit(model, SftModule, examples, tune, workdir=tmp_path / str(budget), trainer=hardware, log_metrics=tracker.log)
        weights.append([p.detach() for p in model.parameters() if p.requires_grad])
    # Adam turns rounding of near-zero gradients into small steps, so this is looser than the loss itself.
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=2e-3)


def test_learning_rate_rises_then_falls_towards_zero():
    factors = [SCHEDULE.factor(step) for step in range(20)]
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


def test_nothing_to_train_on_is_an_error(model, tune, hardware, tracker, tmp_path):
    with pytest.raises(TrainingError, match="no example"):
        fit(model, SftModule, Examples(kept=[], dropped={"x": 1}), tune, workdir=tmp_path, trainer=hardware, log_metrics=tracker.log)  # fmt: skip  # noqa: E501
