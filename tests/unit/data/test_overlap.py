"""Questions that training traces and the benchmark share."""

import dataclasses
import logging
import random
import re
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from cotpress.data import planted, stage
from cotpress.data.config import DataConfig
from cotpress.data.overlap import (
    EXACT,
    NGRAM,
    NORMALIZED,
    NUMBERS,
    WRAPPED,
    decontaminated,
    matches,
    overlap,
    tokens,
)
from cotpress.data.registry import Source
from cotpress.errors import DataError
from cotpress.records import PROBLEMS_FILE, TRACES_FILE, Problem, Trace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.tables import read_records, write_records

LONG = (
    "A farmer has 17 sheep and buys 5 more sheep at the market on Monday. On Tuesday he sells 3 of them. "
    "How many sheep does the farmer have at the end of the week?"
)

SHORT = "What is the sum of all primes below 20?"


def trace(question: str, id_: str = "t", **changes: Any) -> Trace:
    return Trace(**{"id": id_, "question": question, "thinking": "so", "response": "r", "answer": "1", **changes})


def problem(question: str, id_: str = "p", **changes: Any) -> Problem:
    return Problem(**{"id": id_, "question": question, "answer": "1", **changes})


def kind(asked: str, learned: str) -> str | None:
    found = matches([trace(learned)], [problem(asked)])
    return found[0].kind if found else None


@pytest.mark.parametrize(
    ("asked", "learned", "expected"),
    [
        (LONG, LONG, EXACT),
        (LONG, f" {LONG}\n", EXACT),
        (LONG, LONG.upper(), NORMALIZED),
        (LONG, LONG.replace(" ", "  \n"), NORMALIZED),
        (LONG, LONG.replace(".", "").replace("?", " ?"), NORMALIZED),
        ("What is $\\dfrac{1}{2} + x^{2}$?", "what is \\(\\frac12 + x^2\\)", None),
        ("What is $\\dfrac{1}{2} + x^{2}$?", "what is \\frac{1}{2}+x^2", NORMALIZED),
        ("It costs $1,000 \u2212 5.", "It costs 1000 - 5", NORMALIZED),
        ("\uff11 + \uff11?", "1 + 1", NORMALIZED),
        ("1 + 1?", "1 - 1?", None),
        ("What is 3.5 * 2?", "What is 35 * 2?", None),
        ("What is 3 * 2?", "What is 2 * 3?", None),
        (LONG, f"Solve this step by step, please. {LONG} Put your answer in a box.", NGRAM),
        (LONG, LONG[: LONG.index(" On Tuesday")], NGRAM),
        (SHORT, f"Return your final response within \\boxed{{}}. {SHORT}", WRAPPED),
        (SHORT, f"Please reason step by step.\n{SHORT.lower()} Put the answer in a box.", WRAPPED),
        (SHORT, f"Question: {SHORT}", WRAPPED),
        (SHORT, f"7. {SHORT}\nLet's think step by step.", WRAPPED),
        (SHORT, f"Let n be {SHORT}", None),
        (SHORT, f"{SHORT[:-1]} that are odd?", None),
        ("Let $x=2$. Find $x^3$.", "Answer this. Let \\(x=2\\). Find \\(x^3\\).", WRAPPED),
        ("Let $x=2$. Find $x^3$.", "Let $x=2$ or $x=3$. Find $x^3$.", None),
        ("x + 1", "Find it: x + 1", WRAPPED),
        ("x!", "What follows? x!", None),
        ("求小于20的素数之和。", "请一步一步思考。求小于20的素数之和", WRAPPED),
        (LONG, LONG.replace("sheep", "goats").replace("Tuesday", "Friday").replace("many", "much"), None),
        (LONG, "How many sheep does the farmer have at the end of the year?", None),
        (
            "小明有8个苹果,他吃了3个,又买了5个,现在有几个苹果?",
            "请问:小明有8个苹果,他吃了3个,又买了5个,然后呢?",
            NGRAM,
        ),
        ("???", "!!!", None),
        ("", "", None),
    ],
)
def test_kind_of_a_match_is_the_strictest(asked: str, learned: str, expected: str | None) -> None:
    assert kind(asked, learned) == expected


def test_runs_of_words_in_several_problems_are_phrases() -> None:
    end = "where m and n are relatively prime positive integers that have no common factor. Find m + n."
    asked = [problem(f"Question {name} about a {name}, {end}", name) for name in ("circle", "square", "cube")]
    learned = trace(f"Another about a torus, {end}")
    assert matches([learned], asked) == []
    assert {m.problem for m in matches([learned], asked[:2])} == {"circle", "square"}
    assert [m.kind for m in matches([trace(asked[0].question)], asked)] == [EXACT]


def test_every_pair_of_a_repeated_problem_is_found() -> None:
    found = matches(
        [trace(LONG, "a"), trace("Other?", "b"), trace(LONG.lower(), "c")], [problem(LONG, i) for i in "pq"]
    )
    assert [(m.trace, m.problem, m.kind) for m in found] == [
        ("a", "p", EXACT), ("a", "q", EXACT), ("c", "p", NORMALIZED), ("c", "q", NORMALIZED),
    ]  # fmt: skip


def test_planted_problem_with_the_numbers_and_operators_of_a_trace_is_found() -> None:
    """The generator makes none; rows of earlier releases may hold them."""
    learned = planted.traces(num_traces=220, families=[], length=planted.Length.short, seed=42)
    asked = planted.problems(num_problems=84, families=[], length=planted.Length.short, seed=2_000_003)
    assert matches(learned, asked) == []
    first = next(t for t in learned if t.family == "belongings")
    numbers = re.findall(r"\d+", first.question)
    story = "A bus carries {} people. {} get {}. Then {} get {}. How many people are on the bus?"
    signs = ["off" if "gives" in part or "loses" in part else "on" for part in first.question.split(". ")[1:3]]
    bus = story.format(numbers[0], numbers[1], signs[0], numbers[2], signs[1])
    found = matches(learned, [problem(bus, answer=first.answer, family="bus")])
    assert [(m.trace, m.kind) for m in found] == [(first.id, NUMBERS)]


@pytest.mark.parametrize("length", planted.Length)
def test_calculation_is_read_from_the_question(length: planted.Length) -> None:
    stories = planted._stories(140, "traces", list(planted.FAMILIES), length, 5, planted.Half.training, "data")
    for family, story, _ in stories:
        assert planted.calculation(family, story.question) == tuple(map(str, story.numbers)), story.question


def test_templates_of_planted_stories_are_no_shared_words() -> None:
    asked = "Tom has 8 apples. He buys 3. Then he gives away 2. How many apples does he have?"
    learned = asked.replace("Tom has 8", "Anna has 9")
    family = {"family": "belongings"}
    assert matches([trace(learned, answer="10", **family)], [problem(asked, answer="9", **family)]) == []
    assert [m.kind for m in matches([trace(learned)], [problem(asked, **family)])] == [NGRAM]


def test_ten_thousand_traces_are_compared_with_five_hundred_problems_in_seconds() -> None:
    words = random.Random(0).choices([f"word{i}" for i in range(3000)], k=200_000)
    asked = [problem(" ".join(words[i * 70 : i * 70 + 70]), f"p{i}") for i in range(500)]
    learned = [trace(" ".join(words[i * 19 : i * 19 + 100]), f"t{i}") for i in range(10_000)]
    start = time.process_time()
    assert matches(learned, asked)
    assert time.process_time() - start < 5


def test_words_and_operators_remain() -> None:
    assert tokens("Find $x^{2}$, if 1,234.5 < y \\le \\left(3\\right)!") == [
        "find", "x", "^", "2", "if", "1234.5", "<", "y", "le", "(", "3", ")",
    ]  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "out")


def data(store: ArtifactStore, *rows: Trace, name: str = "data") -> Artifact:
    def produce(folder: Path) -> Summary:
        write_records(folder / TRACES_FILE, rows, Trace)
        facts = {"train": sum(r.split == "train" for r in rows), "validation": 0, "other": 1}
        return Summary(num_rows=len(rows), dropped={"empty thinking": 2}, facts=facts)

    return store.build("data", {"rows": [r.id + r.question for r in rows], "name": name}, produce)


def benchmark(store: ArtifactStore, *rows: Problem) -> Artifact:
    def produce(folder: Path) -> Summary:
        write_records(folder / PROBLEMS_FILE, rows, Problem)
        return Summary(num_rows=len(rows))

    return store.build("benchmark", {"rows": [r.id + r.question for r in rows]}, produce)


def checked(
    store: ArtifactStore, made: Artifact, asked: Artifact, *, remove: bool = True, prompt: str = ""
) -> Artifact:
    found = overlap(made, asked, prompt or "{question}", store)
    return decontaminated(made, found, store, group="data", name="mine", benchmark="test", remove=remove)


def test_traces_with_a_question_of_the_benchmark_are_left_out_and_counted(
    store: ArtifactStore, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [trace("New?", "a"), trace(LONG, "b"), trace(LONG.lower(), "c", split="validation"), trace("Old?", "d")]
    made, asked = data(store, *rows), benchmark(store, problem(LONG, "p1"), problem("Other?", "p2"))
    clean = checked(store, made, asked)
    assert [t.id for t in read_records(clean.file(TRACES_FILE), Trace)] == ["a", "d"]
    assert clean.manifest["dropped"] == {
        "empty thinking": 2,
        "question of the benchmark (exact)": 1,
        "question of the benchmark (normalized)": 1,
    }
    assert clean.facts == {"train": 2, "validation": 0, "other": 1}
    assert overlap(made, asked, "{question}", store).facts == {
        "traces": 4,
        "problems": 2,
        "matched_traces": {"exact": 1, "normalized": 1},
        "matched_problems": {"exact": 1},
    }
    (told,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert told == (
        "data=mine: 2 of 4 traces overlap with the 2 problems of benchmark=test: exact 1 with 1 problems (e.g. 'b' and "
        "'p1'), normalized 1 with 0 problems (e.g. 'c' and 'p1'): left out; data.decontaminate=false keeps them"
    )


def test_overlap_is_reported_alone_without_decontamination(
    store: ArtifactStore, caplog: pytest.LogCaptureFixture
) -> None:
    made, asked = data(store, trace(LONG, "b")), benchmark(store, problem(LONG))
    assert checked(store, made, asked, remove=False).key == made.key
    assert "exact 1 with 1 problems (e.g. 'b' and 'p'): kept" in caplog.text


def test_trace_with_the_numbers_of_another_story_is_left_out(
    store: ArtifactStore, caplog: pytest.LogCaptureFixture
) -> None:
    story = "{} has {} {}. {} 3. How many?"
    learned = [trace(story.format("Tom", n, "apples", "He buys"), f"t{n}", family="belongings") for n in (8, 9)]
    asked = benchmark(store, problem(story.format("A hotel", 8, "guests", "Then arrive"), family="hotel"))
    clean = checked(store, data(store, *learned), asked)
    assert [t.id for t in read_records(clean.file(TRACES_FILE), Trace)] == ["t9"]
    assert "numbers 1 with 1 problems (e.g. 't8' and 'p'): left out" in caplog.text


def test_clean_data_are_the_same_artifact_with_any_benchmark_and_nothing_is_told(
    store: ArtifactStore, caplog: pytest.LogCaptureFixture
) -> None:
    made = data(store, trace("New?", "a"))
    for question in ("One?", "Two?"):
        assert checked(store, made, benchmark(store, problem(question))).key == made.key
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_data_of_nothing_but_test_questions_is_an_error(store: ArtifactStore) -> None:
    made = data(store, trace(LONG, "a"), trace("New?", "b", split="validation"))
    with pytest.raises(DataError, match=r"every trace for training .*data\.decontaminate=false"):
        checked(store, made, benchmark(store, problem(LONG)))


@pytest.mark.usefixtures("usual_garbage_collection")
def test_thinkings_are_not_held_in_memory(store: ArtifactStore) -> None:
    num_bytes = 60_000
    made = data(store, *(trace(f"Question {i}?", str(i), thinking="ab" * (num_bytes // 2)) for i in range(1_000)))
    asked = benchmark(store, problem("Question 7?"))
    tracemalloc.start()
    try:
        clean = checked(store, made, asked)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert clean.manifest["num_rows"] == 999
    assert peak < 600 * num_bytes


def test_prompt_around_the_questions_is_not_compared(store: ArtifactStore) -> None:
    prompt = "Read well. {question}\nThink step by step and put the final answer of this question within a box."
    made = data(store, trace(LONG, "a"), trace(prompt.replace("{question}", "How many days does a year have?"), "b"))
    asked = benchmark(store, problem(prompt.replace("{question}", LONG)))
    assert [t.id for t in read_records(checked(store, made, asked, prompt=prompt).file(TRACES_FILE), Trace)] == ["b"]


def test_split_of_a_source_stays(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(name="own", validation_fraction=0.5)
    rows = [trace("q", str(i), split="validation" if i == 7 else "train") for i in range(10)]
    monkeypatch.setattr(stage, "SOURCES", {DataConfig: lambda _: Source({"source": "own"}, [], lambda: rows)})
    artifact = stage.traces(config, store)
    assert [t.id for t in read_records(artifact.file(TRACES_FILE), Trace) if t.split == "validation"] == ["7"]
    assert (artifact.facts["train"], artifact.facts["validation"]) == (9, 1)
    assert {t.split for t in stage.split(lambda: [dataclasses.replace(t, split="train") for t in rows], 0.5)} == {
        "train",
        "validation",
    }
