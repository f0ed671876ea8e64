"""Settings of a causal language model: where it is, how it is prompted, how it is usually tuned."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from cotpress.errors import ConfigError


class ModelSource(Enum):
    """Where the weights come from."""

    hub = "hub"
    """A hub id or a local directory, safetensors."""
    package = "package"
    """A GGUF file that a Python package carries; converted to safetensors once."""
    tiny = "tiny"
    """A random model of a few layers, built from its config; for tests."""


class Dtype(Enum):
    """Number format of weights and activations."""

    auto = "auto"
    """bfloat16 where the processor computes in it (GPU, avx512_bf16, amx), else float32."""
    float32 = "float32"
    bfloat16 = "bfloat16"


class Attention(Enum):
    """How attention is computed; all give the same numbers up to rounding."""

    sdpa = "sdpa"
    """torch's scaled dot-product attention: everywhere."""
    eager = "eager"
    """Plain matrix products: slow, memory grows with the square of the text."""
    flash_attention_2 = "flash_attention_2"
    """The package flash-attn: on a GPU, in bfloat16."""
    flex_attention = "flex_attention"
    """torch's flex attention, compiled: on a GPU."""


WITHOUT_TAGS = 'where there are no tags a blank line, model.chat.thinking_open="" model.chat.thinking_close="\\n\\n"'
"""What to give where nothing would part the thinking from the response."""


@dataclass(kw_only=True, slots=True)
class ChatConfig:
    """How a conversation with the model is written."""

    system: str | None = None
    """System text; null leaves it to the model's own template."""
    thinking_open: str = "<think>\n"
    """Text before the thinking, at the start of the completion, unless the model's template ends the prompt with it."""
    thinking_close: str = "\n</think>\n\n"
    """Text between the thinking and the response."""
    ratio_marker: str = "<|eot_id|>{ratio}<|eot_id|>"
    """Control marker after the question when a ratio is announced (TokenSkip); `{ratio}` is replaced."""


@dataclass(kw_only=True, slots=True)
class Recipe:
    """Fine-tuning values that depend on the model; the groups `sft` and `reference` read them."""

    learning_rate: float = MISSING
    """Peak learning rate."""
    epochs: int = 3
    """Passes over the data."""
    sequences_per_step: int = 8
    """Sequences per optimizer step."""
    lora_rank: int = 8
    """Rank of the adapter matrices (LoRA only)."""
    lora_alpha: int = 16
    """Adapter scale numerator (LoRA only)."""


@dataclass(kw_only=True, slots=True)
class Recipes:
    """One recipe per way of tuning."""

    lora: Recipe = field(default_factory=Recipe)
    full: Recipe = field(default_factory=Recipe)


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """A causal language model (config group `model`)."""

    name: str = MISSING
    """Short name used in tables."""
    source: ModelSource = ModelSource.hub
    """Where the weights come from."""
    path: str = MISSING
    """Hub id, local directory, or name of the carrying Python package."""
    revision: str | None = None
    """Hub commit, tag or branch."""
    hub_id: str | None = None
    """Hub id of these weights, for model cards, where `path` is none."""
    dtype: Dtype = Dtype.auto
    """Number format."""
    attention: Attention = Attention.sdpa
    """How attention is computed."""
    trust_remote_code: bool = False
    """Run Python code that comes with the weights; only for models you trust."""
    context_tokens: int = 4096
    """Longest sequence the model is used with, in tokens."""
    chat: ChatConfig = field(default_factory=ChatConfig)
    """Conversation format."""
    tuning: Recipes = field(default_factory=Recipes)
    """Fine-tuning values for this model."""


def check_marker(chat: ChatConfig, ratios: Iterable[float]) -> None:
    """Refuse a control marker that could not announce ratios.

    Args:
        chat: Holds the marker.
        ratios: What it is to announce; 1 is announced by no marker.

    Raises:
        ConfigError: There is something to announce, and no place for it.
    """
    if "{ratio}" not in chat.ratio_marker and any(ratio < 1 for ratio in ratios):
        raise ConfigError(f"model.chat.ratio_marker: got '{chat.ratio_marker}', allowed: a text with {{ratio}} in it")
