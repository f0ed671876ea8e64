"""What only the wiring decides."""

import pickle
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from commands import ROOT, SMALL
from cotpress import flow, validation
from cotpress.config import TrainConfig, register_schemas, to_objects
from cotpress.records import Prediction, Problem
from cotpress.tracking import CsvTracker


@pytest.mark.parametrize("extractor", ["number", "letter"])
def test_validation_looks_for_the_kind_of_answer_that_the_benchmark_has(
    extractor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Problem] = []

    def answered(_: object, __: object, problems: list[Problem], *___: object, **____: object) -> list[Prediction]:
        seen.extend(problems)
        return [
            Prediction(
                id=p.id, family="", question="", answer="", system="", ratio=1.0, output="", predicted="",
                correct=i == 0, num_tokens=i, num_thinking_tokens=0, finish_reason="stop", latency_s=0.0,
            )
            for i, p in enumerate(problems)
        ]  # fmt: skip

    monkeypatch.setattr(validation, "answer_problems", answered)
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        changes = [f"output_root={tmp_path}", f"benchmark.extractor={extractor}", "sft.validation_problems=2"]
        config = to_objects(compose("train", overrides=[*SMALL, *changes]))
    assert isinstance(config, TrainConfig)
    tracker = CsvTracker(tmp_path)
    asked = flow.Flow(config, tracker).validation("cts")
    found = pickle.loads(pickle.dumps(asked))(torch.nn.Identity())  # it reaches the process of another device
    tracker.close()
    assert [p.extractor for p in seen] == [extractor, extractor]
    assert found == {"val/accuracy": 0.5, "val/tokens": 0.5}
