"""The root schema: the one screen that lists every configuration group.

`conf/` holds the values, these classes the names, types and meaning; Hydra merges both, so a misspelt key or a
wrong type fails before anything is loaded. The entry scripts turn the result into these plain objects; nothing
below them sees OmegaConf.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cotpress.compression.config import CompressionConfig, ExportFormat
from cotpress.data.config import (
    BenchmarkConfig,
    DataConfig,
    JsonlBenchmarkConfig,
    JsonlDataConfig,
    PlantedBenchmarkConfig,
    PlantedDataConfig,
)
from cotpress.distill.config import DistillConfig
from cotpress.errors import ConfigError
from cotpress.evaluation.config import EvaluationConfig
from cotpress.modeling_config import ModelConfig
from cotpress.scoring.config import (
    AnswerAttentionConfig,
    CtsConfig,
    EntropyConfig,
    FirstTokenSurprisalConfig,
    GogiConfig,
    GreedyNllConfig,
    MixConfig,
    PositionConfig,
    RandomConfig,
    ReferenceLikelihoodConfig,
    Rho1Config,
    ScorerConfig,
    SelfInformationConfig,
    StepEntropyConfig,
    TokenskipConfig,
)
from cotpress.tracking_config import TrackerConfig
from cotpress.trainer_config import TrainerConfig
from cotpress.training.config import Method, ReferenceConfig, SftConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(kw_only=True, slots=True)
class PipelineConfig:
    """Everything that the stages up to the compressed data need."""

    data: DataConfig = field(default_factory=DataConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    ratio: float = 0.7
    """Fraction of the thinking tokens KEPT, in (0, 1], counted in the student's tokenizer."""
    seed: int = 42
    """Seed of data, training order, adapter initialisation and random scores."""
    name: str | None = None
    """Name of the run; null derives one from scorer, ratio and model."""
    output_root: str = "outputs"
    """The one place for what is written."""


@dataclass(kw_only=True, slots=True)
class TrainConfig(PipelineConfig):
    """`train.py`: the whole flow."""

    sft: SftConfig = field(default_factory=SftConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


@dataclass(kw_only=True, slots=True)
class CompressConfig(PipelineConfig):
    """`compress.py`: data to compressed training data."""

    output: str = "compressed"
    """Folder for the result and the export."""
    export: ExportFormat = ExportFormat.parquet
    """Format of the export."""


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    """`evaluate.py`: any checkpoint or adapter on any benchmark."""

    model: ModelConfig = field(default_factory=ModelConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    adapter: str | None = None
    """Directory or hub id of a PEFT adapter; null evaluates the model itself."""
    ratio: float = 1.0
    """Ratio announced by the control marker; 1.0 announces nothing."""
    seed: int = 42
    """Seed of whatever the evaluation draws."""
    name: str | None = None
    """Name of the system in the table; null derives one from model and adapter."""
    output_root: str = "outputs"
    """The one place for what is written."""


@dataclass(kw_only=True, slots=True)
class ReportConfig:
    """`report.py`: tables and plots from finished runs."""

    runs: str = "${output_root}/runs"
    """Folder with run directories, searched at any depth."""
    output: str | None = None
    """Folder for table and plots; null writes into `runs`."""
    output_root: str = "outputs"
    """Where the runs and the log of this command lie."""


RATIO_RANGE = "a number in (0, 1], the fraction of the thinking tokens KEPT"
SCHEMAS: dict[str, type] = {
    "train_schema": TrainConfig,
    "compress_schema": CompressConfig,
    "evaluate_schema": EvaluateConfig,
    "report_schema": ReportConfig,
    "data/planted_schema": PlantedDataConfig,
    "data/jsonl_schema": JsonlDataConfig,
    "benchmark/planted_schema": PlantedBenchmarkConfig,
    "benchmark/jsonl_schema": JsonlBenchmarkConfig,
    "scorer/cts_schema": CtsConfig,
    "scorer/self_information_schema": SelfInformationConfig,
    "scorer/entropy_schema": EntropyConfig,
    "scorer/rho1_schema": Rho1Config,
    "scorer/reference_likelihood_schema": ReferenceLikelihoodConfig,
    "scorer/gogi_schema": GogiConfig,
    "scorer/answer_attention_schema": AnswerAttentionConfig,
    "scorer/step_entropy_schema": StepEntropyConfig,
    "scorer/first_token_surprisal_schema": FirstTokenSurprisalConfig,
    "scorer/greedy_nll_schema": GreedyNllConfig,
    "scorer/random_schema": RandomConfig,
    "scorer/position_schema": PositionConfig,
    "scorer/tokenskip_schema": TokenskipConfig,
    "scorer/mix_schema": MixConfig,
}
"""Where each schema stands in Hydra's config store."""


def register_schemas() -> None:
    """Make the schemas known to Hydra; called once by each entry script."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for path, schema in SCHEMAS.items():
        group, _, name = path.rpartition("/")
        store.store(name=name, node=schema, group=group or None)


def to_objects(config: "DictConfig") -> TrainConfig | CompressConfig | EvaluateConfig | ReportConfig:
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
    assert isinstance(objects, TrainConfig | CompressConfig | EvaluateConfig | ReportConfig)
    check(objects)
    return objects


def check(config: TrainConfig | CompressConfig | EvaluateConfig | ReportConfig) -> None:
    """Range checks that a type cannot express.

    Raises:
        ConfigError: Names the key, what was got and what is allowed.
    """
    if isinstance(config, ReportConfig):
        return
    _require("ratio", config.ratio, 0 < config.ratio <= 1, RATIO_RANGE)
    if isinstance(config, PipelineConfig):
        config.scorer.check(has_reference=config.reference.tune.method is not Method.none)
        for ratio in config.compression.mixed_ratios:
            _require("compression.mixed_ratios", ratio, 0 < ratio <= 1, RATIO_RANGE)
        share = config.data.validation_fraction
        _require("data.validation_fraction", share, 0 <= share < 1, "a number in [0, 1)")


def _require(key: str, got: object, ok: bool, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"{key}: got {got!r}, allowed: {allowed}")
