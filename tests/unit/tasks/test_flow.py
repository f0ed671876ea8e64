"""Settings of the validation during training, which the flow derives from data and benchmark."""

import json
import logging
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from cotpress.answers import Extractor
from cotpress.config import TrainConfig, register_schemas, to_objects
from cotpress.evaluation import stage
from cotpress.evaluation.protocol import Protocol
from cotpress.modeling.loading import load_tokenizer
from cotpress.prompts import ChatFormat
from cotpress.records import Origin, Prediction, Problem, System, Trace
from cotpress.store.tables import read_records
from cotpress.tasks import flow
from cotpress.tracking import Tracker
from support.commands import ROOT, SMALL

CTS = System(name="cts", origin=Origin.scorer, ratio=0.5)


class Questioned:
    """Replaces `answer_problems` and keeps its problems and protocol."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.protocol: Protocol | None = None

    def __call__(
        self, _: object, __: object, problems: list[Problem], protocol: Protocol, **___: object
    ) -> list[Prediction]:
        self.problems, self.protocol = list(problems), protocol
        return [
            Prediction(
                id=p.id, family="", question="", answer="", system="", ratio=1.0, output="", predicted="",
                correct=i == 0, num_tokens=i, num_thinking_tokens=0, finish_reason="stop", latency_s=0.0,
            )
            for i, p in enumerate(problems)
        ]  # fmt: skip


@pytest.fixture
def questioned(monkeypatch: pytest.MonkeyPatch) -> Questioned:
    replacement = Questioned()
    monkeypatch.setattr(stage, "answer_problems", replacement)
    return replacement


def _composed(*overrides: str) -> TrainConfig:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = to_objects(compose("train", overrides=[*overrides]))
    assert isinstance(config, TrainConfig)
    return config


MakeFlow = Callable[..., flow.Flow]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[MakeFlow]:
    """Make flows on the tiny model that validate on two problems."""
    with closing(Tracker(tmp_path)) as tracker:
        small = [*SMALL, f"output_root={tmp_path}", "sft.validation_problems=2"]
        yield lambda *changes: flow.Flow(_composed(*small, *changes), tracker)


def _validated(made: flow.Flow) -> Mapping[str, Any]:
    received = pickle.loads(pickle.dumps(made.validation(CTS)))  # as in the process of another device
    return received(torch.nn.Identity())  # type: ignore[no-any-return]


def test_validation_extracts_the_kind_of_answer_of_the_data(made: MakeFlow, questioned: Questioned) -> None:
    metrics = _validated(made("benchmark.extractor=letter"))
    assert [p.extractor for p in questioned.problems] == ["math", "math"]
    assert metrics == {"val/accuracy": 0.5, "val/tokens": 0.5}


def test_self_written_data_has_the_kind_of_answer_of_its_questions() -> None:
    changes = ["data=self_written", "data.questions.extractor=integer", "benchmark.extractor=letter"]
    assert _composed("model=tiny", *changes).data.extractor is Extractor.integer


def test_token_budget_of_validation_follows_from_its_traces_unless_it_is_set(
    made: MakeFlow, questioned: Questioned, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    _validated(made("benchmark.max_new_tokens=9", "sft.validation_max_new_tokens=17"))
    assert "sft: validation: 2 answers of at most 17 tokens" in caplog.messages
    assert questioned.protocol is not None
    assert questioned.protocol.max_new_tokens == 17
    unset = made("benchmark.max_new_tokens=9", "sft.validation_max_new_tokens=null")
    _validated(unset)
    model = unset.validation(CTS).model
    written = ChatFormat(load_tokenizer(model, unset.store), model.chat)
    ids = {p.id for p in questioned.problems}
    lengths = [
        len(written.completion_ids(written.text_ids(t.thinking), t.response))
        for t in read_records(unset.data.file("traces.parquet"), Trace)
        if t.id in ids
    ]
    assert len(lengths) == 2
    assert questioned.protocol.max_new_tokens == 2 * max(lengths)


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Tracker]:
    with closing(Tracker(tmp_path)) as opened:
        yield opened


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    row = {"thinking": "So it is.", "response": "", "answer": 1}
    path.write_text("".join(json.dumps({"id": i, "question": f"q{i}", **row}) + "\n" for i in range(10)))
    return path


@pytest.mark.parametrize("group", ["data", "labelled"])
def test_questions_of_the_benchmark_are_not_trained_on(
    rows: Path, tmp_path: Path, tracker: Tracker, group: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = tmp_path / "benchmark.jsonl"
    asked.write_text('{"id": 1, "question": "Q3", "answer": 1}\n{"id": 2, "question": "other", "answer": null}\n')
    config = _composed(
        "model=tiny", f"output_root={tmp_path}/out", "scorer=random",
        "data=jsonl" if group == "data" else "data@labelled=jsonl", f"{group}.path={rows}",
        "benchmark=jsonl", f"benchmark.path={asked}",
    )  # fmt: skip
    made = flow.Flow(config, tracker)
    traces = made.labelled_traces if group == "labelled" else made.data
    assert [t.id for t in read_records(traces.file("traces.parquet"), Trace)] == [str(i) for i in range(10) if i != 3]
    assert f"{group}=jsonl: 1 of 10 traces overlap with the 1 problems of benchmark=benchmark" in caplog.text
    assert "benchmark=jsonl: 1 of 2 rows are used; 1 lost" in caplog.text
    label = "overlap" if group == "data" else "overlap (labelled)"
    record = made.stages[label]
    assert record.facts["matched_traces"] == {"normalized": 1}
    records = {stage.artifact: stage for stage in made.stages.values()}
    assert records[traces.key].dropped == {"question of the benchmark (normalized)": 1}
    assert (made.problems.key, made.stages["benchmark"].dropped) == (
        made.stages["benchmark"].artifact, {"wrong type of 'answer'": 1},
    )  # fmt: skip
