"""Rows of a student with a control marker, and rows that do not exist."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cotpress.config import EvaluateConfig, TrainConfig
from cotpress.evaluation.config import Baseline, BudgetForcingConfig, EvaluationConfig, Instructions
from cotpress.records import MIXED, Origin, System
from cotpress.store.artifacts import ArtifactStore
from cotpress.tasks.systems import Examinee, at_ratios, change_of, tell_left_out

SYSTEM = System(name="cts", origin=Origin.scorer, variant=MIXED, ratio=0.5)
STUDENT = Examinee(system=SYSTEM, student=None, marker_ratio=0.5)
COMPARED = replace(STUDENT, ratio_one=STUDENT.at(1.0))


@pytest.mark.parametrize(
    ("student", "further", "ratios"),
    [
        (STUDENT, [], [0.5]),
        (STUDENT, [1.0, 0.6], [1.0, 0.6, 0.5]),
        (STUDENT, [0.6, 0.6, 0.5, 0.9], [0.9, 0.6, 0.5]),
        (COMPARED, [0.6], [1.0, 0.6, 0.5]),
        (COMPARED, [0.6, 1.0], [1.0, 0.6, 0.5]),
        (COMPARED.at(1.0), [1.0, 0.6], [0.6, 1.0]),
    ],
)
def test_every_further_ratio_is_a_row_before_the_requested_one(
    student: Examinee, further: list[float], ratios: list[float]
) -> None:
    rows = at_ratios(student, further)
    assert [e.ratio for e in rows] == [e.marker_ratio for e in rows] == ratios
    assert {e.system.label for e in rows} == {"cts (mixed)"}
    assert rows[-1] is student


TEXTS = Instructions(
    be_concise="short", only_numbers="numbers", abbre_words="abbreviate", lc_prompt="{percent}", chain_of_draft="draft"
)
ALL = EvaluationConfig(baselines=[*Baseline], instructions=TEXTS, budget_forcing=BudgetForcingConfig(text=""))


@pytest.mark.parametrize(
    ("config", "missing", "told"),
    [
        (TrainConfig(ratio=0.5, evaluation=ALL), {}, ""),
        (TrainConfig(ratio=0.5, evaluation=ALL), {"own": replace(SYSTEM, variant="")}, ""),
        (
            TrainConfig(ratio=0.5, evaluation=ALL),
            {"own": replace(SYSTEM, variant="", name="random")},
            "random (nothing else would be cut at random)",
        ),
        (
            TrainConfig(ratio=0.0, evaluation=ALL),
            {"own": replace(SYSTEM, variant="", ratio=0.0)},
            "random (nothing else would be cut at random); lc_prompt, truncation, budget_forcing (ratio=0 leaves no "
            "word and no token)",
        ),
        (
            EvaluateConfig(ratio=1.0, evaluation=ALL),
            {"has_base": False},
            "base (it is the given model itself); lc_prompt, truncation, budget_forcing (ratio=1 shortens nothing)",
        ),
        (EvaluateConfig(ratio=0.7, evaluation=ALL), {}, ""),
    ],
)
def test_rows_that_are_asked_for_and_do_not_exist_are_told_once_with_the_reason(
    config: TrainConfig | EvaluateConfig,
    missing: dict[str, Any],
    told: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = ArtifactStore(tmp_path)
    caplog.set_level("INFO")
    for _ in range(2):
        tell_left_out(config, store, **missing)
    assert caplog.messages == ([f"evaluation.baselines: no row for {told}"] if told else [])


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_budget_forcing_at_a_number_of_tokens_exists_at_every_ratio(ratio: float) -> None:
    fixed = replace(ALL, budget_forcing=BudgetForcingConfig(text="", thinking_tokens=9))
    change = change_of(Baseline.budget_forcing, TrainConfig(ratio=ratio, evaluation=fixed))
    assert change is not None
    assert (change.ratio, change.forcing and change.forcing.num_tokens) == (1.0, 9)
