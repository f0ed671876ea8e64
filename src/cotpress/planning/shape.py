"""A causal language model as numbers: what its `config.json` says, and how many parameters follow from it.

Llama, Mistral, Qwen2 and Qwen3 are one family: grouped-query attention, a gated MLP of three matrices, RMSNorm. They
differ in biases and in Qwen3's norms of queries and keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from cotpress.errors import ModelError


class Linear(NamedTuple):
    """A matrix of a layer: `inputs` to `outputs`."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Everything that the size of a dense model follows from.

    Attributes:
        num_layers: Decoder layers.
        hidden_size: Width of the residual stream.
        intermediate_size: Width inside the MLP.
        num_heads: Query heads.
        num_kv_heads: Key-value heads.
        head_dim: Width of a head.
        vocab_size: Rows of the embedding table.
        tied_embeddings: The head uses the embedding table.
        qkv_bias: Biases after the query, key and value matrices.
        output_bias: Bias after the attention's output matrix.
        mlp_bias: Biases in the MLP.
        qk_norm: A norm of each head's queries and keys (Qwen3).
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tied_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    @property
    def query_width(self) -> int:
        """Outputs of the query matrix."""
        return self.num_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Outputs of the key matrix, and of the value matrix."""
        return self.num_kv_heads * self.head_dim

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The matrices of one layer: those that get an adapter."""
        h, i = self.hidden_size, self.intermediate_size
        return (
            Linear("q_proj", h, self.query_width),
            Linear("k_proj", h, self.kv_width),
            Linear("v_proj", h, self.kv_width),
            Linear("o_proj", self.query_width, h),
            Linear("gate_proj", h, i),
            Linear("up_proj", h, i),
            Linear("down_proj", i, h),
        )

    @property
    def num_matrix_parameters(self) -> int:
        """Weights of the matrices of one layer: two operations per token each."""
        return sum(m.inputs * m.outputs for m in self.linears)

    @property
    def num_layer_parameters(self) -> int:
        """Parameters of one layer."""
        biases = self.qkv_bias * (self.query_width + 2 * self.kv_width) + self.output_bias * self.hidden_size
        biases += self.mlp_bias * (2 * self.intermediate_size + self.hidden_size)
        norms = 2 * self.hidden_size + self.qk_norm * 2 * self.head_dim
        return self.num_matrix_parameters + biases + norms

    @property
    def num_head_parameters(self) -> int:
        """Weights of the head, which are also those of one embedding table."""
        return self.vocab_size * self.hidden_size

    @property
    def num_outer_parameters(self) -> int:
        """Parameters outside the layers: embedding table, head unless it is tied, last norm."""
        return self.num_head_parameters * (1 if self.tied_embeddings else 2) + self.hidden_size

    @property
    def num_parameters(self) -> int:
        """Parameters of the model."""
        return self.num_layers * self.num_layer_parameters + self.num_outer_parameters

    def num_layer_adapter_parameters(self, rank: int) -> int:
        """Parameters that LoRA adds to one layer."""
        return sum(rank * (m.inputs + m.outputs) for m in self.linears)

    def num_adapter_parameters(self, rank: int) -> int:
        """Parameters of a LoRA adapter on all matrices of all layers (`sft.tune.lora_rank`)."""
        return self.num_layers * self.num_layer_adapter_parameters(rank)


_FAMILY = ("llama", "mistral", "qwen2", "qwen3")
_NUMBERS = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_heads": "num_attention_heads",
    "vocab_size": "vocab_size",
}


def shape_from_config(config: Mapping[str, Any], name: str) -> ModelShape:
    """The shape that a `config.json` describes.

    Args:
        config: Its content.
        name: Of the model, for messages.

    Raises:
        ModelError: Another family, or a number is missing.
    """
    family = config.get("model_type")
    if family not in _FAMILY:
        raise ModelError(
            f"plan=true: model '{name}' is of type '{family}', whose memory is not known here. "
            f"Allowed: {', '.join(_FAMILY)}"
        )
    missing = [key for key in _NUMBERS.values() if not isinstance(config.get(key), int)]
    if missing:
        raise ModelError(f"plan=true: config.json of model '{name}' has no whole number for {', '.join(missing)}")
    numbers = {ours: int(config[theirs]) for ours, theirs in _NUMBERS.items()}
    heads = numbers["num_heads"]
    return ModelShape(
        **numbers,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or (128 if family == "qwen3" else numbers["hidden_size"] // heads),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2" or bool(config.get("attention_bias", False)),
        output_bias=family != "qwen2" and bool(config.get("attention_bias", False)),
        mlp_bias=family == "llama" and bool(config.get("mlp_bias", False)),
        qk_norm=family == "qwen3",
    )
