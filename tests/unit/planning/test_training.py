"""The smallest setting that fits, and that it does."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cotpress.devices.config import Strategy, TrainerConfig
from cotpress.modeling.config import ModelConfig
from cotpress.planning.measure import Usage
from cotpress.planning.tables import smallest
from cotpress.planning.training import DEVICE_COUNTS, Training
from cotpress.training.config import Method, TuneConfig

Tune = Callable[[Method], TuneConfig]


class _Known(Training):
    """A training of known memory: 64 bytes in all, and 4 for each thousand tokens, or 1 with checkpointing."""

    def usage(self, setting: TrainerConfig) -> Usage:
        shards = (setting.devices or 8) if setting.strategy is Strategy.fsdp2 else 1
        tokens = setting.tokens_per_batch / 1000 * (1 if setting.activation_checkpointing else 4)
        return Usage(weights=64 / shards, activations=tokens)


@pytest.fixture
def known(tune: Tune) -> Training:
    trainer = TrainerConfig(tokens_per_batch=16384)
    return _Known("student", ModelConfig(name="m", path="m"), tune(Method.full), trainer)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(room=st.integers(1, 200))
def test_the_smallest_fits_and_nothing_with_fewer_devices_does(room: int, known: Training) -> None:
    setting = known.smallest(room)
    for devices in (n for n in DEVICE_COUNTS if setting is None or n < setting.devices):
        least = TrainerConfig(
            tokens_per_batch=known.longest, activation_checkpointing=True, devices=devices, strategy=Strategy.fsdp2
        )
        assert known.usage(least).total > room
    if setting is not None:
        assert known.usage(setting).total <= room
        assert known.longest <= setting.tokens_per_batch <= known.requested.tokens_per_batch


def test_smaller_batches_come_before_computing_twice_and_both_before_more_devices(known: Training) -> None:
    assert known.smallest(1000) == known.requested
    assert known.smallest(100) == TrainerConfig(tokens_per_batch=8192)
    assert known.smallest(77) == TrainerConfig(tokens_per_batch=8192, activation_checkpointing=True)
    assert known.smallest(50) == TrainerConfig(tokens_per_batch=4096, devices=2, strategy=Strategy.fsdp2)


def test_memory_that_no_setting_fits_is_reported(known: Training) -> None:
    assert known.smallest(1) is None
    assert smallest(known, 1).startswith("nothing on up to 8 devices")


def test_micro_batch_is_limited_by_trainer_and_step_and_holds_the_longest_sequence(tune: Tune) -> None:
    model, recipe = ModelConfig(name="m", path="m"), tune(Method.lora)
    for tokens_per_batch, sequences, tokens in ((16384, 8, 16384), (16384, 2, 8192), (2048, 8, 4096)):
        recipe.sequences_per_step = sequences
        trainer = TrainerConfig(tokens_per_batch=tokens_per_batch)
        assert Training("t", model, recipe, trainer).requested.tokens_per_batch == tokens


def test_files_on_disk_are_trained_weights_and_their_moments(small: Callable[..., ModelConfig], tune: Tune) -> None:
    full, lora = (
        Training("t", small(), tune(m), TrainerConfig(tokens_per_batch=64)) for m in (Method.full, Method.lora)
    )
    full.longest = lora.longest = 64
    assert full.result_bytes == 2 * full.num_trained
    assert lora.result_bytes == 4 * lora.num_trained
    for training in (full, lora):
        assert training.checkpoint_bytes == pytest.approx(12 * training.num_trained, rel=0.01)
    assert full.num_parameters == pytest.approx(lora.num_parameters, rel=1e-3)


def test_offload_leaves_activations_on_the_devices(small: Callable[..., ModelConfig], tune: Tune) -> None:
    setting = TrainerConfig(tokens_per_batch=64, devices=4, strategy=Strategy.fsdp2)
    training = Training("t", small(), tune(Method.full), setting)
    training.longest = 64
    whole = training.usage(setting)
    assert training.usage(replace(setting, offload=True)) == Usage(weights=0, activations=whole.activations)
    assert whole.weights > 0
