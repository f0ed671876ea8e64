"""The runner's verdicts, and the stage that keeps them."""

import pytest

from cotpress.artifacts import ArtifactStore, Summary
from cotpress.evaluation import stage
from cotpress.evaluation.runner import _judge
from cotpress.evaluation.stage import evaluate
from cotpress.generation.base import Generation
from cotpress.modeling.loading import load_tokenizer
from cotpress.modeling_config import ModelConfig, ModelSource
from cotpress.prompts import ChatFormat
from cotpress.records import Prediction, Problem
from cotpress.tables import read_records, write_records
from cotpress.trainer_config import TrainerConfig

MODEL = ModelConfig(name="tiny", source=ModelSource.tiny, path="tiny")
PROBLEM = Problem(id="p", question="how many", answer="12")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ArtifactStore(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def chat(store):
    return ChatFormat(load_tokenizer(MODEL, store), MODEL.chat)


@pytest.fixture(scope="module")
def problems(store):
    def produce(workdir):
        rows = [Problem(id=f"p{i}", question="how many apples " * (1 + i % 3), answer="3") for i in range(7)]
        write_records(workdir / "problems.parquet", rows, Problem)
        return Summary(num_rows=7)

    return store.build("benchmark", {"test": 1}, produce)


def _verdict(chat, text, reason="stop", problem=PROBLEM):
    ids = tuple(chat.text_ids(text))
    return _judge(problem, Generation(token_ids=ids, text=text, finish_reason=reason, latency_s=0.1), chat, "s", 0.5)


def test_answer_in_the_response_counts(chat):
    found = _verdict(chat, "<think>\n5 and 7\n</think>\n\nThe answer is 12.")
    assert found.correct
    assert found.predicted == "12"
    assert 0 < found.num_thinking_tokens < found.num_tokens


def test_the_response_and_not_the_thinking_is_judged(chat):
    assert not _verdict(chat, "<think>\nThe answer is 12.\n</think>\n\nThe answer is 13.").correct


def test_truncated_answer_is_wrong_whatever_it_says(chat):
    assert not _verdict(chat, "<think>\nx\n</think>\n\nThe answer is 12", reason="length").correct


def test_unclosed_thinking_counts_all_tokens_as_thinking(chat):
    found = _verdict(chat, "<think>\nso 12 or 13 or", reason="length")
    assert not found.correct
    assert found.num_thinking_tokens == found.num_tokens


def test_empty_output_is_wrong(chat):
    found = _verdict(chat, "")
    assert (found.correct, found.predicted, found.num_tokens) == (False, "", 0)


def test_the_problem_says_what_kind_of_answer_is_looked_for(chat):
    text = "<think>\nx\n</think>\n\nThe answer is (B), since 12 > 3."
    letter = Problem(id="p", question="which", answer="B", extractor="letter")
    assert (_verdict(chat, text, problem=letter).predicted, _verdict(chat, text, problem=letter).correct) == ("B", True)
    assert not _verdict(chat, text).correct


def test_unanswerable_question_is_right_only_if_the_output_says_so(chat):
    missing = Problem(id="p", question="how many", answer="", unanswerable=True)
    declined = "<think>\n12?\n</think>\n\n\\boxed{\\text{Not enough information}}"
    for text, reason, right in ((declined, "stop", True), (declined, "length", False), ("\\boxed{12}", "stop", False),
                                ("", "stop", False), ("<think>\nso 12 or", "length", False)):  # fmt: skip
        found = _verdict(chat, text, reason, missing)
        assert (found.correct, found.declined) == (right, right)


def test_declining_an_answerable_question_is_wrong_and_counted(chat):
    found = _verdict(chat, "<think>\nx\n</think>\n\nThere is not enough information.")
    assert (found.correct, found.declined, found.predicted) == (False, True, "")


def _evaluate(store, problems, **changes):
    arguments = {
        "system": "base", "ratio": 1.0, "model": MODEL, "student": None, "problems": problems, "max_new_tokens": 6,
        "marker_ratio": None, "trainer": TrainerConfig(accelerator="cpu", num_threads=1, generation_tokens=1),
    }  # fmt: skip
    return evaluate(**{**arguments, **changes}, store=store)


def test_predictions_come_in_the_order_of_the_problems(store, problems):
    made = _evaluate(store, problems)
    assert [p.id for p in read_records(made.file("predictions.parquet"), Prediction)] == [f"p{i}" for i in range(7)]


def test_batch_size_is_not_part_of_the_identity(store, problems):
    wide = TrainerConfig(accelerator="cpu", num_threads=1, generation_tokens=100_000)
    assert _evaluate(store, problems, trainer=wide).key == _evaluate(store, problems).key


def test_killed_evaluation_asks_only_what_is_left(store, problems, monkeypatch):
    asked = []
    original = stage.answer_problems

    def killed_after_three(model, tokenizer, chat, waiting, protocol, *, on_done, **more):
        asked.append(len(waiting))
        count = 0

        def counted(prediction):
            nonlocal count
            on_done(prediction)
            count += 1
            if len(asked) == 1 and count == 3:
                raise KeyboardInterrupt

        return original(model, tokenizer, chat, waiting, protocol, on_done=counted, **more)

    monkeypatch.setattr(stage, "answer_problems", killed_after_three)
    with pytest.raises(KeyboardInterrupt):
        _evaluate(store, problems, system="other")
    made = _evaluate(store, problems, system="other")
    assert asked == [7, 4]
    whole = read_records(_evaluate(store, problems).file("predictions.parquet"), Prediction)
    resumed = read_records(made.file("predictions.parquet"), Prediction)
    assert [p.output for p in resumed] == [p.output for p in whole]
