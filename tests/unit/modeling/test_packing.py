import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cotpress.errors import ModelError
from cotpress.modeling.logprobs import ScoreInput, token_readings
from cotpress.modeling.packing import Packed, pack, packed_inputs, packing_obstacle, plan_packs

LENGTHS = (7, 1, 23, 2, 23, 12)


def tiny(architecture, attention="sdpa", **settings):
    """A random decoder with grouped-query attention, float32."""
    from transformers import LlamaConfig, LlamaModel, MistralConfig, MistralModel, Qwen2Config, Qwen2Model

    config, decoder = {
        "llama": (LlamaConfig, LlamaModel),
        "qwen2": (Qwen2Config, Qwen2Model),
        "mistral": (MistralConfig, MistralModel),
    }[architecture]
    shape = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "initializer_range": 0.3}
    torch.manual_seed(3)
    return decoder(config(**shape, **heads, attn_implementation=attention, **settings)).eval()


def sequences(lengths=LENGTHS):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 97, n) for n in lengths]


def alone(decoder, sequence):
    return decoder(input_ids=torch.as_tensor(sequence)[None], use_cache=False).last_hidden_state[0]


CASES = [
    ("llama", "sdpa"),
    ("llama", "eager"),
    ("qwen2", "sdpa"),
    ("qwen2", "eager"),
    pytest.param("llama", "flex_attention", marks=pytest.mark.slow),  # compiles
]


# torch and transformers, seen when flex_attention is compiled
def _states(decoder, packed):
    return decoder(**packed_inputs(decoder, packed)).last_hidden_state[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("architecture", "attention"), CASES)
def test_packed_states_equal_those_of_each_sequence_alone(architecture, attention):
    decoder, texts = tiny(architecture, attention), sequences()
    with torch.inference_mode():
        states = _states(decoder, pack(texts)).split(LENGTHS)
        for got, text in zip(states, texts, strict=True):
            torch.testing.assert_close(got, alone(decoder, text), atol=1e-5, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_packed_gradients_equal_the_sum_of_those_of_each_sequence_alone(architecture, checkpointing):
    decoder, texts = tiny(architecture), sequences()
    # A loss with a different weight at every position.
    weights = [torch.randn(n, 48, generator=torch.Generator().manual_seed(n)) for n in LENGTHS]
    for text, weight in zip(texts, weights, strict=True):
        (alone(decoder, text) * weight).sum().backward()
    expected = {name: p.grad.clone() for name, p in decoder.named_parameters()}
    decoder.zero_grad()
    if checkpointing:
        decoder.train()
        decoder.activation_checkpointing_enable()
    (_states(decoder, pack(texts)) * torch.cat(weights)).sum().backward()
    for name, parameter in decoder.named_parameters():
        scale = max(expected[name].abs().max().item(), 1.0)
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5 * scale, rtol=0, msg=name)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sliding_windows_stay_within_a_sequence(attention):
    decoder, texts = tiny("mistral", attention, sliding_window=5), sequences()
    with torch.inference_mode():
        states = _states(decoder, pack(texts)).split(LENGTHS)
        for got, text in zip(states, texts, strict=True):
            torch.testing.assert_close(got, alone(decoder, text), atol=1e-5, rtol=0)


def test_states_do_not_depend_on_the_other_sequences_of_the_pack():
    decoder, texts = tiny("llama"), sequences()
    with torch.inference_mode():
        first = _states(decoder, pack(texts))[: LENGTHS[0]]
        other = _states(decoder, pack([texts[0], *texts[:0:-1]]))[: LENGTHS[0]]
    torch.testing.assert_close(first, other, atol=1e-6, rtol=0)


def test_packed_sdpa_uses_no_mask(monkeypatch):
    from transformers.integrations import sdpa_attention

    whole, masks = sdpa_attention.sdpa_attention_forward, []

    def watched(module, query, key, value, mask, **options):
        masks.append(mask)
        return whole(module, query, key, value, mask, **options)

    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", watched)
    _states(tiny("llama"), pack(sequences()))
    assert masks == [None] * 3 * len(LENGTHS)


def test_padded_batches_are_unchanged_after_packing():
    decoder, (short, _, long, *_) = tiny("llama"), sequences()
    _states(decoder, pack([short, long]))
    ids = torch.zeros((2, len(long)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate((short, long)):
        ids[row, -len(text) :], mask[row, -len(text) :] = torch.as_tensor(text), 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        states = decoder(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state
        torch.testing.assert_close(states[0, -len(short) :], alone(decoder, short), atol=1e-5, rtol=0)


def test_architecture_with_its_own_attention_is_refused():
    class Own(torch.nn.Module):
        pass

    assert packing_obstacle(Own()) is not None
    assert packing_obstacle(tiny("qwen2")) is None
    with pytest.raises(ModelError, match=r"Own does not use transformers' attention interface"):
        _states(Own(), pack(sequences()))


def test_pack_concatenates_sequences_and_restarts_positions():
    packed = pack([[5, 6, 7], np.int32([8]), [9, 10]])
    assert packed.ids.tolist() == [[5, 6, 7, 8, 9, 10]]
    assert packed.positions.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert (packed.lengths, packed.starts) == ((3, 1, 2), (0, 3, 4))
    assert isinstance(packed.to("cpu"), Packed)


@pytest.mark.parametrize("texts", [[], [[1], []]])
def test_empty_sequences_are_refused(texts):
    with pytest.raises(ValueError, match="at least one token"):
        pack(texts)


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), max_size=30), budget=st.integers(1, 100))
def test_packs_hold_every_sequence_once_longest_first_within_the_budget(lengths, budget):
    packs = plan_packs(lengths, budget)
    order = [i for members in packs for i in members]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    sizes = [sum(lengths[i] for i in members) for members in packs]
    assert all(size <= budget or len(members) == 1 for size, members in zip(sizes, packs, strict=True))
    for size, following in zip(sizes, packs[1:], strict=False):
        assert size + lengths[following[0]] > budget


def hybrid(kinds):
    """A random LFM2: short convolutions between layers of attention."""
    from transformers import Lfm2Config, Lfm2ForCausalLM

    torch.manual_seed(3)
    shape = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": len(kinds)}
    config = Lfm2Config(
        **shape, num_attention_heads=4, num_key_value_heads=2, layer_types=kinds, initializer_range=0.3, pad_token_id=0
    )
    return Lfm2ForCausalLM(config).eval()


def test_layers_that_carry_a_state_into_the_next_text_are_not_packed():
    mixed = hybrid(["conv", "full_attention", "conv"])
    assert packing_obstacle(mixed.model) is not None
    with pytest.raises(ModelError, match=r"Lfm2Model has layers with conv, .*trainer\.tokens_per_batch=1"):
        _states(mixed.model, pack([[5, 6, 7], [8, 9]]))
    assert packing_obstacle(hybrid(["full_attention"] * 3).model) is None


def test_texts_of_a_hybrid_model_are_scored_as_if_alone():
    model = hybrid(["conv", "full_attention", "conv"])
    inputs = [ScoreInput(context_ids=[3, 4], target_ids=text) for text in sequences((20, 17, 12))]
    for item, got in zip(inputs, token_readings(model, inputs, 2048), strict=True):
        ids = torch.tensor([[*item.context_ids, *item.target_ids]])
        with torch.inference_mode():
            whole = model(input_ids=ids).logits[0].log_softmax(-1)
        np.testing.assert_allclose(got[:, 0], whole[1:-1].gather(1, ids[0, 2:, None])[:, 0], atol=1e-5)


@pytest.mark.parametrize("kinds", [["full_attention", "chunked_attention"], ["linear_attention"]])
def test_kinds_of_layers_without_borders_are_not_packed(kinds):
    decoder = tiny("llama")
    decoder.config.layer_types = kinds
    assert packing_obstacle(decoder) is not None


def test_recurrent_decoder_is_not_packed(monkeypatch):
    decoder = tiny("llama")
    monkeypatch.setattr(type(decoder), "_is_stateful", True)
    assert packing_obstacle(decoder) is not None
