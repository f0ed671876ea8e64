"""Sources of labels and of the reference model: other traces, a language model behind a server, a finished model."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from cotpress.config import CompressConfig, register_schemas, to_objects
from cotpress.errors import ConfigError
from cotpress.records import ScoredTrace, ValuableTrace
from cotpress.store.source import without_code
from cotpress.store.tables import read_records
from cotpress.tasks.flow import Compression
from cotpress.tracking import Tracker
from support.encoder import save_encoder
from support.openai_server import Call, Reply, openai_server

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(300)
Make = Callable[..., Compression]


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def own_rows(folder: Path) -> Path:
    """Traces without labels, as a user has them."""
    path = folder / "rows.jsonl"
    rows = [
        {
            "id": f"own{i}", "question": f"What is {i} + 2?", "response": f"{i + 2}", "answer": f"{i + 2}",
            "thinking": f"Okay, let me see. {i} + 2 = {i + 2}. Wait, let me check. So it is {i + 2}.",
        }
        for i in range(10)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def tracker(folder: Path) -> Iterator[Tracker]:
    opened = Tracker(folder)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def flow(folder: Path, tracker: Tracker) -> Make:
    """A flow of compress.py on the tiny model, all in one output root."""

    def make(*overrides: str) -> Compression:
        small = ["model=tiny", "trainer=cpu", "trainer.num_threads=1", f"output_root={folder}"]
        config = to_objects(compose("compress", overrides=[*small, *overrides]))
        assert isinstance(config, CompressConfig)
        return Compression(config, tracker)

    return make


def _scored(flow: Compression) -> dict[str, np.ndarray]:
    return {s.id: s.scores for s in read_records(flow.scores.file("scores.parquet"), ScoredTrace)}


def test_labels_come_from_the_compressed_traces_unless_others_are_given(flow: Make) -> None:
    made = flow("data.num_traces=12", "scorer=reference_likelihood")
    assert made.labelled_traces is made.traces
    assert without_code(made.distilled.manifest["identity"]) == {
        "stage": "distill", "format": 1, "data": made.traces.key, "extractor": "labels",
    }  # fmt: skip
    assert "data (labelled)" not in made.stages
    same = flow("data.num_traces=12", "data@labelled=planted", "labelled.num_traces=12")
    assert same.distilled.key == made.distilled.key, "the same traces given twice are the same labels"


def test_reference_learns_from_other_traces_than_it_scores(flow: Make, own_rows: Path) -> None:
    made = flow(
        "data=jsonl", f"data.path={own_rows}", "data@labelled=planted", "labelled.num_traces=12",
        "scorer=reference_likelihood",
    )  # fmt: skip
    assert set(_scored(made)) <= {f"own{i}" for i in range(10)}
    assert made.labelled_traces.key != made.traces.key
    assert made.distilled.manifest["identity"]["data"] == made.labelled_traces.key
    assert made.reference is not None
    assert made.reference.manifest["identity"]["distilled"] == made.distilled.key
    base = flow("data=jsonl", f"data.path={own_rows}", "scorer=reference_likelihood", "reference=none")
    assert any(not np.array_equal(a, b) for a, b in zip(_scored(made).values(), _scored(base).values(), strict=True))


def test_saved_reference_compresses_other_text_without_training(flow: Make, own_rows: Path) -> None:
    trained = flow("data.num_traces=12", "scorer=reference_likelihood").reference
    assert trained is not None
    made = flow(
        "data=jsonl", f"data.path={own_rows}", "scorer=reference_likelihood", "reference=saved",
        f"reference.path={trained.path}", "ratio=0.5",
    )  # fmt: skip
    assert made.compressed().facts["actual_ratio"] == pytest.approx(0.5, abs=0.03)
    assert "distill" not in made.stages
    here = flow(
        "data=jsonl", f"data.path={own_rows}", "data@labelled=planted", "labelled.num_traces=12",
        "scorer=reference_likelihood",
    )  # fmt: skip
    for a, b in zip(_scored(made).values(), _scored(here).values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_saved_reference_without_folder_is_refused(flow: Make) -> None:
    with pytest.raises(ConfigError, match=r"no value for reference\.path"):
        flow("reference=saved")


def test_token_classifier_and_reference_learn_from_extractions_of_a_server(
    flow: Make, own_rows: Path, folder: Path
) -> None:
    def script(call: Call, seen: int) -> Reply:
        reasoning = call.body["messages"][-1]["content"].partition("Reasoning:\n")[2]
        return Reply(text=reasoning.split(". ")[1])

    encoder = save_encoder(folder / "encoder", [own_rows.read_text()])
    with openai_server(script) as server:
        arguments = [
            "data=jsonl", f"data.path={own_rows}", "distill=llm_server", "distill.generation.model=stub",
            f"distill.generation.base_url={server.base_url}",
        ]  # fmt: skip
        classified = flow(
            *arguments, "scorer=tokenskip", f"scorer.path={encoder}", "scorer.trained_layers=null",
            "scorer.window_tokens=30", "scorer.epochs=60", "scorer.learning_rate=0.005",
        )  # fmt: skip
        scores = _scored(classified)
        num_calls = len(server.calls)
        likelihood = flow(*arguments, "scorer=reference_likelihood")
        assert set(_scored(likelihood)) == set(scores)
        assert len(server.calls) == num_calls == len(scores), "one call per trace, shared by both scorers"
    rows = read_records(classified.distilled.file("valuable.parquet"), ValuableTrace)
    assert all("".join(r.thinking[a:b] for a, b in r.valuable).count("=") == 1 for r in rows)
    assert classified.distilled.facts["mean_variation_rate"] == 0
    assert likelihood.reference is not None
    records = {s.id: s for s in read_records(classified.scores.file("scores.parquet"), ScoredTrace)}
    for row in rows:
        ((start, end),) = row.valuable
        scored = records[row.id]
        inside = (scored.offsets[:, 0] >= start) & (scored.offsets[:, 1] <= end)
        assert scored.scores[inside].mean() > scored.scores[~inside].mean() + 0.2


@pytest.mark.parametrize("backend", ["transformers", "server"])
def test_backend_of_the_extractor_is_a_choice_of_its_group(flow: Make, backend: str) -> None:
    address = ["distill.generation.base_url=http://x/v1", "distill.generation.model=x"] if backend == "server" else []
    flow("distill=llm", f"generation@distill.generation={backend}", *address)
    flow("distill=llm", "model@distill.model=qwen7b", "distill.generation.temperature=0.6")
