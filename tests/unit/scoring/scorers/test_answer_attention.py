from dataclasses import replace

import numpy as np
import pytest
import torch

from cotpress.errors import ConfigError, ModelError
from cotpress.scoring.config import Template
from cotpress.scoring.reader import NOTHING_FOLLOWS, TOO_LONG, Reader
from cotpress.scoring.scorers import answer_attention as module
from cotpress.scoring.scorers.answer_attention import (
    AnswerAttentionConfig,
    AnswerAttentionScorer,
    Query,
    check_layers,
    received_attention,
)


@pytest.fixture
def make(base, tokenizer, grouped):
    def build(model=grouped, base=base, **settings):
        config = AnswerAttentionConfig(name="answer_attention", **{"num_layers": 2, **settings})
        return AnswerAttentionScorer(config, Reader(tokenizer, base, config.template, tokens_per_batch=300), model)

    return build


def naive_attention(model, ids, queries, keys, num_layers):
    own = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            attentions = model(input_ids=torch.tensor([ids]), output_attentions=True).attentions
    finally:
        model.set_attn_implementation(own)
    weights = torch.stack(attentions[-num_layers:])[:, 0]  # layers, heads, queries, keys
    return weights[:, :, list(queries)][..., list(keys)].mean(dim=(0, 1, 2)).numpy()


@pytest.mark.parametrize("query", Query)
@pytest.mark.parametrize("template", Template)
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_equals_eager_attention(num_layers, template, query, make, grouped, tokenizer, traces):
    scorer = make(num_layers=num_layers, template=template, query=query)
    for trace, scores in zip(traces, scorer.values(traces), strict=True):

        def ids(text):
            return tokenizer(text, add_special_tokens=False)["input_ids"]

        if template is Template.plain:
            context, closing, end = [tokenizer.bos_token_id, *ids(trace.question + "\n\n")], ids("\n\n"), []
        else:
            context = ids(f"<|im_start|>user\n{trace.question}<|im_end|>\n<|im_start|>assistant\n") + ids("<think>\n")
            closing, end = ids("\n</think>\n\n"), [tokenizer.eos_token_id]
        thinking, response = ids(trace.thinking), [*ids(trace.response), *end]
        start, stop = len(context), len(context) + len(thinking)
        closed = stop + len(closing)
        queries = range(closed, closed + len(response)) if query is Query.answer else range(closed - 1, closed)
        whole = [*context, *thinking, *closing, *response]
        expected = naive_attention(grouped, whole, queries, range(start, stop), num_layers)
        assert expected.std() > 0 or len(expected) == 1
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_all_weights_of_a_query_add_up_to_one(grouped):
    ids = list(range(5, 45))
    weights = received_attention(grouped, ids, queries=range(30, 40), keys=range(40), num_layers=3)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    early = received_attention(grouped, ids, queries=range(10, 20), keys=range(40), num_layers=3)
    assert (early[20:] == 0).all()


def test_number_of_weights_at_once_changes_nothing(grouped, monkeypatch):
    ids, arguments = list(range(5, 45)), {"queries": range(21, 40), "keys": range(3, 30), "num_layers": 2}
    whole = received_attention(grouped, ids, **arguments)
    monkeypatch.setattr(module, "_WEIGHTS_AT_ONCE", 5 * 6 * 40)
    np.testing.assert_allclose(received_attention(grouped, ids, **arguments), whole, atol=1e-7)


@pytest.mark.parametrize("own", ["sdpa", "eager"])
def test_attention_implementation_is_restored(own, grouped, make, traces):
    grouped.set_attn_implementation(own)
    try:
        list(make().values(traces[:1]))
        assert grouped.config._attn_implementation == grouped.model.config._attn_implementation == own
        _nothing_left_registered()
    finally:
        grouped.set_attn_implementation("sdpa")


def test_attention_implementation_is_restored_after_an_exception(grouped, make, traces, monkeypatch):
    def fail(*_):
        raise RuntimeError("in the middle of a forward pass")

    before = grouped(input_ids=torch.tensor([[1, 2, 3]])).logits
    monkeypatch.setattr(module, "_weights", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        list(make().values(traces[:1]))
    assert grouped.config._attn_implementation == "sdpa"
    _nothing_left_registered()
    torch.testing.assert_close(grouped(input_ids=torch.tensor([[1, 2, 3]])).logits, before)


def _nothing_left_registered():
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    assert not [k for m in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS) for k in m if "cotpress" in k]


def test_closing_query_needs_no_response(make, traces, base):
    silent = replace(traces[0], response="")
    assert make(query=Query.close).refusal(silent) is None
    assert make(query=Query.answer).refusal(silent) == NOTHING_FOLLOWS
    [first], [second] = (list(make(query=Query.close).values([t])) for t in (traces[0], silent))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("query", Query)
def test_whole_text_has_to_fit_the_context(query, make, base, traces):
    needed = len(make(query=query).whole(traces[0])[0])
    assert make(query=query, base=replace(base, context_tokens=needed)).refusal(traces[0]) is None
    assert make(query=query, base=replace(base, context_tokens=needed - 1)).refusal(traces[0]) == TOO_LONG


@pytest.mark.parametrize("num_layers", [0, -1, 4])
def test_layers_that_the_model_has_not_are_an_error(num_layers, make):
    with pytest.raises(ConfigError, match=rf"scorer\.num_layers: got {num_layers}, allowed: 1 to 3"):
        make(num_layers=num_layers)


def windowed(kind, **settings):
    import transformers

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = getattr(transformers, f"{kind}Config")(vocab_size=32, num_hidden_layers=3, **shape, **settings)
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


def seen(model, num_layers):
    check_layers(model, model.config, num_layers)


def test_sliding_windows_in_the_observed_layers_are_refused():
    with pytest.raises(ModelError, match="sliding window of 8 tokens"):
        seen(windowed("Mistral", sliding_window=8), 1)
    mixed = windowed("Qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1)
    with pytest.raises(ModelError, match="sliding_attention"):
        seen(mixed, 2)
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    upper_full = windowed("Qwen2", use_sliding_window=True, sliding_window=8, layer_types=kinds)
    seen(upper_full, 1)
    with pytest.raises(ModelError, match=r"scorer\.num_layers"):
        seen(upper_full, 2)


def test_models_whose_windows_are_off_are_read():
    for model in (windowed("Mistral", sliding_window=None), windowed("Qwen2", use_sliding_window=False)):
        seen(model, 3)
        ids = list(range(20))
        weights = received_attention(model, ids, queries=range(18, 20), keys=range(9), num_layers=2)
        np.testing.assert_allclose(weights, naive_attention(model, ids, range(18, 20), range(9), 2), atol=1e-5)


def test_architecture_that_is_not_seen_is_an_error(grouped, monkeypatch):
    monkeypatch.setattr(type(grouped.model), "set_attn_implementation", lambda *_: None)
    with pytest.raises(ModelError, match="attention interface"):
        received_attention(grouped, [1, 2, 3], queries=range(2, 3), keys=range(2), num_layers=1)
