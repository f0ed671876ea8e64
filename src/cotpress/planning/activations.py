"""What training keeps of a forward pass until the backward pass, tensor by tensor, and what is alive for a moment.

The counts follow the code of transformers 5.23, PEFT 0.21 and torch 2.13 and are held against a count of the saved
tensors and against the peak of a whole step (tests/unit/planning). Widths, per token:

    h hidden    i intermediate    q query heads * head width    k key-value heads * head width    b bytes of a value

Where all weights of a bfloat16 model are trained, the forward pass computes with copies of float32 masters: a layer's
are kept until its backward pass, or made anew for it; those of what is outside of layers until the loss is there.

    norm        4h of its input in float32, 4 of its scale, and b*h of its output before the weight if that is trained
    matrices    b * inputs; the matrices after a norm share theirs. On a bfloat16 model each LoRA matrix keeps a float32
                copy of its own instead: 4 * inputs. That is most of what LoRA needs, and no flag of ours turns it off
    LoRA        4 * rank per matrix
    attention   queries, keys, values, output and one float32 per head (sdpa, flash, flex); eager keeps the scores of
                all pairs of tokens of the micro-batch
    MLP         gate, activated gate and up: 3 * b*i
"""

from cotpress.devices.config import HeadLoss
from cotpress.modeling.config import Attention
from cotpress.planning.setting import ADAPTER_BYTES, Setting
from cotpress.planning.shape import ModelShape

_FLOAT = 4
_INDEX = 8
_CHUNK_ROWS = 256
"""Rows of logits that `head_loss=chunked` holds at once (`training.head_loss.ROWS_PER_CHUNK`)."""
_CHUNK_LOGIT_BYTES = 18
"""Of a logit of a chunk at the peak: the chunk before in float32 and as gradient, this one in three formats."""


def layer_bytes(shape: ModelShape, setting: Setting) -> int:
    """Kept by one layer that is not checkpointed; the micro-batch is packed of several sequences."""
    per_token = _norms(shape, setting) + _matrix_inputs(shape, setting) + _attention(shape, setting)
    per_token += 3 * setting.value_bytes * shape.intermediate_size
    return per_token * setting.tokens


def stored_bytes(shape: ModelShape, setting: Setting) -> int:
    """Kept by the whole body when the forward pass ends."""
    h, b = shape.hidden_size, setting.value_bytes
    around = _norm(h, 1, setting) + 2 * b * shape.head_dim  # last norm, rotary embeddings
    if setting.checkpointing:
        return (shape.num_layers * b * h + around) * setting.tokens
    # Nothing before the first adapter is trained, so the first norm keeps nothing.
    first = 0 if setting.trains_all else _norm(h, 1, setting)
    return shape.num_layers * layer_bytes(shape, setting) + (around - first) * setting.tokens


def copied_layer_bytes(shape: ModelShape, setting: Setting) -> int:
    """Copies of master weights that layers keep for their backward pass; checkpointed ones make them anew."""
    return shape.num_layers * _layer_copy(shape, setting) if not setting.checkpointing else 0


def working_bytes(shape: ModelShape, setting: Setting, *, whole: bool = True) -> int:
    """Alive for a moment at the peak, beside what is stored: the head's loss, or a layer's backward pass.

    Args:
        shape: The model.
        setting: How it is trained.
        whole: The device makes the copies of its master weights itself, rather than gathers them.
    """
    return max(layer_working_bytes(shape, setting, whole=whole), head_bytes(shape, setting, whole=whole))


def layer_working_bytes(shape: ModelShape, setting: Setting, *, whole: bool = True) -> int:
    """Alive in the last layer's backward pass: temporaries of the MLP, and a checkpointed layer anew."""
    h, i, b = shape.hidden_size, shape.intermediate_size, setting.value_bytes
    per_token = 4 * i + 12 * h if setting.mixed else b * (2 * i + h)
    per_token -= _norm(h, 1, setting)  # of the last norm, whose backward pass is over
    if setting.attention is Attention.eager:
        per_token += _FLOAT * shape.num_heads * setting.tokens
    # The gradient of a table that is the head as well waits for the embedding's share, and that of a copy for the end
    # of the backward pass, as autograd goes from the last operation to the first.
    waits = (setting.copied and whole) or (setting.trains_all and shape.tied_embeddings)
    waiting = shape.num_head_parameters * b if waits else 0
    if not setting.checkpointing:
        return per_token * setting.tokens + waiting
    shared = _FLOAT * h if b == _FLOAT else 0  # the layer's input is kept anyway
    copied = _layer_copy(shape, setting) if whole else 0
    return (per_token - shared) * setting.tokens + layer_bytes(shape, setting) + waiting + copied


def head_bytes(shape: ModelShape, setting: Setting, *, whole: bool = True) -> int:
    """Most that the head's loss and its gradients take, if every token has a loss."""
    n, b, h, v = setting.tokens, setting.value_bytes, shape.hidden_size, shape.vocab_size
    weight_gradient = shape.num_head_parameters * b if setting.trains_all else 0
    states = n * h * b
    copied = shape.num_outer_parameters * b if setting.copied and whole else 0  # until the loss is there
    match setting.head_loss:
        case HeadLoss.plain:  # three times all logits in float32, or twice beside two copies in bfloat16
            kept = shape.num_head_parameters * b if copied else 0
            return 3 * _FLOAT * n * v + 2 * states + weight_gradient + kept
        case HeadLoss.liger:  # liger_kernel 0.8, fused_linear_cross_entropy: chunks as small as a row of states
            rows = 1 << (-(-n // -(-v // h)) - 1).bit_length()
            summed = shape.num_head_parameters * _FLOAT if setting.trains_all else 0
            return rows * v * (b + _FLOAT) + 2 * states + summed + weight_gradient + copied
        case _:
            kept = states + weight_gradient + n * _INDEX
            chunk = min(_CHUNK_ROWS, n) * v * _CHUNK_LOGIT_BYTES + copied
            return kept + max(chunk, states + weight_gradient)


def _layer_copy(shape: ModelShape, setting: Setting) -> int:
    return shape.num_layer_parameters * setting.value_bytes if setting.copied else 0


def _norm(width: int, rows: int, setting: Setting) -> int:
    """Kept by an RMSNorm over `rows` rows of a token."""
    return rows * (_FLOAT * width + _FLOAT + setting.trains_all * setting.value_bytes * width)


def _norms(shape: ModelShape, setting: Setting) -> int:
    of_heads = _norm(shape.head_dim, shape.num_heads + shape.num_kv_heads, setting) if shape.qk_norm else 0
    return 2 * _norm(shape.hidden_size, 1, setting) + of_heads


def _matrix_inputs(shape: ModelShape, setting: Setting) -> int:
    b, adapted = setting.value_bytes, len(shape.linears)
    if setting.mixed:
        copies = sum(ADAPTER_BYTES * m.inputs for m in shape.linears)
        return copies + adapted * ADAPTER_BYTES * setting.lora_rank
    # What attention gives is also the input of the next matrix where no copy puts sequences or heads side by side.
    shared = setting.attention in (Attention.flash_attention_2, Attention.flex_attention)
    inputs = 2 * shape.hidden_size + shape.intermediate_size + (0 if shared else shape.query_width)
    return b * inputs + (0 if setting.trains_all else adapted * ADAPTER_BYTES * setting.lora_rank)


def _attention(shape: ModelShape, setting: Setting) -> int:
    b, q, k = setting.value_bytes, shape.query_width, shape.kv_width
    if setting.attention is Attention.eager:  # keys and values are repeated for every query head
        rounded = b if b < _FLOAT else 0
        return 3 * b * q + shape.num_heads * setting.tokens * (_FLOAT + rounded)
    return b * (2 * q + 2 * k) + _FLOAT * shape.num_heads
