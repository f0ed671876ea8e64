"""What a run is taken to do follows from its configuration."""

from dataclasses import replace

import pytest

from cotpress.data.config import (
    JsonlDataConfig,
    PlantedBenchmarkConfig,
    PlantedDataConfig,
    PublishedBenchmarkConfig,
    SelfWrittenDataConfig,
)
from cotpress.planning.config import PlanConfig
from cotpress.planning.hours import generation_work, scoring_work, total_gpu_hours, training_work
from cotpress.planning.setting import Setting
from cotpress.planning.shapes import PUBLISHED
from cotpress.planning.workload import Lengths, num_problems, num_traces
from cotpress.scoring.scorers.cts import CtsConfig
from cotpress.scoring.scorers.entropy import EntropyConfig
from cotpress.scoring.scorers.greedy_nll import GreedyNllConfig
from cotpress.scoring.scorers.mix import MixConfig
from cotpress.scoring.scorers.random import RandomConfig
from cotpress.scoring.scorers.reference_likelihood import ReferenceLikelihoodConfig
from cotpress.scoring.scorers.tokenskip import TokenskipConfig
from cotpress.scoring.table import num_passes
from cotpress.training.config import Method

ASSUMED = PlanConfig()
SHAPE = PUBLISHED["Qwen/Qwen2.5-7B-Instruct"]


def test_traces_are_those_that_the_data_says_unless_told_otherwise() -> None:
    planted = PlantedDataConfig(name="planted", num_traces=220, seed=1)
    assert num_traces(planted, ASSUMED) == 220
    assert num_traces(replace(planted, limit=7), ASSUMED) == 7
    assert num_traces(planted, PlanConfig(num_traces=50)) == 50
    questions = PublishedBenchmarkConfig(name="gsm8k", num_published=1319, protocol="x", max_new_tokens=1)
    assert num_traces(SelfWrittenDataConfig(name="w", questions=questions, max_new_tokens=1), ASSUMED) == 1319
    assert num_traces(JsonlDataConfig(name="j", path="x"), ASSUMED) == 1000


def test_problems_are_counted_up_to_the_limit() -> None:
    planted = PlantedBenchmarkConfig(name="p", num_problems=84, max_new_tokens=1)
    assert num_problems(planted) == 84
    assert num_problems(replace(planted, limit=5)) == 5


def test_passes_are_those_of_the_scorer() -> None:
    parts = {"a": CtsConfig(name="a"), "b": EntropyConfig(name="b"), "c": GreedyNllConfig(name="c")}
    assert num_passes(parts["a"]) == 2
    assert num_passes(ReferenceLikelihoodConfig(name="r")) == 1
    assert num_passes(RandomConfig(name="r", seed=1)) == num_passes(TokenskipConfig(name="t")) == 0
    assert num_passes(parts["c"]) is None
    assert num_passes(MixConfig(name="m", parts=parts, weights={"a": 1.0, "b": 1.0, "c": 0.0})) == 3
    assert num_passes(MixConfig(name="m", parts=parts, weights={"a": 1.0, "b": 0.0, "c": 1.0})) is None


def test_lengths_shrink_with_the_ratio_in_the_thinking_only() -> None:
    lengths = Lengths(prompt=100, thinking=1000, response=50)
    assert (lengths.whole(), lengths.whole(0.5)) == (1150, 650)


def test_hours_are_operations_by_what_a_device_does_of_them() -> None:
    setting = Setting(method=Method.full)
    work = training_work("t", SHAPE, setting, ASSUMED, sequences=1000, epochs=3, tokens=1000)
    assert work.num_tokens == 3_000_000
    assert work.gpu_hours(312) == pytest.approx(6 * 7.07e9 * 3e6 / (312e12 * 0.4) / 3600, rel=0.05)
    assert work.gpu_hours(624) == work.gpu_hours(312) / 2
    assert total_gpu_hours([work, work], ASSUMED) == pytest.approx(2 * work.gpu_hours(312))


def test_scoring_is_counted_by_pass_and_writing_by_token() -> None:
    once, twice = (scoring_work("s", SHAPE, ASSUMED, texts=10, passes=n, tokens=500, scored=400) for n in (1, 2))
    assert (twice.flops, twice.num_tokens) == (2 * once.flops, 2 * once.num_tokens)
    written = generation_work("g", SHAPE, ASSUMED, answers=10, tokens=400)
    assert written.num_tokens == 4000
    assert written.gpu_hours(312) > once.gpu_hours(312)
