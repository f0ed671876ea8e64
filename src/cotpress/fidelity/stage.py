"""Measures from scores and truth; loads artifacts and the tokenizer whose tokens are judged, no model."""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cotpress.errors import ArtifactError, DataError
from cotpress.fidelity.metrics import DIRECTIONS, POSITION, Bootstrap, Case, Judgement, build_case, judge, unusable
from cotpress.fidelity.results import FidelityRow
from cotpress.modeling.alignment import project_scores
from cotpress.records import (
    IMPORTANCE_FILE,
    SCORES_FILE,
    TRACES_FILE,
    Interval,
    ScoredTrace,
    SentenceImportance,
    Trace,
    TruthKind,
)
from cotpress.store.artifacts import Artifact
from cotpress.store.tables import read_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_Judgements = dict[str, Judgement]  # measures by trace


def measure(
    system: str,
    reference: str,
    *,
    truth: Artifact,
    scores: Artifact,
    tokenizer: "PreTrainedTokenizerBase",
    tokenizer_key: str,
    bootstrap: Bootstrap,
    settings: Mapping[str, Any],
) -> list[FidelityRow]:
    """Measure how well scores agree with the truth: the row of the scorer, then those of the trivial rules.

    Tokens of `tokenizer` are judged; scores made with another one are projected through characters. `reference` names
    the tuning of the scorer's reference model, `-` for none, and `settings` what distinguishes the scorer from others
    of its name.

    Raises:
        DataError: Nothing can be measured on any scored trace.
        ArtifactError: The scores belong to other texts.
    """
    kind = TruthKind(truth.facts["kind"])
    cases, unfit = _cases(kind, truth, tokenizer)
    means = _Means(bootstrap, {trace.id: trace.question for trace in read_records(truth.file(TRACES_FILE), Trace)})
    scored = {row.id: row for row in read_records(scores.file(SCORES_FILE), ScoredTrace)}
    judged = {
        id_: judge(kind, case, case.unit_scores(_token_scores(scored[id_], case, tokenizer_key)))
        for id_, case in cases.items()
        if id_ in scored and len(scored[id_].scores)
    }
    if not judged:
        raise DataError(f"scorer={system}: none of {len(cases)} usable traces of the truth has scores")
    rules = _rules(kind, cases)
    position = rules[POSITION][1]
    refused = Counter(scores.manifest["dropped"]) + Counter(reason for id_, reason in unfit.items() if id_ in scored)
    rows = [
        _row(judged, position, means, system=system, reference=reference, rule=False, dropped=dict(refused),
             settings=settings),
        *(
            _row(judgements, position, means, system=label, reference="-", rule=True,
                 dropped=dict(Counter(unfit.values())))
            for label, judgements in rules.values()
        ),
    ]  # fmt: skip
    drops = ", ".join(f"{n} dropped: {reason}" for reason, n in sorted(refused.items()))
    log.info("fidelity: %s judged on %d traces%s", system, len(judged), f" ({drops})" if drops else "")
    return rows


def _cases(
    kind: TruthKind, truth: Artifact, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[dict[str, Case], dict[str, str]]:
    """Return the traces that can be judged, and the reasons for the others."""
    sentences: dict[str, list[SentenceImportance]] = defaultdict(list)
    for sentence in read_records(truth.file(IMPORTANCE_FILE), SentenceImportance):
        sentences[sentence.id].append(sentence)
    cases: dict[str, Case] = {}
    unfit: dict[str, str] = {}
    for trace in read_records(truth.file(TRACES_FILE), Trace):
        case = build_case(kind, trace, sentences[trace.id], tokenizer)
        reason = unusable(kind, case)
        if reason is None:
            cases[trace.id] = case
        else:
            unfit[trace.id] = reason
    if not cases:
        reasons = ", ".join(f"{n} x {reason}" for reason, n in Counter(unfit.values()).most_common())
        raise DataError(f"truth: nothing can be measured on any trace ({reasons})")
    return cases, unfit


def _token_scores(scored: ScoredTrace, case: Case, tokenizer_key: str) -> NDArray[np.float32]:
    if scored.offsets.max() > case.num_chars:
        raise ArtifactError(
            f"scores of trace '{scored.id}' reach past the end of its text. Fix: remove that score artifact, it is "
            "computed again"
        )
    if scored.tokenizer == tokenizer_key and np.array_equal(scored.token_ids, case.token_ids):
        return scored.scores
    return project_scores(scored.offsets, scored.scores, case.offsets, case.num_chars)


def _rules(kind: TruthKind, cases: Mapping[str, Case]) -> dict[str, tuple[str, _Judgements]]:
    """Judge the trivial rules, each in both directions, and return the label and measures of the better direction."""
    rules: dict[str, tuple[str, _Judgements]] = {}
    for name, directions in DIRECTIONS.items():
        both = [
            {id_: judge(kind, case, sign * case.rules[name]) for id_, case in cases.items()} for sign in (1.0, -1.0)
        ]
        best = int(np.argmax([np.mean([judgement.main for judgement in judged.values()]) for judged in both]))
        rules[name] = f"{name} ({directions[best]} first)", both[best]
    return rules


@dataclass(frozen=True, slots=True)
class _Means:
    """Means over the questions of traces, given by trace."""

    bootstrap: Bootstrap
    questions: Mapping[str, str]

    def of(self, values: Mapping[str, float]) -> Interval:
        """Return the mean of one value per trace."""
        return self.bootstrap.mean(list(values.values()), [self.questions[id_] for id_ in values])

    def of_each(self, traces: Mapping[str, Mapping[str, float]]) -> dict[str, Interval]:
        """Return the mean of every measure over the traces that have it."""
        names = dict.fromkeys(name for measures in traces.values() for name in measures)
        return {n: self.of({id_: measures[n] for id_, measures in traces.items() if n in measures}) for n in names}


def _row(judged: _Judgements, position: _Judgements, means: _Means, **about: Any) -> FidelityRow:
    """Return the row of some judgements beside those of the position rule; `about` holds its other fields."""
    differences = {id_: judgement.main - position[id_].main for id_, judgement in judged.items()}
    return FidelityRow(
        metrics=means.of_each({id_: judgement.metrics for id_, judgement in judged.items()}),
        over_position=None if judged is position else means.of(differences),
        kinds=dict(sorted(means.of_each({id_: judgement.kinds for id_, judgement in judged.items()}).items())),
        **about,
    )
