"""One training of a run: its memory with every strategy on 1 to 8 devices, and the smallest setting that fits."""

from dataclasses import dataclass, replace

from cotpress.devices.config import Strategy, TrainerConfig
from cotpress.modeling.config import ModelConfig
from cotpress.planning.measure import Usage, training_flops, training_pass
from cotpress.planning.models import computed_dtype
from cotpress.training.config import Method, TuneConfig

DEVICE_COUNTS = (1, 2, 4, 8)
"""Devices of one machine, which is what one training can use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What can be changed about a training without changing its result.

    Attributes:
        tokens: Tokens of the largest micro-batch.
        checkpointing: `trainer.activation_checkpointing`.
        devices: Number of devices.
        strategy: How they share the training; without meaning for one device.
    """

    tokens: int
    checkpointing: bool = False
    devices: int = 1
    strategy: Strategy = Strategy.ddp


class Training:
    """A model that is trained.

    Attributes:
        name: Its place in the run, and the model.
        longest: Tokens of the longest sequence.
        requested: The setting of the run; `trainer.devices=null` counts as eight.
        offload: With fsdp2, weights, gradients and moments are in main memory (`trainer.offload`).
    """

    def __init__(self, name: str, model: ModelConfig, tune: TuneConfig, trainer: TrainerConfig) -> None:
        self.name, self.model, self.tune = name, model, tune
        self.longest = min(tune.max_tokens, model.context_tokens)
        self.requested = Setting(
            tokens=max(min(trainer.tokens_per_batch, tune.sequences_per_step * self.longest), self.longest),
            checkpointing=trainer.activation_checkpointing,
            devices=(trainer.devices or DEVICE_COUNTS[-1]) * trainer.num_nodes,
            strategy=trainer.strategy,
        )
        self.offload, self._head_loss = trainer.offload, trainer.head_loss
        self._usages: dict[tuple[int, bool, int], Usage] = {}
        self._flops: dict[int, float] = {}

    @property
    def trains_all(self) -> bool:
        """True if the model's own weights are trained."""
        return self.tune.method is Method.full

    @property
    def whole(self) -> Usage:
        """Memory on one device, in the requested setting."""
        return self.usage(replace(self.requested, devices=1))

    @property
    def num_trained(self) -> float:
        """Trained parameters; each has a float32 gradient."""
        return self.whole.gradients / 4

    @property
    def num_parameters(self) -> float:
        """Parameters of the model, without an adapter."""
        if self.trains_all:
            return self.num_trained
        return (self.whole.weights - self.whole.gradients) / computed_dtype(self.model).itemsize

    @property
    def result_bytes(self) -> float:
        """Size on disk of the finished adapter (float32) or model (in its own format)."""
        return self.num_trained * (computed_dtype(self.model).itemsize if self.trains_all else 4)

    @property
    def checkpoint_bytes(self) -> float:
        """Size on disk of the checkpoint to resume from: trained weights in float32 and their moments."""
        return self.whole.gradients + self.whole.optimizer

    def usage(self, setting: Setting) -> Usage:
        """Memory of each device. With ddp it is that of one device."""
        if setting.strategy is not Strategy.fsdp2 or setting.devices == 1:
            return self._measured(setting, 1)
        # Measured on two devices. On more, the gradients that are summed take a little less.
        two, share = self._measured(setting, 2), 0 if self.offload else 2 / setting.devices
        return Usage(
            weights=two.weights * share,
            gradients=two.gradients * share,
            optimizer=two.optimizer * share,
            activations=two.activations,
        )

    def _measured(self, setting: Setting, shards: int) -> Usage:
        key = (setting.tokens, setting.checkpointing, shards)
        if key not in self._usages:
            sequences, rest = divmod(setting.tokens, self.longest)
            lengths = [self.longest] * sequences + [rest] * (rest > 0)
            self._usages[key] = training_pass(
                self.model, self.tune, lengths, head_loss=self._head_loss, checkpointing=setting.checkpointing,
                devices=shards,
            )  # fmt: skip
        return self._usages[key]

    def flops(self, tokens: int) -> float:
        """Operations for one sequence, in the requested setting."""
        length, again = min(tokens, self.longest), self.requested.checkpointing
        if length not in self._flops:
            self._flops[length] = training_flops(
                self.model, self.tune, length, checkpointing=again, head_loss=self._head_loss
            )
        return self._flops[length]

    def smallest(self, room: float) -> Setting | None:
        """The first setting that fits of: fewest devices, then no layer computed twice, then the largest micro-batch.

        Args:
            room: Bytes of a device.

        Returns:
            A setting on one device or with fsdp2, as ddp saves no memory; None if none fits.
        """
        sizes = []
        tokens = self.requested.tokens
        while tokens > self.longest:
            sizes.append(tokens)
            tokens //= 2
        for devices in DEVICE_COUNTS:
            strategy = Strategy.ddp if devices == 1 else Strategy.fsdp2
            for checkpointing in (False, True):
                least = Setting(tokens=self.longest, checkpointing=checkpointing, devices=devices, strategy=strategy)
                if self.usage(least).total > room:
                    continue
                larger = (replace(least, tokens=size) for size in sizes)
                return next((s for s in larger if self.usage(s).total <= room), least)
        return None
