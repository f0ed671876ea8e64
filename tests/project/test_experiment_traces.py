"""Experiments on real traces: what units delete, and the sentences before the first solution."""

import numpy as np
import pytest

from cotpress.compression.config import Statement
from cotpress.compression.ranking import TokenizedTrace
from cotpress.fidelity.metrics import Case
from cotpress.records import Trace, Unit
from experiments.real_traces import units
from experiments.scorer_fidelity import first_solution

TEXT = "It is 2 + 3. The answer is 5. Wait, check 5 again."
STATED = "It is 2 + 3. The answer is 5."


def trace(name: str, thinking: str = TEXT, question: str = "q") -> Trace:
    return Trace(id=name, question=question, thinking=thinking, response="r", answer="5")


def characters(thinking: str) -> np.ndarray:
    return np.array([[i, i + 1] for i in range(len(thinking))], dtype=np.int32)


def case(thinking: str, importance: list[float]) -> Case:
    """Every character is a token; the three sentences of `TEXT` are the units."""
    ends = [12, len(STATED), len(TEXT)]
    owners = np.array([next(u for u, end in enumerate(ends) if i < end) for i in range(len(thinking))], dtype=np.int64)
    return Case(
        num_chars=len(thinking), token_ids=np.zeros(len(thinking), dtype=np.int32), offsets=characters(thinking),
        units=owners, worth=np.array(importance), kinds=(), rules={},
    )  # fmt: skip


def tokenized(name: str, scores: np.ndarray, thinking: str = TEXT) -> TokenizedTrace:
    ids = np.arange(len(thinking), dtype=np.int32)
    return TokenizedTrace(
        trace=trace(name, thinking), ids=ids, offsets=characters(thinking), scores=scores.astype(np.float32)
    )


def test_sentences_after_the_first_solution_are_compared_with_those_before() -> None:
    traces = [trace("a"), trace("b", question="other")]
    cases = [case(TEXT, [0.4, 0.6, 0.1]), case(TEXT, [0.2, 0.2, 0.4])]
    rows = {tuple(row[:2]): row for row in first_solution.lines(traces, cases)}
    share = rows["announced", "kept share of tokens"]
    assert share[2:5] == [2, 2, pytest.approx(len(STATED) / len(TEXT), abs=0.02)]
    gap = rows["announced", "importance of kept minus others"]
    assert gap[2:5] == [2, 2, pytest.approx(((0.5 - 0.1) + (0.2 - 0.4)) / 2)]


def test_thinking_without_a_right_statement_stays_whole() -> None:
    wrong = trace("a", TEXT.replace("answer is 5", "answer is 7"))
    rows = list(first_solution.lines([wrong], [case(TEXT, [0.4, 0.6, 0.1])]))
    assert [(row[0], row[1], row[4]) for row in rows] == [
        ("announced", "kept share of tokens", 1.0), ("concluded", "kept share of tokens", 1.0),
    ]  # fmt: skip


def test_steps_stay_whole_and_the_ratio_is_met() -> None:
    scores = np.where(np.arange(len(TEXT)) < 12, 1.0, 0.0)
    [kept] = units.by_unit([tokenized("a", scores)], Unit.step, 0.5)
    assert kept.sum() == round(0.5 * len(TEXT))
    assert kept[:11].all()
    [first] = units.by_first_solution([tokenized("a", scores)], Statement.announced)
    assert first[: len(STATED)].all()
    assert not first[len(STATED) + 1 :].any()


def test_every_unit_and_kind_has_a_line_with_its_deleted_share() -> None:
    rng = np.random.default_rng(0)
    scored = {"x": [tokenized(name, rng.random(len(TEXT))) for name in "abc"]}
    rows = [dict(zip(units.COLUMNS, row, strict=True)) for row in units.lines(scored, ratios=(0.5,))]
    assert {row["unit"] for row in rows} == {u.value for u in Unit} | {"first_solution"}
    for row in rows:
        if row["kind"] == "all" and row["asked"] == 0.5:
            assert row["deleted"] == pytest.approx(0.5, abs=0.02)
            assert (row["changed"] == 0) == (row["unit"] == "token")
