"""Texts without a span from a shared cache, against one plain forward per text."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from cotpress.modeling.deletion import deletion_logprobs, hidden_logprobs

SHAPE = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.3,
}  # fmt: skip
SPANS = [range(1, 4), range(4, 4), range(4, 5), range(5, 13), range(9, 20), range(20, 26), range(26, 26)]
RNG = np.random.default_rng(0)
IDS = [1, *RNG.integers(2, 64, size=29).tolist()]
COUNTED = np.array([False, *(RNG.random(28) < 0.6), True])
AFTER = np.arange(len(IDS)) > 26


@pytest.fixture(scope="module", params=["full", "sliding"])
def model(request):
    torch.manual_seed(0)
    if request.param == "full":
        return LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    return MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=6)).eval()


def naive_sum(model, ids, counted, mask=None):
    """Log-probabilities of the counted tokens, from one forward; `mask` is that of attention, [L, L]."""
    more = {} if mask is None else {"attention_mask": torch.tensor(mask)[None, None]}
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([ids]), **more).logits[0].log_softmax(-1)
    return sum(logprobs[t - 1, ids[t]].item() for t in range(len(ids)) if counted[t])


@pytest.mark.parametrize("tokens_per_batch", [1, 100, 10_000])
@pytest.mark.parametrize("counted", [COUNTED, AFTER], ids=["everywhere", "after"])
def test_equals_one_forward_for_each_text(counted, tokens_per_batch, model):
    values = deletion_logprobs(model, IDS, SPANS, counted, tokens_per_batch)
    left = [[t for t in range(len(IDS)) if t not in span] for span in SPANS]
    expected = [naive_sum(model, [IDS[t] for t in rest], counted[rest]) for rest in left]
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, expected, atol=2e-4)


@pytest.mark.parametrize("tokens_per_batch", [1, 100, 10_000])
def test_hidden_spans_equal_a_masked_forward_of_the_whole_text(tokens_per_batch, model):
    window = getattr(model.config, "sliding_window", None) or len(IDS)
    values = hidden_logprobs(model, IDS, SPANS, AFTER, tokens_per_batch, reread=26)
    query, key = np.indices((len(IDS), len(IDS)))
    expected = []
    for span in SPANS:
        seen = (key <= query) & (key > query - window) & ~((query >= 26) & np.isin(key, list(span)))
        expected.append(naive_sum(model, IDS, AFTER, seen))
    np.testing.assert_allclose(values, expected, atol=2e-4)
    assert np.ptp(values) > 0.01


def test_span_that_is_all_but_the_ends_can_be_left_out(model):
    whole = range(1, len(IDS) - 1)
    [value] = deletion_logprobs(model, IDS, [whole], AFTER, 10)
    assert value == pytest.approx(naive_sum(model, [IDS[0], IDS[-1]], [False, True]), abs=2e-4)


@pytest.mark.parametrize("spans", [[], [range(0, 3)], [range(2, 30)], [range(8, 9), range(4, 5)]])
def test_spans_ascend_and_have_a_token_before_and_after(spans, model):
    with pytest.raises(ValueError, match="need to ascend"):
        deletion_logprobs(model, IDS, spans, COUNTED, 10)


def test_hidden_spans_lie_before_what_is_counted(model):
    for reread, counted in ((25, AFTER), (26, COUNTED)):
        with pytest.raises(ValueError, match="spans end at 26"):
            hidden_logprobs(model, IDS, SPANS, counted, 10, reread=reread)


def test_batch_that_does_not_fit_is_halved(model, monkeypatch):
    forward, sizes = type(model.model).forward, []

    def limited(self, input_ids, **more):
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, input_ids=input_ids, **more)

    expected = deletion_logprobs(model, IDS, SPANS, COUNTED, 1)
    monkeypatch.setattr(type(model.model), "forward", limited)
    values = deletion_logprobs(model, IDS, SPANS, COUNTED, 10_000)
    assert max(sizes) == len(SPANS)
    np.testing.assert_allclose(values, expected, atol=2e-4)
