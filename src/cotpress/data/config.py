"""Settings of the data stage: training traces and benchmark problems."""

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Where training traces come from (config group `data`)."""

    name: str = MISSING
    """Name of the source, shown in tables."""
    validation_fraction: float = 0.1
    """Share of the traces kept out of training, in [0, 1)."""
    limit: int | None = None
    """Use only the first so many usable rows."""
    strict: bool = False
    """Make the first bad row an error instead of counting it as dropped."""


@dataclass(kw_only=True, slots=True)
class PlantedDataConfig(DataConfig):
    """Built-in word problems whose redundant thinking is planted and labelled."""

    num_traces: int = MISSING
    """Traces to generate, validation included."""
    families: list[str] = field(default_factory=list)
    """Problem families; empty means all training families."""
    difficulty: int = 1
    """1 (two steps, small numbers) to 3 (four steps, larger numbers)."""
    redundancy: float = 1.0
    """Amount of planted redundancy relative to the default, >= 0; 0 leaves only the equations."""
    seed: int = MISSING
    """Seed of the generator."""


@dataclass(kw_only=True, slots=True)
class JsonlDataConfig(DataConfig):
    """Rows `id, question, thinking, response, answer` from .jsonl or .parquet files."""

    path: str = MISSING
    """File to read."""


@dataclass(kw_only=True, slots=True)
class BenchmarkConfig:
    """Problems that students are evaluated on (config group `benchmark`)."""

    name: str = MISSING
    """Name of the benchmark, shown in tables."""
    limit: int | None = None
    """Use only the first so many problems."""
    max_new_tokens: int = MISSING
    """Generation budget per answer, in the student's tokens."""


@dataclass(kw_only=True, slots=True)
class PlantedBenchmarkConfig(BenchmarkConfig):
    """Held-out problems of the built-in generator."""

    num_problems: int = MISSING
    """Problems to generate."""
    families: list[str] = field(default_factory=list)
    """Problem families; empty means all of them, those held out of training included."""
    difficulty: int = 1
    """1 (two steps, small numbers) to 3 (four steps, larger numbers)."""
    seed: int = 2_000_003
    """Seed of the generator. Equal to the data's or not, no problem has the numbers of a training trace."""


@dataclass(kw_only=True, slots=True)
class JsonlBenchmarkConfig(BenchmarkConfig):
    """Problems `id, question, answer` from one's own .jsonl or .parquet file."""

    path: str = MISSING
    """File to read."""
