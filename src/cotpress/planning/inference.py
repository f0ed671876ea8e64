"""What a device holds while a model scores texts and while it writes; every device has the whole model."""

from dataclasses import dataclass

from cotpress.planning.memory import Usage
from cotpress.planning.setting import ADAPTER_BYTES
from cotpress.planning.shape import ModelShape

_LOGITS_AT_ONCE = 2**27
"""Logits that scoring holds at once on a GPU (`modeling.logprobs`)."""
_CACHE_GROWTH = 1.5
"""Room of the key-value cache relative to what is in it: it grows by half (`generation.row_cache`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a model is used without training.

    Attributes:
        value_bytes: Of a weight and of an activation.
        tokens: Tokens of the largest forward pass.
        lora_rank: Rank of the adapter on top; 0 is none.
    """

    value_bytes: int = 2
    tokens: int = 16384
    lora_rank: int = 0


def cache_bytes_per_token(shape: ModelShape, value_bytes: int = 2) -> int:
    """Keys and values of one token in all layers."""
    return 2 * shape.num_layers * shape.kv_width * value_bytes


def scoring_usage(shape: ModelShape, reading: Reading) -> Usage:
    """Peak memory of reading texts for their log-probabilities."""
    logits = min(_LOGITS_AT_ONCE, reading.tokens * shape.vocab_size)
    chunk = logits * (reading.value_bytes + 4)
    states = reading.tokens * shape.hidden_size * reading.value_bytes
    return Usage(weights=_weights(shape, reading), working=max(_forward(shape, reading), 2 * states + chunk))


def generation_usage(shape: ModelShape, reading: Reading, generation_tokens: int) -> Usage:
    """Peak memory of writing; `reading.tokens` are the prompts that are read at once.

    Args:
        shape: The model.
        reading: How it reads prompts.
        generation_tokens: Tokens of all rows that are written at once (`trainer.generation_tokens`).
    """
    cache = round(_CACHE_GROWTH * generation_tokens) * cache_bytes_per_token(shape, reading.value_bytes)
    prompts = reading.tokens * cache_bytes_per_token(shape, reading.value_bytes)
    return Usage(weights=_weights(shape, reading), activations=cache, working=prompts + _forward(shape, reading))


def _weights(shape: ModelShape, reading: Reading) -> int:
    adapter = shape.num_adapter_parameters(reading.lora_rank) * ADAPTER_BYTES
    return shape.num_parameters * reading.value_bytes + adapter


def _forward(shape: ModelShape, reading: Reading) -> int:
    """Temporaries of one layer: the MLP's, beside the residual stream and the norm's output."""
    b, h, i = reading.value_bytes, shape.hidden_size, shape.intermediate_size
    adapted = 2 * b * h + 4 * h + 2 * b * i + 10 * i if b < ADAPTER_BYTES else 2 * b * h + 5 * b * i
    per_token = adapted if reading.lora_rank else b * (4 * h + 3 * i + 2 * shape.head_dim)
    return per_token * reading.tokens
