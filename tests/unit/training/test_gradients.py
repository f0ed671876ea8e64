import pytest
import torch

from cotpress.errors import MemoryLimitError
from cotpress.training.batching import collate
from cotpress.training.fit import fit
from cotpress.training.gradients import StepGradients, at_most
from cotpress.training.head_loss import chunked_loss
from cotpress.training.module import LossOfModel, Schedule, SftModule


@pytest.mark.parametrize("num_tokens", [1, 60, 200, None])
def test_cut_micro_batches_hold_the_same_sequences_and_targets(examples, num_tokens):
    whole = collate(examples.kept[:9])
    cut = list(at_most(whole, num_tokens))
    assert sum((part.packed.lengths for part in cut), ()) == whole.packed.lengths
    assert sum((part.rows for part in cut), ()) == whole.rows
    assert torch.equal(torch.cat([part.packed.ids for part in cut], 1), whole.packed.ids)
    assert torch.equal(torch.cat([part.packed.positions for part in cut], 1), whole.packed.positions)
    assert torch.equal(torch.cat([part.targets for part in cut]), whole.targets)
    for part in cut:
        assert torch.equal(part.packed.ids[0, part.predicting + 1], part.targets)
        assert num_tokens is None or len(part.packed.lengths) == 1 or sum(part.packed.lengths) <= num_tokens


def _gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_step_that_does_not_fit_begins_anew_and_has_the_same_gradient(model, examples, caplog):
    """A backward pass that fails half-way has added to some gradients already."""
    model.requires_grad_(True)
    schedule = Schedule(
        learning_rate=1.0, num_steps=1, warmup_fraction=0, weight_decay=0, betas=(0.9, 0.99), max_grad_norm=1, seed=0
    )
    module, batches = SftModule(model, schedule, chunked_loss), [collate(examples.kept[:6]), collate(examples.kept[6:])]
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
        losses, cut = StepGradients("sft").accumulate(batches, backward, model.zero_grad, alone=True)
    assert float(sum(losses)) == pytest.approx(whole.item(), rel=1e-5)
    assert len(losses) == len(cut)
    for name, gradient in _gradients(model).items():
        scale = max(expected[name].abs().max().item(), 1.0)
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-5 * scale, msg=name)
    assert len(caplog.records) == 1
    assert "trainer.tokens_per_batch" in caplog.text


def test_training_with_too_little_memory_equals_the_one_with_enough(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path, monkeypatch
):
    from cotpress.modeling.loading import load_model
    from cotpress.training.adapters import make_trainable

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


def _full(_):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


def test_sequence_that_does_not_fit_alone_is_an_error_that_names_the_setting(examples):
    batches = [collate(examples.kept[:4])]
    with pytest.raises(MemoryLimitError, match=r"sft: train: .*single text of \d+ tokens.*trainer\.tokens_per_batch"):
        StepGradients("sft").accumulate(batches, _full, lambda: None, alone=True)


def test_one_of_several_devices_does_not_cut_its_batches_alone(examples):
    with pytest.raises(MemoryLimitError, match=r"one of several devices.*trainer\.tokens_per_batch"):
        StepGradients("sft").accumulate([collate(examples.kept[:4])], _full, lambda: None, alone=False)
