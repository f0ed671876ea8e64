"""The extractor `llm`: prompts, chunks, rates, and the stage on a local server that answers by script."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.devices.config import TrainerConfig
from cotpress.distill.alignment import align, words
from cotpress.distill.config import DistillConfig, Extractor, LlmDistillConfig
from cotpress.distill.llm import Quality, chunk_ranges, conversation, extracted_text, outliers
from cotpress.distill.stage import distill
from cotpress.errors import ConfigError, DataError, GenerationError
from cotpress.generation.config import ServerGenerationConfig, TransformersGenerationConfig
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.records import Trace, ValuableTrace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.tables import read_records, write_records
from support.openai_server import Call, OpenAIServer, Reply, Script, openai_server

TRACE = Trace(id="a", question="How many? {response}", thinking="Hmm. 1 + 1 = 2. Yes.", response="It is 2.", answer="2")


def test_prompt_holds_problem_solution_and_the_chunk_alone() -> None:
    system, user = conversation(TRACE, 4, 15, show_response=True)
    assert (system["role"], user["role"]) == ("system", "user")
    assert user["content"].endswith("Problem:\nHow many? {response}\n\nSolution:\nIt is 2.\n\nReasoning:\n1 + 1 = 2.")
    assert "Yes" not in user["content"]


def test_solution_is_left_out_on_request() -> None:
    _, user = conversation(TRACE, 0, 20, show_response=False)
    assert "It is 2." not in user["content"]
    assert "Solution" not in user["content"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (" 1 + 1 = 2.\n", "1 + 1 = 2."),
        ("<think>\nI copy 1 and NONE\n</think>\n\n1 + 1 = 2", "1 + 1 = 2"),
        ("```text\n1 + 1 = 2\n```", "1 + 1 = 2"),
        ("NONE", ""),
        ("NONE.", ""),
        ("", ""),
        ("NONE of it is 2", "NONE of it is 2"),
    ],
)
def test_copied_words_are_taken_out_of_the_answer(answer: str, expected: str) -> None:
    assert extracted_text(answer) == expected


def test_chunks_end_where_steps_end() -> None:
    text = "One two. Three four five. Six.\nSeven eight."
    chunks = [text[a:b] for a, b in chunk_ranges(text, 7)]
    assert chunks == ["One two. Three four five.", " Six.\nSeven eight."]


def test_step_beyond_the_limit_is_cut_between_words() -> None:
    text = "a b c d e f g. h i."
    assert [text[a:b] for a, b in chunk_ranges(text, 3)] == ["a b c", " d e f", " g.", " h i."]


def test_white_space_alone_has_no_chunk() -> None:
    assert chunk_ranges(" \n", 10) == []


@given(st.text("ab .!\n1", max_size=80), st.integers(1, 12))
def test_chunks_cover_the_text_within_the_limit(text: str, limit: int) -> None:
    chunks = chunk_ranges(text, limit)
    assert "".join(text[a:b] for a, b in chunks) == (text if text.strip() else "")
    assert all(1 <= len(words(text[a:b])) <= limit for a, b in chunks)


def quality(*chunks: tuple[str, str]) -> Quality:
    """Quality of a trace with these chunks, each an original and its extraction."""
    made = Quality()
    for original, extracted in chunks:
        source, written = words(original), words(extracted)
        made.add(source, written, align(source, written))
    return made


def test_rates_by_hand() -> None:
    # original: 10 words; written: 6, of which "thus" is new; "7" is written twice but stands there once
    made = quality(("so 4 + 3 = 7 and done now then", "thus 4 + 3 7 7"))
    assert made == Quality(num_original=10, num_extracted=6, num_copied=5, num_matched=4)
    assert made.variation_rate == pytest.approx(1 / 6)
    assert made.alignment_gap == pytest.approx(5 / 10 - 4 / 10)


def test_verbatim_copy_has_no_variation_and_no_gap() -> None:
    made = quality(("Hmm, 8 - 3 = 5. Yes.", "8 - 3 = 5."))
    assert (made.variation_rate, made.alignment_gap) == (0, 0)


def test_rephrased_text_is_all_variation() -> None:
    assert quality(("eight minus three is five", "8 - 3 = 5")).variation_rate == 1


def test_chunks_count_together_not_as_a_mean_of_rates() -> None:
    # 6 words copied of the first chunk and 2 words made up in the second: not the mean of the rates 0 and 1
    made = quality(("so 4 + 3 = 7", "so 4 + 3 = 7"), ("one two three", "x y"))
    assert made == Quality(num_original=9, num_extracted=8, num_copied=6, num_matched=6)
    assert made.variation_rate == pytest.approx(0.25)


def test_empty_extraction_has_rates_of_zero() -> None:
    empty = quality()
    assert (empty.variation_rate, empty.alignment_gap) == (0, 0)


def test_share_drops_the_highest_by_hand() -> None:
    values = {f"t{i}": i / 100 for i in range(20)}
    assert outliers(values, 0.05, 1.0) == {"t19"}
    assert outliers(values, 0.10, 1.0) == {"t19", "t18"}
    assert outliers(values, 0.0, 1.0) == set()


def test_equally_good_samples_are_all_kept() -> None:
    assert outliers(dict.fromkeys("abcdefghij", 0.0), 0.5, 1.0) == set()
    assert outliers({"a": 0.3, "b": 0.3, "c": 0.1, "d": 0.1}, 0.25, 1.0) == set()
    assert outliers({"a": 0.3, "b": 0.2, "c": 0.2, "d": 0.1}, 0.5, 1.0) == {"a"}


def test_highest_kept_value_holds_for_every_share() -> None:
    values = {"a": 0.9, "b": 0.6, "c": 0.5, "d": 0.1}
    assert outliers(values, 0.0, 0.5) == {"a", "b"}
    assert outliers(values, 0.25, 0.5) == {"a", "b"}
    assert outliers({}, 0.5, 0.5) == set()


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1)), st.floats(0, 0.99))
def test_share_is_not_exceeded_and_no_kept_sample_is_worse_than_a_dropped_one(
    values: dict[str, float], share: float
) -> None:
    bad = outliers(values, share, 1.0)
    assert len(bad) <= share * len(values)
    kept = [v for name, v in values.items() if name not in bad]
    assert not bad or max(kept) < min(values[name] for name in bad)


KEY = "sk-very-secret-0123456789"
TINY = ModelConfig(name="tiny", source=ModelSource.tiny, path="tiny", context_tokens=2000)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def data(store: ArtifactStore, *thinking: str) -> Artifact:
    rows = [
        Trace(id=f"t{i}", question=f"question {i}?", thinking=text, response="so 5", answer="5")
        for i, text in enumerate(thinking)
    ]
    held_out = replace(rows[0], id="v", split="validation")

    def produce(folder: Path) -> Summary:
        write_records(folder / "traces.parquet", [*rows, held_out], Trace)
        return Summary(num_rows=len(rows) + 1)

    return store.build("data", {"thinking": thinking}, produce)


def settings(server: OpenAIServer, **more) -> LlmDistillConfig:
    generation = ServerGenerationConfig(base_url=server.base_url, model="stub", concurrency=2, max_retries=1)
    return LlmDistillConfig(generation=generation, **more)


def reasoning(call: Call) -> str:
    return call.body["messages"][-1]["content"].partition("Reasoning:\n")[2]


def answering(*replies: tuple[str, Reply]) -> Script:
    """Answers by what the reasoning contains; copies its equations otherwise."""

    def script(call: Call, seen: int) -> Reply:
        text = reasoning(call)
        for part, reply in replies:
            if part in text:
                return reply
        return Reply(text=" ".join(step for step in text.split(". ") if "=" in step))

    return script


def valuable(artifact: Artifact) -> dict[str, list[str]]:
    rows = read_records(artifact.file("valuable.parquet"), ValuableTrace)
    return {row.id: [row.thinking[start:end] for start, end in row.valuable] for row in rows}


def test_copied_words_become_labels_of_training_traces(store: ArtifactStore) -> None:
    traces = data(store, "Okay. 8 - 3 = 5. Yes.", "Hmm. 2 * 3 = 6. Wait. 6 - 1 = 5. Good.")
    with openai_server(answering()) as server:
        artifact = distill(settings(server), traces, store, model=TINY)
    assert valuable(artifact) == {"t0": [" 8 - 3 = 5"], "t1": [" 2 * 3 = 6", " 6 - 1 = 5"]}
    facts = dict(artifact.facts)
    assert facts.pop("valuable_fraction") == round(30 / 59, 4)
    assert facts == {
        "mean_variation_rate": 0.0,
        "mean_alignment_gap": 0.0,
        "kept_words": round(15 / 28, 4),
    }
    prompts = [call.body["messages"][-1]["content"] for call in server.calls]
    assert len(prompts) == 2
    assert all("Solution:\nso 5" in text for text in prompts)


def test_every_dropped_trace_is_counted_by_its_reason(store: ArtifactStore) -> None:
    traces = data(
        store, "Fine. 8 - 3 = 5. Yes.", "cut 1 = 1", "none 1 = 1", "made 1 = 1", "again 1 = 1 and so on",
    )  # fmt: skip
    script = answering(
        ("cut", Reply(raw=b'{"choices": [{"message": {"content": "cut 1"}, "finish_reason": "length"}]}')),
        ("none", Reply(text="NONE")),
        ("made", Reply(text="something else entirely made 1")),
        ("again", Reply(text="again again again again and so on")),
    )
    with openai_server(script) as server:
        artifact = distill(settings(server), traces, store, model=TINY)
    assert list(valuable(artifact)) == ["t0"]
    assert artifact.manifest["dropped"] == {
        "budget ended the extraction": 1,
        "empty extraction": 1,
        "variation rate": 1,
        "alignment gap": 1,
    }


@pytest.mark.parametrize(
    "refusal", [Reply(text="this exceeds the context size", status=400), Reply(finish_reason="content_filter")]
)
def test_refusal_of_the_server_leaves_no_extraction_and_what_it_wrote_before_is_kept(
    store: ArtifactStore, refusal: Reply
) -> None:
    traces = data(store, "Fine. 8 - 3 = 5.", "odd 1 = 1")
    refused = answering(("odd", refusal))
    with openai_server(refused) as server:
        config = settings(server)
        single = replace(config, generation=replace(config.generation, concurrency=1))
        with pytest.raises(GenerationError, match=r"max_new_tokens=.*context_tokens="):
            distill(single, traces, store, model=TINY)
    with openai_server(answering()) as server:
        assert list(valuable(distill(settings(server), traces, store, model=TINY))) == ["t0", "t1"]
        assert len(server.calls) == 1


def test_long_thinking_is_extracted_in_chunks(store: ArtifactStore) -> None:
    text = "Okay, so let me think about it. 1 + 1 = 2. Then again. 2 + 3 = 5. That is all there is."
    with openai_server(answering()) as server:
        artifact = distill(settings(server, chunk_words=14), data(store, text), store, model=TINY)
    assert valuable(artifact) == {"t0": [" 1 + 1 = 2", " 2 + 3 = 5"]}
    assert sorted(map(reasoning, server.calls)) == sorted(
        ["Okay, so let me think about it.", "1 + 1 = 2. Then again.", "2 + 3 = 5. That is all there is."]
    )


def test_interrupted_extraction_resumes_with_the_missing_chunks(store: ArtifactStore) -> None:
    traces = data(store, *(f"Okay. {i} + 1 = {i + 1}. Yes." for i in range(8)))
    with openai_server(answering(("5 + 1", Reply(text="broken", status=422)))) as server:
        with pytest.raises(GenerationError):
            distill(settings(server), traces, store, model=TINY)
        before = [reasoning(call) for call in server.calls]
    with openai_server(answering()) as server:
        artifact = distill(settings(server), traces, store, model=TINY)
        after = [reasoning(call) for call in server.calls]
    answered = set(before) - {"Okay. 5 + 1 = 6. Yes."}
    assert 4 <= len(answered) < 8
    assert len(answered & set(after)) <= 1  # one more was under way when the other failed
    assert len(after) <= 9 - len(answered)
    assert len(valuable(artifact)) == 8


def test_other_filters_generate_nothing(store: ArtifactStore) -> None:
    traces = data(store, "Okay. 8 - 3 = 5. Yes.", "Well. 4 + 1 = 5. Yes.")
    with openai_server(answering(("Well", Reply(text="altogether 4 + 1 = 5")))) as server:
        strict = distill(settings(server, max_variation=0.1), traces, store, model=TINY)
        mild = distill(settings(server, max_variation=0.5, drop_variation=0.0), traces, store, model=TINY)
        assert len(server.calls) == 2
    assert list(valuable(strict)) == ["t0"]
    assert list(valuable(mild)) == ["t0", "t1"]


def test_identity_has_prompt_and_model_but_not_address_or_speed(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    traces = data(store, "Okay. 8 - 3 = 5. Yes.")

    def key(server: OpenAIServer, model: str = "stub", temperature: float = 0.0, **more) -> str:
        config = settings(server, **more)
        config.generation = ServerGenerationConfig(
            base_url=server.base_url, model=model, temperature=temperature, api_key_env="MY_KEY", seed=len(server.calls)
        )
        return distill(config, traces, store, model=TINY).key

    with openai_server(answering()) as server:
        first = key(server)
    with openai_server(answering()) as server:
        assert key(server) == first
        assert server.calls == []
        others = [
            key(server, model="other"), key(server, temperature=0.5), key(server, show_response=False),
            key(server, chunk_words=30), key(server, max_new_tokens=9), key(server, drop_gap=0.2),
        ]  # fmt: skip
    assert len({first, *others}) == 7


def test_key_is_written_nowhere(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with openai_server(answering()) as server:
        config = settings(server)
        assert isinstance(config.generation, ServerGenerationConfig)
        config.generation.api_key_env = "MY_KEY"
        distill(config, data(store, "Okay. 8 - 3 = 5. Yes."), store, model=TINY)
        assert server.calls[0].headers["authorization"] == f"Bearer {KEY}"
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert written
    assert not any(KEY.encode() in p.read_bytes() or server.base_url.encode() in p.read_bytes() for p in written)
    assert KEY not in caplog.text


def test_model_that_ignores_the_instruction_is_an_error_with_counts(store: ArtifactStore) -> None:
    traces = data(store, "Okay. 8 - 3 = 5. Yes.", "Well. 4 + 1 = 5. Yes.")
    with (
        openai_server(lambda call, seen: Reply(text="I cannot help with that")) as server,
        pytest.raises(DataError, match=r"in any of 2 traces \(2 variation rate\).*raise distill\.max_variation"),
    ):
        distill(settings(server), traces, store, model=TINY)


def test_transformers_model_extracts_through_the_same_stage(store: ArtifactStore) -> None:
    config = LlmDistillConfig(generation=TransformersGenerationConfig(), max_new_tokens=6)
    traces = data(store, "Okay. 8 - 3 = 5. Yes.")
    with pytest.raises(DataError, match=r"budget ended the extraction|variation rate"):  # random weights copy nothing
        distill(config, traces, store, model=TINY, trainer=TrainerConfig(accelerator="cpu"))
    (manifest,) = (store._root / "extract").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["num_rows"] == 1


def test_extractor_llm_without_its_settings_names_the_fix(store: ArtifactStore) -> None:
    with pytest.raises(ConfigError, match="Fix: distill=llm"):
        distill(DistillConfig(extractor=Extractor.llm), data(store, "a"), store, model=TINY)
