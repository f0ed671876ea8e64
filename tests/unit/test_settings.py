"""Rules beside the settings: one walk applies them and names the key as it is typed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest

from cotpress.data.config import (
    BenchmarkConfig,
    DataConfig,
    JsonlBenchmarkConfig,
    PlantedDataConfig,
    PlantedTruthConfig,
    SelfWrittenDataConfig,
)
from cotpress.distill.config import DistillConfig, LlmDistillConfig
from cotpress.errors import ConfigError, require
from cotpress.generation.config import GenerationConfig, ServerGenerationConfig
from cotpress.modeling.config import ModelConfig
from cotpress.planning.config import PlanConfig
from cotpress.settings import Count, Folder, InputPath, Natural, check_settings, input_paths, interval
from cotpress.tracking.config import TrackerConfig


@dataclass(kw_only=True, slots=True)
class Inner:
    rounds: Count = 1
    share: Annotated[float, interval("(0, 1)")] = 0.5
    free: float = 0.0


@dataclass(kw_only=True, slots=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    maybe: Natural | None = None
    several: list[Count] = field(default_factory=list)
    named: dict[str, Inner] = field(default_factory=dict)
    place: Folder = "out"

    def validate(self, key: str) -> None:
        """Refuse more rounds than three."""
        require(f"{key}.inner.rounds", self.inner.rounds, self.inner.rounds <= 3, "three")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Outer(inner=Inner(rounds=0)), "a.inner.rounds: got 0, allowed: a whole number of at least 1"),
        (Outer(inner=Inner(rounds=4)), "a.inner.rounds: got 4, allowed: three"),
        (Outer(inner=Inner(share=1.0)), "a.inner.share: got 1.0, allowed: a number in (0, 1)"),
        (Outer(inner=Inner(share=0.0)), "a.inner.share: got 0.0, allowed: a number in (0, 1)"),
        (Outer(inner=Inner(free=float("nan"))), "a.inner.free: got nan, allowed: a finite number of at most 2^63 - 1"),
        (Outer(inner=Inner(rounds=2**63)), f"a.inner.rounds: got {2**63}, allowed: a finite number"),
        (Outer(maybe=-1), "a.maybe: got -1, allowed: a whole number of at least 0, or null"),
        (Outer(several=[1, 0]), "a.several: got 0, allowed: a whole number of at least 1"),
        (Outer(named={"x": Inner(rounds=0)}), "a.named.x.rounds: got 0"),
        (Outer(place=" "), "a.place: got ' ', allowed: the path of a folder"),
    ],
)
def test_value_against_its_rule_is_refused_under_its_key(settings: Outer, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_settings(settings, "a")
    assert str(raised.value).startswith(message)


def test_allowed_values_pass() -> None:
    check_settings(Outer(maybe=0, several=[1, 2], named={"x": Inner(share=0.01)}), "a")


SERVER = {"base_url": "http://x/v1", "model": "served"}


def _server(**changes: Any) -> ServerGenerationConfig:
    return ServerGenerationConfig(**{**SERVER, **changes})


def _written(**changes: Any) -> SelfWrittenDataConfig:
    questions = JsonlBenchmarkConfig(name="q", path="q.jsonl", max_new_tokens=9)
    return SelfWrittenDataConfig(**{"name": "x", "questions": questions, "max_new_tokens": 9, **changes})


UNANSWERABLE = JsonlBenchmarkConfig(name="q", path="q.jsonl", max_new_tokens=9, unanswerable=True)


@pytest.mark.parametrize(
    ("key", "settings", "message"),
    [
        ("data", DataConfig(name="x", limit=0), "data.limit: got 0"),
        ("data", DataConfig(name="x", validation_fraction=1.0), "data.validation_fraction: got 1.0, allowed: a number"),
        ("data", _written(samples=0), "data.samples: got 0, allowed: a whole number of at least 1"),
        ("data", _written(max_new_tokens=0), "data.max_new_tokens: got 0"),
        ("data", _written(max_thinking_tokens=0), "data.max_thinking_tokens: got 0"),
        ("data", _written(questions=UNANSWERABLE), "data.questions.unanswerable: got true"),
        ("labelled", _written(samples=4, generation=GenerationConfig(temperature=0.0)), "labelled.samples: got 4 at"),
        ("benchmark", BenchmarkConfig(name="x", max_new_tokens=9, limit=0), "benchmark.limit: got 0"),
        (
            "data.questions",
            BenchmarkConfig(name="x", max_new_tokens=9, prompt="hello"),
            "data.questions.prompt: got 'hello', allowed: a text with {question} in it",
        ),
        ("data", PlantedDataConfig(name="x", num_traces=0, seed=1), "data.num_traces: got 0"),
        ("truth", PlantedTruthConfig(name="x", num_traces=9, limit=0), "truth.limit: got 0, allowed: a whole number"),
        ("truth", PlantedTruthConfig(name="x", num_traces=0), "truth.num_traces: got 0"),
        ("distill", DistillConfig(min_overlap=0.0), "distill.min_overlap: got 0.0, allowed: a number in (0, 1]"),
        ("distill", DistillConfig(min_overlap=1.5), "distill.min_overlap: got 1.5, allowed: a number in (0, 1]"),
        ("distill", LlmDistillConfig(chunk_words=0), "distill.chunk_words: got 0, allowed: 10 to 2000"),
        ("distill", LlmDistillConfig(max_new_tokens=0), "distill.max_new_tokens: got 0"),
        ("distill", LlmDistillConfig(drop_gap=1.0), "distill.drop_gap: got 1.0, allowed: a number in [0, 1)"),
        ("distill", LlmDistillConfig(drop_variation=-0.1), "distill.drop_variation: got -0.1"),
        ("distill", LlmDistillConfig(max_gap=-0.1), "distill.max_gap: got -0.1, allowed: a number in [0, 1]"),
        ("generation", GenerationConfig(temperature=-1.0), "generation.temperature: got -1.0"),
        ("generation", GenerationConfig(top_p=0.0), "generation.top_p: got 0.0, allowed: a number in (0, 1], or null"),
        ("generation", _server(base_url="localhost:8000"), "generation.base_url: allowed: an address such as http"),
        ("generation", _server(concurrency=0), "generation.concurrency: got 0"),
        ("generation", _server(max_retries=-1), "generation.max_retries: got -1"),
        ("generation", _server(timeout_s=0.0), "generation.timeout_s: got 0.0, allowed: a number above 0"),
        ("planning", PlanConfig(device_gb=-1.0), "planning.device_gb: got -1.0, allowed: a number above 0"),
        ("planning", PlanConfig(reserve_gb=-1.0), "planning.reserve_gb: got -1.0, allowed: a number of at least 0"),
        (
            "tracker",
            TrackerConfig(max_artifact_mb=0.0),
            "tracker.max_artifact_mb: got 0.0, allowed: a number above 0. Fix: tracker.artifacts=[] sends no files",
        ),
        ("tracker", TrackerConfig(table_rows=-1), "tracker.table_rows: got -1, allowed: a whole number of at least 0"),
    ],
)
def test_settings_of_a_stage_are_refused_under_its_key(key: str, settings: object, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_settings(settings, key)
    assert str(raised.value).startswith(message)


def test_model_beside_a_server_is_refused() -> None:
    config = LlmDistillConfig(generation=_server(), model=ModelConfig(name="tiny", path="llama"))
    with pytest.raises(ConfigError, match=r"distill\.model: got 'tiny', but the server 'served' extracts"):
        config.validate("distill")


@pytest.mark.parametrize("address", ["http://me:pw@host/v1", "http://host/v1?key=abc"])
def test_address_with_a_secret_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(ConfigError, match="holds a user name") as raised:
        check_settings(_server(base_url=address), "generation")
    assert "pw" not in str(raised.value)
    assert "abc" not in str(raised.value)


@dataclass
class _Inner:
    path: str | None = None
    note: str = "x"


@dataclass
class _Reading:
    file: InputPath = "a"
    maybe: InputPath | None = None
    files: list[InputPath] = field(default_factory=lambda: ["b", ""])
    place: Path | None = None
    places: list[Path] | None = None
    named: dict[str, Path] = field(default_factory=dict)
    inner: _Inner = field(default_factory=_Inner)
    others: list[_Inner] = field(default_factory=list)
    by_name: dict[str, _Inner] = field(default_factory=dict)
    text: str = "/"
    texts: list[str] = field(default_factory=lambda: ["/"])
    file_name: str = "/"


def test_only_fields_that_are_declared_as_paths_are_inputs() -> None:
    def found(settings: object) -> list[tuple[str, str]]:
        return [(place, text) for _, place, text in input_paths(settings)]

    assert found(_Reading()) == [("file", "a"), ("files", "b")]
    settings = _Reading(
        maybe="c", place=Path("d"), places=[Path("e")], named={"x": Path("f")}, inner=_Inner(path="g"),
        others=[_Inner(path="h")], by_name={"y": _Inner(path="i")},
    )  # fmt: skip
    assert [text for _, text in found(settings)] == list("acbdefghi")
    check_settings(settings)
    settings.file = "a\0"
    with pytest.raises(ConfigError, match=r"file: got .*allowed: a path"):
        check_settings(settings)
