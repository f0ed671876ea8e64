"""The LLM extractor from traces to labels, on a local server that answers by script."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from cotpress.devices.config import TrainerConfig
from cotpress.distill.config import DistillConfig, Extractor, LlmDistillConfig
from cotpress.distill.stage import distill
from cotpress.errors import ConfigError, DataError, GenerationError
from cotpress.generation.config import ServerGenerationConfig, TransformersGenerationConfig
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.records import Trace, ValuableTrace
from cotpress.store.artifacts import Artifact, ArtifactStore, Summary
from cotpress.store.tables import read_records, write_records
from support.openai_server import Call, OpenAIServer, Reply, Script, openai_server

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
        "prompt_version": 1,
        "mean_variation_rate": 0.0,
        "mean_alignment_gap": 0.0,
        "kept_words": round(15 / 28, 4),
    }
    prompts = [call.body["messages"][-1]["content"] for call in server.calls]
    assert len(prompts) == 2
    assert all("Solution:\nso 5" in text for text in prompts)


def test_every_dropped_trace_is_counted_by_its_reason(store: ArtifactStore) -> None:
    traces = data(
        store, "Fine. 8 - 3 = 5. Yes.", "cut 1 = 1", "none 1 = 1", "filter 1 = 1", "made 1 = 1", "long 1 = 1",
        "again 1 = 1 and so on",
    )  # fmt: skip
    script = answering(
        ("cut", Reply(text="cut 1", finish_reason="length")),
        ("none", Reply(text="NONE")),
        ("filter", Reply(text="filter", finish_reason="content_filter")),
        ("made", Reply(text="something else entirely made 1")),
        ("long", Reply(text="this exceeds the context size", status=400)),
        ("again", Reply(text="again again again again and so on")),
    )
    with openai_server(script) as server:
        artifact = distill(settings(server), traces, store, model=TINY)
    assert list(valuable(artifact)) == ["t0"]
    assert artifact.manifest["dropped"] == {
        "budget ended the extraction": 1,
        "empty extraction": 1,
        "the server ended the extraction: content_filter": 1,
        "variation rate": 1,
        "chunk longer than the model's context": 1,
        "alignment gap": 1,
    }


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


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"chunk_words": 0}, r"distill\.chunk_words: got 0, allowed: 10 to 2000"),
        ({"max_new_tokens": 0}, r"distill\.max_new_tokens: got 0"),
        ({"drop_variation": 1.0}, r"distill\.drop_variation: got 1\.0, allowed: a number in \[0, 1\)"),
        ({"max_gap": -0.1}, r"distill\.max_gap: got -0\.1"),
        ({"model": TINY}, r"distill\.model: got 'tiny', but the server 'stub' extracts"),
    ],
)
def test_values_out_of_range_are_refused_before_generation(store: ArtifactStore, more, message: str) -> None:
    with openai_server(answering()) as server:
        with pytest.raises(ConfigError, match=message):
            distill(settings(server, **more), data(store, "Okay. 8 - 3 = 5."), store, model=TINY)
        assert server.calls == []


def test_extractor_llm_without_its_settings_names_the_fix(store: ArtifactStore) -> None:
    with pytest.raises(ConfigError, match="Fix: distill=llm"):
        distill(DistillConfig(extractor=Extractor.llm), data(store, "a"), store, model=TINY)
