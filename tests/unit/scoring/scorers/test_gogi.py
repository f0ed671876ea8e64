import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from cotpress.errors import ConfigError, ModelError
from cotpress.scoring.config import Target, Template
from cotpress.scoring.reader import NOTHING_FOLLOWS, TOO_LONG, Reader
from cotpress.scoring.scorers import gogi as hidden_gradients
from cotpress.scoring.scorers.gogi import GogiConfig, GogiScorer, decoder_layers, hidden_gradient_norms
from cotpress.settings import check_settings


@pytest.fixture
def make(base, tokenizer, model):
    def build(model=model, base=base, **settings):
        config = GogiConfig(name="gogi", **settings)
        return GogiScorer(config, Reader(tokenizer, base, config.template, tokens_per_batch=300), model)

    return build


def loss_of(model, layer, ids, target, nudge):
    """-log p(target | before) with `nudge` added to the output of a layer; full logits, nothing cut."""
    handle = model.model.layers[layer - 1].register_forward_hook(lambda _m, _i, output: output + nudge)
    try:
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    finally:
        handle.remove()
    return -sum(logprobs[t - 1, ids[t]] for t in target)


def naive_norms(model, layer, ids, observed, target):
    nudge = torch.zeros(1, len(ids), model.config.hidden_size, requires_grad=True)
    [gradient] = torch.autograd.grad(loss_of(model, layer, ids, target, nudge), nudge)
    return [gradient[0, i].abs().sum().item() for i in observed]


def parts(tokenizer, trace, template, text):
    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    if template is Template.plain:
        return [tokenizer.bos_token_id, *ids(trace.question + "\n\n")], ids(trace.thinking), ids("\n\n"), ids(text)
    prompt = ids(f"<|im_start|>user\n{trace.question}<|im_end|>\n<|im_start|>assistant\n") + ids("<think>\n")
    return prompt, ids(trace.thinking), ids("\n</think>\n\n"), [*ids(text), tokenizer.eos_token_id]


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("template", Template)
@pytest.mark.parametrize(("depth", "layer"), [(0.01, 1), (0.3, 1), (0.6, 2), (1.0, 2)])
def test_equals_plain_autograd(depth, layer, template, target, make, grouped, tokenizer, traces):
    scorer = make(grouped, depth=depth, template=template, target=target)
    for trace, scores in zip(traces, scorer.values(traces), strict=True):
        text = trace.answer if target is Target.answer else trace.response
        context, thinking, closing, following = parts(tokenizer, trace, template, text)
        ids = [*context, *thinking, *closing, *following]
        observed = range(len(context), len(context) + len(thinking))
        expected = naive_norms(grouped, layer, ids, observed, range(len(ids) - len(following), len(ids)))
        assert min(expected) > 0
        np.testing.assert_allclose(scores, expected, rtol=1e-3)


def test_gradient_is_the_slope_of_the_loss(model):
    """Central differences in float64, along single hidden dimensions."""
    precise = copy.deepcopy(model).double()
    ids, target, width = [1, 30, 31, 32, 33, 34, 35], range(5, 7), model.config.hidden_size
    slopes = torch.zeros(width, dtype=torch.float64)
    with torch.no_grad():
        for dimension in range(width):
            nudge = torch.zeros(1, len(ids), width, dtype=torch.float64)
            nudge[0, 2, dimension] = 1e-5
            slopes[dimension] = loss_of(precise, 1, ids, target, nudge) - loss_of(precise, 1, ids, target, -nudge)
    [norm] = hidden_gradient_norms(model, ids, layer=1, observed=range(2, 3), target=target)
    assert norm == pytest.approx((slopes.abs().sum() / 2e-5).item(), rel=1e-3)


def test_number_of_logits_at_once_changes_nothing(model, monkeypatch):
    arguments = {"layer": 1, "observed": range(1, 9), "target": range(9, 30)}
    ids = list(range(20, 50))
    whole = hidden_gradient_norms(model, ids, **arguments)
    monkeypatch.setattr(hidden_gradients, "_LOGITS_AT_ONCE", 4 * model.config.vocab_size)
    np.testing.assert_allclose(hidden_gradient_norms(model, ids, **arguments), whole, rtol=1e-5)


def test_model_is_left_as_it_was(model, make, traces):
    flags = [p.requires_grad for p in model.parameters()]
    assert any(flags)
    list(make().values(traces[:2]))
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert not any(layer._forward_hooks for layer in decoder_layers(model))


def test_adapter_that_is_not_merged_takes_part(model, traces, make):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapted = get_peft_model(
        copy.deepcopy(model), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    )
    adapted.eval()
    [unmerged] = make(adapted).values(traces[:1])
    [plain] = make().values(traces[:1])
    [merged] = make(adapted.merge_and_unload()).values(traces[:1])
    np.testing.assert_allclose(unmerged, merged, rtol=1e-3)
    assert not np.allclose(unmerged, plain, rtol=1e-2)


def test_bfloat16_gives_the_same_order_of_magnitude(model, make, traces):
    [exact] = make().values(traces[3:4])
    [rough] = make(copy.deepcopy(model).bfloat16()).values(traces[3:4])
    assert rough.dtype == np.float32
    assert np.corrcoef(exact, rough)[0, 1] > 0.98


def test_missing_target_is_refused(make, traces):
    no_answer, no_response = replace(traces[0], answer=" "), replace(traces[0], response="")
    assert make(target=Target.answer).refusal(no_answer) == NOTHING_FOLLOWS
    assert make(target=Target.answer).refusal(no_response) is None
    assert make(target=Target.response).refusal(no_answer) is None
    assert make(target=Target.response).refusal(no_response) == NOTHING_FOLLOWS


def test_whole_sequence_has_to_fit_the_context(make, base, traces):
    needed = len(make().whole(traces[0])[0])
    assert make(base=replace(base, context_tokens=needed)).refusal(traces[0]) is None
    assert make(base=replace(base, context_tokens=needed - 1)).refusal(traces[0]) == TOO_LONG


@pytest.mark.parametrize(
    ("depth", "allowed"),
    [(0.0, r"in \(0, 1\]"), (-0.5, r"in \(0, 1\]"), (1.01, r"in \(0, 1\]"), (float("nan"), "of at most")],
)
def test_depth_outside_the_model_is_an_error(depth, allowed):
    with pytest.raises(ConfigError, match=rf"scorer\.depth: got {depth}, allowed: a (finite )?number {allowed}"):
        check_settings(GogiConfig(name="gogi", depth=depth), "scorer")


def test_topmost_layer_says_nothing_and_is_never_used(model, make, traces):
    ids = list(range(20, 50))
    top = hidden_gradient_norms(model, ids, layer=2, observed=range(1, 9), target=range(12, 30))
    assert (top == 0).all()
    [highest] = make(depth=1.0).values(traces[:1])
    assert (highest > 0).all()


def test_single_layer_is_refused(model, make):
    shallow = copy.deepcopy(model)
    del shallow.model.layers[1]
    with pytest.raises(ModelError, match="has 1 layer, allowed: 2 or more"):
        make(shallow)


def test_architecture_without_a_list_of_layers_is_refused():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=16, bos_token_id=0, eos_token_id=1))
    with pytest.raises(ModelError, match="no list of decoder layers"):
        decoder_layers(model)


@pytest.mark.parametrize("target", [range(0, 2), range(3, 3), range(4, 7)])
def test_target_has_to_lie_within_the_sequence(target, model):
    with pytest.raises(ValueError, match="target"):
        hidden_gradient_norms(model, [1, 5, 6, 7, 8], layer=1, observed=range(1, 2), target=target)
