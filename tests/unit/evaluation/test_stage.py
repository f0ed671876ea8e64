"""The stage that generates and judges answers."""

from contextlib import contextmanager
from dataclasses import replace

import pytest

from cotpress.devices.config import TrainerConfig
from cotpress.errors import ConfigError
from cotpress.evaluation import judging
from cotpress.evaluation.config import EvaluationConfig
from cotpress.evaluation.protocol import Protocol, answer_budget, sampling
from cotpress.evaluation.stage import Candidate, evaluate
from cotpress.generation.backends import KeptBackend, Sampling, open_backend
from cotpress.generation.config import TransformersGenerationConfig
from cotpress.generation.hf import TransformersBackend
from cotpress.modeling.config import Attention, ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer
from cotpress.prompts import ChatFormat
from cotpress.records import Prediction, Problem
from cotpress.store import artifacts
from cotpress.store.artifacts import ArtifactStore, Summary
from cotpress.store.tables import read_records, write_records

MODEL = ModelConfig(name="tiny", source=ModelSource.tiny, path="tiny")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ArtifactStore(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def problems(store):
    def produce(workdir):
        rows = [Problem(id=f"p{i}", question="how many apples " * (1 + i % 3), answer="3") for i in range(7)]
        write_records(workdir / "problems.parquet", rows, Problem)
        return Summary(num_rows=7)

    return store.build("benchmark", {"test": 1}, produce)


def _evaluate(store, problems, *, max_new_tokens=6, samples=1, sampling=None, marker_ratio=None, **changes):
    protocol = Protocol(
        max_new_tokens=max_new_tokens,
        context_tokens=2048,
        samples=samples,
        sampling=sampling,
        marker_ratio=marker_ratio,
    )
    arguments = {
        "model": MODEL, "problems": problems, "generation": TransformersGenerationConfig(),
        "trainer": TrainerConfig(accelerator="cpu", num_threads=1, generation_tokens=1),
    }  # fmt: skip
    candidate = Candidate(system="base", ratio=1.0, student=None, protocol=changes.pop("protocol", protocol))
    (made,) = evaluate([candidate], **{**arguments, **changes}, store=store)
    return made


def test_predictions_come_in_the_order_of_the_problems(store, problems):
    made = _evaluate(store, problems)
    assert [p.id for p in read_records(made.file("predictions.parquet"), Prediction)] == [f"p{i}" for i in range(7)]


def test_batch_size_is_not_part_of_the_identity(store, problems):
    wide = TrainerConfig(accelerator="cpu", num_threads=1, generation_tokens=100_000)
    assert _evaluate(store, problems, trainer=wide).key == _evaluate(store, problems).key


def _interrupted_after(number, monkeypatch):
    """Count the completions of every call of a backend, and interrupt the first call after `number`."""
    answered, original = [], TransformersBackend.complete

    def interrupted(backend, requests, *, sampling, on_done):
        answered.append(0)

        def counted(index, generation):
            on_done(index, generation)
            answered[-1] += 1
            if answered == [number]:
                raise KeyboardInterrupt

        return original(backend, requests, sampling=sampling, on_done=counted)

    monkeypatch.setattr(TransformersBackend, "complete", interrupted)
    return answered


def _forbid_generation(monkeypatch):
    monkeypatch.setattr(TransformersBackend, "complete", lambda *_, **__: pytest.fail("a backend was used"))


def _predictions(made):
    return read_records(made.file("predictions.parquet"), Prediction)


def test_killed_evaluation_resumes_with_the_missing_answers(store, problems, tmp_path, monkeypatch):
    whole = _predictions(_evaluate(store, problems))
    answered = _interrupted_after(3, monkeypatch)
    killed = ArtifactStore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        _evaluate(killed, problems)
    resumed = _predictions(_evaluate(killed, problems))
    assert answered == [3, 4]
    assert [p.output for p in resumed] == [p.output for p in whole]


def test_another_checker_judges_again_without_generating(store, problems, monkeypatch):
    before = _evaluate(store, problems)
    monkeypatch.setattr(judging, "checker_fingerprint", lambda *_: "another")
    _forbid_generation(monkeypatch)
    again = _evaluate(store, problems)
    assert again.key != before.key
    assert _predictions(again) == _predictions(before)


def test_corrected_gold_answers_are_judged_again_without_generating(store, problems, monkeypatch):
    first = _predictions(_evaluate(store, problems))

    def produce(workdir):
        rows = [replace(p, answer="8") for p in read_records(problems.file("problems.parquet"), Problem)]
        write_records(workdir / "problems.parquet", rows, Problem)
        return Summary(num_rows=len(rows))

    _forbid_generation(monkeypatch)
    again = _predictions(_evaluate(store, store.build("benchmark", {"test": 2}, produce)))
    assert [(p.output, p.answer) for p in again] == [(p.output, "8") for p in first]


def test_context_limits_an_answer_and_refuses_a_prompt_that_fills_it(store, problems):
    def predictions(context_tokens):
        protocol = Protocol(max_new_tokens=30, context_tokens=context_tokens)
        model = replace(MODEL, context_tokens=context_tokens)
        return _predictions(_evaluate(store, problems, protocol=protocol, model=model))

    lengths = [
        len(ChatFormat(load_tokenizer(MODEL, store), MODEL.chat).prompt_ids(p.question)) for p in predictions(2048)
    ]
    made = predictions(max(lengths))
    for length, answer in zip(lengths, made, strict=True):
        left = max(lengths) - length
        assert answer.num_tokens == min(left, 30)
        assert answer.finish_reason == ("length" if left else "refused")
    assert {p.finish_reason for p in made} == {"length", "refused"}


SAMPLED = {"samples": 3, "sampling": Sampling(temperature=0.9, top_p=0.95, seed=5), "max_new_tokens": 8}
WIDE = TrainerConfig(accelerator="cpu", num_threads=1, generation_tokens=100_000)


def test_samples_of_a_problem_follow_one_another_and_differ(store, problems):
    made = read_records(_evaluate(store, problems, **SAMPLED).file("predictions.parquet"), Prediction)
    assert [(p.id, p.sample) for p in made] == [(f"p{i}", k) for i in range(7) for k in range(3)]
    assert all(len({p.output for p in made if p.id == f"p{i}"}) > 1 for i in range(7))


def test_sampled_answers_are_the_same_in_batches_of_any_size(problems, tmp_path):
    def outputs(name, num_tokens):
        trainer = TrainerConfig(accelerator="cpu", num_threads=1, generation_tokens=num_tokens)
        made = _evaluate(ArtifactStore(tmp_path / name), problems, trainer=trainer, **SAMPLED)
        return [p.output for p in read_records(made.file("predictions.parquet"), Prediction)]

    alone = outputs("alone", 1)
    assert outputs("wide", 100_000) == alone
    assert outputs("some", 150) == alone


def test_more_samples_keep_the_first_ones(store, problems):
    two = read_records(_evaluate(store, problems, **{**SAMPLED, "samples": 2}).file("predictions.parquet"), Prediction)
    three = read_records(_evaluate(store, problems, **SAMPLED).file("predictions.parquet"), Prediction)
    assert [p.output for p in two] == [p.output for p in three if p.sample < 2]


def test_every_setting_that_changes_answers_changes_the_identity(store, problems):
    changes = (
        {}, {"samples": 2}, {"max_new_tokens": 7}, {"samples": 1, "sampling": None},
        {"sampling": Sampling(temperature=0.8, top_p=0.95, seed=5)},
        {"sampling": Sampling(temperature=0.9, top_p=0.9, seed=5)},
        {"sampling": Sampling(temperature=0.9, top_p=0.95, seed=6)},
    )  # fmt: skip
    keys = [_evaluate(store, problems, **{**SAMPLED, **change}).key for change in changes]
    assert len(set(keys)) == len(keys)
    assert _evaluate(store, problems, trainer=WIDE, **SAMPLED).key == keys[0]


def test_marker_without_text_is_the_same_as_no_marker(store, problems, monkeypatch):
    first = _evaluate(store, problems)
    _forbid_generation(monkeypatch)
    assert _evaluate(store, problems, marker_ratio=1.0).key == first.key
    assert Protocol(max_new_tokens=1, context_tokens=1, marker_ratio=0.9).marker_ratio == 0.9


def test_killed_sampling_resumes_within_a_question(problems, tmp_path, monkeypatch):
    store, whole = ArtifactStore(tmp_path / "killed"), ArtifactStore(tmp_path / "whole")
    expected = read_records(_evaluate(whole, problems, **SAMPLED).file("predictions.parquet"), Prediction)
    answered = _interrupted_after(4, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        _evaluate(store, problems, **SAMPLED)
    (scratch,) = (tmp_path / "killed").rglob("completions.jsonl")
    with scratch.open("a") as handle:
        handle.write('00000000 ["p1/0", {"torn')
    resumed = read_records(_evaluate(store, problems, **SAMPLED).file("predictions.parquet"), Prediction)
    assert answered == [4, 17]
    assert [(p.id, p.sample, p.output) for p in resumed] == [(p.id, p.sample, p.output) for p in expected]


def test_greedy_samples_are_refused(store, problems):
    with pytest.raises(ConfigError, match="temperature 0"):
        _evaluate(store, problems, samples=2)


def test_several_samples_are_drawn_as_in_cts_by_default():
    assert sampling(EvaluationConfig(), 1) is None
    assert sampling(EvaluationConfig(samples=4), 1) == Sampling(temperature=0.6, top_p=0.95, seed=1)
    config = EvaluationConfig(temperature=1.0, top_p=1.0)
    assert sampling(config, 2) == Sampling(temperature=1.0, top_p=1.0, seed=2)


def test_budget_follows_the_ratio_only_if_configured():
    assert answer_budget(512, 0.5, follows_ratio=False) == 512
    assert answer_budget(512, 0.5, follows_ratio=True) == 256
    assert answer_budget(1, 0.1, follows_ratio=True) == 1


RATIOS = (1.0, 0.7, 0.5)


def _candidates(samples=1, sampling=None):
    return [
        Candidate(
            system="mixed", ratio=ratio, student=None,
            protocol=Protocol(
                max_new_tokens=6, context_tokens=2048, marker_ratio=ratio, samples=samples, sampling=sampling
            ),
        )
        for ratio in RATIOS
    ]  # fmt: skip


def _evaluate_all(store, problems, candidates, **more):
    return evaluate(
        candidates, model=MODEL, problems=problems, generation=TransformersGenerationConfig(), trainer=WIDE,
        store=store, **more,
    )  # fmt: skip


@pytest.mark.parametrize("drawn", [{}, {"samples": 2, "sampling": Sampling(temperature=0.9, seed=5)}])
def test_ratios_of_one_student_in_one_pass_give_the_artifacts_of_separate_passes(problems, tmp_path, drawn):
    opened = []

    def opening(*arguments, **more):
        opened.append(more)
        return open_backend(*arguments, **more)

    together = _evaluate_all(ArtifactStore(tmp_path / "one"), problems, _candidates(**drawn), opened=opening)
    assert len(opened) == 1
    apart = ArtifactStore(tmp_path / "three")
    for made, candidate in zip(together, _candidates(**drawn), strict=True):
        (alone,) = _evaluate_all(apart, problems, [candidate])
        assert made.key == alone.key
        assert [replace(p, latency_s=0.0) for p in _predictions(made)] == [
            replace(p, latency_s=0.0) for p in _predictions(alone)
        ]
    assert len({made.key for made in together}) == 3
    assert all(made.seconds > 0 for made in together)


def test_locks_of_a_pass_are_held_until_its_artifacts_are_finished(problems, tmp_path, monkeypatch):
    released = []

    class Watched(artifacts.WorkLock):
        def __init__(self, path, stage, key):
            super().__init__(path, stage, key)
            self.key = key

        @contextmanager
        def whole(self):
            with super().whole():
                yield
                released.append((self.key, (tmp_path / "artifacts" / self.key).is_dir()))

    monkeypatch.setattr(artifacts, "WorkLock", Watched)
    _evaluate_all(ArtifactStore(tmp_path), problems, _candidates())
    answered = [finished for key, finished in released if key.startswith("answer/")]
    assert len(answered) == 3
    assert all(answered)


def test_killed_pass_over_ratios_resumes_with_the_missing_answers(problems, tmp_path, monkeypatch):
    answered = _interrupted_after(9, monkeypatch)
    store = ArtifactStore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        _evaluate_all(store, problems, _candidates())
    _evaluate_all(store, problems, _candidates())
    assert answered == [9, 3 * 7 - 9]


def test_same_weights_are_loaded_once_and_replaced_by_others(store, problems):
    kept = KeptBackend()
    arguments = (TransformersGenerationConfig(), MODEL, WIDE, store)
    first = kept(*arguments)
    assert kept(*arguments) is first
    assert kept(TransformersGenerationConfig(), replace(MODEL, attention=Attention.eager), WIDE, store) is not first
