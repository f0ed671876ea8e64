"""From configurations to settings: what a run's model, recipe and hardware mean for its memory."""

from cotpress.devices.config import HeadLoss, TrainerConfig
from cotpress.modeling.config import Dtype, ModelConfig
from cotpress.planning.config import PlanConfig
from cotpress.planning.search import DEVICE_COUNTS, GB, Room
from cotpress.planning.setting import Place, Setting
from cotpress.training.config import TuneConfig


def value_bytes(model: ModelConfig) -> int:
    """Of a weight and of an activation on a GPU, where `auto` is bfloat16."""
    return 4 if model.dtype is Dtype.float32 else 2


def longest_sequence(model: ModelConfig, tune: TuneConfig) -> int:
    """Tokens of the longest sequence that is trained on."""
    return min(tune.max_tokens, model.context_tokens)


def setting_of(model: ModelConfig, tune: TuneConfig, trainer: TrainerConfig) -> Setting:
    """How a model is trained under a recipe on some hardware.

    The largest micro-batch has `trainer.tokens_per_batch` tokens, unless the sequences of a step are fewer, or a single
    one is longer.
    """
    longest = longest_sequence(model, tune)
    tokens = max(min(trainer.tokens_per_batch, tune.sequences_per_step * longest), longest)
    return Setting(
        method=tune.method,
        lora_rank=tune.lora_rank,
        value_bytes=value_bytes(model),
        tokens=tokens,
        checkpointing=trainer.activation_checkpointing,
        attention=model.attention,
        head_loss=HeadLoss.chunked if trainer.head_loss is HeadLoss.auto else trainer.head_loss,
    )


def place_of(trainer: TrainerConfig) -> Place:
    """What it is trained on; all GPUs of a machine (`trainer.devices=null`) are taken to be eight."""
    return Place(devices=(trainer.devices or DEVICE_COUNTS[-1]) * trainer.num_nodes, strategy=trainer.strategy)


def room_of(assumed: PlanConfig) -> Room:
    """Memory of a device."""
    return Room(device=round(assumed.device_gb * GB), reserve=round(assumed.reserve_gb * GB))
