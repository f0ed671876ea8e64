"""Settings of a causal language model: source, prompt format, tuning values."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from cotpress.prompts import ChatConfig
from cotpress.settings import Amount, Count, InputPath

BASE_WEIGHTS, ORIGINAL_WEIGHTS = "base", "original"
"""Values of settings that otherwise name a folder of weights: the run's model, and the student Original."""


class ModelSource(Enum):
    """Source of the weights."""

    hub = "hub"
    """A hub id or a local directory, safetensors."""
    package = "package"
    """A GGUF file in a Python package; converted to safetensors once."""
    tiny = "tiny"
    """A random model of a few layers, built from its config; for tests."""


class Dtype(Enum):
    """Number format of weights and activations."""

    auto = "auto"
    """bfloat16 where the processor computes in it (GPU, avx512_bf16, amx), else float32."""
    float32 = "float32"
    bfloat16 = "bfloat16"


class Attention(Enum):
    """Implementation of attention; all give the same numbers up to rounding."""

    sdpa = "sdpa"
    """torch's scaled dot-product attention; on every device."""
    eager = "eager"
    """Plain matrix products: slow, memory grows with the square of the text."""
    flash_attention_2 = "flash_attention_2"
    """The package flash-attn; on a GPU, in bfloat16."""
    flex_attention = "flex_attention"
    """torch's flex attention, compiled; on a GPU."""


@dataclass(kw_only=True, slots=True)
class Recipe:
    """Fine-tuning values that depend on the model; the groups `sft` and `reference` read them."""

    learning_rate: Amount = MISSING
    """Peak learning rate."""
    epochs: Count = 3
    """Passes over the data."""
    sequences_per_step: Count = 8
    """Sequences per optimizer step."""
    lora_rank: Count = 8
    """Rank of the adapter matrices (LoRA only)."""
    lora_alpha: Count = 16
    """Adapter scale numerator (LoRA only)."""


@dataclass(kw_only=True, slots=True)
class Recipes:
    """One recipe per way of tuning."""

    lora: Recipe = field(default_factory=Recipe)
    full: Recipe = field(default_factory=Recipe)


@dataclass(kw_only=True, slots=True)
class TokenskipRecipe:
    """Settings of TokenSkip's release that depend on the family of the model; the defaults are those of Qwen2.5."""

    protection: str = "none"
    """For `compression.protection`: tokens that are kept in its traces, whatever their score."""
    keep_strings: list[str] = field(default_factory=list)
    """For `compression.keep_strings`."""
    drop_consecutive: bool = False
    """For `compression.drop_consecutive` of `compression=llmlingua2_compat`."""
    system: str | None = "You are a helpful assistant."
    """For `model.chat.system`."""
    line_end: str = ""
    """Text between the question and the marker."""
    template: str | None = None
    """For `model.chat.template`."""


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """A causal language model (config group `model`)."""

    name: str = MISSING
    """Short name used in tables."""
    source: ModelSource = ModelSource.hub
    """Source of the weights."""
    path: InputPath = MISSING
    """Hub id, local directory, or name of the Python package with the weights."""
    revision: str | None = None
    """Hub commit, tag or branch."""
    hub_id: str | None = None
    """Hub id of these weights for model cards, if `path` is not a hub id."""
    dtype: Dtype = Dtype.auto
    """Number format."""
    attention: Attention = Attention.sdpa
    """Implementation of attention."""
    trust_remote_code: bool = False
    """Run Python code that comes with the weights; only for models you trust."""
    context_tokens: Count = 4096
    """Longest sequence, in tokens."""
    chat: ChatConfig = field(default_factory=ChatConfig)
    """Conversation format."""
    tuning: Recipes = field(default_factory=Recipes)
    """Fine-tuning values for this model."""
    tokenskip: TokenskipRecipe = field(default_factory=TokenskipRecipe)
    """Settings of TokenSkip's release for this model (`experiment=tokenskip_gsm8k`, `chat@model.chat=tokenskip`)."""
