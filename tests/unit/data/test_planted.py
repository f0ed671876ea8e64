import hashlib
import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotpress.data import planted
from cotpress.data.planted import FAMILIES, LEVELS, Half, Story, half_of
from cotpress.errors import ConfigError
from cotpress.records import Trace

EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)")
TRAINING = [name for name, family in FAMILIES.items() if not family.held_out]
HELD_OUT = [name for name, family in FAMILIES.items() if family.held_out]


def make(
    num: int = 40, *, seed: int = 42, difficulty: int = 1, redundancy: float = 1.0, **kwargs: object
) -> list[Trace]:
    families = kwargs.get("families", [])
    assert isinstance(families, list)
    return planted.traces(num_traces=num, families=families, difficulty=difficulty, redundancy=redundancy, seed=seed)


def essential(trace: Trace) -> str:
    return "".join(trace.thinking[span.start : span.end] for span in trace.spans if span.essential)


def test_there_are_five_training_families_and_two_held_out_ones() -> None:
    assert len(TRAINING) >= 5
    assert len(HELD_OUT) >= 2


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**9), difficulty=st.sampled_from([1, 2, 3]), redundancy=st.floats(0, 3))
def test_spans_cover_the_thinking_without_gap_or_overlap(seed: int, difficulty: int, redundancy: float) -> None:
    for trace in make(7, seed=seed, difficulty=difficulty, redundancy=redundancy):
        ends = [0, *(span.end for span in trace.spans)]
        assert [span.start for span in trace.spans] == ends[:-1]
        assert ends[-1] == len(trace.thinking)
        assert all(span.start < span.end for span in trace.spans)


@pytest.mark.parametrize("difficulty", LEVELS)
def test_answer_follows_from_the_essential_spans_alone(difficulty: int) -> None:
    for trace in make(210, difficulty=difficulty, families=[*TRAINING, *HELD_OUT]):
        equations = EQUATION.findall(essential(trace))
        assert EQUATION.sub("", essential(trace)).strip() == ""
        assert len(equations) == LEVELS[difficulty].num_steps
        for left, operator, right, result in equations:
            assert {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[operator](int(left), int(right)) == int(
                result
            )
        known = set(re.findall(r"\d+", trace.question))
        for left, _, right, result in equations:
            assert {left, right} <= known, "an operand is neither in the question nor a result so far"
            known.add(result)
        assert equations[-1][-1] == trace.answer


def test_every_equation_outside_dead_ends_is_right() -> None:
    for trace in make(200, redundancy=2.0):
        kept = "".join(trace.thinking[s.start : s.end] for s in trace.spans if s.kind != "dead_end")
        equations = EQUATION.findall(kept)
        assert equations
        for left, operator, right, result in equations:
            assert eval(f"{left} {operator} {right}") == int(result)


@pytest.mark.parametrize("difficulty", LEVELS)
def test_response_is_a_right_calculation_that_ends_in_the_boxed_answer(difficulty: int) -> None:
    for trace in make(100, difficulty=difficulty):
        calculation, boxed = trace.response.split(" = ")
        assert eval(calculation) == int(trace.answer) >= 1
        assert boxed == f"\\boxed{{{trace.answer}}}"


def test_every_kind_of_redundancy_is_planted() -> None:
    kinds = {(span.kind, span.essential) for trace in make(200) for span in trace.spans}
    assert kinds == {
        ("operand", True), ("operator", True), ("result", True), ("connective", False), ("restatement", False),
        ("hesitation", False), ("double_check", False), ("repeat", False), ("dead_end", False),
    }  # fmt: skip


def test_redundancy_zero_leaves_only_the_equations() -> None:
    for trace in make(20, redundancy=0.0):
        assert re.fullmatch(r"\d+ . \d+ = \d+\.( \d+ . \d+ = \d+\.)+", trace.thinking)


def test_redundancy_scales_the_planted_text() -> None:
    planted = [
        sum(len(t.thinking) - len(essential(t)) for t in make(100, redundancy=factor)) for factor in (0.5, 1.0, 2.0)
    ]
    assert planted[0] < 0.8 * planted[1]
    assert planted[1] < 0.8 * planted[2]


def test_equal_seeds_give_equal_traces_and_other_seeds_give_others() -> None:
    assert make(30, seed=7) == make(30, seed=7)
    assert {t.question for t in make(30, seed=7)} != {t.question for t in make(30, seed=8)}


def test_smaller_set_is_the_beginning_of_a_larger_one() -> None:
    assert make(60)[:25] == make(25)


@pytest.mark.parametrize("seed", [1, 42])
def test_no_question_and_no_numbers_are_shared_by_training_and_evaluation(seed: int) -> None:
    traces = make(400, seed=seed, families=list(FAMILIES))
    problems = planted.problems(num_problems=400, families=[], difficulty=1, seed=seed)

    def numbers(family: str, question: str) -> tuple[str, ...]:
        return (family, re.sub(r"\b[A-Z][a-z]+\b", "", question.split(".", 1)[0]), *re.findall(r"\d+|[a-z]+", question))

    assert len({t.question for t in traces}) == 400
    assert len({p.question for p in problems}) == 400
    assert not {t.question for t in traces} & {p.question for p in problems}
    assert not {t.id for t in traces} & {p.id for p in problems}
    assert not {numbers(t.family, t.question) for t in traces} & {numbers(p.family, p.question) for p in problems}


def test_halves_depend_on_numbers_and_not_on_names() -> None:
    family = FAMILIES["belongings"]
    halves: dict[tuple[str | int, ...], set[Half]] = {}
    rng = random.Random(0)
    drawn: list[Story] = [family.draw(rng, LEVELS[1]) for _ in range(3000)]
    for story in drawn:
        halves.setdefault(story.numbers, set()).add(half_of("belongings", story))
    assert all(len(names) == 1 for names in halves.values())
    shares = Counter(next(iter(names)) for names in halves.values())
    assert 0.4 < shares[Half.training] / len(halves) < 0.6


def test_held_out_families_are_in_the_benchmark_only() -> None:
    assert {t.family for t in make(50)} == set(TRAINING)
    problems = planted.problems(num_problems=50, families=[], difficulty=1, seed=1)
    assert {p.family for p in problems} == set(FAMILIES)


def test_families_take_turns() -> None:
    counts = Counter(t.family for t in make(100))
    assert set(counts.values()) == {100 // len(TRAINING)}


def test_families_can_be_chosen_by_name() -> None:
    assert {t.family for t in make(10, families=["hotel", "bus"])} == {"hotel", "bus"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"families": ["buss"]}, "data.families: got 'buss'. Did you mean 'bus'?"),
        ({"families": ["bus", "bus"]}, "got 'bus' more than once"),
    ],
)
def test_bad_value_is_named_with_what_is_allowed(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make(**values)  # type: ignore[arg-type]


def test_more_questions_than_exist_is_an_error_with_their_number() -> None:
    with pytest.raises(ConfigError, match=r"boxes have no further question after 4\d\d\."):
        make(2000, families=["boxes"])


def test_exhausted_family_is_skipped() -> None:
    traces = make(3000)
    assert len({t.question for t in traces}) == 3000
    counts = Counter(t.family for t in traces)
    assert counts["boxes"] < 3000 // len(TRAINING) < counts["belongings"]


def test_same_settings_give_the_text_of_earlier_releases() -> None:
    text = "\n".join(f"{t.question}|{t.thinking}|{t.response}|{t.spans}" for t in make(200, difficulty=1))
    text += "\n".join(t.thinking for t in make(50, difficulty=3, redundancy=2.0))
    text += "\n".join(p.question for p in planted.problems(num_problems=64, families=[], difficulty=2, seed=1))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "c432699b6cb96541"
