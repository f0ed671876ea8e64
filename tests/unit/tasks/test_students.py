"""Names of students: after the settings that tell them apart."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir

from cotpress.config import TrainConfig, register_schemas, to_objects
from cotpress.records import MIXED, ORIGINAL, SHORTEST, System
from cotpress.store.paths import safe_name
from cotpress.tasks.students import plain_name
from cotpress.tasks.systems import compressed_system
from support.commands import ROOT


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def _config(*overrides: str) -> TrainConfig:
    config = to_objects(compose("train", overrides=["scorer=cts", "ratio=0.5", *overrides]))
    assert isinstance(config, TrainConfig)
    return config


def _name(*overrides: str) -> str:
    config = _config(*overrides)
    return plain_name(compressed_system(config), config)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "cts-0.5"),
        (["model=qwen7b", "data.num_traces=20", "trainer=cpu", "evaluation=all"], "cts-0.5"),
        (["compression=mixed"], "cts-mixed"),
        (["compression.mode=mask_loss"], "cts-mask_loss-0.5"),
        (["compression.granularity=step"], "cts-0.5-granularity-step"),
        (["compression.allocation=threshold", "compression.granularity=token"],
         "cts-0.5-allocation-threshold-granularity-token"),
        (["compression.max_consecutive_deletions=3"], "cts-0.5-max_consecutive_deletions-3"),
        (["scorer.condition=question"], "cts-0.5-condition-question"),
        (["reference=none"], "cts-0.5-reference-none"),
        (["scorer=random", "reference=none"], "random-0.5"),
        (["scorer=gogi"], "gogi-0.5"),
        (["sft.question=false"], "cts-0.5-question-false"),
        (["sft.start=original"], "cts-0.5-start-original"),
        (["sft.start=outputs/students/able"], "cts-0.5-start-able"),
        (["sft=full"], "cts-0.5-sft-full"),
        (["seed=43"], "cts-0.5-seed-43"),
        (["compression.mode=first_solution", "compression.statement=concluded", "ratio=1"],
         "first_solution-statement-concluded"),
    ],
)  # fmt: skip
def test_student_is_named_after_the_settings_that_are_not_the_usual_ones(overrides: list[str], name: str) -> None:
    assert _name(*overrides) == name
    assert safe_name(name) == name, "which is a name of a folder"


@pytest.mark.parametrize(
    ("system", "overrides", "name"),
    [
        (ORIGINAL, ["compression.granularity=step", "scorer.condition=question", "sft.start=original"], "original"),
        (ORIGINAL, ["sft.question=false", "seed=7"], "original-question-false-seed-7"),
        (ORIGINAL, ["sft.start=DIR"], "original-start-DIR"),
        (SHORTEST, ["compression.granularity=step", "sft.start=original"], "shortest-start-original"),
    ],
)
def test_students_of_whole_traces_are_not_named_after_the_compression(
    system: System, overrides: list[str], name: str
) -> None:
    assert plain_name(system, _config(*overrides)) == name


def test_each_ratio_of_a_marker_has_one_student() -> None:
    config = _config("compression=mixed")
    assert compressed_system(config).variant == MIXED
    assert plain_name(replace(compressed_system(config), ratio=None), config) == "cts-mixed"
