"""Settings of the hardware, shared by every stage that runs a model."""

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from cotpress.errors import ConfigError
from cotpress.settings import Amount, Count, Rule


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 1 << 16


class Strategy(Enum):
    """The division of a training among several devices."""

    ddp = "ddp"
    """Every device holds the whole model; gradients are summed over devices."""
    fsdp2 = "fsdp2"
    """Weights, gradients and optimizer states are sharded over the devices (Lightning's ModelParallelStrategy)."""


class HeadLoss(Enum):
    """The implementation of the cross-entropy of training; results differ by rounding only."""

    auto = "auto"
    """liger on a GPU where it is installed, else chunked."""
    chunked = "chunked"
    """Our own: takes gradients chunk by chunk, so the logits of a whole batch never exist."""
    plain = "plain"
    """All logits of a micro-batch at once."""
    linear_cross_entropy = "linear_cross_entropy"
    """torch's chunked `linear_cross_entropy`."""
    liger = "liger"
    """Liger's fused kernel; needs a GPU and the extra `gpu`."""


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """Hardware (config group `trainer`); no setting here changes the identity of an artifact."""

    # `cuda` is another word for `gpu`.
    accelerator: Annotated[str, Rule(("auto", "cpu", "gpu", "cuda").__contains__, "auto, cpu, gpu")] = "auto"
    """auto (a GPU if there is one), cpu or gpu."""
    devices: Count | None = 1
    """Devices of each machine, at least 1; null takes all its GPUs. On a CPU each is a process with its share of the
    cores, and null is one."""
    num_nodes: Count = 1
    """Machines that run this command over one shared folder: the first one runs the flow, and all share training and
    scoring. They find each other through srun, torchrun or `rendezvous`."""
    rendezvous: Annotated[str, Rule(_is_address, "HOST:PORT, e.g. node1:29400")] | None = None
    """Host and free port of the first of several machines, where neither srun nor torchrun starts them; null
    otherwise."""
    strategy: Strategy = Strategy.ddp
    """Division of a training among several devices: ddp or fsdp2."""
    offload: bool = False
    """With fsdp2, keep weights, gradients and optimizer states in main memory and compute on the GPUs: needs the least
    memory of a GPU, and is slower."""
    num_threads: Count | None = None
    """CPU threads of torch in each process; null leaves torch's choice, and several processes share the cores."""
    tokens_per_batch: Count = 2048
    """Most tokens per forward pass in training and scoring; a longer text is a pass by itself."""
    generation_tokens: Count = 16384
    """Answers generated at once, counted in tokens: prompt plus budget of each; bounds the key-value cache."""
    compile: bool = False
    """Compile the model with torch.compile before it scores texts; needs a C++ compiler, pays after minutes only."""
    head_loss: HeadLoss = HeadLoss.auto
    """Implementation of the loss in training: auto, chunked, plain, linear_cross_entropy or liger."""
    activation_checkpointing: bool = False
    """Keep only the input of each layer in training and compute the rest again for the gradient: less memory, about a
    third more time."""
    deterministic: bool = False
    """Use only algorithms that give the same bits every time on one GPU; slower, and an error where there is none. On a
    CPU nothing has to be chosen."""
    checkpoint_every_s: Amount = 60.0
    """Shortest time between two checkpoints of a training, in seconds; it is longer where copying them would take more
    than 2 % of the time. 0 saves after each step."""

    def validate(self, key: str) -> None:
        """Refuse `offload` on one device or without fsdp2, and `rendezvous` on one machine."""
        if self.rendezvous is not None and self.num_nodes == 1:
            raise ConfigError(
                f"{key}.rendezvous: got '{self.rendezvous}' with {key}.num_nodes=1. Fix: {key}.num_nodes=N of the "
                "machines, or leave it out"
            )
        if self.offload and (self.strategy is not Strategy.fsdp2 or (self.devices == 1 and self.num_nodes == 1)):
            raise ConfigError(offload_error(self))


@dataclass(frozen=True, slots=True)
class Shard:
    """Share `number`, from 1, of `total` shares of some work, each done by a job of its own."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read a shard such as `2/8`.

        Raises:
            ConfigError: The text is no shard.
        """
        try:
            number, total = map(int, text.split("/"))
        except ValueError:
            number = total = 0
        if not 1 <= number <= total:
            raise ConfigError(f"shard: got '{text}', allowed: K/N with 1 <= K <= N, e.g. shard=1/4,2/4,3/4,4/4 with -m")
        return cls(number, total)


def offload_error(config: TrainerConfig) -> str:
    """Message for `trainer.offload=true` where it has no meaning."""
    devices = "one device" if config.devices in (None, 1) else f"{config.devices} devices"
    return (
        f"trainer.offload: got true with trainer.strategy={config.strategy.value} on {devices}, allowed: with "
        "trainer.strategy=fsdp2 on at least 2 devices. Fix: trainer=fsdp2 trainer.devices=N, or trainer.offload=false"
    )
