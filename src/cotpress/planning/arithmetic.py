"""Floating-point operations, two for a multiplication and an addition; embeddings and norms are left out.

Attention is counted over all pairs of tokens of a sequence, as `torch.utils.flop_counter` and the usual 12*L*d*T do;
a causal kernel does half of it. For long models it is a few per cent of the whole.
"""

from cotpress.planning.setting import Setting
from cotpress.planning.shape import ModelShape


def forward_flops(shape: ModelShape, lengths: list[int], num_targets: int) -> int:
    """Operations of reading sequences.

    Args:
        shape: The model.
        lengths: Tokens of each sequence.
        num_targets: Positions whose logits are made.
    """
    return _matrices(shape, sum(lengths)) + _attention(shape, lengths) + _head(shape, num_targets)


def training_flops(shape: ModelShape, setting: Setting, lengths: list[int], num_targets: int) -> int:
    """Operations of a forward and a backward pass: 6 per weight and token if all are trained, 4 with LoRA.

    A frozen matrix needs no gradient of its own, only one for its input. A checkpointed layer runs once more.

    Args:
        shape: The model.
        setting: How it is trained.
        lengths: Tokens of each sequence.
        num_targets: Tokens with a loss.
    """
    tokens = sum(lengths)
    matrices, attention, head = _matrices(shape, tokens), _attention(shape, lengths), _head(shape, num_targets)
    last = 2 * tokens * shape.num_layers * shape.hidden_size  # times its inputs: a layer's last matrix is not run again
    if setting.trains_all:
        again = matrices + attention - last * shape.intermediate_size
        return 3 * (matrices + attention + head) + (again if setting.checkpointing else 0)
    adapter = 2 * tokens * shape.num_adapter_parameters(setting.lora_rank)
    total = 2 * matrices + 3 * attention + 2 * head + 3 * adapter
    if setting.checkpointing:
        return total + matrices + attention + adapter - last * setting.lora_rank
    # Nothing before the first layer is trained: its matrices that read the input need no gradient for it.
    unneeded = sum(m.inputs * m.outputs for m in shape.linears if m.name in ("q_proj", "k_proj", "v_proj"))
    unneeded += setting.lora_rank * 3 * shape.hidden_size
    return total - 2 * tokens * unneeded


def _matrices(shape: ModelShape, num_tokens: int) -> int:
    return 2 * num_tokens * shape.num_layers * shape.num_matrix_parameters


def _attention(shape: ModelShape, lengths: list[int]) -> int:
    return 4 * shape.num_layers * shape.query_width * sum(n * n for n in lengths)


def _head(shape: ModelShape, num_targets: int) -> int:
    return 2 * num_targets * shape.num_head_parameters
