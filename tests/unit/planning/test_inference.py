"""What scoring and writing take is what is alive when they do."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses import FakeTensorMode

from cotpress.modeling.head import target_logprobs
from cotpress.modeling.loading import split_head
from cotpress.modeling.packing import Packed, packed_states
from cotpress.planning.inference import Reading, cache_bytes_per_token, generation_usage, scoring_usage
from cotpress.planning.setting import Setting
from cotpress.planning.shape import ModelShape
from cotpress.planning.shapes import PUBLISHED
from cotpress.training.config import Method
from support.measured_memory import LiveMemory, empty_model, fill, trained_model

TOKENS = 16384


@pytest.mark.parametrize("rank", [0, 8])
def test_body_of_a_scorer_holds_what_is_planned(rank: int) -> None:
    shape = replace(PUBLISHED["Qwen/Qwen2.5-7B-Instruct"], num_layers=2)
    lora = Setting(method=Method.lora, lora_rank=rank)
    model = (trained_model(shape, lora) if rank else empty_model(shape, torch.bfloat16)).eval()
    with FakeTensorMode(), LiveMemory() as memory, torch.inference_mode():
        fill(model)
        weights = memory.live
        ids = torch.ones(1, TOKENS, dtype=torch.long)
        memory.peak = memory.live
        packed_states(split_head(model).decoder, Packed(ids=ids, positions=ids, lengths=(2048,) * 8))
    body = Reading(tokens=TOKENS, lora_rank=rank)
    planned = scoring_usage(shape, body)
    assert planned.weights == pytest.approx(weights, rel=1e-3)
    assert 0.97 <= planned.working / (memory.peak - weights) <= 1.15


def test_a_token_of_cache_is_the_models_keys_and_values(llama: ModelShape) -> None:
    from transformers import DynamicCache

    model = empty_model(llama, torch.bfloat16)
    fill(model)
    cache = DynamicCache()
    model(input_ids=torch.ones(1, 7, dtype=torch.long), past_key_values=cache, use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == 7 * cache_bytes_per_token(llama)


def test_writing_more_at_once_needs_more_cache_and_nothing_else() -> None:
    shape = PUBLISHED["Qwen/Qwen2.5-7B-Instruct"]
    few, many = (generation_usage(shape, Reading(tokens=100), n) for n in (1000, 3000))
    assert many.activations == 3 * few.activations
    assert replace(many, activations=few.activations) == few


def test_scored_rows_are_made_into_logits_in_chunks(llama: ModelShape) -> None:
    head = torch.nn.Linear(8, 2**20, bias=False)
    with LiveMemory() as memory, torch.inference_mode():
        target_logprobs(head, torch.ones(64, 8), torch.zeros(64, dtype=torch.long))
    assert memory.peak < 3 * 4 * 2**23
    assert scoring_usage(llama, Reading(tokens=10**7)).working > 6 * 2**27
