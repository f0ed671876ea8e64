"""Checks of all that a configuration needs, made before a model is trained or a text is written.

`check` is called by every job and tells all problems in one message. A check is a function that yields problems, each
with the setting to blame, what it got, what is allowed and the fix; a new one is a function and a place in `check`, in
the order of cost. The rules for the values of settings stand beside them (`cotpress.settings`) and come before.

What is needed depends on what is there: an answer that was kept needs no server, and a server that has written all
traces may be gone. So a copy of the flow runs with a store that finds artifacts and makes none (`first_missing`).
"""

import itertools
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from cotpress.compression.config import Selection
from cotpress.compression.export import check_folder
from cotpress.config import (
    CompressConfig,
    EvaluateConfig,
    FidelityConfig,
    PipelineConfig,
    ScoringPipelineConfig,
    Stage,
    TrainConfig,
)
from cotpress.data.config import DataConfig, HubDataConfig, JsonlDataConfig, RowsDataConfig, SelfWrittenDataConfig
from cotpress.data.stage import find_problems, find_traces, given_writer, problems, traces
from cotpress.data.truth import find_truth, truth
from cotpress.devices.config import offload_error
from cotpress.devices.launch import num_local_devices, pick_device
from cotpress.distill.config import Extractor, LlmDistillConfig
from cotpress.distill.stage import check_usable
from cotpress.errors import ArtifactError, ConfigError, CotpressError, GenerationError, ModelError, raise_together
from cotpress.evaluation.config import SHORTENED_TO_RATIO, Baseline
from cotpress.evaluation.stage import given_weights
from cotpress.evaluation.summary import token_counter
from cotpress.generation.config import GenerationConfig, ServerGenerationConfig, VllmGenerationConfig
from cotpress.generation.server import ServerBackend
from cotpress.generation.vllm import check_context
from cotpress.generation.vllm_server import division, installed, interpreter
from cotpress.modeling.config import BASE_WEIGHTS, ORIGINAL_WEIGHTS, ModelConfig, ModelSource
from cotpress.modeling.loading import check_architecture, check_attention, load_tokenizer, model_identity
from cotpress.modeling.sources import PACKAGE_PREFIX, adapter_directory, require_weights
from cotpress.modeling.training_record import TRAINING_CONFIG, TrainingRecord, check_chat
from cotpress.modeling.weights import TrainedWeights
from cotpress.modeling.word_weights import word_counter
from cotpress.planning.measure import empty_model
from cotpress.prompts import ChatFormat
from cotpress.records import TRACES_FILE, Trace
from cotpress.scoring.config import ScorerConfig
from cotpress.scoring.scorers.llmlingua2_compat import llmlingua2_settings
from cotpress.scoring.scorers.mix import MixConfig
from cotpress.scoring.scorers.tokenskip import TokenskipConfig
from cotpress.scoring.table import check_model
from cotpress.store.artifacts import Artifact, ArtifactStore, Making
from cotpress.store.paths import require_writable
from cotpress.store.source import Identity
from cotpress.store.tables import iter_records, training_traces
from cotpress.tasks.evaluate import examinees as given_examinees
from cotpress.tasks.flow import SHORTEST_GROUP, Compression, Export, Flow, Scoring
from cotpress.tasks.run_directory import artifact_store, export_path, export_settings
from cotpress.tasks.students import examinees as trained_examinees
from cotpress.tasks.students import needs_original
from cotpress.tasks.systems import Examinee, context_tokens, examine
from cotpress.tasks.train import artifacts_until, train_students
from cotpress.tracking import silent_tracker
from cotpress.training.config import Method, Overlong, SavedReferenceConfig
from cotpress.training.start import Start

log = logging.getLogger(__name__)

Config: TypeAlias = TrainConfig | CompressConfig | FidelityConfig | EvaluateConfig
Problems: TypeAlias = Iterator[CotpressError]
Asked: TypeAlias = Callable[[EvaluateConfig], Sequence[Examinee]]

CHECKPOINT_BYTES = 12
"""Bytes on disk for each weight that is trained: itself and two moments, in float32."""
NUM_MEASURED = 200
"""Most traces whose length is compared with the budget of answers."""
LONG_SHARE = 0.1
"""Share of traces longer than the budget above which it is warned of."""
PUBLISHED_ADAPTERS = "hemingkx/TokenSkip-"
"""Beginning of the hub ids of TokenSkip's adapters, which have no record of their training."""
AFTER_TRAINING = ("answer", "evaluate", "")
"""The first missing stages when all students are trained; empty if no stage is missing."""


def check(config: Config) -> None:
    """Raise all problems of a configuration as one error; a single problem as it is.

    Raises:
        CotpressError: The only problem.
        ConfigError: Several problems.
    """
    artifact_store(config.output_root).computed.clear()  # those of an earlier job of this process
    found = [*selection(config), *labels(config), *agents(config), *published(config)]
    if isinstance(config, TrainConfig) and config.plan:  # made on another machine, maybe before there are data
        raise_together(found)
        return
    missing = check_needs(config, found)
    if isinstance(config, TrainConfig) and missing not in AFTER_TRAINING and config.reaches(Stage.sft):
        raise_together(list(lengths(config)))


def check_needs(config: Config, found: Sequence[CotpressError] = (), asked: Asked | None = None) -> str | None:
    """Raise all problems of what a configuration needs, together with those `found` before.

    `asked` builds the systems of an `evaluate.py`, by default those of its own settings. Returns the `first_missing`.
    """
    problems = [*found, *folders(config), *files(config), *devices(config)]
    if any(isinstance(problem, ArtifactError) for problem in problems):
        raise_together(problems)  # what follows looks below the folder
    missing = first_missing(config, asked or given_examinees)
    problems += [*models(config, missing), *disk(config, missing), *servers(config, missing)]
    problems += prompts(config) if asked is None else ()  # students of a run are asked as they were trained
    raise_together([*problems, *word_weights(config)])
    raise_together(list(data(config)))  # only now, as reading may take a minute
    return missing


def reaches(config: object, stage: Stage) -> bool:
    """True if a command gets as far as a stage: all but `train.py until=STAGE` get as far as they can."""
    return not isinstance(config, TrainConfig) or config.reaches(stage)


def agents(config: Config) -> Problems:
    """A run that ends early, started by an agent of a W&B sweep."""
    if isinstance(config, TrainConfig) and config.until is not None and os.environ.get("WANDB_SWEEP_ID"):
        yield ConfigError(
            f"until: got {config.until.value}, but the agent of a W&B sweep needs the accuracy of each run. Fix: leave "
            "out until"
        )


def published(config: Config) -> Problems:
    """TokenSkip's published adapters: asked the prompt of their training."""
    if not isinstance(config, EvaluateConfig):
        return
    generation = config.evaluation.generation
    named = config.adapter or (generation.model if isinstance(generation, ServerGenerationConfig) else "")
    chat, release = config.model.chat, config.model.tokenskip
    own = (chat.system, chat.template, chat.thinking_open, chat.user == "{question}")
    if named.startswith(PUBLISHED_ADAPTERS) and own != (release.system, release.template, "", False):
        yield ConfigError(
            f"model.chat: '{named}' was trained with the prompt of TokenSkip's release, and these settings ask another "
            "one. Fix: chat@model.chat=tokenskip, or experiment=tokenskip_gsm8k, which has it"
        )


def _tried(look: Callable[..., object], *arguments: Any, **options: Any) -> Problems:
    """Yield the error of a call, if it has one for users."""
    try:
        look(*arguments, **options)
    except CotpressError as error:
        yield error


def selection(config: Config) -> Problems:
    """A scorer that the selection can use; the default scorer is none for LLMLingua-2."""
    if isinstance(config, PipelineConfig) and config.compression.selection is Selection.llmlingua2_compat:
        yield from _tried(llmlingua2_settings, config.scorer)


def labels(config: Config) -> Problems:
    """Labels for the distill stage, as far as the kind of data tells: only the built-in generator plants them."""
    if not isinstance(config, ScoringPipelineConfig) or not _distills(config):
        return
    data = config.labelled or config.data
    if isinstance(data, RowsDataConfig) and data.field is not None:
        return  # built-in traces take the place of plain texts
    # Their own kinds, as a registered source may derive from them.
    if (
        type(data) in (HubDataConfig, JsonlDataConfig, SelfWrittenDataConfig)
        and config.distill.extractor is Extractor.labels
    ):
        yield from _tried(check_usable, Extractor.labels, [])


def _distills(config: ScoringPipelineConfig) -> bool:
    return config.needs_labels and reaches(config, Stage.distill)


def folders(config: Config) -> Problems:
    """Folders that are written."""
    yield from _tried(require_writable, Path(config.output_root), "output_root")
    if isinstance(config, CompressConfig):
        if config.output is not None:
            yield from _tried(require_writable, Path(config.output), "output")
        yield from _tried(check_folder, export_path(config), config.export, export_settings(config))


def devices(config: Config) -> Problems:
    """The devices asked for, and implementations that need a GPU."""
    trainer = config.trainer
    if isinstance(config, EvaluateConfig) and _is_served(config.evaluation.generation):
        return
    found = list(_tried(num_local_devices, trainer))
    yield from found
    if found:
        return
    if trainer.offload and num_local_devices(trainer) == 1:  # `devices=null` may be a single one
        yield ConfigError(offload_error(trainer))
    for key, model in used_models(config).items():
        yield from _tried(check_attention, model, pick_device(trainer), key=key)


def used_models(config: Config) -> dict[str, ModelConfig]:
    """The models whose weights are loaded here, by the setting of their path."""
    if isinstance(config, EvaluateConfig):
        return {} if _is_served(config.evaluation.generation) else {"model.path": config.model}
    used = {"model.path": config.model}
    needs_base = (config.reads_with_model and reaches(config, Stage.score)) or (
        config.trains_reference and reaches(config, Stage.reference)
    )
    if config.reference.base is not None and needs_base:
        used["reference.base.path"] = config.reference.base
    if _distills(config) and isinstance(config.distill, LlmDistillConfig) and config.distill.model is not None:
        used["distill.model.path"] = config.distill.model
    return used


def models(config: Config, missing: str | None) -> Problems:
    """Models, encoders of scorers, adapters and further tokenizers: in a folder, in the cache or on the hub.

    Weights are not needed if nothing is left to be computed with one. Chat templates of our own models are not tried,
    as the models would have to be made first.
    """
    computes, used, usable = missing not in ("evaluate", "") and _loads(config), used_models(config), True
    store = artifact_store(config.output_root)
    for key, model in {"model.path": config.model, **used}.items():
        found = list(_tried(model_identity, model, key=key)) if key in used else []
        if not found and model.source is ModelSource.hub:
            if computes and key in used:
                found += _tried(require_weights, model.path, model.revision, key=key)
                found += _tried(check_architecture, model, store, key=key)
            found += _tried(_render, model, store, key)
        yield from found
        usable = usable and not found
    scores = isinstance(config, ScoringPipelineConfig) and config.uses_scorer and reaches(config, Stage.score)
    if usable and isinstance(config, ScoringPipelineConfig) and scores and computes:
        yield from _tried(check_model, config.scorer, config.scoring_model, store)
    if isinstance(config, ScoringPipelineConfig):
        for key, path in _encoders(config.scorer, "scorer") if scores else ():
            yield from _tried(_find_encoder, path, key, weights=computes)
        if isinstance(config.reference, SavedReferenceConfig) and reaches(config, Stage.reference):
            yield from _tried(TrainedWeights.saved, Path(config.reference.path), "reference.path")
        for key, kind in _written(config).items():
            yield from _tried(given_writer, kind, key)
        if isinstance(config, TrainConfig) and config.sft.start not in (BASE_WEIGHTS, ORIGINAL_WEIGHTS):
            yield from _tried(_check_start, config, store)
    if isinstance(config, EvaluateConfig) and config.adapter is not None:
        yield from _tried(adapter_directory, config.adapter, key="adapter")
    if isinstance(config, TrainConfig | EvaluateConfig) and _answers(config):
        yield from _tried(token_counter, config.evaluation.reference_tokenizer)


def prompts(config: Config) -> Problems:
    """Prompts of models that were trained before, and ratios that a marker announces: those of their training.

    Models that cannot be found are reported by `models`.
    """
    if isinstance(config, EvaluateConfig):
        with suppress(CotpressError):
            named, folder = given_weights(config.adapter, config.model, config.evaluation.generation)
            yield from _tried(_check_given, config, named, folder)
        return
    for key, data in _written(config).items():
        with suppress(CotpressError):
            if (writer := given_writer(data, key)) is not None:
                yield from _tried(_check_chat, data.writer, Path(writer.path), config.model, "model.chat")
    if isinstance(config.reference, SavedReferenceConfig):
        base_key = "model" if config.reference.base is None else "reference.base"
        with suppress(CotpressError):
            folder = Path(TrainedWeights.saved(Path(config.reference.path), "reference.path").path)
            base = config.reference.base or config.model
            yield from _tried(_check_chat, config.reference.path, folder, base, f"{base_key}.chat")


def _written(config: ScoringPipelineConfig) -> dict[str, SelfWrittenDataConfig]:
    """Settings of self-written traces by their place, those of the baseline shortest included."""
    kinds: dict[str, DataConfig | None] = {"data": config.data, "labelled": config.labelled}
    if isinstance(config, TrainConfig) and Baseline.shortest in config.evaluation.baselines:
        kinds[SHORTEST_GROUP] = config.shortest
    return {key: kind for key, kind in kinds.items() if isinstance(kind, SelfWrittenDataConfig)}


def _check_start(config: TrainConfig, store: ArtifactStore) -> None:
    weights = TrainedWeights.saved(Path(config.sft.start), "sft.start")
    Start.of(weights, config.sft).check(config.sft.tune, config.model, store)


def _check_chat(named: str, folder: Path, model: ModelConfig, key: str) -> None:
    record = TrainingRecord.beside(folder, named)
    if record is not None:
        check_chat(record, model.chat, named, key, marker=False)


def _check_given(config: EvaluateConfig, named: str, folder: Path | None) -> None:
    """Check prompt and ratios against the record of the model's training."""
    record = None if folder is None else TrainingRecord.beside(folder, named)
    announced = [] if config.marker is False else [r for r in (config.ratio, *config.evaluation.ratios) if r < 1]
    if announced:
        key = "ratio" if config.ratio < 1 else "evaluation.ratios"
        others = key == "ratio" and SHORTENED_TO_RATIO & set(config.evaluation.baselines)
        rows = "LC-Prompt, Truncation and BudgetForcing"
        without = f"marker=false keeps it for {rows}" if others else f"leave {key} out"
        got = f"{key}: got {announced[0]:g}, which only a control marker in the prompt announces"
        if record is not None and not record.has_marker:
            raise ConfigError(
                f"{got}, but '{named}' was trained without one ({TRAINING_CONFIG} beside it). Fix: {without}; students "
                "of compression=mixed follow a marker"
            )
        if record is None and not config.marker:
            raise ConfigError(
                f"{got}, and nothing says that '{named}' was trained with one: it has no {TRAINING_CONFIG}. Fix: "
                f"marker=true if it was, as TokenSkip's published adapters; otherwise {without}"
            )
    if record is None:
        return
    check_chat(record, config.model.chat, named, "model.chat", marker=bool(announced))
    if unseen := sorted(set(announced) - set(record.marker_ratios)):
        log.warning(
            "'%s' was trained with the ratios %s, so it has seen no marker that announces %s",
            named, ", ".join(f"{r:g}" for r in record.marker_ratios), ", ".join(f"{r:g}" for r in unseen),
        )  # fmt: skip


def word_weights(config: Config) -> Problems:
    """The vocabulary that LLMLingua-2 counts in, if texts are to be cut with it."""
    if not isinstance(config, PipelineConfig) or config.compression.selection is not Selection.llmlingua2_compat:
        return
    if not reaches(config, Stage.compress):
        return
    store = FindingStore(artifact_store(config.output_root))
    kind: type[Compression[Any]] = Export if isinstance(config, CompressConfig) else Compression
    flow = kind(config, silent_tracker(), store)
    if _stage_of(lambda: flow.decisions) != "":
        tokenizer = partial(load_tokenizer, config.model, artifact_store(config.output_root))
        yield from _tried(word_counter, config.compression.word_weights, tokenizer)


def _answers(config: TrainConfig | EvaluateConfig) -> bool:
    return isinstance(config, EvaluateConfig) or config.until is None


def _loads(config: Config) -> bool:
    """True if a command loads weights, should all that it makes be missing."""
    if not isinstance(config, ScoringPipelineConfig) or reaches(config, Stage.reference):
        return True
    writes = any(isinstance(kind, SelfWrittenDataConfig) for kind in (config.data, config.labelled))
    return writes or (_distills(config) and isinstance(config.distill, LlmDistillConfig))


def _render(model: ModelConfig, store: ArtifactStore, key: str) -> None:
    tokenizer = load_tokenizer(model, store, key=key)
    try:
        ChatFormat(tokenizer, model.chat).check()
    except ModelError as error:
        raise ModelError(f"{key}: {error}") from error


def _encoders(scorer: ScorerConfig, key: str) -> Iterator[tuple[str, str]]:
    """The setting and the path of each encoder of a scorer."""
    if isinstance(scorer, MixConfig):
        for name, part in scorer.weighted.items():
            yield from _encoders(part, f"{key}.parts.{name}")
    elif isinstance(scorer, TokenskipConfig):
        yield f"{key}.path", scorer.path


def _find_encoder(path: str, key: str, *, weights: bool) -> None:
    from cotpress.scoring.scorers.classifier import encoder_directory, encoder_identity

    if path.startswith(PACKAGE_PREFIX):
        encoder_directory(path, key)
        return
    encoder_identity(path, key)
    if weights:
        require_weights(path, key=key)


def files(config: Config) -> Problems:
    """The files of data, truth and benchmark, or their copies in the cache of the hub."""
    if isinstance(config, ScoringPipelineConfig):
        for group, kind in _data_of(config).items():
            yield from _tried(find_traces, kind, group)
    if isinstance(config, FidelityConfig):
        yield from _tried(find_truth, config.truth)
    if isinstance(config, TrainConfig | EvaluateConfig):
        yield from _tried(find_problems, config.benchmark)


def data(config: Config) -> Problems:
    """Rows of data, truth and benchmark, made into artifacts as the flow does, and what the distill stage needs."""
    store = artifact_store(config.output_root)
    if isinstance(config, TrainConfig | EvaluateConfig):
        yield from _tried(problems, config.benchmark, store)
    if isinstance(config, EvaluateConfig):
        return
    flow = Scoring(config, silent_tracker())
    found: list[CotpressError] = []
    for group, kind in _data_of(config).items():
        found += _tried(_read, kind, store, group)
    yield from found
    if isinstance(config, FidelityConfig):
        yield from _tried(truth, config.truth, store)
    written = isinstance(config.labelled or config.data, SelfWrittenDataConfig)
    if _distills(config) and not found and not written:
        yield from _tried(
            check_usable, config.distill.extractor, training_traces(flow.labelled_traces.file(TRACES_FILE))
        )


def _data_of(config: ScoringPipelineConfig) -> dict[str, DataConfig]:
    """The settings of traces by their group; an export has all rows."""
    is_export = isinstance(config, CompressConfig)
    data = replace(config.data, validation_fraction=0.0) if is_export else config.data
    kinds = {"data": data} | ({} if config.labelled is None else {"labelled": config.labelled})
    for key, kind in list(kinds.items()):
        if isinstance(kind, SelfWrittenDataConfig) and kind.writer == ORIGINAL_WEIGHTS and kind.taught is not None:
            kinds[f"{key}.taught"] = kind.taught
    return kinds


def _read(config: DataConfig, store: ArtifactStore, group: str) -> Artifact:
    if isinstance(config, SelfWrittenDataConfig):  # a model needs hours for them
        return problems(config.questions, store, f"{group}.questions")
    return traces(config, store, group=group)


def disk(config: Config, missing: str | None) -> Problems:
    """Room for two checkpoints of a training of all weights, as a new one is whole before the old one is removed."""
    if isinstance(config, EvaluateConfig) or missing in AFTER_TRAINING:
        return
    trained: dict[str, ModelConfig] = {}
    trains_reference = config.trains_reference and reaches(config, Stage.reference)
    if trains_reference and config.reference.tune.method is Method.full:
        trained["reference.tune.method"] = config.reference.base or config.model
    if isinstance(config, TrainConfig) and config.reaches(Stage.sft) and config.sft.tune.method is Method.full:
        trained["sft.tune.method"] = config.model
    free = shutil.disk_usage(config.output_root).free
    for key, model in trained.items():
        with suppress(CotpressError):  # a model whose weights cannot be counted without loading them
            count = sum(parameter.numel() for parameter in empty_model(model).parameters())
            needed = 2 * CHECKPOINT_BYTES * count
            text = (
                f"{2 * count * CHECKPOINT_BYTES / 1e9:.1f} GB for checkpoints of {model.name} below "
                f"'{config.output_root}' ({count:,} weights of {CHECKPOINT_BYTES} bytes, twice while one replaces the "
                f"other); {free / 1e9:.1f} GB are free"
            )
            log.info("%s=full: needs %s", key, text)
            if free < needed:
                yield ConfigError(
                    f"{key}: got full, which needs {text}. Fix: output_root=DIR on a larger disk, or lora"
                )


def servers(config: Config, missing: str | None) -> Problems:
    """Servers whose answers are not all kept: reachable, the key accepted, room for the budget of an answer.

    For vLLM, which is started later: its interpreter, its GPUs and the context of the model.
    """
    for key, generation, budget in _missed_servers(config, missing):
        try:
            if isinstance(generation, ServerGenerationConfig):
                ServerBackend(generation, context_tokens=config.model.context_tokens).check(budget)
            elif isinstance(generation, VllmGenerationConfig):
                division(generation, installed(interpreter(generation)).gpu_bytes, num_bytes=0, num_heads=1)
                model_key, model = _asked_model(config, key)
                check_context(model, artifact_store(config.output_root), budget, key=model_key)
        except ConfigError as error:
            yield ConfigError(f"{key}.{error}")
        except GenerationError as error:
            yield GenerationError(f"{key}: {error}")
        except ModelError:
            continue  # reported by `models`


def _asked_model(config: Config, key: str) -> tuple[str, ModelConfig]:
    """The model that writes the texts of a backend's setting, and the setting of its path."""
    distill = getattr(config, "distill", None)
    if key.startswith("distill") and isinstance(distill, LlmDistillConfig) and distill.model is not None:
        return "distill.model.path", distill.model
    return "model.path", config.model


def _missed_servers(config: Config, missing: str | None) -> Iterator[tuple[str, GenerationConfig, int]]:
    """Setting, backend and budget of each stage that has texts to write."""
    if isinstance(config, ScoringPipelineConfig):
        for group, kind in _written(config).items():
            if group == "labelled" and not config.needs_labels:
                continue
            if _missing(config, partial(_traces, kind, group)) not in ("solve", "data", ""):
                is_own = group != SHORTEST_GROUP
                place = group if is_own else "data" if isinstance(config.data, SelfWrittenDataConfig) else "evaluation"
                yield f"{place}.generation", kind.generation, kind.max_new_tokens
        distill = config.distill
        extracts = _distills(config) and isinstance(distill, LlmDistillConfig)
        if extracts and _missing(config, _distilled) not in ("distill", ""):
            assert isinstance(distill, LlmDistillConfig)
            yield "distill.generation", distill.generation, distill.max_new_tokens
    if isinstance(config, TrainConfig | EvaluateConfig) and _answers(config) and missing != "evaluate":
        budget = min(config.benchmark.max_new_tokens, context_tokens(config) - 1)  # which ends an answer as well
        yield "evaluation.generation", config.evaluation.generation, budget


def _traces(kind: DataConfig, group: str, flow: Scoring[Any]) -> Artifact:
    return flow.shortest_answers if group == SHORTEST_GROUP and isinstance(flow, Flow) else flow.made(kind, group)


def _distilled(flow: Scoring[Any]) -> Artifact:
    return flow.distilled


def _is_served(generation: GenerationConfig) -> bool:
    return isinstance(generation, ServerGenerationConfig)


class NotMadeError(Exception):
    """An artifact does not exist; the text is its stage."""


class FindingStore(ArtifactStore):
    """Finds the artifacts of another store and makes none; `evaluate` counts as missing, as it costs seconds."""

    def __init__(self, store: ArtifactStore) -> None:
        self.__dict__.update(store.__dict__)

    @contextmanager
    def making(self, stage: str, identity: Identity) -> Iterator[Making]:
        """See `ArtifactStore`."""
        if stage == "evaluate" or self._undamaged(self.key(stage, identity)) is None:
            raise NotMadeError(stage)
        with super().making(stage, identity) as making:
            yield making

    @contextmanager
    def unfinished(self, stage: str, identities: Sequence[Identity]) -> Iterator[dict[int, Path]]:
        """See `ArtifactStore`."""
        if any(self._undamaged(self.key(stage, identity)) is None for identity in identities):
            raise NotMadeError(stage)
        yield {}

    @contextmanager
    def sharing(self, stage: str, identity: Identity, part: str) -> Iterator[Path | None]:
        """See `ArtifactStore`."""
        if self._undamaged(self.key(stage, identity)) is None:
            raise NotMadeError(stage)
        yield None


def first_missing(config: Config, asked: Asked = given_examinees) -> str | None:
    """The stage of the first artifact that this configuration has to compute; empty if there is none.

    None if that cannot be told, as something that is needed is missing.
    """
    store = FindingStore(artifact_store(config.output_root))

    def evaluated() -> None:
        assert isinstance(config, EvaluateConfig)
        benchmark = problems(config.benchmark, store)
        examine(asked(config), config, problems=benchmark, store=store, stages={}, count=None)

    match config:
        case TrainConfig():
            return _stage_of(partial(_trained, config, Flow(config, silent_tracker(), store)))
        case EvaluateConfig():
            return _stage_of(evaluated)
        case CompressConfig():
            return _stage_of(Export(config, silent_tracker(), store).compressed)
        case FidelityConfig():
            return _missing(config, lambda flow: flow.scores)


def _trained(config: TrainConfig, flow: Flow) -> None:
    if config.until is not None and config.until is not Stage.sft:
        artifacts_until(config.until, config, flow)
        return
    students = train_students(config, flow)
    if config.until is not None:
        return
    examine(
        trained_examinees(config, students), config, problems=flow.problems, store=flow.store, stages={}, count=None
    )


def _missing(config: ScoringPipelineConfig, look: Callable[[Scoring[Any]], object]) -> str | None:
    """The stage of the first artifact that a part of the flow has to compute; see `first_missing`."""
    kind: type[Scoring[Any]] = Flow if isinstance(config, TrainConfig) else Scoring
    flow = kind(config, silent_tracker(), FindingStore(artifact_store(config.output_root)))
    return _stage_of(partial(look, flow))


def _stage_of(look: Callable[[], object]) -> str | None:
    try:
        look()
    except NotMadeError as error:
        return str(error)
    except CotpressError:
        return None
    return ""


def lengths(config: TrainConfig) -> Problems:
    """Room for the whole traces in a training sequence, and a warning if many are longer than the budget of an answer.

    A sample of at most `NUM_MEASURED` traces is tokenized. Students that learn from what all of them can hold learn
    nothing if Original can hold none. A student would not complete answers that are longer than the budget.
    """
    if isinstance(config.data, SelfWrittenDataConfig):
        return  # written within a budget of its own
    store, budget = artifact_store(config.output_root), config.benchmark.max_new_tokens
    data, chat = traces(config.data, store), ChatFormat(load_tokenizer(config.model, store), config.model.chat)
    num_rows = data.manifest["num_rows"]
    rows = iter_records(data.file(TRACES_FILE), Trace)
    measured = [*itertools.islice(rows, 0, None, max(num_rows // NUM_MEASURED, 1))]
    answers = [len(chat.completion_ids(chat.text_ids(t.thinking), t.response)) for t in measured]
    num_long = sum(length > budget for length in answers)
    if num_long > LONG_SHARE * len(measured):
        log.warning(
            "benchmark.max_new_tokens=%d, but %d of %d traces are longer (up to %d tokens): students that write as "
            "long would be cut off. Fix: a larger benchmark.max_new_tokens, or shorter traces",
            budget, num_long, len(measured), max(answers),
        )  # fmt: skip
    limit = min(config.sft.tune.max_tokens, config.model.context_tokens)
    overlong = config.sft.overlong
    whole = overlong is Overlong.common or (overlong is Overlong.drop and needs_original(config))
    sequences = [len(chat.prompt_ids(t.question)) + n for t, n in zip(measured, answers, strict=True)]
    if whole and len(measured) == num_rows and min(sequences) > limit:
        longest, context = max(sequences), config.model.context_tokens
        larger = f" with model.context_tokens={longest}, if the model can hold it," if longest > context else ""
        yield ConfigError(
            f"sft.tune.max_tokens: got {config.sft.tune.max_tokens}, but the shortest of {num_rows} traces makes a "
            f"sequence of {min(sequences)} tokens, and sft.overlong={overlong.value} leaves out longer ones. Fix: "
            f"sft.tune.max_tokens={longest}{larger} holds all traces; or shorter traces, or sft.overlong=cut"
        )
