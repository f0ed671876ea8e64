"""One training of a run: its memory with every strategy on 1 to 8 devices, and the smallest setting that fits."""

from dataclasses import replace
from functools import cache, partial

from cotpress.devices.config import Strategy, TrainerConfig
from cotpress.modeling.config import ModelConfig
from cotpress.planning.measure import Usage, computed_dtype, training_flops, training_pass
from cotpress.training.config import Method, TuneConfig

DEVICE_COUNTS = (1, 2, 4, 8)
"""Devices of one machine, for which a plan is made."""


class Training:
    """A model that is trained.

    Attributes:
        name: Its place in the run, and the model.
        longest: Tokens of the longest sequence.
        requested: The setting of the run: `tokens_per_batch` is the largest micro-batch, and `devices` counts those of
            all machines, eight for null.
    """

    def __init__(self, name: str, model: ModelConfig, tune: TuneConfig, trainer: TrainerConfig) -> None:
        self.name, self.model, self.tune = name, model, tune
        self.longest = min(tune.max_tokens, model.context_tokens)
        self.requested = replace(
            trainer,
            tokens_per_batch=max(min(trainer.tokens_per_batch, tune.sequences_per_step * self.longest), self.longest),
            devices=(trainer.devices or DEVICE_COUNTS[-1]) * trainer.num_nodes,
        )
        again = trainer.activation_checkpointing
        self._pass = cache(partial(training_pass, model, tune, head_loss=trainer.head_loss))
        self._flops = cache(partial(training_flops, model, tune, head_loss=trainer.head_loss, checkpointing=again))

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

    def usage(self, setting: TrainerConfig) -> Usage:
        """Memory of each of a setting's devices. With ddp it is that of one device."""
        shards = 2 if setting.strategy is Strategy.fsdp2 and setting.devices != 1 else 1
        sequences, rest = divmod(setting.tokens_per_batch, self.longest)
        lengths = (self.longest,) * sequences + (rest,) * (rest > 0)
        usage = self._pass(lengths, checkpointing=setting.activation_checkpointing, devices=shards)
        if shards == 1:
            return usage
        # Measured on two devices. On more, the gradients that are summed take a little less.
        share = 0 if setting.offload else 2 / (setting.devices or DEVICE_COUNTS[-1])
        return Usage(usage.weights * share, usage.gradients * share, usage.optimizer * share, usage.activations)

    def flops(self, tokens: int) -> float:
        """Operations for one sequence, in the requested setting."""
        return self._flops(min(tokens, self.longest))

    def smallest(self, room: float) -> TrainerConfig | None:
        """The first setting that fits of: fewest devices, then no layer computed twice, then the largest micro-batch.

        It is on one device or with fsdp2, as ddp saves no memory; None if none fits `room` bytes of a device.
        """
        sizes, tokens = [], self.requested.tokens_per_batch
        while tokens > self.longest:
            sizes.append(tokens)
            tokens //= 2
        for devices in DEVICE_COUNTS:
            shared = replace(self.requested, devices=devices, strategy=Strategy.ddp if devices == 1 else Strategy.fsdp2)
            for checkpointing in (False, True):
                least = replace(shared, tokens_per_batch=self.longest, activation_checkpointing=checkpointing)
                if self.usage(least).total > room:
                    continue
                larger = (replace(least, tokens_per_batch=size) for size in sizes)
                return next((s for s in larger if self.usage(s).total <= room), least)
        return None
