"""The root schema: every configuration group, by entry script.

`conf/` holds the values, these classes the names, types and meaning. Hydra merges both, so a misspelt key or a wrong
type fails before anything is loaded. The entry scripts turn the result into these plain objects; no other code sees
OmegaConf. The rules of a setting stand beside it (see `cotpress.settings`); here are those that relate several groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cotpress.compression.config import ROWS_FORMATS, CompressionConfig, ExportFormat, Mode, Selection, check_export
from cotpress.data.config import (
    BenchmarkConfig,
    DataConfig,
    HubDataConfig,
    JsonlBenchmarkConfig,
    JsonlDataConfig,
    MultipleChoiceBenchmarkConfig,
    Pick,
    PlantedBenchmarkConfig,
    PlantedDataConfig,
    PlantedQuestionsConfig,
    PlantedTruthConfig,
    PrmbenchConfig,
    PublishedBenchmarkConfig,
    RowsDataConfig,
    SelfWrittenDataConfig,
    ThoughtAnchorsConfig,
    TruthConfig,
)
from cotpress.data.planted import LEVELS, Length
from cotpress.devices.config import Shard, TrainerConfig
from cotpress.distill.config import DistillConfig, LlmDistillConfig
from cotpress.errors import ConfigError, did_you_mean
from cotpress.evaluation.config import SHORTENED_TO_RATIO, TRAINED, Baseline, EvaluationConfig
from cotpress.generation.config import ServerGenerationConfig, TransformersGenerationConfig, VllmGenerationConfig
from cotpress.invocation import as_typed, program
from cotpress.modeling.config import ORIGINAL_WEIGHTS, ModelConfig
from cotpress.modeling.upload import Repository
from cotpress.planning.config import PlanConfig
from cotpress.plugins import check_loaded, store_choices
from cotpress.prompts import check_marker
from cotpress.scoring.config import ScorerConfig
from cotpress.scoring.scorers.llmlingua_compat import llmlingua_settings
from cotpress.scoring.table import SCORERS
from cotpress.settings import Count, Folder, InputPath, Natural, Positive, Ratio, check_settings, insert_home, interval
from cotpress.store.artifacts import plain
from cotpress.store.paths import HUB_SCHEME
from cotpress.store.redaction import refuse_secrets
from cotpress.tracking.config import TrackerConfig
from cotpress.training.config import Method, ReferenceConfig, SavedReferenceConfig, SftConfig, check_head_loss

if TYPE_CHECKING:
    from omegaconf import DictConfig


USUAL_RATIO = 0.7
"""Ratio of a command that names none."""
SHORTEST_SAMPLES = 8
"""Answers per question of the baseline shortest, unless the settings say another number."""


@dataclass(kw_only=True, slots=True)
class ScoringPipelineConfig:
    """Settings of the stages up to the scores."""

    data: DataConfig = field(default_factory=DataConfig)
    labelled: DataConfig | None = None
    """Traces that reference model and classifier are trained on; null is `data`, the traces that are compressed."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    seed: Natural = 42
    """Seed of data, training order, adapter initialisation and random scores."""
    name: str | None = None
    """Name of the run; null derives it from the settings."""
    output_root: Folder = "outputs"
    """Folder for everything that is written."""
    plugins: list[str] = field(default_factory=list)
    """Modules of your own that register scorers, data sources or benchmarks; also files in the working directory."""

    @property
    def uses_scorer(self) -> bool:
        """True if traces are scored."""
        return True

    @property
    def selector(self) -> str:
        """Name of the scorer, or of what compresses the traces in its place."""
        return self.scorer.name

    @property
    def reads_with_model(self) -> bool:
        """True if a language model scores traces."""
        return self.uses_scorer and self.scorer.reads_with_model

    @property
    def needs_reference(self) -> bool:
        """True if a scorer uses the reference model."""
        return self.uses_scorer and self.scorer.needs_reference

    @property
    def scoring_model(self) -> ModelConfig:
        """The base of the reference model; the student for scorers that read with no language model."""
        return self.reference.base or self.model if self.reads_with_model else self.model

    @property
    def trains_reference(self) -> bool:
        """True if a reference model is trained, on distilled labels."""
        saved = isinstance(self.reference, SavedReferenceConfig)
        return self.needs_reference and self.reference.exists and not saved

    @property
    def needs_labels(self) -> bool:
        """True if something is trained on distilled labels: a reference model or a classifier."""
        return (self.uses_scorer and self.scorer.needs_labels) or self.trains_reference

    @property
    def base_key(self) -> str:
        """The setting of the path of the reference model's base, for messages."""
        return "model.path" if self.reference.base is None else "reference.base.path"

    def validate(self, key: str) -> None:
        if self.uses_scorer:
            self.scorer.check(has_reference=self.reference.exists)
        if isinstance(self.labelled, RowsDataConfig) and self.labelled.field is not None:
            raise ConfigError(
                f"labelled.field: got '{self.labelled.field}', but models learn from whole traces. Fix: leave it out "
                "and give rows with id, question, thinking, response and answer"
            )


@dataclass(kw_only=True, slots=True)
class PipelineConfig(ScoringPipelineConfig):
    """Settings of the stages up to the compressed data."""

    compression: CompressionConfig = field(default_factory=CompressionConfig)
    ratio: Ratio = "${usual_ratio:}"  # type: ignore[assignment]
    """Fraction of the thinking tokens KEPT, in [0, 1], counted in the student's tokenizer; 0 trains on the response
    alone, with an empty thinking. By default 0.7, and 1 where traces have a length of their own."""

    @property
    def uses_scorer(self) -> bool:
        return not self.compression.has_own_length

    @property
    def selector(self) -> str:
        return self.scorer.name if self.uses_scorer else self.compression.mode.value

    def validate(self, key: str) -> None:
        ScoringPipelineConfig.validate(self, key)
        if self.compression.has_own_length and self.ratio != 1:
            raise ConfigError(
                f"ratio: got {self.ratio:g}, but with compression.mode={self.compression.mode.value} every trace has a "
                "length of its own. Fix: leave ratio out"
            )
        lowest = min([self.ratio, *self.compression.mixed_ratios])
        if self.compression.selection is not Selection.exact and lowest == 0:
            raise ConfigError(
                f"ratio: got 0, but compression.selection={self.compression.selection.value} repeats a release that "
                "cuts at a ratio above 0. Fix: compression=single, whose ratio may be 0"
            )
        if self.compression.mixed_ratios:
            check_marker(self.model.chat, [self.ratio, *self.compression.mixed_ratios])
        if self.compression.selection is Selection.llmlingua_compat:
            llmlingua_settings(self.scorer)


class Stage(Enum):
    """A stage that `train.py until=STAGE` ends after, in the order of the flow."""

    data = "data"
    """The traces, without those of the benchmark."""
    distill = "distill"
    """The valuable parts of the labelled traces."""
    reference = "reference"
    """The reference model."""
    score = "score"
    """The scores, or the decisions in their place."""
    compress = "compress"
    """The training traces of all students."""
    sft = "sft"
    """All students; their answers are left to `evaluate.py runs=DIR`."""


@dataclass(kw_only=True, slots=True)
class TrainConfig(PipelineConfig):
    """`train.py`: the whole flow."""

    sft: SftConfig = field(default_factory=SftConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    until: Stage | None = None
    """Stage after which the run ends; the same command without it goes on. null runs the whole flow."""
    plan: bool = False
    """Print the memory and time that the run would take, and end; loads no weights."""
    planning: PlanConfig = field(default_factory=PlanConfig)
    """Assumptions of `plan=true`."""

    @property
    def starts_from_writer(self) -> bool:
        """True if students start from the student that wrote their traces, which then is Original."""
        data = self.data
        written = isinstance(data, SelfWrittenDataConfig) and data.writer == ORIGINAL_WEIGHTS
        return written and self.sft.start == ORIGINAL_WEIGHTS

    @property
    def shortest(self) -> SelfWrittenDataConfig:
        """Settings of the traces of the baseline shortest."""
        wanted, data, own = self.evaluation.shortest, self.data, self.data
        if not isinstance(own, SelfWrittenDataConfig):
            own = SelfWrittenDataConfig(
                name=data.name, validation_fraction=data.validation_fraction, decontaminate=data.decontaminate,
                generation=self.evaluation.generation, writer=self.sft.start,
                max_new_tokens=self.benchmark.max_new_tokens,
            )  # fmt: skip
        samples = wanted.samples or (own.samples if own.samples > 1 else SHORTEST_SAMPLES)
        drawn = replace(own.generation, temperature=own.generation.temperature or None)
        return replace(own, samples=samples, pick=Pick.shortest, writer=wanted.writer or own.writer, generation=drawn)

    def reaches(self, stage: Stage) -> bool:
        """True if the run gets as far as a stage."""
        stages = list(Stage)
        return self.until is None or stages.index(stage) <= stages.index(self.until)

    def validate(self, key: str) -> None:
        PipelineConfig.validate(self, key)
        if not self.plan:  # a plan may be made on a machine without the extra
            check_head_loss(self.trainer.head_loss)
        _check_traces(self.data)
        if not self.sft.question and self.compression.mixed_ratios:
            raise ConfigError(
                "sft.question: got false with compression.mixed_ratios, but the control marker stands in the turn with "
                "the question, which is left out. Fix: compression=single, or sft.question=true"
            )
        if self.evaluation.ratios and not self.compression.mixed_ratios:
            raise ConfigError(
                f"evaluation.ratios: got {self.evaluation.ratios}, but a student of a single ratio has no control "
                "marker that could ask it for another. Fix: compression=mixed, or evaluation.ratios=[]"
            )
        check_marker(self.model.chat, self.evaluation.ratios)
        _check_budget(self.evaluation, [self.ratio, *self.evaluation.ratios])
        _check_seed(self.evaluation, self.seed)
        check_sampling(self.evaluation, self.benchmark)
        check_rows_of_settings(self.evaluation)
        self._check_written()
        served = isinstance(self.evaluation.generation, ServerGenerationConfig)
        if served and self.sft.tune.method is Method.full and self.until is None:
            raise ConfigError(
                "evaluation.generation: a server writes, but sft.tune.method=full trains whole models, which no server "
                "loads on request. Fix: generation@evaluation.generation=vllm, which starts a server for each; or "
                f"until=sft, then {as_typed('evaluate')} runs=DIR once a server has the folder of each student; or "
                "sft=lora; or generation@evaluation.generation=transformers"
            )

    def _check_written(self) -> None:
        """Refuse a server that would have to load a student of all weights, which is to write traces."""
        kinds = {"data": self.data, "labelled": self.labelled}
        if Baseline.shortest in self.evaluation.baselines:
            kinds["evaluation.shortest"] = self.shortest
        for key, kind in kinds.items():
            if not isinstance(kind, SelfWrittenDataConfig) or kind.writer != ORIGINAL_WEIGHTS:
                continue
            if self.sft.tune.method is Method.full and isinstance(kind.generation, ServerGenerationConfig):
                raise ConfigError(
                    f"{key}.writer: got original, a student that sft.tune.method=full trains as a whole model, which "
                    "no server loads on request. Fix: generation=vllm at the same place, or sft=lora"
                )


@dataclass(kw_only=True, slots=True)
class CompressConfig(PipelineConfig):
    """`compress.py`: data to compressed training data."""

    output: Folder | None = None
    """Folder of the export, which holds no other one; null is a folder of its own below `output_root`/compressed. With
    hf://OWNER/NAME that folder is uploaded to the Hugging Face hub as a data set."""
    private: bool = True
    """Make a new data set of the hub a private one."""
    license: str | None = None
    """Licence in the card of the export, e.g. apache-2.0; null passes on that of the source, where its card names
    one."""
    export: ExportFormat = ExportFormat.parquet
    """Format of the export."""
    shard: str | None = None
    """K/N: score and compress the Kth of N shares of the traces; the job that finishes last exports all of them."""

    def validate(self, key: str) -> None:
        PipelineConfig.validate(self, key)
        _check_writers(self)
        check_head_loss(self.trainer.head_loss)
        if self.shard is not None:
            Shard.parse(self.shard)
        self._check_output()
        column = self.data.field if isinstance(self.data, RowsDataConfig) else None
        if column is not None and self.export not in ROWS_FORMATS:
            raise ConfigError(
                f"data.field: got '{column}' with export={self.export.value}, but texts are no conversations. "
                "Allowed: parquet, datasets. Fix: export=parquet; the compressed texts are its column "
                "compressed_thinking"
            )
        if column is not None and self.compression.mode is Mode.first_solution:
            raise ConfigError(
                f"data.field: got '{column}' with compression.mode=first_solution, but texts have no answer that they "
                "could state. Fix: leave data.field out and give rows with id, question, thinking, response and answer"
            )
        check_export(self.export, self.compression)

    @property
    def repository(self) -> Repository | None:
        """The data set of the hub that `output` names; None for a folder."""
        if self.output is None or not self.output.startswith(HUB_SCHEME):
            return None
        name = self.output.removeprefix(HUB_SCHEME).removeprefix("datasets/")
        return Repository(name=name, is_dataset=True, setting=f"output={HUB_SCHEME}", without_hub="output=DIR")

    def _check_output(self) -> None:
        """Refuse a name that is no hub id, and settings that do not apply to the hub or to a folder."""
        if self.repository is None:
            if not self.private:
                raise ConfigError(
                    f"private: got false, but no data set is uploaded. Fix: output={HUB_SCHEME}OWNER/NAME, or leave "
                    "private out"
                )
            return
        self.repository.check_name()
        if self.export is ExportFormat.datasets:
            raise ConfigError(
                f"export: got datasets with output={self.output}, but from the hub `datasets` reads files of rows, no "
                "folder for load_from_disk. Fix: export=parquet, which load_dataset reads with the same columns; or "
                "output=DIR"
            )


@dataclass(kw_only=True, slots=True)
class FidelityConfig(ScoringPipelineConfig):
    """`fidelity.py`: agreement of a scorer with known importance. The reference model is trained on `data`."""

    truth: TruthConfig = field(default_factory=TruthConfig)
    """Traces with known important parts; these are scored."""
    confidence: Annotated[float, interval("(0, 1)")] = 0.95
    """Level of the intervals, in (0, 1)."""
    num_resamples: Count = 2000
    """Bootstrap resamples of the questions behind each interval."""

    def validate(self, key: str) -> None:
        ScoringPipelineConfig.validate(self, key)
        _check_writers(self)
        check_head_loss(self.trainer.head_loss)
        _check_traces(self.data)


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    """`evaluate.py`: any checkpoint or adapter on any benchmark."""

    model: ModelConfig = field(default_factory=ModelConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    adapter: InputPath | None = None
    """Directory or hub id of a PEFT adapter, which a server loads as well; null evaluates the model itself."""
    runs: Folder | None = None
    """Folder with run directories of train.py, searched at any depth: all their students are asked, with the model,
    benchmark and evaluation of their own run where this command gives no other; null asks the one model above."""
    ratio: Ratio = 1.0
    """Ratio that the control marker announces; 1.0 has no marker."""
    marker: bool | None = None
    """The model was trained with a control marker; null is what the record of its training beside the weights says.
    With false `ratio` is that of LC-Prompt, Truncation and BudgetForcing alone."""
    n: int = 1
    """Answers per question; short for evaluation.samples."""
    seed: Natural = 42
    """Seed of the evaluation."""
    name: str | None = None
    """Name of the system in the table; null derives it from model and adapter."""
    output_root: Folder = "outputs"
    """Folder for everything that is written."""
    plugins: list[str] = field(default_factory=list)
    """Modules of your own that register scorers, data sources or benchmarks; also files in the working directory."""

    def validate(self, key: str) -> None:
        _check_one_machine(self.trainer)
        check_head_loss(self.trainer.head_loss)
        _check_seed(self.evaluation, self.seed)
        if self.runs is None:  # otherwise the benchmark and the rows may be those of a run
            check_sampling(self.evaluation, self.benchmark)
            check_rows_of_settings(self.evaluation)
        check_marker(self.model.chat, [self.ratio, *self.evaluation.ratios])
        _check_budget(self.evaluation, [self.ratio, *self.evaluation.ratios])
        if self.marker is False:
            self._check_without_marker()
        if self.n not in (1, self.evaluation.samples):
            raise ConfigError(
                f"n: got {self.n}, but evaluation.samples={self.evaluation.samples}, which it is short for. "
                f"Fix: only one of them, n={self.n}"
            )
        if self.runs is None and (trained := [b.value for b in self.evaluation.baselines if b in TRAINED]):
            raise ConfigError(
                f"evaluation.baselines: got {trained[0]}, a student that has to be trained; {program('evaluate')} "
                "trains none. Fix: evaluation=checkpoint or evaluation=full_checkpoint, or evaluate its adapter with "
                "adapter=DIR, or all students of finished runs with runs=DIR"
            )

    def _check_without_marker(self) -> None:
        if self.evaluation.ratios:
            raise ConfigError(
                f"evaluation.ratios: got {self.evaluation.ratios}, but marker=false, and only a control marker "
                "announces them. Fix: evaluation.ratios=[], or leave marker out"
            )
        if self.ratio < 1 and (self.ratio == 0 or not SHORTENED_TO_RATIO & set(self.evaluation.baselines)):
            raise ConfigError(
                f"ratio: got {self.ratio:g}, but marker=false, and no row of the table would use it. Fix: leave ratio "
                "out, or evaluation=all_checkpoint with a ratio above 0, whose rows LC-Prompt, Truncation and "
                "BudgetForcing use it"
            )


@dataclass(kw_only=True, slots=True)
class ReportConfig:
    """`report.py`: tables and plots from finished runs."""

    runs: Folder = "${output_root}/runs"
    """Folder with run directories, searched at any depth."""
    output: Folder | None = None
    """Folder for table and plots; null writes into `runs`."""
    viewer_traces: Natural = 200
    """Maximum traces of each data set in the token viewer; 0 leaves the viewer out. A trace of 3,000 tokens adds about
    40 kB, and 16 kB for every scorer after the first."""
    margin: Positive = 5.0
    """Points of accuracy: a system keeps its accuracy if the interval of its difference from Original lies within."""
    output_root: Folder = "outputs"
    """Folder of the runs and of the log of this command."""
    plugins: list[str] = field(default_factory=list)
    """Modules of your own that register scorers, data sources or benchmarks; also files in the working directory."""


def _check_one_machine(trainer: TrainerConfig) -> None:
    if trainer.num_nodes != 1:
        raise ConfigError(
            f"trainer.num_nodes: got {trainer.num_nodes}, allowed here: 1, as one device answers. Fix: leave it out, "
            "or let a server answer, generation@evaluation.generation=server"
        )


def _check_traces(data: DataConfig) -> None:
    """Refuse the texts of a column where a model is trained."""
    if isinstance(data, RowsDataConfig) and data.field is not None:
        raise ConfigError(
            f"data.field: got '{data.field}', but the texts of a column are no traces that a model can be trained on. "
            f"Fix: compress them with {as_typed('compress')}, or leave data.field out and give rows with id, question, "
            "thinking, response and answer"
        )


def check_rows_of_settings(evaluation: EvaluationConfig) -> None:
    """Raise a `ConfigError` for settings of a baseline that the table has no row of."""
    settings: dict[Baseline, dict[str, object]] = {
        Baseline.budget_forcing: {"thinking_tokens": evaluation.budget_forcing.thinking_tokens},
        Baseline.shortest: {"samples": evaluation.shortest.samples, "writer": evaluation.shortest.writer},
    }
    for row, values in settings.items():
        given = next((name for name, value in values.items() if value is not None), None)
        if given is not None and row not in evaluation.baselines:
            raise ConfigError(
                f"evaluation.{row.value}.{given}: got {values[given]}, but evaluation.baselines has no {row.value}, "
                f"the row that would use it. Fix: evaluation.baselines+={row.value}, or leave it out"
            )


def _check_budget(evaluation: EvaluationConfig, ratios: Sequence[float]) -> None:
    """Refuse a budget that follows a ratio of 0, as it holds no answer."""
    if evaluation.budget_follows_ratio and 0 in ratios:
        raise ConfigError(
            "evaluation.budget_follows_ratio: got true with a ratio of 0, which would leave no token for an answer. "
            "Fix: evaluation.budget_follows_ratio=false"
        )


def _check_writers(config: ScoringPipelineConfig) -> None:
    """Refuse self-written data whose writer has to be trained."""
    for key, kind in {"data": config.data, "labelled": config.labelled}.items():
        if isinstance(kind, SelfWrittenDataConfig) and kind.writer == ORIGINAL_WEIGHTS:
            raise ConfigError(
                f"{key}.writer: got original, a student, and only {program('train')} trains students. "
                f"Fix: {key}.writer=DIR with the folder of one, e.g. outputs/students/original, or another writer"
            )


def _check_seed(evaluation: EvaluationConfig, seed: int) -> None:
    if (got := evaluation.generation.seed) != seed:
        raise ConfigError(f"evaluation.generation.seed: got {got}, but seed decides it. Fix: seed={got}")


def check_sampling(evaluation: EvaluationConfig, benchmark: BenchmarkConfig) -> None:
    """Raise a `ConfigError` for a `top_p` without effect."""
    temperature = benchmark.followed.temperature if evaluation.temperature is None else evaluation.temperature
    drawn = temperature > 0 or (evaluation.temperature is None and evaluation.samples > 1)
    if evaluation.top_p is not None and evaluation.top_p < 1 and not drawn:
        raise ConfigError(
            f"evaluation.top_p: got {evaluation.top_p}, but answers are greedy, so it would do nothing. "
            "Fix: evaluation.temperature=0.6, or evaluation.top_p=null"
        )


EntryConfig: TypeAlias = TrainConfig | CompressConfig | FidelityConfig | EvaluateConfig | ReportConfig

SCHEMAS: dict[str, type] = {
    "train_schema": TrainConfig,
    "compress_schema": CompressConfig,
    "evaluate_schema": EvaluateConfig,
    "report_schema": ReportConfig,
    "fidelity_schema": FidelityConfig,
    "data/planted_schema": PlantedDataConfig,
    "data/jsonl_schema": JsonlDataConfig,
    "data/hub_schema": HubDataConfig,
    "data/self_written_schema": SelfWrittenDataConfig,
    "questions/planted_schema": PlantedQuestionsConfig,
    "questions/jsonl_schema": JsonlBenchmarkConfig,
    "truth/planted_schema": PlantedTruthConfig,
    "truth/thought_anchors_schema": ThoughtAnchorsConfig,
    "truth/prmbench_schema": PrmbenchConfig,
    "benchmark/planted_schema": PlantedBenchmarkConfig,
    "benchmark/jsonl_schema": JsonlBenchmarkConfig,
    "reference/saved_schema": SavedReferenceConfig,
    "distill/llm_schema": LlmDistillConfig,
    "generation/transformers_schema": TransformersGenerationConfig,
    "generation/server_schema": ServerGenerationConfig,
    "generation/vllm_schema": VllmGenerationConfig,
    "benchmark/published_schema": PublishedBenchmarkConfig,
    "benchmark/multiple_choice_schema": MultipleChoiceBenchmarkConfig,
}
"""Schemas by their place in Hydra's config store."""


_registered: dict[str, type] = {}  # schemas that this process has registered, by place


def register_schemas() -> None:
    """Register the schemas with Hydra, at the start of each entry script; those that are there already stay."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.object_type import ObjectType

    store = ConfigStore.instance()
    scorers = {f"scorer/{name}_schema": entry.settings for name, entry in SCORERS.items()}
    for path, schema in (SCHEMAS | scorers).items():
        if _registered.get(path) is schema and store.get_type(f"{path}.yaml") is ObjectType.CONFIG:
            continue
        group, _, name = path.rpartition("/")
        store.store(name=name, node=schema, group=group or None)
        _registered[path] = schema
    store_choices(store)
    _register_resolvers()


def _register_resolvers() -> None:
    """Register functions of the YAML files with OmegaConf.

    `${recipe:NAME}` is a value of the recipe (`tuning`) of the model that is tuned, `${usual_ratio:}` the ratio of a
    command that names none, `${planted_budget:LENGTH}` the budget of answers to built-in problems of a length.
    """
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("recipe", _recipe, replace=True)
    OmegaConf.register_new_resolver("usual_ratio", _usual_ratio, replace=True)
    OmegaConf.register_new_resolver("planted_budget", _planted_budget, replace=True)


def _usual_ratio(*, _root_: "DictConfig") -> float:
    """1 where traces have a length of their own, so that no ratio applies, and otherwise `USUAL_RATIO`."""
    return 1.0 if _root_.compression.mode is Mode.first_solution else USUAL_RATIO


def _planted_budget(length: Length | str) -> int:
    """The budget of an answer; a wrong length, which is refused later, has that of the shortest."""
    name = length.name if isinstance(length, Length) else length
    return next((level.max_new_tokens for key, level in LEVELS.items() if key.name == name), 1)


def _recipe(name: str, *, _parent_: "DictConfig", _root_: "DictConfig") -> object:
    """The value `name`, e.g. `lora.epochs`, for `sft.tune` of `model`, or for `reference.tune` of `reference.base`."""
    from omegaconf import OmegaConf

    tuned: Any = _parent_._get_parent()  # `sft` or `reference`
    base = tuned.base if "base" in tuned else None  # null: `model`
    return OmegaConf.select(_root_.model if base is None else base, f"tuning.{name}", throw_on_missing=True)


def missing_keys(config: "DictConfig") -> Iterator[str]:
    """The dotted keys without a value; values that refer to them are not counted."""
    from omegaconf import DictConfig

    for key in config:
        node = config._get_node(key)
        if node is not None and node._is_missing():
            yield config._get_full_key(key)
        elif isinstance(node, DictConfig) and not node._is_none():
            yield from missing_keys(node)


def check_keys(config: "DictConfig") -> None:
    """Raise a `ConfigError` for a key that `+KEY` has added and the settings class of its place does not have."""
    from omegaconf import DictConfig, OmegaConf

    kind = OmegaConf.get_type(config)
    names = [f.name for f in fields(kind)] if is_dataclass(kind) else list(map(str, config))
    for key in config:
        if key not in names:
            raise ConfigError(f"unknown key '{config._get_full_key(key)}'.{did_you_mean(str(key), names)}")
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing() or node._is_interpolation()):
            check_keys(node)


def to_objects(config: "DictConfig") -> EntryConfig:
    """Convert the composed configuration to plain objects, and check them.

    Raises:
        ConfigError: A value is missing or out of range, or a YAML names a plugin.
    """
    from omegaconf import OmegaConf

    _register_resolvers()  # in the worker of a launcher
    missing = sorted(missing_keys(config))
    if missing:
        raise ConfigError(f"no value for {', '.join(missing)}. Fix: give it on the command line, {missing[0]}=VALUE")
    check_keys(config)
    objects = OmegaConf.to_object(config)
    assert isinstance(objects, EntryConfig)
    check_loaded(objects.plugins)
    insert_home(objects)
    refuse_secrets(plain(objects))
    check_settings(objects)
    return objects
