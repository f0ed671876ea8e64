import logging
import re
import time

import pytest

from cotpress.errors import ConfigError, GenerationError
from cotpress.generation.backends import Sampling
from cotpress.generation.config import ServerGenerationConfig
from cotpress.generation.server import ServerBackend
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer
from cotpress.store.artifacts import ArtifactStore
from support.generation import requests
from support.openai_server import Reply, openai_server
from support.waiting import wait_until

KEY = "sk-very-secret-0123456789"
CONTEXT = 4096


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def backend(server, **settings):
    config = ServerGenerationConfig(base_url=server.base_url, model="stub", **settings)
    return ServerBackend(config, context_tokens=CONTEXT)


def asking(*texts):
    return [[{"role": "user", "content": text}] for text in texts]


def echo(call, seen):
    return Reply(text=call.body["messages"][-1]["content"].upper())


def test_completions_are_in_the_order_of_the_prompts_whichever_ends_first():
    def script(call, seen):
        number = call.body["messages"][0]["content"]
        wait_until(lambda: number != "0" or len(server.calls) == 9, 60, "requests for the other prompts")
        return Reply(text=f"answer {number}")

    seen = []
    with openai_server(script) as server:
        completions = backend(server, concurrency=4).complete(
            requests(asking(*map(str, range(9))), 5), on_done=lambda i, g: seen.append((i, g))
        )
    assert [g.text for g in completions] == [f"answer {i}" for i in range(9)]
    assert dict(seen) == dict(enumerate(completions))
    assert {1, 2, 3} < {index for index, _ in seen[:6]}, "the others did not wait for the slow one"


def test_token_ids_are_sent_and_received_unchanged():
    with openai_server(lambda call, seen: Reply(text="so</think>7", token_ids=[5, 6, 7, 2])) as server:
        (stopped,) = backend(server).complete(requests([[3, 1, 4]], 9))
        (call,) = server.calls
    assert call.path == "/v1/completions"
    assert call.body["prompt"] == [3, 1, 4]
    assert (call.body["max_tokens"], call.body["temperature"]) == (9, 0.0)
    assert call.body["return_token_ids"] is True
    assert call.body["skip_special_tokens"] is False
    assert (stopped.token_ids, stopped.num_tokens, stopped.finish_reason) == ((5, 6, 7), 3, "stop")
    assert stopped.text == "so</think>7"


def test_truncated_text_has_no_end_token_to_remove():
    with openai_server(lambda call, seen: Reply(text="a b", token_ids=[5, 6], finish_reason="length")) as server:
        (cut,) = backend(server).complete(requests([[1]], 2))
    assert (cut.token_ids, cut.finish_reason) == ((5, 6), "length")


def test_without_token_ids_the_count_of_the_server_is_used():
    with openai_server(lambda call, seen: Reply(text="one two three")) as server:
        (completion,) = backend(server).complete(requests(asking("q"), 9))
    assert completion.token_ids is None
    assert completion.num_tokens == 3


def test_sampled_prompts_of_one_call_have_different_seeds_and_greedy_ones_none():
    with openai_server(echo) as server:
        backend(server, concurrency=1).complete(
            requests(asking("q", "q"), 5), sampling=Sampling(temperature=0.6, top_p=0.9, seed=7)
        )
        backend(server).complete(requests(asking("q"), 5))
    first, second, greedy = (call.body for call in server.calls)
    assert (first["top_p"], first["temperature"]) == (0.9, 0.6)
    assert first["seed"] != second["seed"]
    assert "seed" not in greedy


def test_seed_of_a_request_depends_on_its_stream_not_its_index():
    def seeds(*streams):
        with openai_server(lambda call, seen: Reply(text="x", token_ids=[5, 2])) as server:
            backend(server, concurrency=1).complete(
                requests([[1]] * len(streams), 5, streams), sampling=Sampling(temperature=0.6, seed=7)
            )
            return [call.body["seed"] for call in server.calls]

    first, second, third = seeds("a/0", "a/1", "b/0")
    assert len({first, second, third}) == 3
    assert seeds("b/0", "a/1") == [third, second]
    assert all(0 <= seed < 2**31 for seed in (first, second, third))


def test_prompts_have_their_own_budgets_and_no_penalty():
    ended = []
    with openai_server(lambda call, seen: Reply(text="x", token_ids=[5, 2])) as server:
        backend(server, concurrency=1).complete(requests([[1], [2]], [5, 9]), on_done=lambda i, _: ended.append(i))
        assert [call.body["max_tokens"] for call in server.calls] == [5, 9]
        assert all(c.body["repetition_penalty"] == 1.0 and c.body["top_k"] == -1 for c in server.calls)
    assert ended == [0, 1]


def test_number_of_simultaneous_requests_is_limited():
    def script(call, seen):
        wait_until(lambda: len(server.calls) >= 3, 60, "three requests")  # so that three overlap on a slow machine too
        return Reply(text="x", delay_s=0.01)

    with openai_server(script) as server:
        backend(server, concurrency=3).complete(requests(asking(*map(str, range(12))), 5))
        assert server.most_at_once == 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_temporary_errors_are_retried(status):
    with openai_server(lambda call, seen: Reply(text="ok", status=status if seen < 2 else 200)) as server:
        (completion,) = backend(server, max_retries=2).complete(requests(asking("q"), 5))
        assert (completion.text, len(server.calls)) == ("ok", 3)


def test_error_after_the_last_retry_names_status_and_address():
    with openai_server(lambda call, seen: Reply(text="GPU on fire", status=500)) as server:
        with pytest.raises(GenerationError, match=r"answered 500: .*GPU on fire.*max_retries=1") as raised:
            backend(server, max_retries=1).complete(requests(asking("q"), 5))
        assert len(server.calls) == 2
    assert server.base_url in str(raised.value)


def test_slow_server_is_an_error_after_the_time_out():
    with openai_server(lambda call, seen: Reply(text="x", delay_s=0.5)) as server:
        began = time.monotonic()
        with pytest.raises(GenerationError, match=r"no answer within 0\.1 s.*Fix: raise timeout_s"):
            backend(server, max_retries=0, timeout_s=0.1).complete(requests(asking("q"), 5))
        assert time.monotonic() - began < 5


def test_absent_server_is_named():
    with openai_server(echo) as server:
        pass
    with pytest.raises(GenerationError, match="cannot be reached") as raised:
        backend(server, max_retries=0).complete(requests(asking("q"), 5))
    assert server.base_url in str(raised.value)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(raw=b"<html>welcome</html>", content_type="text/html"),
        Reply(raw=b'{"broken": '),
        Reply(raw=b'{"object": "chat.completion", "choices": []}'),
        Reply(raw=b"[1, 2]"),
    ],
    ids=["html", "half json", "no choice", "a list"],
)
def test_malformed_reply_is_an_error_that_quotes_it(reply):
    with (
        openai_server(lambda call, seen: reply) as server,
        pytest.raises(GenerationError, match="no completion of the OpenAI interface"),
    ):
        backend(server, max_retries=0).complete(requests(asking("q"), 5))


def test_unknown_model_is_named():
    with (
        openai_server(lambda call, seen: Reply(text="no such model", status=404)) as server,
        pytest.raises(GenerationError, match=r"does not know the model 'stub'.*no such model"),
    ):
        backend(server).complete(requests(asking("q"), 5))


def test_prompt_beyond_the_context_of_the_model_is_refused_without_a_request():
    prompts = [[1, 2], [3] * (CONTEXT - 4), [4] * (CONTEXT - 5)]
    with openai_server(lambda call, seen: Reply(text="x", token_ids=[5, 2])) as server:
        completions = backend(server).complete(requests(prompts, 5))
        assert [g.finish_reason for g in completions] == ["stop", "refused", "stop"]
        assert sorted(len(call.body["prompt"]) for call in server.calls) == [2, CONTEXT - 5]


REFUSALS = {
    "context": Reply(text="This model's maximum context length is 2048 tokens", status=400),
    "unknown field": Reply(text="Unrecognized request argument supplied: return_token_ids", status=400),
    "key": Reply(text="Incorrect API key provided", status=401),
    "payment": Reply(text="Insufficient balance", status=402),
    "forbidden": Reply(text="Your project may not use it", status=403),
    "model": Reply(text="The model does not exist", status=404),
    "method": Reply(text="Method Not Allowed", status=405),
    "conflict": Reply(text="try later", status=409),
    "too large": Reply(text="Request Entity Too Large", status=413),
    "validation": Reply(text="max_tokens must be at least 1, got -7", status=422),
    "rate": Reply(text="Rate limit reached", status=429),
    "crash": Reply(text="CUDA out of memory", status=500),
    "loading": Reply(text="Loading model", status=503),
    "proxy": Reply(raw=b"<html>504 Gateway Time-out</html>", status=504, content_type="text/html"),
    "login page": Reply(raw=b"<html>Sign in</html>", content_type="text/html"),
    "no choice": Reply(raw=b'{"object": "text_completion", "choices": []}'),
    "null choices": Reply(raw=b'{"object": "text_completion", "choices": null, "error": {"message": "overloaded"}}'),
    "two choices": Reply(raw=b'{"choices": [{"text": "a", "finish_reason": "stop"}, {"text": "b"}]}'),
    "empty body": Reply(raw=b""),
    "half a body": Reply(text="x", breaks_off=True),
    "filtered": Reply(text="", finish_reason="content_filter"),
    "error in the choice": Reply(text="7", finish_reason="error"),
    "aborted": Reply(text="7", finish_reason="abort"),
    "tools": Reply(text="", finish_reason="tool_calls"),
    "unfinished": Reply(text="7", finish_reason=None),
    "stream": Reply(raw=b'data: {"choices": [{"text": "7"}]}\n\ndata: [DONE]\n', content_type="text/event-stream"),
    "null": Reply(raw=b"null"),
    "a null choice": Reply(raw=b'{"choices": [null]}'),
    "no text": Reply(raw=b'{"choices": [{"finish_reason": "stop"}]}'),
    "a number as text": Reply(raw=b'{"choices": [{"text": 7, "finish_reason": "stop"}]}'),
    "parts as text": Reply(raw=b'{"choices": [{"text": [{"type": "text", "text": "7"}], "finish_reason": "stop"}]}'),
    "words as ids": Reply(text="7", extra={"token_ids": ["seven"]}),
    "not UTF-8": Reply(raw=b'{"choices": [{"text": "\xff\xfe", "finish_reason": "stop"}]}'),
    "gzip that is none": Reply(raw=b"\x1f\x8bnothing", content_type="application/gzip"),
    "redirect": Reply(text="moved", status=307),
    "teapot": Reply(text="no", status=418),
    "cut": Reply(text="so 1 +", token_ids=[5, 6, 7], finish_reason="length"),
    "cut, counted by the server": Reply(text="so 1 +", finish_reason="length"),
}


@pytest.mark.parametrize("reply", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_of_the_server_is_never_an_answer(reply):
    models, kept = [{"id": "stub", "max_model_len": 2048}], []
    with (
        openai_server(lambda c, s: reply if len(server.calls) > 2 else Reply("ok", token_ids=[2]), models) as server,
        pytest.raises(GenerationError) as raised,
    ):
        backend(server, concurrency=1, max_retries=0).complete(
            requests([[n] for n in range(9)], 99), on_done=lambda i, g: kept.append(i)
        )
    message = str(raised.value)
    assert kept == [0, 1], "what was completed before stays"
    assert server.base_url in message
    assert "a prompt of 1 tokens and max_new_tokens=99, with model.context_tokens=4096" in message
    assert "The server lists max_model_len=2048" in message
    assert re.search(r"Fix: \w.*Finished completions are kept\.$", message)


def test_refusal_to_speak_in_a_conversation_is_an_error():
    script = Reply(text=None, extra={"refusal": "I cannot help with that."})
    with openai_server(lambda call, seen: script) as server, pytest.raises(GenerationError, match="I cannot help"):
        backend(server).complete(requests(asking("q"), 5))


def test_refusal_of_a_field_is_not_taken_for_one_of_the_length():
    reply = Reply(text="invalid parameter in this context: foo", status=400)
    with openai_server(lambda call, seen: reply) as server, pytest.raises(GenerationError) as raised:
        backend(server).complete(requests(asking("q"), 5))
    assert "longer context" not in str(raised.value)
    assert "invalid parameter in this context: foo" in str(raised.value)


def test_refusal_for_the_length_names_the_limit_of_a_server_that_lists_none():
    reply = Reply(text="maximum context length is 10 tokens", status=400)
    with openai_server(lambda call, seen: reply) as server, pytest.raises(GenerationError) as raised:
        backend(server).complete(requests(asking("q" * 20), 5))
    assert "maximum context length is 10 tokens" in str(raised.value)
    assert "a prompt of 20 characters and max_new_tokens=5" in str(raised.value)
    assert "lists no limit. Fix: start the server with a longer context" in str(raised.value)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(text="a b c", token_ids=[5, 6, 7], finish_reason="length"), "length"),
        (Reply(text="a b c", finish_reason="length"), "length"),
        (Reply(text="a", token_ids=[5, 2]), "stop"),
        (Reply(text="", token_ids=[2]), "stop"),
        (Reply(raw=b'{"choices": [{"text": "", "finish_reason": "stop"}], "usage": {}}'), "stop"),
        (Reply(raw=b'{"choices": [{"text": "7", "finish_reason": "stop"}]}'), "stop"),
        (Reply(raw=b'{"choices": [{"text": "a", "finish_reason": "length"}], "usage": null}'), "length"),
    ],
    ids=["ids", "counted", "ended early", "ended at once", "empty usage", "no usage", "not counted"],
)
def test_answer_that_fills_its_budget_or_ends_by_itself_is_an_answer(reply, reason):
    with openai_server(lambda call, seen: reply) as server:
        assert [g.finish_reason for g in backend(server).complete(requests([[1]], 3))] == [reason]


def test_first_failure_ends_the_call_after_finished_prompts_were_reported():
    def script(call, seen):
        return Reply(text="bad", status=422) if call.body["messages"][0]["content"] == "2" else Reply(text="ok")

    seen = []
    with openai_server(script) as server, pytest.raises(GenerationError, match="answered 422"):
        backend(server, concurrency=1).complete(
            requests(asking(*map(str, range(50))), 5), on_done=lambda i, g: seen.append(i)
        )
    assert seen == [0, 1]
    assert len(server.calls) == 3


def test_key_appears_in_the_header_only(monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)

    def script(call, seen):
        return Reply(text=f"you sent {KEY}", status=[200, 401, 500, 404][seen])

    with openai_server(script) as server:
        keyed = backend(server, api_key_env="MY_KEY", max_retries=0)
        keyed.complete(requests(asking("q"), 5))
        errors = []
        for _ in range(3):
            with pytest.raises(GenerationError) as raised:
                keyed.complete(requests(asking("q"), 5))
            errors.append(str(raised.value))
    assert {call.headers["authorization"] for call in server.calls} == {f"Bearer {KEY}"}
    assert not any(KEY in str(call.body) + call.path for call in server.calls)
    assert not any(KEY in text for text in (*errors, caplog.text, repr(keyed)))
    assert "refused the key in MY_KEY (401)" in errors[0]


def test_missing_key_is_an_error_that_names_the_variable(monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(ConfigError, match="'MY_KEY' is not set"):
        ServerBackend(
            ServerGenerationConfig(base_url="http://x/v1", model="m", api_key_env="MY_KEY"), context_tokens=CONTEXT
        )


def test_without_api_key_env_no_key_is_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with openai_server(echo) as server:
        backend(server).complete(requests(asking("q"), 5))
        assert KEY not in str(server.calls)


def test_no_prompts_give_no_completions():
    with openai_server(echo) as server:
        assert backend(server).complete(requests([], 5)) == []


def test_fields_that_a_server_seems_to_ignore_are_said_once(caplog):
    with openai_server(lambda call, seen: Reply(text="so 7")) as server:
        for _ in range(2):
            backend(server, thinking_token_budget=3).complete(requests([[1], [2]], 5))
    (line,) = [line for line in caplog.messages if "it returns no token ids" in line]
    assert server.base_url in line
    names = "return_token_ids, skip_special_tokens, repetition_penalty, top_k, stop_token_ids, thinking_token_budget"
    assert f"seems to ignore the fields of vLLM ({names})" in line


def test_server_that_returns_token_ids_ignores_nothing(caplog):
    with openai_server(lambda call, seen: Reply(text="so", token_ids=[5, 2])) as server:
        backend(server).complete(requests([[1]], 5))
    assert "ignore" not in caplog.text


def test_budget_of_the_thinking_is_passed_with_every_kind_of_prompt():
    with openai_server(lambda call, seen: Reply(text="so", token_ids=[5, 2])) as server:
        backend(server, thinking_token_budget=3, concurrency=1).complete(requests([[1], *asking("q")], 5))
        backend(server).complete(requests([[1], *asking("q")], 5))
    assert [call.body.get("thinking_token_budget") for call in server.calls] == [3, 3, None, None]


@pytest.mark.parametrize(("limit", "is_refused"), [(99, True), (100, True), (101, False)])
def test_server_without_room_for_the_budget_is_refused_before_any_work(limit, is_refused):
    models = [{"id": "stub", "max_model_len": limit}]
    with openai_server(echo, models) as server:
        if is_refused:
            with pytest.raises(GenerationError, match=rf"lists a limit of {limit} tokens .*max_new_tokens=100.*Fix: "):
                backend(server).check(100)
        else:
            backend(server).check(100)


def test_server_that_takes_texts_only_gets_them_and_is_named_once(tokenizer, caplog):
    def script(call, seen):
        if not isinstance(call.body["prompt"], str):
            return Reply(text="1 validation error: {'type': 'string_type', 'loc': ('body', 'prompt')}", status=500)
        return Reply(text=call.body["prompt"].upper())

    prompts = [tokenizer(text)["input_ids"] for text in ("how many", "two apples")]
    with openai_server(script) as server:
        config = ServerGenerationConfig(base_url=server.base_url, model="stub", max_retries=0, concurrency=1)
        plain = ServerBackend(config, context_tokens=CONTEXT)
        with pytest.raises(GenerationError, match="string_type"):
            plain.complete(requests(prompts, 5))
        backend = ServerBackend(config, context_tokens=CONTEXT, tokenizer=tokenizer)
        done = backend.complete(requests(prompts, 5))
        with pytest.raises(GenerationError, match="the text of a prompt gives other tokens"):
            backend.complete(requests([[tokenizer(letter)["input_ids"][0] for letter in "the"]], 5))
    assert [g.text for g in done] == ["HOW MANY", "TWO APPLES"]
    assert not {"top_k", "stop_token_ids"} & set(server.calls[-1].body)
    assert caplog.text.count("it takes no token ids") == 1
    assert "it returns no token ids" not in caplog.text


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tokenizer that merges letters, so that not every list of tokens is that of a text."""
    tiny = ModelConfig(name="tiny", source=ModelSource.tiny, path="llama")
    return load_tokenizer(tiny, ArtifactStore(tmp_path_factory.mktemp("tiny")))
