"""Traces that the students of a run are trained on, through the flow of `train.py`."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from cotpress.config import TrainConfig, register_schemas, to_objects
from cotpress.store.artifacts import Artifact
from cotpress.tasks.flow import Flow
from cotpress.tasks.train import train_students
from cotpress.tracking import Tracker
from cotpress.training import stage
from cotpress.training.fit import Fitted
from support.commands import ROOT, SMALL

NUM_STEPS = {"short": 1, "middle": 8, "long": 12, "longest": 14, "unanswered": 2}
"""Lengths of the traces; the scorer refuses `unanswered`, which has no response to condition on."""
LIMIT = 150
Students = Callable[..., dict[str, tuple[Artifact, set[str]]]]


@pytest.fixture
def students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Students]:
    """Return the students of a run, without training them, and the ids of the traces that each would learn from."""
    learnt: dict[str, set[str]] = {}

    def instead(_: object, work: tuple[Any, ...], **__: object) -> list[Fitted]:
        _, made, folder = work
        learnt[folder.name.rpartition("-")[2]] = {example.row for example in made.kept}
        assert all(len(example.ids) <= LIMIT for example in made.kept)
        (folder / "adapter").mkdir(exist_ok=True)
        return [Fitted(num_steps=1, num_training_tokens=1, num_target_tokens=1, final_loss=0.0)]

    monkeypatch.setattr(stage, "run_on_devices", instead)
    data = tmp_path / "traces.jsonl"
    rows = [
        {
            "id": name, "question": f"What is {n} ones?", "thinking": "so we add one more to the sum . " * n,
            "response": "" if name == "unanswered" else f"The answer is {n}.", "answer": str(n),
        }
        for name, n in NUM_STEPS.items()
    ]  # fmt: skip
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [
        *SMALL[:1], "data=jsonl", f"data.path={data}", "data.validation_fraction=0", "reference=none",
        f"sft.tune.max_tokens={LIMIT}", "evaluation=students", f"output_root={tmp_path}",
    ]  # fmt: skip
    register_schemas()
    with closing(Tracker(tmp_path)) as tracker, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):

        def trained(*overrides: str) -> dict[str, tuple[Artifact, set[str]]]:
            config = to_objects(compose("train", overrides=[*own, *overrides]))
            assert isinstance(config, TrainConfig)
            made = train_students(config, Flow(config, tracker))
            return {t.system.title: (t.artifact, learnt[t.artifact.fingerprint]) for t in made.all}

        yield trained


def test_students_of_a_run_learn_from_the_same_questions(students: Students) -> None:
    learnt = {name: ids for name, (_, ids) in students("scorer=cts", "ratio=0.5").items()}
    assert learnt == {"Original": {"short", "middle"}, "cts 0.5": {"short", "middle"}}


def test_lines_about_traces_that_a_scorer_refuses_say_who_learns_from_them(
    students: Students, caplog: pytest.LogCaptureFixture
) -> None:
    students("scorer=cts", "ratio=0.5")
    num = len(NUM_STEPS)
    lost = f"compress: only {num - 1} of {num} traces are left (1 no response to condition on)"
    assert caplog.messages.count(lost) == 1
    assert "different data" not in caplog.text
    assert "sft (Original): training on 2 of 5 traces" in caplog.text
    assert "1 missing in another system; sft.overlong=drop would train on 3" in caplog.text
    caplog.clear()
    for _ in range(2):
        students("scorer=cts", "ratio=0.5", "sft.overlong=drop")
    told = [line for line in caplog.messages if "different data" in line]
    assert told == [
        f"sft.overlong=drop: cts 0.5 has {num - 1} of the {num} traces of Original, so the two students learn from "
        "different data; sft.overlong=common would train both on the same"
    ]


def test_runs_of_a_sweep_share_their_original(students: Students) -> None:
    originals = {students("scorer=cts", f"ratio={ratio}")["Original"][0].key for ratio in (0.5, 0.7)}
    refusing_nothing = students("scorer=random", "ratio=0.5")["Original"]
    assert len(originals) == 1
    assert refusing_nothing[1] == {"short", "middle", "unanswered"}
    assert refusing_nothing[0].key == students("scorer=random", "ratio=0.9")["Original"][0].key
    assert refusing_nothing[0].key == students("scorer=random", "ratio=0.5", "sft.overlong=drop")["Original"][0].key


def test_student_without_original_beside_it_learns_from_the_same_questions(students: Students) -> None:
    (cts,) = students("scorer=cts", "ratio=0.5", "evaluation.baselines=[]").values()
    assert cts[1] == {"short", "middle"}


@pytest.mark.parametrize(
    ("mode", "original", "compressed"),
    [
        ("drop", {"short", "middle", "unanswered"}, {"short", "middle", "long", "longest"}),
        ("cut", set(NUM_STEPS), set(NUM_STEPS) - {"unanswered"}),
    ],
)
def test_other_modes_train_each_system_on_what_it_has(
    mode: str, original: set[str], compressed: set[str], students: Students
) -> None:
    made = students("scorer=cts", "ratio=0.5", f"sft.overlong={mode}")
    assert (made["Original"][1], made["cts 0.5"][1]) == (original, compressed)


@pytest.mark.parametrize(
    "settings", [["ratio=0.7"], ["compression.granularity=token"], ["compression.mode=mask_loss"]], ids=str
)
def test_random_is_the_student_of_the_same_run_with_random_scores(students: Students, settings: list[str]) -> None:
    beside = students("scorer=head", "ratio=0.5", *settings, "evaluation.baselines=[random]")
    alone = students("scorer=random", "ratio=0.5", *settings, "evaluation.baselines=[random]")
    (control,) = (artifact for title, (artifact, _) in beside.items() if title.startswith("Random"))
    (own,) = alone.values()
    assert len(beside) == 2
    assert control.key == own[0].key


def test_random_with_a_marker_learns_from_the_same_mixed_ratios(students: Students) -> None:
    mixed = students("compression=mixed", "scorer=head", "evaluation.baselines=[random]")
    assert set(mixed) == {"Random (mixed)", "head (mixed)"}


def test_random_learns_from_the_questions_of_the_scorer(students: Students) -> None:
    learnt = {title: ids for title, (_, ids) in students("ratio=0.5", "evaluation.baselines=[random]").items()}
    assert learnt == {"Random 0.5": {"short", "middle"}, "cts 0.5": {"short", "middle"}}


@pytest.mark.parametrize(
    "settings",
    [["ratio=1"], ["ratio=0"], ["scorer=random", "ratio=0.5"], ["compression.mode=first_solution"]],
    ids=str,
)
def test_nothing_is_cut_at_random_where_it_would_be_the_same(students: Students, settings: list[str]) -> None:
    assert len(students(*settings, "evaluation.baselines=[random]")) == 1
