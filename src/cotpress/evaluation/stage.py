"""The evaluation stage: students answer all problems of a benchmark, and their answers are judged.

Two artifacts, because asking is dear and judging is not: `answer` holds what was written and depends on the student,
the questions and the protocol; `evaluate` holds the verdicts and depends on the checker too. So a better checker, a
corrected gold answer or another extractor judges again and asks nobody. A killed run asks only what is unanswered.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cotpress.devices.config import TrainerConfig
from cotpress.evaluation.answering import ANSWERS, Answering, Candidate
from cotpress.evaluation.asking import Answer
from cotpress.evaluation.judging import prediction, verdict_identity
from cotpress.generation.backends import OpenBackend, open_backend
from cotpress.generation.config import GenerationConfig
from cotpress.modeling.config import ModelConfig
from cotpress.progress import Progress
from cotpress.records import Prediction, Problem
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.tables import read_records, write_records

PREDICTIONS = "predictions.parquet"


def evaluate(
    candidates: Sequence[Candidate],
    *,
    model: ModelConfig,
    problems: Artifact,
    generation: GenerationConfig,
    trainer: TrainerConfig,
    store: ArtifactStore,
    opened: OpenBackend = open_backend,
) -> list[Artifact]:
    """Predictions of every candidate on all problems (`predictions.parquet`), in the candidates' order.

    What candidates of the same weights are missing is asked in one pass: the model is loaded once, and the ratios fill
    the batches together. Their artifacts are those that they would have had alone.

    Args:
        candidates: Who is asked.
        model: The base model; with a server only its tokenizer and chat format are used.
        problems: Artifact with `problems.parquet`.
        generation: Which backend writes.
        trainer: Hardware.
        store: Where the results go.
        opened: Opens the backend; one that keeps the last model spares the next call its loading.

    Returns:
        The artifacts; their seconds are those of asking and judging together.

    Raises:
        ConfigError: A student whose every weight was trained is asked of a server, which cannot load it.
        GenerationError: A server fails; what was answered is kept.
    """
    asked = read_records(problems.file("problems.parquet"), Problem)
    answering = Answering(model, generation, trainer, store, opened)
    answers = answering.answers(candidates, asked)
    return [
        _judged(candidate, found, asked, problems, answering, store)
        for candidate, found in zip(candidates, answers, strict=True)
    ]


def _judged(
    candidate: Candidate,
    answers: Artifact,
    asked: Sequence[Problem],
    problems: Artifact,
    answering: Answering,
    store: ArtifactStore,
) -> Artifact:
    system, ratio, thinks = candidate.system, candidate.ratio, isinstance(candidate.student, Artifact)
    identity = {
        "answers": answers.key,
        "problems": problems.key,
        "system": system,
        "ratio": ratio,
        "thinks": thinks,
        **verdict_identity(),
        "columns": [field.name for field in dataclasses.fields(Prediction)],
    }

    def produce(workdir: Path) -> Summary:
        by_id, written = {p.id: p for p in asked}, answering.written
        rows = read_records(answers.file(ANSWERS), Answer)
        judged = []
        with Progress(f"judge {system}", len(rows), "answers") as progress:
            for row in rows:
                judged.append(prediction(by_id[row.id], row, written, system=system, ratio=ratio, thinks=thinks))
                progress.advance(1)
        write_records(workdir / PREDICTIONS, judged, Prediction)
        return Summary(num_rows=len(judged))

    found = store.build("evaluate", identity, produce)
    return dataclasses.replace(found, seconds=found.seconds + answers.seconds, fresh=found.fresh or answers.fresh)
