"""Wiring of starts and writers in the flow of `train.py`; nothing is trained and no text is written."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file

from cotpress.config import TrainConfig, register_schemas, to_objects
from cotpress.data import stage as data_stage
from cotpress.data.config import SelfWrittenDataConfig
from cotpress.modeling.sources import directory_sha256
from cotpress.modeling.weights import TrainedWeights
from cotpress.records import PROBLEMS_FILE, Problem, Trace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.source import Identity
from cotpress.store.tables import read_records, write_records
from cotpress.tasks.flow import Flow
from cotpress.tasks.students import Students
from cotpress.tasks.train import train_students
from cotpress.tracking import Tracker
from cotpress.training import stage
from cotpress.training.fit import Fitted
from support.commands import ROOT, SMALL

WRITTEN = ["data=self_written", "data.writer=original", "data.taught.num_traces=12", "data.questions.num_problems=10"]


@dataclass
class Written:
    """Settings, questions and writers of the traces that were asked for."""

    configs: list[SelfWrittenDataConfig] = field(default_factory=list)
    questions: list[list[str]] = field(default_factory=list)
    writers: list[str | None] = field(default_factory=list)


Made = Callable[..., tuple[Students, Flow]]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    """Every question gets a right answer of the writer."""
    asked = Written()

    def solve(
        config: SelfWrittenDataConfig, questions: Artifact, _: object, __: object, store: ArtifactStore,
        writer: TrainedWeights | None,
    ) -> Artifact:  # fmt: skip
        problems = read_records(questions.file(PROBLEMS_FILE), Problem)
        asked.configs.append(config)
        asked.questions.append([p.id for p in problems])
        asked.writers.append(None if writer is None else writer.path)

        def produce(folder: Path) -> Summary:
            rows = [
                Trace(id=p.id, question=p.question, thinking="so we add them up", response=p.answer, answer=p.answer)
                for p in problems
            ]
            write_records(folder / "solved.parquet", rows, Trace)
            return Summary(num_rows=len(rows))

        identity = Identity({"questions": questions.key, "samples": config.samples, "writer": asked.writers[-1]})
        return store.build("solve", identity, produce)

    monkeypatch.setattr(data_stage, "solve", solve)
    return asked


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Return the students of a run; their adapters hold numbers of their own, and nothing is trained."""

    def instead(_: object, work: tuple[Any, ...], **__: object) -> list[Fitted]:
        job, _, folder = work
        adapter = folder / "adapter"
        adapter.mkdir(exist_ok=True)
        tune = job.tune
        settings = {"peft_type": "LORA", "r": tune.lora_rank, "lora_alpha": tune.lora_alpha, "lora_dropout": 0.0}
        (adapter / "adapter_config.json").write_text(json.dumps({**settings, "of": folder.name}))
        save_file({"x": torch.zeros(1)}, adapter / "adapter_model.safetensors")
        return [Fitted(num_steps=1, num_training_tokens=1, num_target_tokens=1, final_loss=0.0)]

    monkeypatch.setattr(stage, "run_on_devices", instead)
    register_schemas()
    own = [*SMALL, "scorer=random", "ratio=0.5", f"output_root={tmp_path}"]
    with closing(Tracker(tmp_path)) as tracker, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):

        def trained(*overrides: str) -> tuple[Students, Flow]:
            small = [o for o in own if "data=self_written" not in overrides or not o.startswith("data.num_traces")]
            config = to_objects(compose("train", overrides=[*small, *overrides]))
            assert isinstance(config, TrainConfig)
            flow = Flow(config, tracker)
            return train_students(config, flow), flow

        yield trained


def _start(artifact: Artifact) -> object:
    return artifact.manifest["identity"].get("start")


def _content(artifact: Artifact) -> str:
    return directory_sha256(artifact.path / "adapter")


def _names(artifact: Artifact) -> dict[str, str]:
    names: dict[str, str] = json.loads((artifact.path / "adapter/training_config.json").read_text())["names"]
    return names


def test_students_start_from_original_which_starts_from_the_model(made: Made) -> None:
    students, _ = made("sft.start=original", "evaluation.baselines=[]")
    assert students.original is not None, "others start from it, whatever the rows of the table"
    original = students.original.artifact
    assert _start(original) is None
    assert _start(students.own.artifact) == {"content": _content(original), "trains_adapter": True}
    assert _names(original) == {"data": "planted", "scorer": "Original"}
    assert _names(students.own.artifact) == {"data": "planted", "scorer": "random", "start": "original"}
    merged, _ = made("sft.start=original", "sft.start_adapter=merge")
    assert _start(merged.own.artifact) == {"content": _content(original), "trains_adapter": False}
    plain, _ = made()
    assert plain.original is not None
    assert plain.original.artifact.key == original.key, "a start of others changes nothing about Original"
    assert _start(plain.own.artifact) is None


def test_all_students_start_from_a_folder(made: Made) -> None:
    first, _ = made()
    assert first.original is not None
    folder = first.original.artifact.path
    students, _ = made(f"sft.start={folder}")
    expected = {"content": _content(first.original.artifact), "trains_adapter": True}
    assert [_start(trained.artifact) for trained in students.all] == [expected, expected]


def test_student_of_other_traces_writes_and_is_original_where_others_start_from_it(
    made: Made, written: Written
) -> None:
    students, flow = made(*WRITTEN, "sft.start=original")
    assert students.original is not None
    original = students.original.artifact
    assert written.writers == [str(original.path / "adapter")] * len(written.writers)
    assert len(written.questions[0]) == 10
    assert _start(students.own.artifact) == {"content": _content(original), "trains_adapter": True}
    assert original.manifest["num_rows"] > 8, "trained on the 12 taught traces"
    assert [label for label in flow.stages if label.startswith("sft")] == ["sft (Original)", "sft (random)"]


def test_writer_is_a_student_of_its_own_where_students_start_from_the_model(made: Made, written: Written) -> None:
    loop, _ = made(*WRITTEN, "sft.start=original")
    students, flow = made(*WRITTEN)
    assert loop.original is not None
    assert students.original is not None
    assert [label for label in flow.stages if label.startswith("sft")] == [
        "sft (Writer)", "sft (Original)", "sft (random)",
    ]  # fmt: skip
    assert flow.stages["sft (Writer)"].artifact == loop.original.artifact.key
    assert students.original.artifact.key != loop.original.artifact.key
    assert _start(students.own.artifact) is None


@pytest.mark.parametrize(
    ("overrides", "writer", "samples"),
    [
        ([], None, 8),
        (["sft.start=original", "evaluation.shortest.samples=3"], "Original", 3),
        (["evaluation.shortest.writer=original"], "Original", 8),
    ],
)
def test_shortest_answers_the_questions_of_the_traces_by_what_students_start_from(
    made: Made, written: Written, overrides: list[str], writer: str | None, samples: int
) -> None:
    students, flow = made(*overrides, "evaluation.baselines=[original,shortest]")
    assert students.shortest is not None
    assert students.original is not None
    adapter = str(students.original.artifact.path / "adapter")
    assert set(written.writers) == {None if writer is None else adapter}
    assert {config.samples for config in written.configs} == {samples}
    ids = {t.id for t in read_records(flow.data.file("traces.parquet"), Trace)}
    assert set(written.questions[0]) == ids
    assert _start(students.shortest.artifact) == _start(students.own.artifact)
    learnt = students.shortest.artifact.facts["traces"]
    assert learnt == students.own.artifact.facts["traces"], "with sft.overlong=common, from the same questions"


def test_shortest_of_self_written_traces_has_their_writer_and_questions(made: Made, written: Written) -> None:
    students, _ = made(*WRITTEN, "sft.start=original", "evaluation.baselines=[original,shortest]", "data.samples=2")
    assert students.shortest is not None
    assert len(set(written.writers)) == 1
    assert {config.samples for config in written.configs} == {2}
    assert len({tuple(ids) for ids in written.questions}) == 1
