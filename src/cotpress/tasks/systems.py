"""Systems of one run: their answers to the benchmark, and the rows of the results table made from them."""

import logging
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace

from cotpress.compression.config import Mode
from cotpress.config import EvaluateConfig, PipelineConfig, TrainConfig
from cotpress.evaluation.config import SHORTENED_TO_RATIO, Baseline, EvaluationConfig
from cotpress.evaluation.protocol import Shortening, protocol, shortening
from cotpress.evaluation.stage import Candidate, evaluate
from cotpress.evaluation.summary import CountTokens, matched_budgets, summarize, with_reference_tokens
from cotpress.generation.backends import OpenBackend, Sampling, open_backend
from cotpress.records import (
    MASK_LOSS,
    MIXED,
    ON_BASE,
    PREDICTIONS_FILE,
    RANDOM,
    SOFT_WEIGHTS,
    Origin,
    Prediction,
    System,
    SystemResult,
    TrainingSet,
)
from cotpress.report.results import StageRecord
from cotpress.store.artifacts import Artifact, ArtifactStore, fingerprint
from cotpress.store.source import without_code
from cotpress.store.tables import read_records

log = logging.getLogger(__name__)

Answered = tuple["Examinee", Artifact, Artifact | None]
"""A system, the artifact of its answers, and that of its student at ratio 1 where it is compared with it."""

_DATA_STAGES = ("data", "benchmark", "overlap")
"""Stages whose facts are in the results of a run."""
CONTENT = "content"
"""Fact of these stages in the results of a run: a hash of all that determines the rows but the code that reads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examinee:
    """A system that answers the benchmark.

    Attributes:
        system: Its identity; the ratio is the requested one.
        student: Artifact of the sft stage, path of an adapter, or None for the untuned model.
        marker_ratio: Ratio stated by the control marker, or None.
        shortening: Changes of a baseline without training, or None.
        actual_ratio: Kept fraction of its training thinking, with mixed ratios of the traces whose marker states
            `marker_ratio`; None if unknown.
        training_ratio: Kept fraction of all its training thinking, where that differs; None: `actual_ratio`.
        ratio_one: The same student at ratio 1, which its ActRatio is relative to; None without.
        loss_share: Mean weight of the loss over its training thinking; None where all tokens have a loss.
    """

    system: System
    student: Artifact | str | None
    marker_ratio: float | None = None
    shortening: Shortening | None = None
    actual_ratio: float | None = None
    training_ratio: float | None = None
    ratio_one: "Examinee | None" = None
    loss_share: float | None = None

    @property
    def ratio(self) -> float:
        """Requested kept fraction."""
        return 1.0 if self.system.ratio is None else self.system.ratio

    def at(self, ratio: float) -> "Examinee":
        """Return the same student with a control marker that states another ratio."""
        return replace(self, system=replace(self.system, ratio=ratio), marker_ratio=ratio)


def stage_record(label: str, artifact: Artifact, store: ArtifactStore, system: System | None = None) -> StageRecord:
    """Return the entry of an artifact in the run's list of stages; no system for what all systems share.

    It is fresh if this command has computed it, also where it was computed at an earlier call, as by a check.
    """
    facts = {**artifact.facts, CONTENT: fingerprint(without_code(artifact.manifest["identity"]))}
    return StageRecord(
        label=label,
        artifact=artifact.key,
        seconds=artifact.seconds,
        fresh=artifact.fresh or artifact.key in store.computed,
        system=system,
        num_rows=artifact.manifest["num_rows"],
        dropped=artifact.manifest["dropped"],
        facts=facts if artifact.stage in _DATA_STAGES else {},
    )


def compressed_system(config: PipelineConfig) -> System:
    """Return the system of the compressed traces and their student.

    Students of mixed ratios, of weights of the loss, and of traces with a length of their own differ from those of
    traces that were cut to a ratio.
    """
    compression = config.compression
    variant, ratio = "", None if compression.has_own_length else config.ratio
    if compression.mixed_ratios:
        variant, ratio = MIXED, None
    elif compression.mode is Mode.mask_loss:
        variant = SOFT_WEIGHTS if compression.soft_weights else MASK_LOSS
    return System(name=config.selector, origin=Origin.scorer, variant=variant, ratio=ratio)


def random_beside(own: System) -> System | None:
    """Return the system of the same traces cut at random, the control of the scorer's system `own`.

    None where nothing would tell the two apart: where the scorer is random itself, the length is that of each trace, or
    the ratio keeps all tokens or none.
    """
    if own.has_own_length or own.name == RANDOM.lower() or own.ratio in (0, 1):
        return None
    return replace(own, name=RANDOM, origin=Origin.random)


def change_of(kind: Baseline, config: TrainConfig | EvaluateConfig) -> Shortening | None:
    """Return the change that a baseline without training makes; None if it is another one or makes none.

    At ratio 0, of a student that does not think, an instruction to leave out all words and a budget of no tokens say
    nothing, so these baselines have no row.
    """
    change = shortening(kind, config.ratio, config.evaluation)
    return None if change is not None and change.ratio == 0 else change


def tell_left_out(
    config: TrainConfig | EvaluateConfig, store: ArtifactStore, *, own: System | None = None, has_base: bool = True
) -> None:
    """Log, once, the baselines that were asked for and have no row, and why.

    `own` is the system of the run's own student, if it has one; without `has_base` the given model is the untuned one.
    `ratio_one` is in every default list and only for students with a control marker, so its absence is not told.
    """
    reasons: dict[str, list[str]] = {}
    for kind in config.evaluation.baselines:
        if kind is Baseline.random and own is not None and random_beside(own) is None:
            reasons.setdefault("nothing else would be cut at random", []).append(kind.value)
        elif kind is Baseline.base and not has_base:
            reasons.setdefault("it is the given model itself", []).append(kind.value)
        elif kind in SHORTENED_TO_RATIO and change_of(kind, config) is None:
            why = "ratio=0 leaves no word and no token" if config.ratio == 0 else "ratio=1 shortens nothing"
            reasons.setdefault(why, []).append(kind.value)
    line = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
    if line and store.first_time(line := f"evaluation.baselines: no row for {line}"):
        log.info("%s", line)


def shortened(change: Shortening, of: Examinee | None) -> Examinee:
    """Return the baseline without training that changes how a system, or without one the untuned model, is asked.

    Its ActRatio is relative to the same model without the change.
    """
    system = System(name=change.name, origin=Origin.baseline, ratio=change.ratio)
    if of is None:
        return Examinee(system=replace(system, variant=ON_BASE), student=None, shortening=change)
    return Examinee(system=system, student=of.student, shortening=change, ratio_one=of.ratio_one)


def at_ratios(examinee: Examinee, ratios: Iterable[float]) -> list[Examinee]:
    """Return a student with a control marker at several ratios, falling, and last at its own.

    Ratio 1 is added if the student is compared with itself at ratio 1.
    """
    compared_with = [] if examinee.ratio_one is None else [1.0]
    further = sorted({*ratios, *compared_with} - {examinee.ratio}, reverse=True)
    return [*map(examinee.at, further), examinee]


def examine(
    examinees: Sequence[Examinee],
    config: TrainConfig | EvaluateConfig,
    *,
    problems: Artifact,
    store: ArtifactStore,
    stages: MutableMapping[str, StageRecord],
    count: CountTokens | None,
    opened: OpenBackend = open_backend,
    served: Mapping[str, str] | None = None,
) -> tuple[list[SystemResult], list[Prediction]]:
    """Let all examinees answer the benchmark, those of the same weights in one pass; add the answers to `stages`.

    `served`: see `cotpress.evaluation.stage.evaluate`.

    Returns:
        One row per examinee and all their predictions, see `measure`.
    """
    everybody = list({id(e): e for x in examinees for e in (x.ratio_one, x) if e is not None}.values())
    artifacts = evaluate(
        [_candidate(e, config) for e in everybody],
        model=config.model,
        problems=problems,
        generation=config.evaluation.generation,
        trainer=config.trainer,
        store=store,
        opened=opened,
        served=served,
    )
    answers = {id(e): artifact for e, artifact in zip(everybody, artifacts, strict=True)}
    for e in everybody:
        label = f"evaluate ({e.system.label}, ratio {e.ratio:g})"
        stages.setdefault(label, stage_record(label, answers[id(e)], store, e.system))
    systems = [(e, answers[id(e)], None if e.ratio_one is None else answers[id(e.ratio_one)]) for e in examinees]
    return measure(systems, config.evaluation, count)


def context_tokens(config: TrainConfig | EvaluateConfig) -> int:
    """Return the longest prompt plus answer, in tokens: the model's, or that of the protocol if shorter."""
    limit = config.benchmark.followed.context_tokens
    return config.model.context_tokens if limit is None else min(config.model.context_tokens, limit)


def usual_sampling(config: TrainConfig | EvaluateConfig) -> Sampling:
    """Return the sampling of the benchmark's protocol."""
    followed = config.benchmark.followed
    return Sampling(temperature=followed.temperature, top_p=followed.top_p, seed=config.seed)


def _candidate(examinee: Examinee, config: TrainConfig | EvaluateConfig) -> Candidate:
    asking = protocol(
        config.evaluation,
        max_new_tokens=config.benchmark.max_new_tokens,
        context_tokens=context_tokens(config),
        usual=usual_sampling(config),
        ratio=examinee.ratio,
        marker_ratio=examinee.marker_ratio,
        shortening=examinee.shortening,
    )
    return Candidate(
        system=examinee.system.label,
        ratio=examinee.ratio,
        student=examinee.student,
        protocol=asking,
        answer_in_thinking=config.evaluation.answer_in_thinking,
    )


def _training_set(student: Artifact) -> TrainingSet:
    facts = student.facts
    return TrainingSet(
        num_traces=student.manifest["num_rows"] + sum(student.manifest["dropped"].values()),
        num_alone=facts["num_alone"],
        num_cut=facts["num_cut"],
        max_tokens=facts["max_tokens"],
        digest=facts["traces"],
    )


def measure(
    systems: Sequence[Answered], config: EvaluationConfig, count: CountTokens | None = None
) -> tuple[list[SystemResult], list[Prediction]]:
    """Return one row per system and all their predictions, both in the systems' order.

    Tokens are counted in a reference tokenizer as well, if `count` is given.
    """
    answers = {
        artifact.key: with_reference_tokens(read_records(artifact.file(PREDICTIONS_FILE), Prediction), count)
        for _, own, ratio_one in systems
        for artifact in (own, ratio_one)
        if artifact is not None
    }
    originals = (answers[own.key] for e, own, _ in systems if e.system.origin is Origin.original)
    original = next(originals, None)
    budgets = matched_budgets(config.budgets, original)
    rows = []
    for e, own, ratio_one in systems:
        student = e.student if isinstance(e.student, Artifact) else None
        row = summarize(
            answers[own.key],
            e.system.label,
            e.ratio,
            e.actual_ratio,
            original,
            training_ratio=e.training_ratio,
            ratio_one=None if ratio_one is None else answers[ratio_one.key],
            budgets=budgets,
            confidence=config.confidence,
            artifacts={a.stage: a.key for a in (student, own) if a is not None},
        )
        if student is not None:
            num_rows = int(student.manifest["num_rows"])
            row = replace(row, num_training_rows=num_rows, training_set=_training_set(student))
        rows.append(replace(row, identity=e.system, loss_share=e.loss_share))
    return rows, [p for _, own, _ in systems for p in answers[own.key]]
