"""One configuration as artifacts: every property and method calls its stage, which computes only what is missing.

The stages stand in the order of the flow. None runs before its output is needed, so a scorer that needs no reference
model trains none.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from cotpress.compression.config import CompressionConfig, Protection, Selection
from cotpress.compression.cutting import Cutter
from cotpress.compression.ranking import unescaped
from cotpress.compression.stage import compress, compress_shard, token_table
from cotpress.config import CompressConfig, FidelityConfig, PipelineConfig, ScoringPipelineConfig, TrainConfig
from cotpress.data.config import DataConfig, PlantedDataConfig, SelfWrittenDataConfig
from cotpress.data.overlap import decontaminated, overlap
from cotpress.data.self_written import questions_of
from cotpress.data.stage import is_text, problems, traces
from cotpress.data.truth import truth
from cotpress.devices.config import Shard
from cotpress.devices.launch import set_up_torch
from cotpress.distill.stage import distill
from cotpress.evaluation.stage import Validation
from cotpress.modeling.config import BASE_WEIGHTS, ORIGINAL_WEIGHTS
from cotpress.modeling.loading import load_tokenizer, tokenizer_fingerprint
from cotpress.modeling.weights import TrainedWeights
from cotpress.records import ORIGINAL, RANDOM, SHORTEST, TRACES_FILE, Origin, System
from cotpress.report.results import StageRecord
from cotpress.scoring.direct import DirectScorer
from cotpress.scoring.job import ChunkJob, Job, scoring_job
from cotpress.scoring.models import Models
from cotpress.scoring.scorers import llmlingua2_compat, llmlingua_compat
from cotpress.scoring.scorers.random import RandomConfig
from cotpress.store.artifacts import Artifact, ArtifactStore
from cotpress.tasks.run_directory import artifact_store
from cotpress.tasks.systems import compressed_system, random_beside, stage_record
from cotpress.tracking import Tracker
from cotpress.training.config import Overlong, SavedReferenceConfig
from cotpress.training.stage import saved_reference, train_reference, train_student

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

NUM_LABELLED_TRACES = 220
"""Built-in traces used as labelled data where `data` has no traces to learn from; as in conf/data/planted.yaml."""

SHORTEST_GROUP = "evaluation.shortest"
"""Place of the settings of the traces of Shortest, for messages."""

ScoringT = TypeVar("ScoringT", bound=ScoringPipelineConfig)
PipelineT = TypeVar("PipelineT", bound=PipelineConfig)


class Scoring(Generic[ScoringT]):
    """From data to scored traces."""

    def __init__(self, config: ScoringT, tracker: Tracker, store: ArtifactStore | None = None) -> None:
        self._config, self._tracker = config, tracker
        set_up_torch(config.trainer)
        self.store = store or artifact_store(config.output_root)
        self.stages: dict[str, StageRecord] = {}

    def _kept(self, stage: str, artifact: Artifact, system: System | None = None, part: str = "") -> Artifact:
        """Add an artifact to the run's list of stages and to the tracker, once.

        Artifacts that all systems share have no system; `part` distinguishes two of them of one stage.
        """
        name = part if system is None else system.label
        label = f"{stage} ({name})" if name else stage
        if label not in self.stages:
            artifact = replace(artifact, fresh=artifact.key in self.store.computed)
            self.stages[label] = stage_record(label, artifact, self.store, system)
            self._tracker.of_system("" if _is_own(system) else name).artifact(artifact)
        return artifact

    def _scorer(self, ratio: float | None = None) -> System:
        return System(name=self._config.selector, origin=Origin.scorer, ratio=ratio)

    @cached_property
    def data(self) -> Artifact:
        """Training and validation traces of the group `data`."""
        return self._kept("data", self.read(self._config.data, "data"))

    def read(self, data: DataConfig, group: str) -> Artifact:
        """The traces of a source, which stands at the place `group` of the configuration."""
        return self.made(data, group)

    def made(self, data: DataConfig, group: str, questions: Artifact | None = None) -> Artifact:
        """All traces of a source; those of self-written data answer `questions` in place of their own."""
        c = self._config
        writer = self._writer(data, group) if isinstance(data, SelfWrittenDataConfig) else None
        return traces(
            data, self.store, model=c.model, trainer=c.trainer, group=group, writer=writer, questions=questions
        )

    def _writer(self, data: SelfWrittenDataConfig, group: str) -> TrainedWeights | None:
        """The weights that write self-written data; None for those that its settings name."""
        return None

    @cached_property
    def traces(self) -> Artifact:
        """The traces that are scored: those of `truth`, for which `data` only trains the models, or of `data`."""
        if isinstance(self._config, FidelityConfig):
            return self._kept("truth", truth(self._config.truth, self.store))
        return self.data

    @cached_property
    def labelled_traces(self) -> Artifact:
        """Traces that reference model and classifier are trained on."""
        data, labelled = self._config.data, self._config.labelled
        if labelled is None:
            if not is_text(data):
                return self.data
            log.info(
                "the rows of data.field are no traces to learn from: the reference model or classifier is trained on "
                "%d built-in traces (data@labelled=NAME chooses others, reference=none reads with the model as it is)",
                NUM_LABELLED_TRACES,
            )
            labelled = PlantedDataConfig(name="planted", num_traces=NUM_LABELLED_TRACES, seed=self._config.seed)
        return self._kept("data", self.read(labelled, "labelled"), part="labelled")

    @cached_property
    def distilled(self) -> Artifact:
        """The valuable part of every labelled training thinking."""
        c = self._config
        valuable = distill(c.distill, self.labelled_traces, self.store, model=c.model, trainer=c.trainer)
        return self._kept("distill", valuable)

    @cached_property
    def reference(self) -> Artifact | None:
        """The reference model; None if the base model takes its place."""
        c, store = self._config, self.store
        if not c.reference.exists:
            return None
        base = c.reference.base or c.model
        if isinstance(c.reference, SavedReferenceConfig):
            reference: Artifact | None = saved_reference(Path(c.reference.path), base=base, store=store)
        else:
            reference = train_reference(
                c.reference, base=base, distilled=self.distilled, trainer=c.trainer, tracker=self._tracker,
                store=store, key=c.base_key,
            )  # fmt: skip
        return None if reference is None else self._kept("reference", reference)

    @cached_property
    def scores(self) -> Artifact:
        """Importance of every thinking token."""
        return self._kept("score", self._scoring.artifact(), self._scorer())

    @cached_property
    def _scoring(self) -> Job:
        return scoring_job(self._config.scorer, traces=self.traces, models=self.models())

    def models(self) -> Models:
        """The models that the scorer uses; those that have to be trained are trained first."""
        c = self._config
        return Models(
            config=c.scoring_model,
            reference=self.reference if c.needs_reference else None,
            distilled=self.distilled if c.scorer.needs_labels else None,
            trainer=c.trainer,
            store=self.store,
            key=c.base_key if c.reads_with_model else "model.path",
        )

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The student's tokenizer, in which every ratio is counted."""
        return load_tokenizer(self._config.model, self.store)


class Compression(Scoring[PipelineT]):
    """From data to compressed training traces."""

    @cached_property
    def decisions(self) -> Artifact | None:
        """Decisions of LLMLingua 0.2.2 at the run's ratio or mixed ratios; None at ratio 1, which keeps all tokens."""
        if self._keeps_all:
            return None
        ratio = None if self._config.compression.mixed_ratios else self._config.ratio
        return self._kept("decide", self._deciding.artifact(), self._scorer(ratio))

    @cached_property
    def _deciding(self) -> ChunkJob:
        c, compression = self._config, self._config.compression
        if compression.selection is Selection.llmlingua_compat:
            size = compression.iterative_size
            return llmlingua_compat.decision_job(
                c.scorer, ratio=c.ratio, iterative_size=size, traces=self.traces, models=self.models()
            )
        options = self._llmlingua2_options
        return llmlingua2_compat.decision_job(c.scorer, options, traces=self.traces, models=self.models())

    @property
    def _llmlingua2_options(self) -> llmlingua2_compat.Llmlingua2Options:
        c, compression = self._config, self._config.compression
        mixed = tuple(sorted(compression.mixed_ratios))
        return llmlingua2_compat.Llmlingua2Options(
            ratios=mixed or (c.ratio,),
            seed=c.seed if mixed else 0,
            force_tokens=tuple(dict.fromkeys(map(unescaped, compression.keep_strings))),
            force_reserve_digit=compression.protection is Protection.digits,
            drop_consecutive=compression.drop_consecutive,
            word_weights=compression.word_weights,
        )

    def direct(self, models: Models) -> DirectScorer | None:
        """The scorer, or what decides in its place, for traces in memory; None where all tokens stay."""
        c, selection = self._config, self._config.compression.selection
        if not c.uses_scorer or self._keeps_all:
            return None
        if selection is Selection.llmlingua_compat:
            size = c.compression.iterative_size
            deciding = llmlingua_compat.LlmlinguaCompat.deciding(c.scorer, models, ratio=c.ratio, iterative_size=size)
            return DirectScorer(deciding)
        if selection is Selection.llmlingua2_compat:
            settings = llmlingua2_compat.llmlingua2_settings(c.scorer)
            return DirectScorer(llmlingua2_compat.Llmlingua2Compat.built(settings, models, self._llmlingua2_options))
        return DirectScorer.of(c.scorer, models)

    def cutter(self, tokenizer: "PreTrainedTokenizerBase") -> Cutter:
        """What cuts traces in memory by the scores of `direct`, with the student's tokenizer."""
        c = self._config
        return Cutter.of(
            c.compression, ratio=c.ratio, seed=c.seed, is_scored=c.uses_scorer, tokenizer=tokenizer,
            tokenizer_key=tokenizer_fingerprint(tokenizer), extractor=c.data.extractor,
        )  # fmt: skip

    @property
    def selected_by(self) -> Artifact | None:
        """Scores, or the decisions in their place, that the tokens are selected by; None where none are needed."""
        if not self._config.uses_scorer:
            return None
        return self.decisions if self._compat else self.scores

    @property
    def _compat(self) -> bool:
        return self._config.compression.selection is not Selection.exact

    @property
    def _keeps_all(self) -> bool:
        return self._config.ratio >= 1 and not self._config.compression.mixed_ratios

    def shard(self, shard: Shard) -> bool:
        """Score (decide, if the selection is LLMLingua's) and compress one shard; True if none is missing."""
        c = self._config
        if self._compat and self._keeps_all:
            return True  # nothing is decided
        job: Job | None = None
        if c.uses_scorer:
            job = self._deciding if self._compat else self._scoring
            job.shard(shard)
        return compress_shard(
            c.compression,
            shard,
            ratio=c.ratio,
            seed=c.seed,
            traces=self.traces,
            scores=job,
            tokenizer=self.tokenizer,
            tokenizer_key=tokenizer_fingerprint(self.tokenizer),
            store=self.store,
            extractor=c.data.extractor,
        )

    def compressed(self) -> Artifact:
        """The training traces at the run's ratio, at mixed ratios, or at a length of their own."""
        c, scores = self._config, self.selected_by
        mode = f"compress: compression.mode={c.compression.mode.value} uses no scores"
        if not c.uses_scorer and self.store.first_time(line := f"{mode}, so scorer={c.scorer.name} has no effect"):
            log.info("%s", line)
        compressed = self._kept("compress", self._compress(c.compression, scores), compressed_system(c))
        self._tracker.table(
            "compress", "tokens", lambda rows: token_table(compressed, self.traces, scores, self.tokenizer, rows)
        )
        return compressed

    def uncompressed(self) -> Artifact:
        """The whole training traces, which the Original student is trained on."""
        return self._kept("compress", self._compress(CompressionConfig(), None), ORIGINAL)

    def _compress(
        self, compression: CompressionConfig, scores: Artifact | None, traces: Artifact | None = None
    ) -> Artifact:
        return compress(
            compression,
            ratio=self._config.ratio if scores else 1.0,
            seed=self._config.seed,
            traces=traces or self.traces,
            scores=scores,
            tokenizer=self.tokenizer,
            tokenizer_key=tokenizer_fingerprint(self.tokenizer),
            store=self.store,
            extractor=self._config.data.extractor,
        )


class Export(Compression[CompressConfig]):
    """From data to an export of all its rows; the models that score them still learn from a part alone."""

    @cached_property
    def traces(self) -> Artifact:
        """Every usable row of the group `data`, those included that no model is trained on."""
        return self._kept("data", self.read(replace(self._config.data, validation_fraction=0.0), "data"))

    @cached_property
    def data(self) -> Artifact:
        """The same rows for training, less those of `data.validation_fraction`."""
        return self._kept("data", self.read(self._config.data, "data"), part="training")


class Flow(Compression[TrainConfig]):
    """From data to judged answers."""

    def compressed(self) -> Artifact:
        """As `Compression`; rows that teach no response are announced."""
        return self._compressed

    @cached_property
    def _compressed(self) -> Artifact:
        compressed = super().compressed()
        if num := compressed.facts.get("num_empty_responses"):
            line = (
                f"compress: {num} of {compressed.manifest['num_rows']} training rows have an empty response; students "
                "learn from them to end after the thinking"
            )
            if self.store.first_time(line):
                log.warning("%s", line)
        return compressed

    @cached_property
    def problems(self) -> Artifact:
        """The benchmark's problems."""
        return self._kept("benchmark", problems(self._config.benchmark, self.store))

    def read(self, data: DataConfig, group: str) -> Artifact:
        """Traces of a group, without those whose question is in the benchmark."""
        return self._decontaminated(self.made(data, group), data, group)

    def _decontaminated(self, made: Artifact, data: DataConfig, group: str) -> Artifact:
        benchmark = self._config.benchmark
        found = overlap(made, self.problems, benchmark.prompt, self.store)
        self._kept("overlap", found, part="" if group == "data" else group)
        return decontaminated(
            made, found, self.store, group=group, name=data.name, benchmark=benchmark.title, remove=data.decontaminate
        )

    @cached_property
    def original(self) -> Artifact:
        """The student Original, trained on the whole traces of the run.

        Where students start from the writer of the traces, that is Original.
        """
        c = self._config
        if c.starts_from_writer:
            return self._taught("data")
        common = c.sft.overlong is Overlong.common  # otherwise it needs no scores
        return self.student(ORIGINAL, self.uncompressed(), [self.compressed()] if common else [])

    @cached_property
    def cut_at_random(self) -> Artifact:
        """The training traces cut at random, otherwise as those of the scorer."""
        c, system = self._config, random_beside(compressed_system(self._config))
        assert system is not None
        random = RandomConfig(name=RANDOM.lower(), seed=c.seed)
        models = Models(config=c.model, reference=None, trainer=c.trainer, store=self.store)
        scores = self._kept("score", scoring_job(random, traces=self.traces, models=models).artifact(), system)
        # LLMLingua's own selection is a method of its own; what it is compared with is cut exactly to the ratio.
        return self._kept("compress", self._compress(replace(c.compression, selection=Selection.exact), scores), system)

    def student(self, system: System, compressed: Artifact, beside: Sequence[Artifact] = ()) -> Artifact:
        """The student trained on these compressed traces; `beside` are those of the other systems of the run."""
        return self._kept("sft", self._trained(system, compressed, self.traces, self._config.data, beside), system)

    def _trained(
        self, system: System, compressed: Artifact, traces: Artifact, data: DataConfig, beside: Sequence[Artifact] = ()
    ) -> Artifact:
        c, start = self._config, self._start(system)
        # The names are no part of the identity, so those of one student are the same in every run.
        names = {"data": data.name, "scorer": ORIGINAL.name if system.origin is Origin.original else system.name}
        return train_student(
            c.sft,
            model=c.model,
            compressed=compressed,
            trainer=c.trainer,
            tracker=self._tracker.of_system("" if _is_own(system) else system.label),
            store=self.store,
            beside=beside,
            name=system.title,
            validate=self.validation(system, traces, data),
            names=names if start is None else {**names, "start": Path(c.sft.start).name},
            start=start,
        )

    def _start(self, system: System) -> TrainedWeights | None:
        """The weights that a student starts from; None for those of the run's model."""
        start = self._config.sft.start
        if start == BASE_WEIGHTS or (start == ORIGINAL_WEIGHTS and system.origin is Origin.original):
            return None
        if start == ORIGINAL_WEIGHTS:
            return TrainedWeights.of(self.original)
        return TrainedWeights.saved(Path(start), "sft.start")

    def _writer(self, data: SelfWrittenDataConfig, group: str) -> TrainedWeights | None:
        """See `Scoring`; a student of other traces is trained where it is missing."""
        if data.writer != ORIGINAL_WEIGHTS:
            return None
        asks_traces = group == SHORTEST_GROUP and not isinstance(self._config.data, SelfWrittenDataConfig)
        return TrainedWeights.of(self.original if asks_traces else self._taught(group))

    def _taught(self, group: str) -> Artifact:
        """The writer of self-written data: the student of the whole traces of `taught`."""
        place = "labelled" if group == "labelled" else "data"
        data = self._config.labelled if place == "labelled" else self._config.data
        assert isinstance(data, SelfWrittenDataConfig)
        assert data.taught is not None
        name = f"{place}.taught"
        traces = self._kept("data", self.read(data.taught, name), part=name)
        is_original = place == "data" and self._config.starts_from_writer
        system = ORIGINAL if is_original else replace(ORIGINAL, name="Writer" if place == "data" else "labelled Writer")
        whole = self._kept("compress", self._compress(CompressionConfig(), None, traces), system)
        return self._kept("sft", self._trained(system, whole, traces, data.taught), system)

    @cached_property
    def shortest_answers(self) -> Artifact:
        """The shortest right one of several answers to each question of the run, as traces."""
        data = self._config.data
        own = isinstance(data, SelfWrittenDataConfig)
        questions = None if own else questions_of(self.data, data.extractor, self.store)
        return self.made(self._config.shortest, SHORTEST_GROUP, questions)

    @cached_property
    def shortest(self) -> Artifact:
        """The student Shortest, trained on the shortest right answers to the questions of the run.

        It learns as the other students do, with `sft.overlong=common` from no other questions.
        """
        c, data = self._config, self._config.shortest
        made = self._decontaminated(self.shortest_answers, data, SHORTEST_GROUP)
        traces = self._kept("data", made, part=SHORTEST.name)
        whole = self._kept("compress", self._compress(CompressionConfig(), None, traces), SHORTEST)
        common = c.sft.overlong is Overlong.common
        beside = [self.compressed(), self.uncompressed()] if common else []
        return self._kept("sft", self._trained(SHORTEST, whole, traces, data, beside), SHORTEST)

    def validation(self, system: System, traces: Artifact | None = None, data: DataConfig | None = None) -> Validation:
        """The problems that a student answers during its training, and how its answers are judged.

        They are those of `traces` from the source `data`, by default of the run's.
        """
        c = self._config
        return Validation(
            traces=(traces or self.traces).file(TRACES_FILE),
            num_problems=c.sft.validation_problems,
            extractor=(data or c.data).extractor.value,
            model=c.model,
            store=self.store,
            generation_tokens=c.trainer.generation_tokens,
            max_new_tokens=c.sft.validation_max_new_tokens,
            system=system.label,
            ratio=c.ratio,
            marked=bool(c.compression.mixed_ratios) and system.origin in (Origin.scorer, Origin.random),
        )


def _is_own(system: System | None) -> bool:
    """Return True for the system of the run's scorer, whose metrics have the plain names of the stages."""
    return system is not None and system.origin is Origin.scorer
