"""Self-written traces: a scripted server or the tiny model answers, and right answers are divided and selected."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cotpress.data import planted
from cotpress.data.config import Format, JsonlBenchmarkConfig, Pick, PlantedQuestionsConfig, SelfWrittenDataConfig
from cotpress.data.planted import FAMILIES
from cotpress.data.self_written import Draft, select
from cotpress.data.stage import problems, traces
from cotpress.devices.config import TrainerConfig
from cotpress.errors import ConfigError, DataError, GenerationError
from cotpress.generation.config import ServerGenerationConfig, TransformersGenerationConfig
from cotpress.modeling.config import ModelConfig
from cotpress.modeling.loading import load_tokenizer
from cotpress.prompts import ChatFormat
from cotpress.records import Problem, Trace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.tables import read_records
from support.openai_server import Call, OpenAIServer, Reply, Script, openai_server


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "out")


@pytest.fixture
def questions(tmp_path: Path) -> JsonlBenchmarkConfig:
    """`What is i + 2?` for i from 0 to 9."""
    path = tmp_path / "questions.jsonl"
    rows = [{"id": f"q{i}", "question": f"What is {i} + 2?", "answer": str(i + 2)} for i in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": "bad"}]))
    return JsonlBenchmarkConfig(name="mine", path=str(path), max_new_tokens=40)


@pytest.fixture
def number(store: ArtifactStore, tiny: ModelConfig):
    """Reads the question out of a request."""
    tokenizer = load_tokenizer(tiny, store)

    def number(call: Call) -> int:
        match = re.search(r"What is (\d+) \+ 2", str(tokenizer.decode(call.body["prompt"])))
        assert match
        return int(match[1])

    return number


def settings(server: OpenAIServer, questions: JsonlBenchmarkConfig, **changes: Any) -> SelfWrittenDataConfig:
    generation = ServerGenerationConfig(base_url=server.base_url, model="stub", concurrency=2, max_retries=0)
    given = {"name": "self_written", "max_new_tokens": 40, "validation_fraction": 0.0, **changes}
    return SelfWrittenDataConfig(questions=questions, generation=generation, **given)


def solved(artifact: Artifact) -> dict[str, Trace]:
    return {t.id: t for t in read_records(artifact.file("traces.parquet"), Trace)}


def right(i: int) -> Reply:
    return Reply(text=f"<think>\nWell, {i} + 2 = {i + 2}\n</think>\n\nThe answer is {i + 2}.")


def answering(number: Any, others: dict[int, Reply] | None = None) -> Script:
    return lambda call, seen: (others or {}).get(number(call)) or right(number(call))


def test_right_answers_become_traces_and_all_others_are_counted(
    store: ArtifactStore, tiny: ModelConfig, questions: JsonlBenchmarkConfig, number
) -> None:
    script = answering(
        number,
        {
            1: Reply(text="<think>\n1 + 2 = 4\n</think>\n\nThe answer is 4."),
            2: Reply(text="<think>\n2 + 2", token_ids=[9] * 40, finish_reason="length"),
            3: Reply(text="<think>\n3 + 2 = 5. The answer is 5."),
            4: Reply(text="<think>\nHm.\n</think>\n\nWho knows?"),
        },
    )
    with openai_server(script) as server:
        artifact = traces(settings(server, questions), store, model=tiny)
    assert artifact.manifest["dropped"] == {
        "missing field 'question'": 1,
        "wrong answer": 1,
        "budget ended the answer": 1,
        "thinking not closed": 1,
        "no answer": 1,
    }
    selected = solved(artifact)
    assert list(selected) == ["q0", "q5", "q6", "q7", "q8", "q9"]
    assert selected["q7"].thinking == "Well, 7 + 2 = 9"
    assert selected["q7"].response == "The answer is 9."
    facts = artifact.facts
    assert (facts["train"], facts["validation"], facts["format"]) == (6, 0, "tags")
    # as in evaluation, an answer in a thinking that was not closed does not count
    assert (facts["writer_accuracy"]["value"], facts["writer_accuracy"]["n"]) == (0.6, 10)
    assert facts["answers"]["kept"] == 6


def test_refusal_of_the_server_is_no_draft_and_what_it_wrote_before_is_kept(
    store: ArtifactStore, tiny: ModelConfig, questions: JsonlBenchmarkConfig, number
) -> None:
    def asked(server: OpenAIServer) -> Artifact:
        config = settings(server, questions)
        return traces(replace(config, generation=replace(config.generation, concurrency=1)), store, model=tiny)

    refusal = Reply(text="this exceeds the context size", status=400)
    with (
        openai_server(answering(number, {7: refusal})) as server,
        pytest.raises(GenerationError, match=r"context size.*max_new_tokens=40.*model\.context_tokens="),
    ):
        asked(server)
    with openai_server(answering(number)) as server:
        assert len(solved(asked(server))) == 10
        assert [number(call) for call in server.calls] == [7, 8, 9]


def test_prompt_is_that_of_a_student(
    store: ArtifactStore, tiny: ModelConfig, questions: JsonlBenchmarkConfig, number
) -> None:
    tiny = replace(tiny, chat=replace(tiny.chat, system="Think step by step."))
    with openai_server(answering(number)) as server:
        artifact = traces(settings(server, replace(questions, prompt="{question} Be brief.")), store, model=tiny)
        bodies = [call.body for call in server.calls]
    expected = ChatFormat(load_tokenizer(tiny, store), tiny.chat).prompt_ids("What is 0 + 2? Be brief.")
    assert sum(body["prompt"] == expected for body in bodies) == 1
    assert {(body["max_tokens"], body["temperature"]) for body in bodies} == {(40, 0.0)}
    assert solved(artifact)["q0"].question == "What is 0 + 2? Be brief."


@pytest.mark.parametrize(("pick", "words"), [(Pick.shortest, "Short."), (Pick.first, "Rather long reasoning here.")])
def test_best_of_n_keeps_the_answer_of_pick(
    store: ArtifactStore, tiny: ModelConfig, questions: JsonlBenchmarkConfig, number, pick: Pick, words: str
) -> None:
    seeds: dict[int, list[int]] = {}

    def script(call: Call, seen: int) -> Reply:
        i = number(call)
        seeds.setdefault(i, []).append(call.body["seed"])
        text = ["Wrong.", "Rather long reasoning here.", "Short."][len(seeds[i]) - 1]
        answer = 99 if text == "Wrong." else i + 2
        return Reply(text=f"<think>\n{text}\n</think>\n\nThe answer is {answer}.")

    with openai_server(script) as server:
        config = settings(server, questions, samples=3, pick=pick)
        assert isinstance(config.generation, ServerGenerationConfig)
        config.generation.concurrency = 1  # so that samples come in their order
        artifact = traces(config, store, model=tiny)
    assert len(server.calls) == 30
    assert all(len(set(drawn)) == 3 for drawn in seeds.values()), "answers to one question have seeds of their own"
    assert {(call.body["temperature"], call.body["top_p"]) for call in server.calls} == {(0.6, 0.95)}
    assert {t.thinking for t in solved(artifact).values()} == {words}
    assert artifact.facts["answers"] == {"kept": 10, "right, but another was kept": 10, "wrong answer": 10}


def test_killed_run_resumes_with_the_missing_answers_and_the_same_result(
    store: ArtifactStore, tiny: ModelConfig, questions: JsonlBenchmarkConfig, number, tmp_path: Path
) -> None:
    def drawn(call: Call, seen: int) -> Reply:
        return Reply(text=right(number(call)).text.replace("Well", f"Seed {call.body['seed']}"))

    def failing(call: Call, seen: int) -> Reply:
        return Reply(status=400, text="broken") if number(call) == 6 else drawn(call, seen)

    def key(call: Call) -> tuple[int, int]:
        return number(call), call.body["seed"]

    with openai_server(failing) as server:
        with pytest.raises(GenerationError, match="broken"):
            traces(settings(server, questions, samples=2), store, model=tiny)
        before = {key(call) for call in server.calls if number(call) != 6}
    (journal,) = (tmp_path / "out/artifacts/.partial").glob("write-*/scratch/completions.jsonl")
    kept = [json.loads(line.partition(" ")[2])[0] for line in journal.read_text().splitlines()]
    assert len(kept) >= 11
    with journal.open("a") as handle:
        handle.write('00000000 ["q9/0", {"te')  # torn by the kill
    with openai_server(drawn) as server:
        resumed = traces(settings(server, questions, samples=2), store, model=tiny)
        after = {key(call) for call in server.calls}
        assert len(server.calls) == 20 - len(kept)
    assert len(before & after) <= 1  # one more was under way when the other failed
    with openai_server(drawn) as server:
        whole = traces(settings(server, questions, samples=2), ArtifactStore(tmp_path / "other"), model=tiny)
    assert solved(resumed) == solved(whole)


def test_other_filters_generate_nothing(
    store: ArtifactStore, tiny: ModelConfig, questions: JsonlBenchmarkConfig, number
) -> None:
    long = {3: Reply(text="<think>\n" + "well " * 30 + "3 + 2 = 5\n</think>\n\nThe answer is 5.")}
    with openai_server(answering(number, long)) as server:
        all_ = traces(settings(server, questions), store, model=tiny)
        short = traces(settings(server, questions, max_thinking_tokens=30), store, model=tiny)
        with pytest.raises(DataError, match="10 x thinking tags in the text"):  # which would be trained on
            traces(settings(server, questions, format=Format.answer_line), store, model=tiny)
        assert len(server.calls) == 10
    assert all_.key != short.key
    assert set(solved(all_)) - set(solved(short)) == {"q3"}
    assert short.manifest["dropped"]["thinking too long"] == 1


def test_answers_are_generated_again_only_for_another_model_or_prompt(
    store: ArtifactStore, tiny: ModelConfig, questions: JsonlBenchmarkConfig, number
) -> None:
    def num_calls(server: OpenAIServer, model: ModelConfig = tiny, name: str = "stub", **changes: Any) -> int:
        before = len(server.calls)
        config = settings(server, changes.pop("questions", questions), **changes)
        assert isinstance(config.generation, ServerGenerationConfig)
        config.generation.model = name
        traces(config, store, model=model)
        return len(server.calls) - before

    with openai_server(answering(number)) as server:
        assert num_calls(server) == 10
    with openai_server(answering(number)) as server:
        assert num_calls(server) == num_calls(server, limit=3) == num_calls(server, validation_fraction=0.5) == 0
        assert num_calls(server, name="other") == 10
        assert num_calls(server, max_new_tokens=30) == 10
        assert num_calls(server, samples=2) == 20
        assert num_calls(server, questions=replace(questions, limit=5)) == 5
        assert num_calls(server, replace(tiny, chat=replace(tiny.chat, system="Think."))) == 10


def test_same_traces_from_another_checker_are_the_same_data(
    store: ArtifactStore, tiny: ModelConfig, questions: JsonlBenchmarkConfig, number, monkeypatch: pytest.MonkeyPatch
) -> None:
    with openai_server(answering(number)) as server:
        first = traces(settings(server, questions), store, model=tiny)
        monkeypatch.setattr("cotpress.data.self_written.package_versions", lambda: {"sympy": "another"})
        second = traces(settings(server, questions), store, model=tiny)
        assert len(server.calls) == 10
    assert second.key == first.key
    assert len(list((store._root / "solve").iterdir())) == 2


def test_repeated_call_reuses_the_artifact(
    store: ArtifactStore, tiny: ModelConfig, questions: JsonlBenchmarkConfig, number
) -> None:
    with openai_server(answering(number)) as server:
        assert traces(settings(server, questions), store, model=tiny).fresh
        assert not traces(settings(server, questions), store, model=tiny).fresh


def test_planted_questions_are_training_problems_that_no_benchmark_has(store: ArtifactStore) -> None:
    config = PlantedQuestionsConfig(name="planted", num_problems=30, max_new_tokens=9)
    questions = read_records(problems(config, store, "data.questions").file("problems.parquet"), Problem)
    assert len(questions) == 30
    assert not any(FAMILIES[p.family].held_out for p in questions)
    training = planted.traces(num_traces=30, families=[], length=planted.Length.short, seed=config.seed)
    assert [p.question for p in questions] == [t.question for t in training]  # the half that traces are drawn from


def test_greedy_answers_of_a_transformers_model_are_reproducible(tiny: ModelConfig, tmp_path: Path) -> None:
    texts = []
    for place in ("a", "b"):
        store = ArtifactStore(tmp_path / place)
        config = SelfWrittenDataConfig(
            name="self_written",
            questions=PlantedQuestionsConfig(name="planted", num_problems=4, max_new_tokens=9),
            generation=TransformersGenerationConfig(),
            max_new_tokens=12,
        )
        with pytest.raises(DataError, match="none of 4 questions gave a trace"):  # random weights solve nothing
            traces(config, store, model=tiny, trainer=TrainerConfig(accelerator="cpu"))
        (drafts,) = (tmp_path / place / "artifacts/write").glob("*/drafts.parquet")
        texts.append(drafts.read_bytes())
    assert texts[0] == texts[1]


def test_messages_about_questions_name_their_own_key(store: ArtifactStore, tiny: ModelConfig, tmp_path: Path) -> None:
    absent = JsonlBenchmarkConfig(name="mine", path=str(tmp_path / "none.jsonl"), max_new_tokens=9)
    config = SelfWrittenDataConfig(name="x", questions=absent, max_new_tokens=9)
    with pytest.raises(ConfigError, match=r"data\.questions\.path"):
        traces(config, store, model=tiny)


def numbered_problems(*answers: str, question: str = "How many {}?") -> list[Problem]:
    return [Problem(id=f"q{i}", question=question.format(i), answer=a, family="f") for i, a in enumerate(answers)]


def draft(text: str, question: int = 0, *, sample: int = 0, reason: str = "stop", tokens: int = 10) -> Draft:
    return Draft(id=f"q{question}", sample=sample, text=text, num_tokens=tokens, finish_reason=reason)


def tagged(thinking: str, answer: str) -> str:
    return f"<think>\n{thinking}\n</think>\n\nThe answer is {answer}."


def chosen(
    written: ChatFormat, questions: list[Problem], drafts: list[Draft], **settings
) -> tuple[list[Trace], Summary]:
    config = SelfWrittenDataConfig(name="self_written", max_new_tokens=50, **settings)
    return select(config, questions, drafts, written)


def test_every_question_without_a_trace_is_counted_by_its_reason(written: ChatFormat) -> None:
    (trace,), summary = chosen(
        written,
        [*numbered_problems(*"777777777"), Problem(id="again", question="How many 0?", answer="7")],
        [
            draft(tagged("3 + 4 = 7", "7"), 0),
            draft(tagged("3 + 4 = 8", "8"), 1),
            draft(tagged("hm", "7")[:-4], 2, reason="length"),
            draft("<think>\nwait, wait", 3),
            draft("<think>\nI give up\n</think>\n\nI do not know", 4),
            draft(tagged("one " * 80 + "3 + 4 = 7", "7"), 5),
            draft(tagged(" ", "7"), 6),
            draft("<think>\n3 + 4 = \\boxed{7}\n</think>\n", 7),
            draft("", 8, reason="refused", tokens=0),
        ],
        max_thinking_tokens=60,
        format=Format.tags,
    )
    assert summary.dropped == {
        "wrong answer": 1,
        "budget ended the answer": 1,
        "thinking not closed": 1,
        "no answer": 1,
        "thinking too long": 1,
        "no thinking before the answer": 1,
        "no response after the thinking": 1,
        "prompt and budget do not fit the context": 1,
        "question asked before": 1,
    }
    assert (trace.id, trace.question, trace.answer, trace.family) == ("q0", "How many 0?", "7", "f")
    assert (trace.thinking, trace.response) == ("3 + 4 = 7", "The answer is 7.")
    assert summary.facts["answers"] == {"kept": 1} | {k: v for k, v in summary.dropped.items() if k[:8] != "question"}


def test_accuracy_of_the_writer_is_that_of_evaluation_with_its_interval(written: ChatFormat) -> None:
    texts = [tagged("3 + 4 = 7", "7"), tagged(" ", "7"), tagged("so", "8"), tagged("so", "9")]
    _, summary = chosen(written, numbered_problems(*"7777"), [draft(t, i, tokens=i) for i, t in enumerate(texts)])
    accuracy = summary.facts["writer_accuracy"]
    assert (accuracy["value"], accuracy["n"]) == (0.5, 4)  # right without a thinking is right, though no trace
    assert 0.1 < accuracy["low"] < 0.2
    assert summary.facts["writer_mean_tokens"] == 1.5


def test_several_answers_to_a_question_count_as_one_in_the_interval(written: ChatFormat) -> None:
    drafts = [draft(tagged("so", "7"), i, sample=k) for i in range(3) for k in range(4)]
    assert chosen(written, numbered_problems(*"777"), drafts)[1].facts["writer_accuracy"]["n"] == 3


LONG, SHORT, WRONG = tagged("first 3, so 3 + 4 = 7", "7"), tagged("3 + 4 = 7", "7"), tagged("4", "8")


@pytest.mark.parametrize(("pick", "thinking"), [(Pick.shortest, "3 + 4 = 7"), (Pick.first, "first 3, so 3 + 4 = 7")])
def test_one_of_several_right_answers_is_kept(written: ChatFormat, pick: Pick, thinking: str) -> None:
    drafts = [draft(text, sample=k) for k, text in enumerate([WRONG, LONG, SHORT, SHORT])]
    (trace,), summary = chosen(written, numbered_problems("7"), drafts, pick=pick)
    assert trace.thinking == thinking
    assert summary.dropped == {}
    assert summary.facts["answers"] == {"kept": 1, "right, but another was kept": 2, "wrong answer": 1}


def test_question_is_counted_by_its_answer_closest_to_a_trace(written: ChatFormat) -> None:
    drafts = [
        draft(SHORT, 0),
        *(draft(text, 1, sample=k, reason=r) for k, (text, r) in enumerate([("x", "length"), (WRONG, "stop")])),
        *(draft(text, 2, sample=k, reason=r) for k, (text, r) in enumerate([("x", "refused"), ("x", "length")])),
    ]
    _, summary = chosen(written, numbered_problems(*"777"), drafts)
    assert summary.dropped == {"wrong answer": 1, "budget ended the answer": 1}
    assert summary.facts["answers"] == {
        "kept": 1,
        "wrong answer": 1,
        "budget ended the answer": 2,
        "prompt and budget do not fit the context": 1,
    }


LINE = "Natalia sold 48/2 = 24 clips in May.\n\nTogether that is \\boxed{72} clips."


def test_without_tags_the_response_is_the_answer_line(written: ChatFormat) -> None:
    (trace,), _ = chosen(written, numbered_problems("72"), [draft(LINE)], format=Format.answer_line)
    assert trace.thinking == "Natalia sold 48/2 = 24 clips in May."
    assert trace.response == "The final answer is: $\\boxed{72}$"


def test_right_number_in_a_truncated_answer_is_no_answer(written: ChatFormat) -> None:
    drafts = [draft(LINE, 0), draft(LINE, 1, reason="length")]
    assert chosen(written, numbered_problems("72", "72"), drafts)[1].dropped == {"budget ended the answer": 1}


@pytest.mark.parametrize(
    ("texts", "format_"),
    [
        ([LINE, LINE, LINE], "answer_line"),
        ([tagged("so", "72"), tagged("so", "72"), LINE], "tags"),
        ([LINE, LINE, tagged("so", "72")], "answer_line"),
    ],
)
def test_format_is_that_of_most_finished_answers(written: ChatFormat, texts: list[str], format_: str) -> None:
    drafts = [draft(text, i) for i, text in enumerate(texts)]
    cut = [draft("<think>\n1", i + 3, reason="length") for i in range(5)]
    assert chosen(written, numbered_problems(*["72"] * 8), [*drafts, *cut])[1].facts["format"] == format_


def test_unclosed_thinking_is_not_read_as_an_instruct_answer(written: ChatFormat) -> None:
    drafts = [draft(tagged("so", "72"), 0), draft("<think>\nso \\boxed{72}", 1)]
    assert chosen(written, numbered_problems("72", "72"), drafts)[1].dropped == {"thinking not closed": 1}


def test_no_trace_at_all_is_an_error_with_counts(written: ChatFormat) -> None:
    with pytest.raises(DataError, match=r"none of 2 questions gave a trace \(2 x wrong answer\).*data\.writer=DIR"):
        chosen(written, numbered_problems("1", "2"), [draft(SHORT, 0), draft(SHORT, 1)])


def test_answer_with_tags_inside_of_its_thinking_gives_no_trace(written: ChatFormat) -> None:
    drafts = [draft(tagged("so", "1"), 0), draft(tagged("a <think> b", "72"), 1)]
    assert chosen(written, numbered_problems("1", "72"), drafts)[1].dropped == {"thinking tags in the text": 1}
