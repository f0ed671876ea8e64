"""Contrasts, Pareto front and slopes of experiments/, from answers whose results are known."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from cotpress.records import Prediction, Span, Trace
from cotpress.statistics import difference_interval
from experiments.answers import Contrast, contrasts_csv
from experiments.drawing import read_rows
from experiments.methods import front, plot
from experiments.testbed import contrasts
from experiments.testbed import plot as testbed
from experiments.testbed.damage import Damage, damage
from experiments.tokenskip_loop import slope

SEEDS = (42, 43, 44)


def predictions(correct: Sequence[bool], num_tokens: Sequence[int]) -> list[Prediction]:
    return [
        Prediction(
            id=f"q{i}", family="f", question="?", answer="1", system="s", ratio=1.0, output="", predicted="",
            correct=right, num_tokens=tokens, num_thinking_tokens=tokens, finish_reason="stop", latency_s=0.0,
        )
        for i, (right, tokens) in enumerate(zip(correct, num_tokens, strict=True))
    ]  # fmt: skip


def system(shares: Sequence[float], tokens: int, questions: int = 20) -> Mapping[int, list[Prediction]]:
    """Students whose first answers are right, a share for each seed; all answers have as many tokens."""
    return {
        seed: predictions([i < share * questions for i in range(questions)], [tokens] * questions)
        for seed, share in zip(SEEDS, shares, strict=True)
    }


def written(text: str, path: Path) -> list[dict[str, str]]:
    path.write_text(text, encoding="utf-8")
    return read_rows(path)


def test_contrast_is_the_paired_difference_at_a_level_for_all_of_them(tmp_path: Path) -> None:
    ours, theirs = system((0.9, 0.8, 1.0), 50), system((0.5, 0.6, 0.5), 80)
    sweeps = {"a": {("x", 0.5): ours}, "b": {("y", 0.5): theirs, ("Original", 1.0): theirs}}
    planned = [
        Contrast(name="one", system=("a", "x"), minus=("b", "y"), ratio=0.5),
        Contrast(name="two", system=("a", "x"), minus=("b", "Original"), ratio=0.5, at=1.0),
        Contrast(name="three", system=("c", "x"), minus=("b", "y"), ratio=0.5),
    ]
    rows = written(contrasts_csv(planned, sweeps), tmp_path / "contrasts.csv")
    assert [row["contrast"] for row in rows] == ["one", "two"]
    grid = np.array(
        [[float(i < a * 20) - float(i < b * 20) for i in range(20)] for a, b in ((0.9, 0.5), (0.8, 0.6), (1, 0.5))]
    )
    expected = difference_interval(grid, 0.975)
    for row in rows:
        assert [float(row["accuracy" + end]) for end in ("", "_low", "_high")] == pytest.approx(
            [expected.value, expected.low, expected.high]
        )
        assert (row["seeds"], row["questions"], float(row["tokens"])) == ("3", "20", -30.0)


def test_contrast_without_students_is_named(caplog: pytest.LogCaptureFixture) -> None:
    contrasts_csv([Contrast(name="warm", system=("a", "x"), minus=("a", "y"), ratio=0.5)], {"a": {}})
    assert "1 contrasts have no students: warm at 0.5" in caplog.text


def test_planned_contrasts_are_distinct() -> None:
    planned = [(c.name, c.ratio) for c in contrasts.planned()]
    assert len(planned) == len(set(planned)) > 15


def test_front_has_the_systems_that_none_dominates() -> None:
    accuracy, tokens = np.array([0.9, 0.8, 0.8, 0.9, 0.5]), np.array([200.0, 100.0, 120.0, 200.0, 90.0])
    assert front.on_front(accuracy, tokens).tolist() == [True, True, False, True, True]


def test_front_share_follows_seeds_and_questions() -> None:
    right = np.zeros((3, 3, 8))
    right[0], right[1, 0] = 1, 1  # the second is as good as the first under one seed of three
    tokens = np.broadcast_to(np.array([100.0, 100.0, 90.0])[:, None, None], right.shape)
    shares = front.front_shares(right, tokens, draws=3000)
    assert shares[0] == shares[2] == 1
    assert shares[1] == pytest.approx(1 / 27, abs=0.015)  # all three draws are that seed


def test_methods_are_ordered_by_accuracy_and_compared_with_original(tmp_path: Path) -> None:
    systems = {
        ("cts", 0.5): system((0.5, 0.55, 0.5), 90),
        ("Original", 1.0): system((0.9, 0.95, 0.9), 200),
        ("slow", 0.7): system((0.5, 0.5, 0.5), 250),
    }
    text = front.csv_text(front.COLUMNS, front.lines(systems))
    rows = written(text, tmp_path / front.FILE)
    assert [(row["system"], row["on_front"]) for row in rows] == [("Original", "1"), ("cts", "1"), ("slow", "0")]
    assert rows[0]["against_original"] == rows[0]["verdict"] == ""
    assert float(rows[1]["against_original"]) == pytest.approx(-0.4)
    assert rows[1]["verdict"] == "loses"
    plot.main(tmp_path)
    assert (tmp_path / "plot.svg").stat().st_size > 1000


def test_figure_of_the_testbed_joins_the_systems_that_are_there(tmp_path: Path) -> None:
    columns = ("accuracy", "accuracy_low", "accuracy_high", "tokens", "tokens_low", "tokens_high")
    numbers = "0.5,0.4,0.6,100,90,110"
    for sweep, names in (("bounds", ("Original", "planted", "Random")), ("cts", ("cts granularity=step",))):
        lines = [f"{name},{ratio},,{numbers}" for name in names for ratio in (0.7, 0.5)]
        (tmp_path / f"{sweep}-seeds.csv").write_text(
            "\n".join([f"system,target_ratio,seed,{','.join(columns)}", *lines, ""]), encoding="utf-8"
        )
    planned = [Contrast(name="planted deleted", system=("a", "x"), minus=("a", "x"), ratio=0.5)]
    sweeps = {"a": {("x", 0.5): system((0.5, 0.6, 0.5), 80)}}
    (tmp_path / "contrasts.csv").write_text(contrasts_csv(planned, sweeps), encoding="utf-8")
    testbed.main(tmp_path)
    drawn = (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert [drawn.count(f">{name}<") for name in ("planted", "Random", "cts", "tokenskip")] == [2, 1, 1, 0]
    assert ">planted deleted, 0.5<" in drawn


@pytest.mark.parametrize(("obedience", "expected"), [(1.0, 1.0), (0.0, 0.0), (0.4, 0.4)])
def test_slope_is_that_of_the_tokens_over_the_asked_ratio(obedience: float, expected: float) -> None:
    ratios = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    answers = {
        ("tokenskip (mixed)", ratio): {
            seed: predictions([True] * 6, [round(200 * (1 - obedience * (1 - ratio)))] * 6) for seed in SEEDS
        }
        for ratio in ratios
    } | {("Original", 1.0): system((1, 1, 1), 500)}
    rows = {(row[0], row[1]): row for row in slope.lines(answers)}
    for name in ("generated tokens", "thinking tokens"):
        assert rows[name, "0.5 to 1"][4] == pytest.approx(expected)
        assert rows[name, "0.5 to 0.9"][4] == pytest.approx(expected)
    assert rows["accuracy", "0.5 to 1"][4] == 0
    assert rows["generated tokens", "0.5 to 1"][2:4] == [3, 6]


def test_interval_of_the_slope_covers_seeds() -> None:
    answers = {
        ("x (mixed)", ratio): {
            seed: predictions([True] * 50, [round(200 * (1 - place * (1 - ratio)))] * 50)
            for place, seed in zip((0.0, 0.5, 1.0), SEEDS, strict=True)
        }
        for ratio in (0.5, 0.75, 1.0)
    }
    line = next(slope.lines(answers))
    assert line[4] == pytest.approx(0.5)
    assert line[5] < 0 < 1 < line[6]
    assert line[7] == "0.000 0.500 1.000"


def test_equations_and_sentences_with_holes_are_torn() -> None:
    thinking = "Tom has 12. 12 + 3 = 15. Check: 15 - 3 = 12. So 15."
    first = thinking.index("12 + 3"), thinking.index(" Check")
    spans = (
        Span(start=0, end=first[0], kind="restatement", essential=False),
        Span(start=first[0], end=first[1], kind="step", essential=True),
        Span(start=first[1], end=len(thinking), kind="double_check", essential=False),
    )
    trace = Trace(id="a", question="?", thinking=thinking, response="", answer="15", spans=spans)
    offsets = np.array([(i, i + 1) for i in range(len(thinking))], dtype=np.int32)  # a token is a character

    def cut(*deleted: str) -> np.ndarray:
        mask = np.ones(len(thinking), dtype=np.bool_)
        for text in deleted:
            mask[thinking.index(text) : thinking.index(text) + len(text)] = False
        return mask

    def measured(*masks: np.ndarray) -> Damage:
        return damage([trace] * len(masks), masks, [offsets] * len(masks))

    assert measured(cut()) == Damage(
        essential_whole=1, essential_torn=0, repeated_torn=0, sentences_torn=0, openings_gone=0
    )
    assert measured(cut(" 12 + 3 = 15."), cut("+ 3")) == Damage(
        essential_whole=0, essential_torn=0.5, repeated_torn=0, sentences_torn=0.125, openings_gone=0
    )
    assert measured(cut(" Check: 15 - 3 = 12."), cut("15 - 3"), cut("Tom ")) == Damage(
        essential_whole=1,
        essential_torn=0,
        repeated_torn=pytest.approx(1 / 3),
        sentences_torn=pytest.approx(2 / 12),
        openings_gone=pytest.approx(1 / 11),
    )
