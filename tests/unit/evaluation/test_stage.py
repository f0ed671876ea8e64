"""The stage that generates and judges answers, with a model in this process and on a server."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest
import torch

from cotpress.devices.config import TrainerConfig
from cotpress.errors import GenerationError, NotServedError
from cotpress.evaluation import stage
from cotpress.evaluation.config import EvaluationConfig
from cotpress.evaluation.forcing import Forcing
from cotpress.evaluation.protocol import Answer, Protocol, protocol, sampling
from cotpress.evaluation.stage import Candidate, evaluate, given_weights
from cotpress.generation.backends import GREEDY, KeptBackend, Sampling, open_backend
from cotpress.generation.config import ServerGenerationConfig, TransformersGenerationConfig, VllmGenerationConfig
from cotpress.generation.hf import TransformersBackend
from cotpress.modeling.config import Attention, ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer
from cotpress.modeling.tiny import tiny_model
from cotpress.prompts import ChatFormat
from cotpress.records import Prediction, Problem
from cotpress.store import artifacts
from cotpress.store.artifacts import ArtifactStore, Summary
from cotpress.store.tables import read_records, write_records
from support.fake_vllm import OTHER, commands, fake_vllm, requests_of
from support.openai_server import Reply, openai_server
from support.served_model import ServedModel, save_adapter, save_model

MODEL = ModelConfig(name="tiny", source=ModelSource.tiny, path="tiny")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    torch.set_num_threads(1)
    return ArtifactStore(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="module")
def problems(store):
    def produce(workdir):
        rows = [Problem(id=f"p{i}", question=f"{i} " + "how many apples " * (1 + i % 3), answer="3") for i in range(7)]
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
    monkeypatch.setattr(stage, "package_versions", lambda: {"sympy": "another"})
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


def test_several_samples_are_drawn_as_in_cts_by_default():
    greedy = Sampling(seed=1)
    assert sampling(EvaluationConfig(), greedy) is None
    assert sampling(EvaluationConfig(samples=4), greedy) == Sampling(temperature=0.6, top_p=0.95, seed=1)
    assert sampling(EvaluationConfig(temperature=1.0), greedy) == Sampling(temperature=1.0, top_p=0.95, seed=1)
    config = EvaluationConfig(temperature=1.0, top_p=1.0)
    assert sampling(config, Sampling(seed=2)) == Sampling(temperature=1.0, top_p=1.0, seed=2)


@pytest.mark.parametrize("samples", [1, 4])
def test_sampling_is_that_of_the_benchmark_unless_it_is_given(samples):
    usual = Sampling(temperature=0.7, top_p=0.8, seed=3)
    assert sampling(EvaluationConfig(samples=samples), usual) == usual
    assert sampling(EvaluationConfig(samples=samples, temperature=1.0), usual) == replace(usual, temperature=1.0)
    assert sampling(EvaluationConfig(samples=samples, top_p=0.5), usual) == replace(usual, top_p=0.5)
    assert sampling(EvaluationConfig(temperature=0), usual) is None


def test_budget_follows_the_ratio_only_if_configured():
    def budget(max_new_tokens, ratio, follows):
        config = EvaluationConfig(budget_follows_ratio=follows)
        made = protocol(config, max_new_tokens=max_new_tokens, context_tokens=1, usual=GREEDY, ratio=ratio)
        return made.max_new_tokens

    assert budget(512, 0.5, follows=False) == 512
    assert budget(512, 0.5, follows=True) == 256
    assert budget(1, 0.1, follows=True) == 1


def _forced(forcing, **changes):
    protocol = Protocol(max_new_tokens=30, context_tokens=2048, forcing=forcing)
    return Candidate(system="forced", ratio=1.0, student=None, protocol=replace(protocol, **changes))


def test_forced_answers_are_the_free_ones_up_to_the_limit_and_go_on_after_the_text(store, problems):
    free, forced = _evaluate_all(store, problems, [_forced(None), _forced(Forcing(num_tokens=9, text="Answer:"))])
    chat = ChatFormat(load_tokenizer(MODEL, store), MODEL.chat)
    appended = len([*chat.thinking_end(), *chat.text_ids("Answer:")])
    for before, after in zip(_predictions(free), _predictions(forced), strict=True):
        thinking, response, _ = chat.split_output(after.output)
        assert before.output.startswith(thinking)
        assert response.startswith("Answer:")
        assert (after.num_tokens, after.num_thinking_tokens, after.closed) == (30, 9 + 1, True)  # with a line break
        assert len(chat.output_ids(response)) > 30 - 9 - appended - 3


def test_forcing_that_leaves_no_room_for_an_answer_is_a_warning(store, problems, caplog):
    text = "So the final answer to this question has to be:"
    _evaluate_all(store, problems, [_forced(Forcing(num_tokens=9, text=text), max_new_tokens=12)])
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warning.startswith(
        "forced: the budget of 7 of 7 answers, of at most 12 tokens, does not hold 9 tokens of thinking and the text "
        "after them, so a thinking that is longer has no answer. Fix: a larger benchmark.max_new_tokens, a smaller "
        "evaluation.budget_forcing.thinking_tokens"
    )


def test_relative_limit_follows_the_thinking_of_the_free_answers(problems, tmp_path):
    alone, beside = ArtifactStore(tmp_path / "alone"), ArtifactStore(tmp_path / "beside")
    relative = Forcing(num_tokens=None, share=0.5, text="Answer:")
    (made,) = _evaluate_all(alone, problems, [_forced(relative)])
    free, again = _evaluate_all(beside, problems, [_forced(None), _forced(relative)])
    mean = sum(p.num_tokens for p in _predictions(free)) / 7  # nothing closes them
    (fixed,) = _evaluate_all(alone, problems, [_forced(Forcing(num_tokens=round(mean / 2), text="Answer:"))])
    assert made.key == again.key == fixed.key
    assert {p.num_thinking_tokens for p in _predictions(made)} == {round(mean / 2) + 1}


@pytest.mark.parametrize("number", [3, 10])  # in the first requests, and in the second ones
def test_killed_forcing_resumes_with_the_missing_requests(problems, tmp_path, monkeypatch, number):
    asked = _forced(Forcing(num_tokens=9, text="Answer:"))
    (whole,) = _evaluate_all(ArtifactStore(tmp_path / "whole"), problems, [asked])
    completed, original = [], TransformersBackend.complete

    def interrupted(backend, requests, *, sampling, on_done):
        def counted(index, generation):
            on_done(index, generation)
            completed.append(index)
            if len(completed) == number:
                raise KeyboardInterrupt

        return original(backend, requests, sampling=sampling, on_done=counted)

    monkeypatch.setattr(TransformersBackend, "complete", interrupted)
    killed = ArtifactStore(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        _evaluate_all(killed, problems, [asked])
    (resumed,) = _evaluate_all(killed, problems, [asked])
    assert [p.output for p in _predictions(resumed)] == [p.output for p in _predictions(whole)]
    assert len(completed) == 14


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
        def __init__(self, path, key):
            super().__init__(path, key)
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


WORDS = ("how many apples", "books", "what is", "total", "each day", "so the answer", "7 + 8 is it 3")
SERVED_GREEDY = Protocol(max_new_tokens=24, context_tokens=512)
SERVED_SAMPLED = Protocol(
    max_new_tokens=8, context_tokens=512, samples=2, sampling=Sampling(temperature=0.9, top_p=0.9, seed=3)
)
IN_PROCESS = TransformersGenerationConfig()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def word_problems(store):
    def produce(workdir):
        rows = [
            Problem(id=f"p{i}", question=f"{words} in {i} boxes of {i + 2}", answer="3")
            for i, words in enumerate(WORDS)
        ]
        write_records(workdir / "problems.parquet", rows, Problem)
        return Summary(num_rows=7)

    return store.build("benchmark", {"words": 1}, produce)


@pytest.fixture(scope="module")
def folder(store, tmp_path_factory):
    """A model that ends some of its answers, and an adapter beside it."""
    made = save_model(tmp_path_factory.mktemp("model") / "weights", tiny_model(store).path)
    save_adapter(made.parent / "adapter", made)
    return made


def _weights_config(folder):
    return ModelConfig(name="copy", path=str(folder), context_tokens=512)


def _with_weights(folder, word_problems, store, generation, student=None, protocol=SERVED_GREEDY):
    (made,) = evaluate(
        [Candidate(system="s", ratio=1.0, student=student, protocol=protocol)],
        model=_weights_config(folder), problems=word_problems, generation=generation,
        trainer=TrainerConfig(accelerator="cpu", generation_tokens=200), store=store,
    )  # fmt: skip
    return made


def _server(server, **more):
    return ServerGenerationConfig(base_url=server.base_url, **{"model": "served", "max_retries": 0, **more})


def _records(made):
    return [replace(p, latency_s=0.0) for p in read_records(made.file("predictions.parquet"), Prediction)]


@pytest.mark.parametrize("adapted", [False, True], ids=["model", "adapter"])
def test_server_gives_the_records_of_the_model_in_this_process(folder, word_problems, store, adapted):
    student = str(folder.parent / "adapter") if adapted else None
    here = _with_weights(folder, word_problems, store, IN_PROCESS, student=student)
    with openai_server(ServedModel(folder)) as server:
        there = _with_weights(folder, word_problems, store, _server(server), student=student)
        assert {c.path for c in server.calls} == {"/v1/completions", *(["/v1/load_lora_adapter"] if adapted else [])}
    assert here.key != there.key
    assert _records(there) == _records(here)
    if not adapted:
        assert {p.finish_reason for p in _records(here)} == {"stop", "length"}


FORCED = replace(SERVED_GREEDY, forcing=Forcing(num_tokens=4, text="Answer:"))


@pytest.mark.parametrize("tells_ids", [True, False])
def test_server_closes_a_thinking_as_the_model_in_this_process_does(folder, word_problems, store, tmp_path, tells_ids):
    here = _records(_with_weights(folder, word_problems, store, IN_PROCESS, protocol=FORCED))
    with openai_server(ServedModel(folder, tells_ids=tells_ids)) as server:
        there = _records(
            _with_weights(folder, word_problems, ArtifactStore(tmp_path), _server(server), protocol=FORCED)
        )
        second = [c for c in server.calls if "Answer:" in _text(folder, c)]
        first = [c for c in server.calls if c not in second]
    assert len(first) == 7
    assert len(second) == sum("Answer:" in p.output for p in there) > 0
    assert {c.body["max_tokens"] for c in first} == {4}
    if tells_ids:
        assert there == here
    else:
        assert [p.id for p in there] == [p.id for p in here]


def _text(folder, call):
    return load_tokenizer(_weights_config(folder), None).decode(call.body["prompt"])


def test_vllm_gets_two_requests_for_a_forced_answer(folder, word_problems, store, tmp_path):
    program = fake_vllm(tmp_path / "fake")
    with KeptBackend() as opened:
        (made,) = evaluate(
            [Candidate(system="s", ratio=1.0, student=None, protocol=replace(FORCED, forcing=Forcing(num_tokens=2)))],
            model=_weights_config(folder), problems=word_problems, store=ArtifactStore(tmp_path / "out"), opened=opened,
            generation=VllmGenerationConfig(python=str(program), probe_prompts=0),
            trainer=TrainerConfig(accelerator="cpu", generation_tokens=200),
        )  # fmt: skip
    assert len(commands(tmp_path / "fake")) == 1
    asked = requests_of(tmp_path / "fake")
    assert len(asked) == 14
    chat = ChatFormat(load_tokenizer(_weights_config(folder), store), _weights_config(folder).chat)
    appended = [*OTHER[:2], *chat.thinking_end()]
    assert all(body["prompt"][-len(appended) :] == appended for body in asked[7:])
    assert {p.num_tokens for p in _records(made)} == {len(appended) + len(OTHER) - 1}


def test_base_and_adapters_answer_on_one_start_of_vllm(folder, word_problems, store, tmp_path):
    program = fake_vllm(tmp_path / "fake")
    with KeptBackend() as opened:
        made = evaluate(
            [
                Candidate(system=str(student), ratio=1.0, student=student, protocol=SERVED_GREEDY)
                for student in (None, str(folder.parent / "adapter"))
            ],
            model=_weights_config(folder), problems=word_problems, store=store, opened=opened,
            generation=VllmGenerationConfig(python=str(program), probe_prompts=0),
            trainer=TrainerConfig(accelerator="cpu", generation_tokens=200),
        )  # fmt: skip
    assert len(commands(tmp_path / "fake")) == 1, "the adapter comes first, as its server holds the base model too"
    assert {p.num_tokens for artifact in made for p in _records(artifact)} == {len(OTHER) - 1}
    assert made[0].key != _with_weights(folder, word_problems, store, IN_PROCESS).key


def test_adapter_is_named_by_its_content_and_a_loaded_one_is_used_again(folder, word_problems, store, tmp_path):
    first, second = folder.parent / "adapter", save_adapter(tmp_path / "other", folder, seed=1)
    short = [replace(SERVED_GREEDY, max_new_tokens=budget) for budget in (5, 6)]
    with openai_server(ServedModel(folder)) as server:
        made = [
            _records(
                _with_weights(folder, word_problems, store, _server(server), student=str(adapter), protocol=protocol)
            )
            for adapter, protocol in ((first, short[0]), (second, short[0]), (first, short[1]))
        ]
        loads = [c.body for c in server.calls if c.path.endswith("load_lora_adapter")]
        names = {c.body["model"] for c in server.calls if c.path.endswith("completions")}
    assert [p.output for p in made[0]] != [p.output for p in made[1]]
    assert all(b.output.startswith(a.output) for a, b in zip(made[0], made[2], strict=True))
    assert [load["lora_path"] for load in loads] == [str(a.resolve()) for a in (first, second, first)]
    assert loads[0]["lora_name"] == loads[2]["lora_name"] != loads[1]["lora_name"]
    assert {load["lora_name"] for load in loads} == names


def test_adapter_loaded_at_the_start_of_the_server_is_used_by_its_name(folder, word_problems, store):
    adapter = folder.parent / "adapter"
    served = ServedModel(folder)
    served._load_adapter("mine", str(adapter))
    with openai_server(served) as server:
        there = _with_weights(folder, word_problems, store, _server(server, model="mine"))
    assert _records(there) == _records(_with_weights(folder, word_problems, store, IN_PROCESS, student=str(adapter)))


def test_server_that_loads_no_adapters_is_explained(folder, word_problems, tmp_path):
    def script(call, seen):
        return Reply(text="Not Found", status=404) if call.path.endswith("adapter") else Reply(text="x")

    with openai_server(script) as server, pytest.raises(GenerationError, match=r"404.*--enable-lora.*--lora-modules"):
        _with_weights(
            folder, word_problems, ArtifactStore(tmp_path), _server(server), student=str(folder.parent / "adapter")
        )


def test_whole_model_on_a_server_is_refused(folder, word_problems, store):
    def produce(workdir):
        shutil.copytree(folder, workdir / "model")
        return Summary(num_rows=0)

    student = store.build("sft", {"test": 1}, produce)
    with pytest.raises(NotServedError, match=r"whole model.*does not serve.*Fix: vllm serve"):
        _with_weights(
            folder, word_problems, store, ServerGenerationConfig(base_url="http://x/v1", model="m"), student=student
        )


@pytest.mark.parametrize("protocol", [SERVED_GREEDY, SERVED_SAMPLED], ids=["greedy", "sampled"])
def test_after_a_server_error_only_missing_answers_are_requested(folder, word_problems, tmp_path, protocol):
    served, whole = ServedModel(folder), ArtifactStore(tmp_path / "whole")
    broken = ArtifactStore(tmp_path / "broken")
    with openai_server(served) as server:
        expected = _records(_with_weights(folder, word_problems, whole, _server(server), protocol=protocol))
        num_requests = len(server.calls)
    with (
        openai_server(lambda c, seen: served(c, seen) if len(server.calls) <= 3 else Reply(status=500)) as server,
        pytest.raises(GenerationError),
    ):
        _with_weights(folder, word_problems, broken, _server(server, concurrency=1), protocol=protocol)
    with openai_server(served) as server:
        resumed = _records(_with_weights(folder, word_problems, broken, _server(server), protocol=protocol))
        assert len(server.calls) == num_requests - 3
    assert resumed == expected


def test_samples_of_a_question_are_requests_with_different_seeds(folder, word_problems, tmp_path):
    with openai_server(ServedModel(folder)) as server:
        made = _with_weights(folder, word_problems, ArtifactStore(tmp_path), _server(server), protocol=SERVED_SAMPLED)
        seeds = [c.body["seed"] for c in server.calls]
    assert len(set(seeds)) == len(seeds) == 14
    assert [(p.id, p.sample) for p in _records(made)] == [(f"p{i}", k) for i in range(7) for k in range(2)]


def test_identity_has_the_model_of_a_server_but_not_its_address_or_speed(folder, word_problems, tmp_path):
    store = ArtifactStore(tmp_path)
    with openai_server(ServedModel(folder)) as server:
        first = _with_weights(folder, word_problems, store, _server(server))
    elsewhere = ServerGenerationConfig(base_url="http://elsewhere:1/v1", model="served", concurrency=2, timeout_s=9.0)
    assert _with_weights(folder, word_problems, store, elsewhere).key == first.key
    with pytest.raises(GenerationError, match="elsewhere"):
        _with_weights(folder, word_problems, store, replace(elsewhere, model="other", max_retries=0))


def test_another_chat_template_gives_other_answers_of_a_server(folder, word_problems, tmp_path, monkeypatch):
    store, load = ArtifactStore(tmp_path), stage.load_tokenizer

    def templated(*arguments):
        tokenizer = load(*arguments)
        tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "student")
        return tokenizer

    with openai_server(ServedModel(folder)) as server:
        first = _with_weights(folder, word_problems, store, _server(server))
        monkeypatch.setattr(stage, "load_tokenizer", templated)
        second = _with_weights(folder, word_problems, store, _server(server))
        assert len(server.calls) == 2 * first.manifest["num_rows"]
    assert second.key != first.key


def test_tokens_are_counted_here_if_the_server_returns_no_token_ids(folder, word_problems, store, tmp_path, caplog):
    with openai_server(ServedModel(folder, tells_ids=False)) as server:
        made = _with_weights(folder, word_problems, ArtifactStore(tmp_path), _server(server))
    tokenizer = load_tokenizer(_weights_config(folder), store)
    for p in _records(made):
        assert p.num_tokens == len(tokenizer(p.output, add_special_tokens=False)["input_ids"])
    (manifest,) = tmp_path.glob("artifacts/answer/*/manifest.json")
    assert json.loads(manifest.read_text())["facts"]["retokenized"] == 7
    answers = read_records(manifest.parent / "answers.parquet", Answer)
    assert all(asdict(a)["retokenized"] for a in answers)
    assert "counted again" in caplog.text


def test_server_needs_no_weights_on_this_machine(folder, word_problems, store, tmp_path):
    bare = tmp_path / "tokenizer"
    bare.mkdir()
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, bare)
    with openai_server(ServedModel(folder)) as server:
        there = _with_weights(bare, word_problems, ArtifactStore(tmp_path / "out"), _server(server))
    assert _records(there) == _records(_with_weights(folder, word_problems, store, IN_PROCESS))


def test_weights_behind_a_name_on_a_server_are_those_of_a_folder_or_student_of_that_name(tmp_path):
    weights = save_model(tmp_path / "artifacts" / "sft" / "1" / "model", tiny_model(ArtifactStore(tmp_path)).path)
    student = tmp_path / "students" / "cts-0.7"
    student.parent.mkdir()
    student.symlink_to(weights)
    model = ModelConfig(name="copy", path=str(student))

    def folder(name, model=model):
        return given_weights(None, model, ServerGenerationConfig(base_url="http://localhost", model=name))[1]

    assert folder(str(student)) == folder("students/cts-0.7") == folder("cts-0.7") == student
    assert folder("other") is None
    assert folder(str(student), MODEL) == student
    assert folder("cts-0.7", MODEL) is None
    assert given_weights(None, model, IN_PROCESS) == (str(student), student)
    assert given_weights(None, MODEL, IN_PROCESS) == ("tiny", None)
