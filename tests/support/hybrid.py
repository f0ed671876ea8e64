"""Small random models of many architectures, with layers of attention, linear attention, convolutions and Mamba."""

from typing import Any

import torch
import transformers

_ALL = {"vocab_size": 640, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_hidden_layers": 2}
_COMMON = {
    **_ALL,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_LINEAR = {
    "head_dim": 8,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
}
_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 16}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_SLIDING = {"head_dim": 8, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}

STATEFUL: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen3Next": ("Qwen3NextForCausalLM", _COMMON | _LINEAR | _EXPERTS | {"num_experts": 4}),
    "Qwen3_5Text": ("Qwen3_5ForCausalLM", _COMMON | _LINEAR),
    "OlmoHybrid": ("OlmoHybridForCausalLM", _COMMON | _LINEAR | {"linear_num_value_heads": 2}),
    "Lfm2": ("Lfm2ForCausalLM", _COMMON | {"layer_types": ["conv", "full_attention"]}),
    "MiniMax": (
        "MiniMaxForCausalLM",
        _COMMON
        | {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "block_size": 16}
        | {"layer_types": ["linear_attention", "full_attention"]},
    ),
    "Mamba": ("MambaForCausalLM", _ALL | {"hidden_size": 32, "state_size": 8}),
    "FalconMamba": ("FalconMambaForCausalLM", _ALL | {"hidden_size": 32, "state_size": 8}),
    "Mamba2": (
        "Mamba2ForCausalLM",
        _ALL | {"hidden_size": 32, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16},
    ),
    "Jamba": (
        "JambaForCausalLM",
        _COMMON
        | {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
        | {"num_experts": 2, "use_mamba_kernels": False, "mamba_d_state": 8, "mamba_dt_rank": 4},
    ),
    "Bamba": ("BambaForCausalLM", _COMMON | _MAMBA2 | {"attn_layer_indices": [1]}),
    "GraniteMoeHybrid": (
        "GraniteMoeHybridForCausalLM",
        _COMMON
        | _MAMBA2
        | {"layer_types": ["mamba", "attention"], "num_local_experts": 0, "shared_intermediate_size": 32}
        | {"logits_scaling": 1.0},
    ),
    "FalconH1": ("FalconH1ForCausalLM", _COMMON | _MAMBA2 | {"mamba_d_ssm": 32, "mamba_n_heads": 4}),
    "RecurrentGemma": (
        "RecurrentGemmaForCausalLM",
        _COMMON | {"lru_width": 32, "attention_window_size": 16, "block_types": ["recurrent", "attention"]},
    ),
}
"""Architectures with a state, by the name of their configuration: class of the model, and sizes."""
CACHED: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaForCausalLM", _COMMON),
    "Gemma3Text": ("Gemma3ForCausalLM", _COMMON | _SLIDING),
    "GptOss": ("GptOssForCausalLM", _COMMON | _SLIDING | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "Mistral": ("MistralForCausalLM", _COMMON | {"head_dim": 8, "sliding_window": 8}),
    "Phi3": ("Phi3ForCausalLM", _COMMON | {"sliding_window": 8}),
}
"""Architectures with keys and values in every layer, some of them of a window."""


def build(name: str) -> Any:
    """A random model in eval mode whose predictions depend on all that it reads."""
    kind, sizes = (STATEFUL | CACHED)[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, f"{name}Config")(**sizes))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3)
    model.generation_config = transformers.GenerationConfig(eos_token_id=2)
    return model.eval()


def plain_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits of one text `[n, V]`, by a forward pass without a cache."""
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits
