"""The systems of one run: who is asked, whose answers are compared, and the rows they become."""

from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass, replace

from cotpress.config import EvaluateConfig, TrainConfig
from cotpress.evaluation.config import EvaluationConfig
from cotpress.evaluation.protocol import Shortening, protocol
from cotpress.evaluation.stage import PREDICTIONS, Candidate, evaluate
from cotpress.evaluation.summary import CountTokens, matched_budgets, summarize, with_reference_tokens
from cotpress.generation.backends import OpenBackend, open_backend
from cotpress.records import Prediction, SystemResult
from cotpress.store.artifacts import Artifact, ArtifactStore
from cotpress.store.tables import read_records

ORIGINAL, BASE = "Original", "Base"


@dataclass(frozen=True, slots=True, kw_only=True)
class Examinee:
    """One row of the table before anybody was asked.

    Attributes:
        name: Name of the row.
        student: What answers: an artifact of the sft stage, an adapter, or None for the untuned model.
        ratio: Asked kept fraction.
        marker_ratio: Ratio announced by the control marker, or None.
        shortening: What a baseline without training changes, or None.
        actual_ratio: Kept fraction of its training thinking, with mixed ratios that of the traces that announce
            `marker_ratio`; None if it is not known.
        training_ratio: Kept fraction of all its training thinking, where that is another; None: `actual_ratio`.
        ratio_one: The same student asked for ratio 1, which its ActRatio is relative to; None without.
    """

    name: str
    student: Artifact | str | None
    ratio: float = 1.0
    marker_ratio: float | None = None
    shortening: Shortening | None = None
    actual_ratio: float | None = None
    training_ratio: float | None = None
    ratio_one: "Examinee | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One row of the table before it is counted.

    Attributes:
        name: Name of the row.
        ratio: Asked kept fraction.
        actual_ratio: See `Examinee`.
        answers: Artifact with its predictions.
        student: Artifact with its weights; None for what was not trained here.
        training_ratio: See `Examinee`.
        ratio_one: Answers of the same student asked for ratio 1, which its ActRatio is relative to; None without.
    """

    name: str
    ratio: float
    actual_ratio: float | None
    answers: Artifact
    student: Artifact | None = None
    training_ratio: float | None = None
    ratio_one: Artifact | None = None


def student_name(config: TrainConfig) -> str:
    """Row of the scorer's student; one for all ratios is another system than students of a single one."""
    return f"{config.scorer.name} (mixed)" if config.compression.mixed_ratios else config.scorer.name


def at_ratios(asked: Examinee, ratios: Iterable[float]) -> list[Examinee]:
    """A student with a control marker at further ratios, at ratio 1 if it is compared with that, and as asked.

    Args:
        asked: The student at the asked ratio, which stands last.
        ratios: Further ratios; each stands there once, by falling ratio.
    """
    compared_with = [] if asked.ratio_one is None else [1.0]
    shown = sorted({*ratios, *compared_with} - {asked.ratio}, reverse=True)
    return [*(replace(asked, ratio=r, marker_ratio=r) for r in shown), asked]


def examine(
    examinees: Sequence[Examinee],
    config: TrainConfig | EvaluateConfig,
    *,
    problems: Artifact,
    store: ArtifactStore,
    artifacts: MutableMapping[str, Artifact],
    opened: OpenBackend = open_backend,
) -> list[System]:
    """Everybody's answers to the benchmark; those of the same weights are asked in one pass.

    Args:
        examinees: Who is asked, in the order of the table.
        config: The benchmark's budget, and how answers are asked and judged.
        problems: What is asked.
        store: Where the answers go.
        artifacts: Where they are noted, by label.
        opened: Opens the backend.
    """
    everybody = list({id(e): e for x in examinees for e in (x.ratio_one, x) if e is not None}.values())
    made = evaluate(
        [_candidate(e, config) for e in everybody],
        model=config.model,
        problems=problems,
        generation=config.evaluation.generation,
        trainer=config.trainer,
        store=store,
        opened=opened,
    )
    for examinee, artifact in zip(everybody, made, strict=True):
        artifacts.setdefault(f"evaluate ({examinee.name}, ratio {examinee.ratio:g})", artifact)
    answers = {id(e): artifact for e, artifact in zip(everybody, made, strict=True)}
    return [
        System(
            name=e.name,
            ratio=e.ratio,
            actual_ratio=e.actual_ratio,
            answers=answers[id(e)],
            student=e.student if isinstance(e.student, Artifact) else None,
            training_ratio=e.training_ratio,
            ratio_one=None if e.ratio_one is None else answers[id(e.ratio_one)],
        )
        for e in examinees
    ]


def _candidate(examinee: Examinee, config: TrainConfig | EvaluateConfig) -> Candidate:
    asking = protocol(
        config.evaluation,
        max_new_tokens=config.benchmark.max_new_tokens,
        context_tokens=config.model.context_tokens,
        seed=config.seed,
        ratio=examinee.ratio,
        marker_ratio=examinee.marker_ratio,
        shortening=examinee.shortening,
    )
    return Candidate(system=examinee.name, ratio=examinee.ratio, student=examinee.student, protocol=asking)


def measure(
    systems: Sequence[System], config: EvaluationConfig, count: CountTokens | None = None
) -> tuple[list[SystemResult], list[Prediction]]:
    """One row per system and all their predictions, both in the systems' order.

    Args:
        systems: Whose answers there are.
        config: How they are summarised.
        count: Counts tokens in the reference tokenizer; None without one.
    """
    answers = {
        artifact.key: with_reference_tokens(read_records(artifact.file(PREDICTIONS), Prediction), count)
        for artifact in [a for s in systems for a in (s.answers, s.ratio_one) if a is not None]
    }
    original = next((answers[s.answers.key] for s in systems if s.name == ORIGINAL), None)
    budgets = matched_budgets(config.budgets, original)
    rows = [
        summarize(
            answers[s.answers.key],
            s.name,
            s.ratio,
            s.actual_ratio,
            original,
            training_ratio=s.training_ratio,
            ratio_one=None if s.ratio_one is None else answers[s.ratio_one.key],
            budgets=budgets,
            confidence=config.confidence,
            artifacts={a.stage: a.key for a in (s.student, s.answers) if a is not None},
        )
        for s in systems
    ]
    rows = [replace(row, num_training_rows=_training_rows(s)) for row, s in zip(rows, systems, strict=True)]
    return rows, [p for s in systems for p in answers[s.answers.key]]


def _training_rows(system: System) -> int | None:
    return None if system.student is None else int(system.student.manifest["num_rows"])
