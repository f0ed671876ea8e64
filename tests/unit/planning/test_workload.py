"""The work of a run follows from its configuration, and its time from the rates of the card."""

from dataclasses import replace

import pytest

from cotpress.data.config import (
    JsonlDataConfig,
    PlantedBenchmarkConfig,
    PlantedDataConfig,
    PublishedBenchmarkConfig,
    SelfWrittenDataConfig,
)
from cotpress.modeling.config import Dtype, ModelConfig
from cotpress.planning.config import Card, PlanConfig
from cotpress.planning.measure import Writing
from cotpress.planning.workload import (
    arithmetic_work,
    num_problems,
    num_traces,
    rows_that_fit,
    writing_work,
)
from cotpress.scoring.config import Condition, Template
from cotpress.scoring.scorers.cts import CtsConfig
from cotpress.scoring.scorers.entropy import EntropyConfig
from cotpress.scoring.scorers.greedy_nll import GreedyNllConfig
from cotpress.scoring.scorers.mix import MixConfig
from cotpress.scoring.scorers.pir import PirConfig
from cotpress.scoring.scorers.random import RandomConfig
from cotpress.scoring.scorers.reference_likelihood import ReferenceLikelihoodConfig
from cotpress.scoring.scorers.self_information import SelfInformationConfig
from cotpress.scoring.scorers.tokenskip import TokenskipConfig
from cotpress.scoring.table import num_passes

ASSUMED = PlanConfig()
QWEN7B = Writing(weights=15.2e9, row=0.5e9, cache=57344, prompt_flops=2.8e12, token_flops=14.2e9)
"""About what `writing_pass` measures."""


def test_number_of_traces_is_that_of_the_data_or_of_the_setting() -> None:
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
    assert num_passes(parts["c"]) is num_passes(PirConfig(name="p")) is None
    assert num_passes(MixConfig(name="m", parts=parts, weights={"a": 1.0, "b": 1.0, "c": 0.0})) == 3
    assert num_passes(MixConfig(name="m", parts=parts, weights={"a": 1.0, "b": 0.0, "c": 1.0})) is None


def test_parts_of_a_mix_share_their_readings() -> None:
    plain = SelfInformationConfig(name="llmlingua", condition=Condition.none)
    answer = SelfInformationConfig(name="i", condition=Condition.answer)
    inner = MixConfig(name="m", parts={"plain": plain, "answer": answer}, weights={"plain": 1.0, "answer": 1.0})
    assert num_passes(inner) == 2
    assert num_passes(MixConfig(name="m", parts={"a": CtsConfig(name="a"), "b": inner}, weights={"a": 1, "b": 1})) == 2
    other = replace(plain, template=Template.plain)
    assert num_passes(MixConfig(name="m", parts={"a": plain, "b": other}, weights={"a": 1.0, "b": 1.0})) == 2


def test_hours_are_operations_over_the_reached_share_of_the_cards_arithmetic() -> None:
    part = arithmetic_work("t", ASSUMED, tokens=3e6, flops=1e18, utilisation=0.4)
    assert part.hours == pytest.approx(1e18 / (312e12 * 0.4) / 3600)
    faster = arithmetic_work("t", PlanConfig(peak_tflops=624), tokens=3e6, flops=1e18, utilisation=0.4)
    assert faster.hours == pytest.approx(part.hours / 2)
    slower = arithmetic_work("t", ASSUMED, tokens=3e6, flops=1e18, utilisation=0.4, float32=True)
    assert slower.hours == pytest.approx(part.hours * 312 / 19.5)


def test_parts_of_a_mix_in_two_number_formats_share_no_readings() -> None:
    answer = SelfInformationConfig(name="i", condition=Condition.answer)
    mix = MixConfig(name="m", parts={"a": CtsConfig(name="cts"), "b": answer}, weights={"a": 1.0, "b": 1.0})
    model = ModelConfig(name="m", path="a/b")
    assert num_passes(mix, replace(model, dtype=Dtype.float32)) == 2
    assert num_passes(mix, model) == 3


def test_written_token_takes_at_least_the_weights_and_the_cache_over_the_bandwidth() -> None:
    card = PlanConfig(card=Card.rtx4090, generation_utilisation=1.0)
    assert rows_that_fit(QWEN7B, card) == 9
    part = writing_work("w", QWEN7B, card, answers=900, tokens=1000, rows=64)
    step_bytes = 15.2e9 + 9 * 57344 * (card.prompt_tokens + 500)
    assert part.hours * 3600 >= 900 * 1000 / 9 * step_bytes / 1008e9
    assert part.hours * 3600 == pytest.approx(900 * 1000 / 9 * step_bytes / 1008e9, rel=0.05)
    assert part.num_tokens == 900_000


def test_writing_more_at_once_is_faster_until_the_memory_ends() -> None:
    hours = [writing_work("w", QWEN7B, ASSUMED, answers=1000, tokens=500, rows=n).hours for n in (1, 8, 64, 500, 5000)]
    assert hours == sorted(hours, reverse=True)
    assert hours[-1] == hours[-2]


def test_model_that_does_not_fit_leaves_no_room_for_answers() -> None:
    assert rows_that_fit(QWEN7B._replace(weights=145e9), ASSUMED) == 0


def test_own_numbers_replace_those_of_the_card() -> None:
    assert PlanConfig(card=Card.h200).rates == (141, 989, 4800, 67)
    assert PlanConfig(card=Card.h200, device_gb=24.0, bandwidth_gb_s=300.0).rates == (24, 989, 300, 67)
    assert PlanConfig(device_gb=24.0).room == 20e9
