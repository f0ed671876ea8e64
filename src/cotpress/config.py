"""The root schema: the one screen that lists every configuration group.

`conf/` holds the values, these classes the names, types and meaning; Hydra merges both, so a misspelt key or a
wrong type fails before anything is loaded. The entry scripts turn the result into these plain objects; nothing
below them sees OmegaConf.

Ranges of numbers and texts that hold wherever a setting of that name stands, checked before anything is read.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from cotpress.compression.config import CompressionConfig, ExportFormat, Selection, check_llmlingua_compat
from cotpress.data.config import (
    BenchmarkConfig,
    DataConfig,
    JsonlBenchmarkConfig,
    JsonlDataConfig,
    MultipleChoiceBenchmarkConfig,
    PlantedBenchmarkConfig,
    PlantedDataConfig,
    PlantedQuestionsConfig,
    PlantedTruthConfig,
    PrmbenchConfig,
    PublishedBenchmarkConfig,
    SelfWrittenDataConfig,
    ThoughtAnchorsConfig,
    TruthConfig,
    check_self_written,
)
from cotpress.devices.config import TrainerConfig, check_devices
from cotpress.distill.config import DistillConfig, LlmDistillConfig
from cotpress.errors import ConfigError, require
from cotpress.evaluation.config import Baseline, EvaluationConfig, check_samples
from cotpress.generation.config import ServerGenerationConfig, TransformersGenerationConfig
from cotpress.modeling.config import ModelConfig
from cotpress.planning.config import PlanConfig, check_plan
from cotpress.plugins import store_choices
from cotpress.prompts import RATIO_RANGE, WITHOUT_TAGS, check_marker
from cotpress.scoring.config import ScorerConfig, Shard
from cotpress.scoring.scorers.llmlingua_compat import llmlingua_settings
from cotpress.scoring.table import SCORERS
from cotpress.store.artifacts import plain
from cotpress.store.redaction import refuse_secrets
from cotpress.tracking.config import TrackerConfig, check_tracker
from cotpress.training.config import Method, ReferenceConfig, SavedReferenceConfig, SftConfig, check_head_loss

if TYPE_CHECKING:
    from omegaconf import DictConfig


_AT_LEAST_ONE = (
    "num_traces", "num_problems", "limit", "max_new_tokens", "max_thinking_tokens", "tokens_per_batch",
    "generation_tokens", "num_threads", "context_tokens", "epochs", "sequences_per_step", "max_tokens", "lora_rank",
    "lora_alpha", "samples", "validations_per_run", "validation_max_new_tokens",
)  # fmt: skip
_AT_LEAST_ZERO = (
    "checkpoint_every_s", "redundancy", "seed", "weight_decay", "max_grad_norm",
    "validation_problems", "table_rows", "max_artifact_mb", "temperature", "learning_rate",
)  # fmt: skip
_RANGES = {  # smallest allowed, largest allowed, and how that is said
    "warmup_fraction": (0.0, 1.0, "a number in [0, 1]"),
    "beta1": (0.0, math.nextafter(1.0, 0.0), "a number in [0, 1)"),
    "beta2": (0.0, math.nextafter(1.0, 0.0), "a number in [0, 1)"),
    "lora_dropout": (0.0, math.nextafter(1.0, 0.0), "a number in [0, 1)"),
    "difficulty": (1, 3, "1, 2 or 3"),
}
_PLACES = ("output_root", "output", "runs")
_LARGEST = 2**63 - 1
"""Whole numbers end up in columns and random generators of 64 bits."""


def check_ranges(values: dict[str, Any]) -> None:
    """Refuse numbers that no stage could use, texts that lack what has to be in them, and places that are no places.

    Args:
        values: A whole configuration as plain values.

    Raises:
        ConfigError: Names the key, what was got and what is allowed.
    """
    for key, value in _leaves(values):
        name = key.rpartition(".")[2]
        if isinstance(value, str):
            _check_text(key, name, value)
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value) or abs(value) > _LARGEST:
            raise ConfigError(f"{key}: got {value}, allowed: a finite number of at most 2^63 - 1")
        least = 1 if name in _AT_LEAST_ONE else 0 if name in _AT_LEAST_ZERO else None
        if least is not None and value < least:
            kind = "a whole number" if isinstance(value, int) else "a number"
            raise ConfigError(f"{key}: got {value}, allowed: {kind} of at least {least}")
        low, high, allowed = _RANGES.get(name, (value, value, ""))
        if not low <= value <= high:
            raise ConfigError(f"{key}: got {value}, allowed: {allowed}")


def _check_text(key: str, name: str, value: str) -> None:
    if name in _PLACES and "." not in key and (not value.strip() or "\0" in value):
        raise ConfigError(f"{key}: got {value!r}, allowed: a folder. Fix: {key}=DIR")
    if name == "thinking_close" and not value:
        raise ConfigError(f"{key}: got '', allowed: the text that parts thinking and response. Fix: {WITHOUT_TAGS}")
    if name == "prompt" and "{question}" not in value:
        raise ConfigError(f"{key}: got {value!r}, allowed: a text with {{question}} in it")


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value.get("method") != "none":  # what trains nothing has no epochs
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, key)
    elif not isinstance(value, dict):
        yield key, value


@dataclass(kw_only=True, slots=True)
class ScoringPipelineConfig:
    """Everything that the stages up to the scores need."""

    data: DataConfig = field(default_factory=DataConfig)
    labelled: DataConfig | None = None
    """Traces that reference model and classifier learn from; null = the traces that are compressed (`data`)."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    seed: int = 42
    """Seed of data, training order, adapter initialisation and random scores."""
    name: str | None = None
    """Name of the run; null derives one from its settings."""
    output_root: str = "outputs"
    """The one place for what is written."""
    plugins: list[str] = field(default_factory=list)
    """Modules of your own that register scorers, data sources or benchmarks; also files in the working directory."""

    @property
    def scoring_model(self) -> ModelConfig:
        """The untrained model behind the scores: what the reference model is made from. A scorer that reads with no
        language model takes the student's tokens."""
        return self.reference.base or self.model if self.scorer.reads_with_model else self.model


@dataclass(kw_only=True, slots=True)
class PipelineConfig(ScoringPipelineConfig):
    """Everything that the stages up to the compressed data need."""

    compression: CompressionConfig = field(default_factory=CompressionConfig)
    ratio: float = 0.7
    """Fraction of the thinking tokens KEPT, in (0, 1], counted in the student's tokenizer."""


@dataclass(kw_only=True, slots=True)
class TrainConfig(PipelineConfig):
    """`train.py`: the whole flow."""

    sft: SftConfig = field(default_factory=SftConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    plan: bool = False
    """Say what memory and time this would take, and end; no weights are loaded."""
    planning: PlanConfig = field(default_factory=PlanConfig)
    """What `plan=true` assumes."""


@dataclass(kw_only=True, slots=True)
class CompressConfig(PipelineConfig):
    """`compress.py`: data to compressed training data."""

    output: str = "compressed"
    """Folder for the result and the export."""
    export: ExportFormat = ExportFormat.parquet
    """Format of the export."""
    shard: str | None = None
    """K/N: score the Kth of N shares of the traces, beside jobs that score the others; the last one compresses."""


@dataclass(kw_only=True, slots=True)
class FidelityConfig(ScoringPipelineConfig):
    """`fidelity.py`: how well a scorer finds what matters. `data` is what the reference model is trained on."""

    truth: TruthConfig = field(default_factory=TruthConfig)
    """Traces of which it is known what matters in them; these are scored."""
    confidence: float = 0.95
    """Level of the intervals, in (0, 1)."""
    num_resamples: int = 2000
    """Bootstrap resamples of the traces behind each interval."""


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    """`evaluate.py`: any checkpoint or adapter on any benchmark."""

    model: ModelConfig = field(default_factory=ModelConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    adapter: str | None = None
    """Directory or hub id of a PEFT adapter, which a server is told to load; null evaluates the model itself."""
    ratio: float = 1.0
    """Ratio announced by the control marker; 1.0 announces nothing."""
    n: int = 1
    """Answers per question; short for evaluation.samples, and refused beside another number there."""
    seed: int = 42
    """Seed of whatever the evaluation draws."""
    name: str | None = None
    """Name of the system in the table; null derives one from model and adapter."""
    output_root: str = "outputs"
    """The one place for what is written."""
    plugins: list[str] = field(default_factory=list)
    """Modules of your own that register scorers, data sources or benchmarks; also files in the working directory."""


@dataclass(kw_only=True, slots=True)
class ReportConfig:
    """`report.py`: tables and plots from finished runs."""

    runs: str = "${output_root}/runs"
    """Folder with run directories, searched at any depth."""
    output: str | None = None
    """Folder for table and plots; null writes into `runs`."""
    viewer_traces: int = 200
    """Most traces of each data set in the page's token viewer, at least 0; 0 leaves the viewer out. A trace of 3,000
    tokens adds about 40 kB, and 16 kB for every scorer after the first."""
    output_root: str = "outputs"
    """Where the runs and the log of this command lie."""
    plugins: list[str] = field(default_factory=list)
    """Modules of your own that register scorers, data sources or benchmarks; also files in the working directory."""


EntryConfig: TypeAlias = TrainConfig | CompressConfig | FidelityConfig | EvaluateConfig | ReportConfig
"""What the entry scripts get."""

SCHEMAS: dict[str, type] = {
    "train_schema": TrainConfig,
    "compress_schema": CompressConfig,
    "evaluate_schema": EvaluateConfig,
    "report_schema": ReportConfig,
    "fidelity_schema": FidelityConfig,
    "data/planted_schema": PlantedDataConfig,
    "data/jsonl_schema": JsonlDataConfig,
    "data/self_written_schema": SelfWrittenDataConfig,
    "questions/planted_schema": PlantedQuestionsConfig,
    "questions/jsonl_schema": JsonlBenchmarkConfig,
    "questions/published_schema": PublishedBenchmarkConfig,
    "truth/planted_schema": PlantedTruthConfig,
    "truth/thought_anchors_schema": ThoughtAnchorsConfig,
    "truth/prmbench_schema": PrmbenchConfig,
    "benchmark/planted_schema": PlantedBenchmarkConfig,
    "benchmark/jsonl_schema": JsonlBenchmarkConfig,
    "reference/saved_schema": SavedReferenceConfig,
    "distill/llm_schema": LlmDistillConfig,
    "generation/transformers_schema": TransformersGenerationConfig,
    "generation/server_schema": ServerGenerationConfig,
    "benchmark/published_schema": PublishedBenchmarkConfig,
    "benchmark/multiple_choice_schema": MultipleChoiceBenchmarkConfig,
}
"""Where each schema stands in Hydra's config store."""


def register_schemas() -> None:
    """Make the schemas known to Hydra; called once by each entry script."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    scorers = {f"scorer/{name}_schema": entry.settings for name, entry in SCORERS.items()}
    for path, schema in (SCHEMAS | scorers).items():
        group, _, name = path.rpartition("/")
        store.store(name=name, node=schema, group=group or None)
    store_choices(store)


def to_objects(config: "DictConfig") -> EntryConfig:
    """The composed configuration as plain, checked objects.

    Raises:
        ConfigError: A value is missing or out of range.
    """
    from omegaconf import OmegaConf

    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"no value for {', '.join(missing)}. Fix: give it on the command line, {missing[0]}=VALUE")
    try:
        objects = OmegaConf.to_object(config)
    except AttributeError as error:  # a key added with +KEY that the schema does not have
        raise ConfigError(f"a key added with '+' is unknown: {error}. Fix: see --cfg job for the keys") from error
    assert isinstance(objects, EntryConfig)
    values = plain(objects)
    refuse_secrets(values)
    check_ranges(values)
    check(objects)
    return objects


def check(config: EntryConfig) -> None:
    """Range checks that a type cannot express.

    Raises:
        ConfigError: Names the key, what was got and what is allowed.
    """
    if isinstance(config, ReportConfig):
        require("viewer_traces", config.viewer_traces, config.viewer_traces >= 0, "a whole number of at least 0")
        return
    check_tracker(config.tracker)
    check_devices(config.trainer, only_scores=isinstance(config, CompressConfig))
    if not (isinstance(config, TrainConfig) and config.plan):  # a plan may be made on a machine without the extra
        check_head_loss(config.trainer.head_loss)
    if isinstance(config, ScoringPipelineConfig):
        _check_data(config)
        config.scorer.check(has_reference=config.reference.exists)
    if isinstance(config, FidelityConfig):
        require("confidence", config.confidence, 0 < config.confidence < 1, "a number in (0, 1)")
        require("num_resamples", config.num_resamples, config.num_resamples >= 1, "a whole number of at least 1")
        return
    require("ratio", config.ratio, 0 < config.ratio <= 1, RATIO_RANGE)
    if isinstance(config, TrainConfig):
        check_plan(config.planning)
        method = config.sft.tune.method
        require("sft.tune.method", method.value, method is not Method.none, "lora, full: a student has to be trained")
    if isinstance(config, TrainConfig | EvaluateConfig):
        _check_evaluation(config.evaluation)
        _check_writer(config)
    check_marker(config.model.chat, _announced(config))
    if isinstance(config, EvaluateConfig) and config.n not in (1, config.evaluation.samples):
        raise ConfigError(
            f"n: got {config.n}, but evaluation.samples={config.evaluation.samples}, which it is short for. "
            f"Fix: only one of them, n={config.n}"
        )
    if isinstance(config, EvaluateConfig) and Baseline.original in config.evaluation.baselines:
        raise ConfigError(
            "evaluation.baselines: got original, which is a student that has to be trained; evaluate.py trains none. "
            "Fix: evaluation=checkpoint or evaluation=full_checkpoint, or evaluate its adapter with adapter=DIR"
        )
    if isinstance(config, TrainConfig) and config.evaluation.ratios and not config.compression.mixed_ratios:
        raise ConfigError(
            f"evaluation.ratios: got {config.evaluation.ratios}, but a student of a single ratio has no control marker "
            "that could ask it for another. Fix: compression=mixed, or evaluation.ratios=[]"
        )
    if isinstance(config, PipelineConfig):
        for ratio in config.compression.mixed_ratios:
            require("compression.mixed_ratios", ratio, 0 < ratio <= 1, RATIO_RANGE)
        limit = config.compression.max_consecutive_deletions
        require("compression.max_consecutive_deletions", limit, limit is None or limit >= 1, "1 or more, or null")
        for text in config.compression.keep_strings:
            require("compression.keep_strings", text, text != "", "texts that are not empty")
        if isinstance(config, CompressConfig) and config.shard is not None:
            Shard.parse(config.shard)
        if config.compression.selection is Selection.llmlingua_compat:
            check_llmlingua_compat(config.compression)
            llmlingua_settings(config.scorer)


def _announced(config: PipelineConfig | EvaluateConfig) -> list[float]:
    """The ratios that prompts announce by the control marker."""
    if isinstance(config, EvaluateConfig):
        return [config.ratio, *config.evaluation.ratios]
    further = config.evaluation.ratios if isinstance(config, TrainConfig) else []
    return [config.ratio, *config.compression.mixed_ratios, *further] if config.compression.mixed_ratios else []


def _check_data(config: ScoringPipelineConfig) -> None:
    for key, data in (("data", config.data), ("labelled", config.labelled)):
        share = 0.0 if data is None else data.validation_fraction
        require(f"{key}.validation_fraction", share, 0 <= share < 1, "a number in [0, 1)")
        if isinstance(data, SelfWrittenDataConfig):
            check_self_written(data, key)
    if isinstance(config.labelled, JsonlDataConfig) and config.labelled.field is not None:
        raise ConfigError(
            f"labelled.field: got '{config.labelled.field}', but models learn from whole traces. Fix: leave it out and "
            "give rows with id, question, thinking, response and answer"
        )
    if not isinstance(config.data, JsonlDataConfig) or config.data.field is None:
        return
    got = f"data.field: got '{config.data.field}'"
    if not isinstance(config, CompressConfig):
        raise ConfigError(
            f"{got}, but the texts of a column are no traces that a model can be trained on. Fix: compress them with "
            "compress.py, or leave data.field out and give rows with id, question, thinking, response and answer"
        )
    if config.export is not ExportFormat.parquet:
        raise ConfigError(
            f"{got} with export={config.export.value}, but texts are no conversations. Allowed: parquet. "
            "Fix: export=parquet; the compressed texts are its column compressed_thinking"
        )


def _check_evaluation(config: EvaluationConfig) -> None:
    require("evaluation.confidence", config.confidence, 0 < config.confidence < 1, "a number in (0, 1), e.g. 0.95")
    require("evaluation.samples", config.samples, config.samples >= 1, "a whole number of at least 1")
    for ratio in config.ratios:
        require("evaluation.ratios", ratio, 0 < ratio <= 1, RATIO_RANGE)
    require("evaluation.budgets", config.budgets, all(b >= 1 for b in config.budgets), "whole numbers of at least 1")
    wanted = Baseline.lc_prompt in config.baselines
    text = config.instructions.lc_prompt if wanted else "{percent}"
    require("evaluation.instructions.lc_prompt", text, "{percent}" in text, "a text with {percent} in it")
    temperature, top_p = config.temperature, config.top_p
    require("evaluation.temperature", temperature, temperature is None or temperature >= 0, "a number >= 0, or null")
    require("evaluation.top_p", top_p, top_p is None or 0 < top_p <= 1, "a number in (0, 1], or null")
    check_samples(config.samples, temperature)
    if top_p is not None and top_p < 1 and (temperature == 0 or (temperature is None and config.samples == 1)):
        raise ConfigError(
            f"evaluation.top_p: got {top_p}, but answers are greedy, so it would do nothing. "
            "Fix: evaluation.temperature=0.6, or evaluation.top_p=null"
        )


def _check_writer(config: TrainConfig | EvaluateConfig) -> None:
    """One place says how tokens are chosen, and a server is asked only for what it can load."""
    writer = config.evaluation.generation
    for name, got, place in (
        ("temperature", writer.temperature, "evaluation.temperature"),
        ("top_p", writer.top_p, "evaluation.top_p"),
    ):
        if got is not None:
            raise ConfigError(f"evaluation.generation.{name}: got {got}, but {place} decides it. Fix: {place}={got}")
    if writer.seed != config.seed:
        raise ConfigError(
            f"evaluation.generation.seed: got {writer.seed}, but seed decides it. Fix: seed={writer.seed}"
        )
    served = isinstance(writer, ServerGenerationConfig)
    if served and isinstance(config, TrainConfig) and config.sft.tune.method is Method.full:
        raise ConfigError(
            "evaluation.generation: a server writes, but sft.tune.method=full trains whole models, which no server "
            "loads on request. Fix: sft=lora, or generation@evaluation.generation=transformers"
        )
