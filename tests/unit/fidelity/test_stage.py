import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cotpress.data.planted import Half, Length
from cotpress.data.planted import traces as planted
from cotpress.errors import ArtifactError, DataError
from cotpress.fidelity.metrics import Bootstrap, build_case
from cotpress.fidelity.results import FidelityRow
from cotpress.fidelity.stage import measure
from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.loading import tokenizer_fingerprint
from cotpress.modeling.segments import owners
from cotpress.records import SentenceImportance, Span, Trace, TruthKind
from cotpress.store.artifacts import Artifact

Make = Callable[..., Artifact]
BOOTSTRAP = Bootstrap(confidence=0.95, num_resamples=200)


def essential(trace: Trace, offsets: np.ndarray) -> np.ndarray:
    spans = [(s.start, s.end) for s in trace.spans if s.essential]
    return (owners(spans, trace.thinking, offsets) >= 0).astype(np.float32)


def noise(trace: Trace, offsets: np.ndarray) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(trace.id.encode())).random(len(offsets))


def held_out(number: int) -> list[Trace]:
    return planted(num_traces=number, families=[], length=Length.short, seed=5, half=Half.evaluation)


@pytest.fixture
def run(tokenizer: Any) -> Callable[[Artifact, Artifact], list[FidelityRow]]:
    return lambda truth, scores: measure(
        "x",
        "none",
        truth=truth,
        scores=scores,
        tokenizer=tokenizer,
        tokenizer_key=tokenizer_fingerprint(tokenizer),
        bootstrap=BOOTSTRAP,
        settings={},
    )


def test_labels_as_scores_are_perfect_and_kept_up_to_the_ratio(
    run: Any, make_truth: Make, make_scores: Make, tokenizer: Any
) -> None:
    traces = held_out(12)
    row = run(make_truth(TruthKind.tokens, traces), make_scores(traces, essential))[0]
    assert (row.main.value, row.main.low, row.main.high, row.main.n) == (1.0, 1.0, 1.0, 12)
    assert row.metrics["AP"].value == 1.0
    assert {kind: i.value for kind, i in row.kinds.items()} == dict.fromkeys(row.kinds, 1.0)
    assert {"operand", "operator", "result", "restatement", "event", "hesitation"} <= set(row.kinds)
    expected = []
    for trace in traces:
        marks = essential(trace, tokenize_with_offsets(tokenizer, trace.thinking)[1])
        expected.append(min(round(0.3 * len(marks)), marks.sum()) / marks.sum())
    assert row.metrics["kept@0.3"].value == pytest.approx(np.mean(expected))
    assert row.over_position.low > 0


def test_random_scores_have_an_auc_of_one_half(run: Any, make_truth: Make, make_scores: Make) -> None:
    traces = held_out(40)
    row = run(make_truth(TruthKind.tokens, traces), make_scores(traces, noise))[0]
    assert row.main.low < 0.5 < row.main.high
    assert row.main.high - row.main.low < 0.1


def test_traces_of_one_question_count_once(run: Any, make_truth: Make, make_scores: Make) -> None:
    traces = [replace(trace, question=f"q{i // 3}") for i, trace in enumerate(held_out(12))]
    row = run(make_truth(TruthKind.tokens, traces), make_scores(traces, noise))[0]
    assert (row.main.n, row.over_position.n, row.kinds["result"].n) == (4, 4, 4)


def labelled(trace_id: str, *pieces: tuple[str, str, bool]) -> Trace:
    """Build a trace of `(text, kind, essential)` pieces."""
    spans: list[Span] = []
    text = ""
    for piece, kind, is_essential in pieces:
        spans.append(Span(start=len(text), end=len(text) + len(piece), kind=kind, essential=is_essential))
        text += piece
    return Trace(id=trace_id, question=trace_id, thinking=text, response="r", answer="1", spans=tuple(spans))


def test_kind_is_judged_against_the_other_class_only(run: Any, make_truth: Make, make_scores: Make) -> None:
    trace = labelled("t", ("1", "operand", True), (" 2", "result", True), (" 3", "talk", False), (" 4", "echo", False))
    order = {"operand": 3.0, "talk": 2.0, "result": 1.0, "echo": 0.0}
    num_tokens = dict.fromkeys(order, 0)

    def by_kind(trace: Trace, offsets: np.ndarray) -> list[float]:
        kinds = [next(s.kind for s in trace.spans if s.start < end <= s.end) for _, end in offsets.tolist()]
        for kind in kinds:
            num_tokens[kind] += 1
        return [order[kind] for kind in kinds]

    row = run(make_truth(TruthKind.tokens, [trace]), make_scores([trace], by_kind))[0]
    over_echo = num_tokens["echo"] / (num_tokens["echo"] + num_tokens["talk"])
    under_operand = num_tokens["operand"] / (num_tokens["operand"] + num_tokens["result"])
    expected = {"operand": 1.0, "result": over_echo, "talk": under_operand, "echo": 1.0}
    assert {k: i.value for k, i in row.kinds.items()} == pytest.approx(expected)


def test_scores_of_another_tokenizer_are_judged_on_the_same_tokens(
    run: Any, make_truth: Make, make_scores: Make
) -> None:
    traces = held_out(6)
    truth = make_truth(TruthKind.tokens, traces)
    own, projected = (run(truth, make_scores(traces, essential, characters=c)) for c in (False, True))
    assert own[1:] == projected[1:]  # the rules do not depend on the scorer
    assert projected[0].main.n == 6
    assert projected[0].main.value > 0.95  # characters at the borders of tokens blur it


def test_rules_have_their_better_direction(run: Any, make_truth: Make, make_scores: Make) -> None:
    trace = labelled("t", ("12 + 3 ", "operand", True), ("certainly ", "talk", False), ("obviously", "talk", False))
    rows = {r.system: r for r in run(make_truth(TruthKind.tokens, [trace]), make_scores([trace], noise))[1:]}
    assert set(rows) == {
        "position (early first)", "length (short first)", "digit share (high first)", "new bigrams (many first)"
    }  # fmt: skip
    assert rows["position (early first)"].main.value == 1.0
    assert rows["position (early first)"].over_position is None
    assert all(row.rule and row.reference == "-" for row in rows.values())
    assert rows["digit share (high first)"].over_position.value < 0


def test_inserted_steps_are_negative_and_edited_ones_are_not_judged(
    run: Any, make_truth: Make, make_scores: Make
) -> None:
    trace = labelled(
        "t", ("one two", "original", True), ("\nthree", "inserted", False), ("\nfour", "edited", True),
        ("\nfive six", "original", True),
    )  # fmt: skip
    truth = make_truth(TruthKind.steps, [trace])
    highest_where = {"one two": 5.0, "\nthree": 3.0, "\nfour": 0.0, "\nfive six": 1.0}

    def by_step(trace: Trace, offsets: np.ndarray) -> list[float]:
        values = {s.start: highest_where[trace.thinking[s.start : s.end]] for s in trace.spans}
        return [values[max(s for s in values if s < end)] for _, end in offsets.tolist()]

    row = run(truth, make_scores([trace], by_step))[0]
    assert row.main.value == 0.5  # one original step above the inserted one, one below
    assert list(row.metrics) == ["ROC AUC"]
    assert not row.kinds


def sentences(trace: Trace, values: list[float]) -> list[SentenceImportance]:
    words = trace.thinking.split()
    starts = [trace.thinking.index(w) for w in words]
    return [
        SentenceImportance(id=trace.id, start=s, end=s + len(w), importance=v)
        for s, w, v in zip(starts, words, values, strict=True)
    ]


def test_sentence_importance_is_correlated_with_the_mean_score(run: Any, make_truth: Make, make_scores: Make) -> None:
    words = "alpha beta gamma delta epsilon"
    trace = Trace(id="t", question="q", thinking=words, response="", answer="")
    importance = [3.0, 1.0, 4.0, 2.0, 5.0]
    truth = make_truth(TruthKind.importance, [trace], sentences(trace, importance))

    def by_word(trace: Trace, offsets: np.ndarray) -> list[float]:
        return [importance[trace.thinking[:end].rstrip().count(" ")] for _, end in offsets.tolist()]

    row = run(truth, make_scores([trace], by_word))[0]
    assert row.main.value == pytest.approx(1.0)
    assert row.metrics["position partialled out"].value == pytest.approx(1.0)
    rules = {r.system: r for r in run(truth, make_scores([trace], by_word))[1:]}
    assert rules["position (late first)"].main.value == pytest.approx(0.5)
    assert "position partialled out" not in rules["position (late first)"].metrics


def test_traces_without_both_classes_or_score_are_counted_by_reason(
    run: Any, make_truth: Make, make_scores: Make
) -> None:
    good = labelled("good", ("1 ", "operand", True), ("hm", "talk", False))
    poor = labelled("poor", ("1", "operand", True))
    refused = labelled("refused", ("2 ", "operand", True), ("hm", "talk", False))
    truth = make_truth(TruthKind.tokens, [good, poor, refused])
    row, *rules = run(truth, make_scores([good, poor], essential, dropped={"too long": 1}))
    assert row.dropped == {"nothing redundant": 1, "too long": 1}
    assert row.main.n == 1
    assert all(rule.main.n == 2 and rule.dropped == {"nothing redundant": 1} for rule in rules)


def test_truth_without_usable_traces_is_an_error(run: Any, make_truth: Make, make_scores: Make) -> None:
    poor = labelled("poor", ("1", "operand", True))
    with pytest.raises(DataError, match="1 x nothing redundant"):
        run(make_truth(TruthKind.tokens, [poor]), make_scores([poor], essential))


def test_scores_past_the_end_of_the_text_are_an_error(run: Any, make_truth: Make, make_scores: Make) -> None:
    trace = labelled("t", ("1 ", "operand", True), ("hm", "talk", False))
    longer = labelled("t", ("1 ", "operand", True), ("hm and more", "talk", False))
    with pytest.raises(ArtifactError, match="past the end"):
        run(make_truth(TruthKind.tokens, [trace]), make_scores([longer], essential))


def test_tokens_between_judged_sentences_belong_to_none(tokenizer: Any) -> None:
    trace = Trace(id="t", question="q", thinking="alpha beta gamma delta", response="", answer="")
    known = sentences(trace, [1.0, 2.0, 3.0, 4.0])
    case = build_case(TruthKind.importance, trace, [known[0], known[2]], tokenizer)
    assert case.worth.tolist() == [1.0, 3.0]
    ends = case.offsets[:, 1]
    assert set(case.units[ends > 17].tolist()) == {-1}
    assert case.unit_scores(np.where(case.units == 1, 2.0, 1.0).astype(np.float32)).tolist() == [1.0, 2.0]
