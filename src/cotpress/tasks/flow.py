"""One configuration as artifacts: each property or method asks its stage, which computes only what is not there yet.

Everything is made when it is first asked for, so a scorer that needs no reference model trains none.
"""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cotpress.compression.config import CompressionConfig, Selection
from cotpress.compression.stage import compress
from cotpress.compression.token_table import token_table
from cotpress.config import FidelityConfig, PipelineConfig, ScoringPipelineConfig, TrainConfig
from cotpress.data.config import DataConfig, PlantedDataConfig
from cotpress.data.self_written.config import SelfWrittenDataConfig
from cotpress.data.stage import is_text, problems, traces
from cotpress.data.truth.stage import truth
from cotpress.devices.device import use_determinism, use_threads
from cotpress.distill.stage import distill
from cotpress.evaluation.validation import Validation
from cotpress.modeling.loading import load_tokenizer, tokenizer_fingerprint
from cotpress.scoring.config import Shard
from cotpress.scoring.job import ScoringJob, scoring_job
from cotpress.scoring.scorers.llmlingua_compat import decision_job
from cotpress.store.artifacts import Artifact, ArtifactStore
from cotpress.tasks.systems import ORIGINAL, Examinee, System, examine, student_name
from cotpress.tracking import OfSystem, Tracker
from cotpress.training.config import SavedReferenceConfig
from cotpress.training.saved import find_saved, saved_reference
from cotpress.training.stage import train_reference, train_student

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

NUM_LABELLED_TRACES = 220
"""Built-in traces that stand in where the rows themselves cannot be learnt from; as many as conf/data/planted.yaml."""


class Scoring:
    """From data to scored traces."""

    def __init__(self, config: ScoringPipelineConfig, tracker: Tracker) -> None:
        self._config, self._tracker = config, tracker
        use_threads(config.trainer)
        use_determinism(config.trainer)
        if isinstance(config.reference, SavedReferenceConfig):
            find_saved(Path(config.reference.path))  # before hours of work on something else
        self.store = ArtifactStore(Path(config.output_root))
        self.artifacts: dict[str, Artifact] = {}
        self._own_names = {config.scorer.name}

    def _kept(self, label: str, artifact: Artifact) -> Artifact:
        """Note what was made, for the run's own report, and tell the tracker."""
        if label not in self.artifacts:
            self.artifacts[label] = artifact
            system = label.partition(" (")[2].removesuffix(")")
            self._tracker.artifact(artifact, system="" if system in self._own_names else system)
        return artifact

    @cached_property
    def data(self) -> Artifact:
        """What the group `data` stands for: training and validation traces."""
        return self._kept("data", self._traces(self._config.data, "data"))

    def _traces(self, data: DataConfig, group: str) -> Artifact:
        return traces(data, self.store, model=self._config.model, trainer=self._config.trainer, group=group)

    @cached_property
    def traces(self) -> Artifact:
        """The traces that are scored."""
        return self.data

    @cached_property
    def labelled_traces(self) -> Artifact:
        """Traces that reference model and classifier learn from."""
        c = self._config
        if c.labelled is not None:
            return self._kept("data (labelled)", self._traces(c.labelled, "labelled"))
        if not is_text(c.data):
            return self.data
        log.info(
            "the rows of data.field are no traces to learn from: the reference model or classifier is trained on %d "
            "built-in traces (data@labelled=NAME chooses others, reference=none reads with the model as it is)",
            NUM_LABELLED_TRACES,
        )
        planted = PlantedDataConfig(name="planted", num_traces=NUM_LABELLED_TRACES, seed=c.seed)
        return self._kept("data (labelled)", self._traces(planted, "labelled"))

    @cached_property
    def distilled(self) -> Artifact:
        """The valuable part of every labelled training thinking."""
        c = self._config
        found = distill(c.distill, self.labelled_traces, self.store, model=c.model, trainer=c.trainer)
        return self._kept("distill", found)

    @cached_property
    def reference(self) -> Artifact | None:
        """The reference model; None if the base model scores."""
        c = self._config
        if isinstance(c.reference, SavedReferenceConfig):
            saved = saved_reference(Path(c.reference.path), base=c.reference.base or c.model, store=self.store)
            return self._kept("reference", saved)
        if not c.reference.exists:
            return None
        reference = train_reference(
            c.reference,
            base=c.reference.base or c.model,
            distilled=self.distilled,
            trainer=c.trainer,
            tracker=self._tracker,
            store=self.store,
        )
        return reference if reference is None else self._kept("reference", reference)

    @cached_property
    def scores(self) -> Artifact:
        """Importance of every thinking token; with whatever the scorer needs made before."""
        return self._kept(f"score ({self._config.scorer.name})", self._scoring.artifact())

    @cached_property
    def _scoring(self) -> ScoringJob:
        c = self._config
        return scoring_job(
            c.scorer,
            traces=self.traces,
            distilled=self.distilled if c.scorer.needs_labels else None,
            reference=self.reference if c.scorer.needs_reference else None,
            base=c.scoring_model,
            trainer=c.trainer,
            store=self.store,
        )

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The student's tokenizer, in which every ratio is counted."""
        return load_tokenizer(self._config.model, self.store)


class Compression(Scoring):
    """From data to compressed training traces."""

    def __init__(self, config: PipelineConfig, tracker: Tracker) -> None:
        super().__init__(config, tracker)
        self._pipeline = config

    @cached_property
    def decisions(self) -> Artifact | None:
        """Which tokens LLMLingua 0.2.2 would keep at the asked ratio; None where all of them stay."""
        c = self._pipeline
        return self._kept(f"decide ({c.scorer.name})", self._deciding.artifact()) if c.ratio < 1 else None

    @cached_property
    def _deciding(self) -> ScoringJob:
        c = self._pipeline
        return decision_job(
            c.scorer,
            ratio=c.ratio,
            iterative_size=c.compression.iterative_size,
            traces=self.traces,
            reference=self.reference if c.scorer.needs_reference else None,
            base=c.scoring_model,
            trainer=c.trainer,
            store=self.store,
        )

    @property
    def _compat(self) -> bool:
        return self._pipeline.compression.selection is Selection.llmlingua_compat

    def shard(self, shard: Shard) -> bool:
        """Score (or decide) one shard of the traces; True if all of them are done."""
        if not self._compat:
            return self._scoring.shard(shard)
        return self._pipeline.ratio >= 1 or self._deciding.shard(shard)

    def compressed(self) -> Artifact:
        """The training traces at the asked ratio, or at mixed ratios."""
        c = self._pipeline
        scores = self.decisions if self._compat else self.scores
        found = self._kept(f"compress ({c.scorer.name})", self._compress(c.compression, scores))
        self._tracker.table(
            "compress", "tokens", lambda rows: token_table(found, self.traces, scores, self.tokenizer, rows)
        )
        return found

    def uncompressed(self) -> Artifact:
        """The training traces as they are: what the Original student learns from."""
        return self._kept("compress (Original)", self._compress(CompressionConfig(), None))

    def _compress(self, compression: CompressionConfig, scores: Artifact | None) -> Artifact:
        return compress(
            compression,
            ratio=self._pipeline.ratio if scores else 1.0,
            seed=self._pipeline.seed,
            traces=self.traces,
            scores=scores,
            tokenizer=self.tokenizer,
            tokenizer_key=tokenizer_fingerprint(self.tokenizer),
            store=self.store,
        )


class Fidelity(Scoring):
    """From data to scores of traces of which it is known what matters in them."""

    def __init__(self, config: FidelityConfig, tracker: Tracker) -> None:
        super().__init__(config, tracker)
        self._truth = config.truth

    @cached_property
    def traces(self) -> Artifact:
        """The truth's traces are scored; `data` only trains the reference model."""
        return self._kept("truth", truth(self._truth, self.store))


class Flow(Compression):
    """From data to judged answers."""

    def __init__(self, config: TrainConfig, tracker: Tracker) -> None:
        super().__init__(config, tracker)
        self._train = config
        self._own_names.add(student_name(config))

    @cached_property
    def problems(self) -> Artifact:
        """What students are asked."""
        return self._kept("benchmark", problems(self._train.benchmark, self.store))

    def find_problems(self) -> None:
        """Fail before anything is trained if there is nothing to ask or to learn from."""
        problems(self._train.benchmark, self.store)
        labelled = self._config.labelled
        # What a model has to write for hours is left until it is needed.
        if labelled is not None and not isinstance(labelled, SelfWrittenDataConfig):
            self._traces(labelled, "labelled")

    def student(self, name: str, compressed: Artifact) -> Artifact:
        """The student of some compressed traces."""
        c = self._train
        student = train_student(
            c.sft,
            model=c.model,
            compressed=compressed,
            trainer=c.trainer,
            tracker=self._tracker if name in self._own_names else OfSystem(self._tracker, name),
            store=self.store,
            validate=self.validation(name),
        )
        return self._kept(f"sft ({name})", student)

    def validation(self, name: str) -> Validation:
        """What a student is asked while it is trained."""
        c = self._train
        return Validation(
            traces=self.traces.file("traces.parquet"),
            num_problems=c.sft.validation_problems,
            extractor=c.data.extractor.value,
            model=c.model,
            store=self.store,
            generation_tokens=c.trainer.generation_tokens,
            max_new_tokens=c.sft.validation_max_new_tokens,
            system=name,
            ratio=c.ratio,
            marked=bool(c.compression.mixed_ratios) and name != ORIGINAL,
        )

    def examined(self, examinees: Sequence[Examinee]) -> list[System]:
        """Their answers to the benchmark."""
        return examine(examinees, self._train, problems=self.problems, store=self.store, artifacts=self.artifacts)
