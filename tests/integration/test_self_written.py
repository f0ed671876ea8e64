"""A student on what its model wrote itself: from questions to the table, by a server and by the model in process."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hydra import compose, initialize_config_dir

from cotpress.config import CompressConfig, TrainConfig, register_schemas, to_objects
from cotpress.data.config import SelfWrittenDataConfig
from cotpress.errors import DataError
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_model, load_tokenizer
from cotpress.records import ORIGINAL, Trace
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records
from cotpress.tasks.flow import Compression, Flow
from cotpress.tracking import Tracker
from support.commands import FEW_PROBLEMS, Command
from support.openai_server import Call, OpenAIServer, Reply, Script, openai_server

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROOT = Path(__file__).parents[2]
TINY = ["model=tiny", "trainer=cpu", "trainer.num_threads=1"]
TINY_MODEL = ModelConfig(name="tiny", source=ModelSource.tiny, path="llama")
pytestmark = pytest.mark.timeout(300)


def instruct(tokenizer: "PreTrainedTokenizerBase") -> Script:
    """A model without thinking tags that adds, but wrongly below 4."""

    def script(call: Call, seen: int) -> Reply:
        match = re.search(r"What is (\d+) \+ 2", str(tokenizer.decode(call.body["prompt"])))
        assert match
        i = int(match[1])
        said = i + 3 if i < 4 else i + 2
        return Reply(text=f"We add the two numbers. {i} + 2 = {said}.\n\nThe final answer is: $\\boxed{{{said}}}$")

    return script


def self_written(questions: Path, server: OpenAIServer) -> list[str]:
    return [
        *("data=self_written", "questions@data.questions=jsonl", f"data.questions.path={questions}"),
        *("generation@data.generation=server", f"data.generation.base_url={server.base_url}"),
        *("data.generation.model=stub", "data.generation.concurrency=2"),
    ]


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    rows = [{"id": f"q{i}", "question": f"What is {i} + 2?", "answer": str(i + 2)} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_student_is_trained_on_traces_from_a_server(
    command: Command, questions: Path, tokenizer: "PreTrainedTokenizerBase"
) -> None:
    with openai_server(instruct(tokenizer)) as server:
        arguments = [
            *TINY, *self_written(questions, server), *FEW_PROBLEMS, "evaluation=students",
            "scorer=random", "ratio=0.5", "output_root=self",
        ]  # fmt: skip
        done = command("train.py", *arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(server.calls) == 20
    assert "4 dropped: wrong answer" in done.stderr
    (data,) = (command.folder / "self/artifacts/data").iterdir()
    facts = json.loads((data / "manifest.json").read_text())["facts"]
    assert (facts["format"], facts["writer_accuracy"]["value"]) == ("answer_line", 0.8)
    traces = read_records(data / "traces.parquet", Trace)
    assert {t.split for t in traces} == {"train", "validation"}
    assert traces[0].thinking == "We add the two numbers. 4 + 2 = 6."
    (results,) = (command.folder / "self/runs").glob("random-0.5-tiny*/results.json")
    row = json.loads(results.read_text())["rows"][1]
    assert row["system"] == "random"
    assert row["actual_ratio"] == pytest.approx(0.5, abs=0.05)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> "PreTrainedTokenizerBase":
    return load_tokenizer(TINY_MODEL, ArtifactStore(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def scoring(
    questions: Path, tokenizer: "PreTrainedTokenizerBase", tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Compression]]:
    """A flow of compress.py on what an instruct model wrote, all in one output root."""
    folder = tmp_path_factory.mktemp("scoring")
    tracker = Tracker(folder)
    with openai_server(instruct(tokenizer)) as server:

        def make(*overrides: str) -> Compression:
            written = [
                *self_written(questions, server),
                "data.questions.limit=10",
                "data.validation_fraction=0",
                f"output_root={folder}",
            ]
            config = to_objects(compose("compress", overrides=[*TINY, *written, *overrides]))
            assert isinstance(config, CompressConfig)
            return Compression(config, tracker)

        yield make
    tracker.close()


@pytest.mark.parametrize("scorer", ["random", "stride", "gogi", "greedy_nll", "pir", "answer_attention"])
def test_scorer_without_reference_model_needs_no_labels(scoring: Callable[..., Compression], scorer: str) -> None:
    layers = ["scorer.num_layers=2"] if scorer == "answer_attention" else []
    compressed = scoring(f"scorer={scorer}", "ratio=0.5", *layers).compressed()
    assert compressed.manifest["num_rows"] == 6
    assert compressed.facts["actual_ratio"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("scorer", ["cts", "self_information", "reference_likelihood"])
def test_scorer_with_the_untrained_model_needs_no_labels(scoring: Callable[..., Compression], scorer: str) -> None:
    assert scoring(f"scorer={scorer}", "reference=none").compressed().manifest["num_rows"] == 6


def test_error_without_labels_names_their_sources(scoring: Callable[..., Compression]) -> None:
    with pytest.raises(DataError, match=r"the data has no labels.*distill=overlap.*distill=llm, data@labelled=planted"):
        scoring("scorer=cts").compressed()
    with pytest.raises(DataError, match=r"overlap: no valuable part in any of 6 traces.*or distill=llm"):
        scoring("scorer=cts", "distill=overlap").compressed()


@pytest.fixture
def stopping(tmp_path: Path) -> Path:
    """The tiny model with an end token that can be learnt: its own is the padding, whose vector is zero."""
    store = ArtifactStore(tmp_path)
    model, tokenizer = load_model(TINY_MODEL, store), load_tokenizer(TINY_MODEL, store)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        model.get_input_embeddings().weight[tokenizer.eos_token_id].normal_(0, 0.02)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
def test_student_writes_its_own_traces_from_its_adapter(questions: Path, stopping: Path, tmp_path: Path) -> None:
    known = tmp_path / "known.jsonl"
    rows = [
        {
            "id": f"k{i}",
            "question": f"What is {i} + 2?",
            "thinking": "so 5",
            "response": "The answer is 5.",
            "answer": "5",
        }
        for i in range(20)
    ]  # fmt: skip
    known.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = [*TINY, "model.source=hub", f"model.path={stopping}", f"output_root={tmp_path / 'out'}", "scorer=random"]
    config = to_objects(
        compose(
            "train",
            overrides=[*common, "data=jsonl", f"data.path={known}", "data.validation_fraction=0", "sft.tune.epochs=60"],
        )
    )
    assert isinstance(config, TrainConfig)
    tracker = Tracker(tmp_path)
    flow = Flow(config, tracker)
    student = flow.student(ORIGINAL, flow.uncompressed())
    asking = [
        *("data=self_written", "questions@data.questions=jsonl", f"data.questions.path={questions}"),
        *("data.max_new_tokens=30", f"data.writer={student.path / 'adapter'}"),
    ]
    config = to_objects(compose("compress", overrides=[*common, *asking]))
    assert isinstance(config, CompressConfig)
    assert isinstance(config.data, SelfWrittenDataConfig)
    made = Compression(config, tracker).data
    tracker.close()
    # it always answers 5, so it solves the question whose answer is 5
    (trace,) = read_records(made.file("traces.parquet"), Trace)
    assert (trace.id, trace.thinking, trace.response) == ("q3", "so 5", "The answer is 5.")
    assert made.manifest["dropped"] == {"wrong answer": 19}
    assert made.facts["format"] == "tags"


@pytest.mark.parametrize("name", sorted(f.stem for f in (ROOT / "conf/questions").glob("*.yaml")))
@pytest.mark.parametrize("group", ["data", "labelled"])
def test_every_choice_of_questions_composes_below_self_written(name: str, group: str) -> None:
    choice = f"data@{group}=self_written" if group == "labelled" else "data=self_written"
    more = [f"{group}.questions.path=x"] if name == "jsonl" else []
    config = to_objects(compose("train", overrides=[choice, f"questions@{group}.questions={name}", *more]))
    assert isinstance(config, TrainConfig)
    data = config.labelled if group == "labelled" else config.data
    assert isinstance(data, SelfWrittenDataConfig)
    assert data.questions.name == name
    assert data.max_new_tokens == data.questions.max_new_tokens


def test_tokenskip_experiment_trains_on_gsm8k_train_and_evaluates_on_test() -> None:
    config = to_objects(compose("train", overrides=["experiment=tokenskip_gsm8k"]))
    assert isinstance(config, TrainConfig)
    assert isinstance(config.data, SelfWrittenDataConfig)
    assert (config.data.questions.name, config.data.max_thinking_tokens, config.data.max_new_tokens) == (
        "gsm8k",
        500,
        512,
    )
    assert config.benchmark.name == "gsm8k"
    assert config.data.questions.hub.file == "main/train-00000-of-00001.parquet"
    assert config.benchmark.hub.file == "main/test-00000-of-00001.parquet"
