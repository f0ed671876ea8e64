"""Backend that sends requests to a server with the OpenAI interface: vLLM, SGLang, llama.cpp or a hosted model.

Token ids go to `/completions`, so the server reads exactly what training wrote; conversations go to
`/chat/completions`. Requests with token ids set fields of vLLM, so that its answers are the same records as those of
the transformers backend: it returns token ids, keeps special tokens in the text, ends at the same tokens, and leaves
out the repetition penalty and top-k of the model's generation_config.json (Qwen2.5 has a penalty there). A server that
returns no token ids does not know them, which is logged once. One that refuses token ids (llama-cpp-python's) gets the
text of the prompt, if that gives the same tokens here, and none of these fields. The client repeats requests that fail
with 408, 409, 429, 5xx, a time-out or a lost connection. A key appears in the header of requests only.

A vLLM server that was started with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True loads a LoRA adapter on
request, from the same path as here. The name of the adapter on the server is derived from its content.

A completion is an answer only if the model ended it or used up the budget of the request. Whatever else a server sends
is a `GenerationError` that names its limit and ours: a refusal, an answer that it cut or filtered, a page of a proxy.
As an answer it would count as wrong and be kept for good.
"""

import asyncio
import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cotpress.errors import ConfigError, GenerationError
from cotpress.generation.backends import GREEDY, LENGTH, REFUSED, STOP, Generation, OnDone, Request, Sampling
from cotpress.generation.config import ServerGenerationConfig
from cotpress.modeling.sources import source_identity
from cotpress.store.artifacts import fingerprint
from cotpress.store.redaction import remember, without_secrets

if TYPE_CHECKING:
    from openai import APIError, AsyncOpenAI
    from transformers import PreTrainedTokenizerBase

_VLLM_FIELDS = {"return_token_ids": True, "skip_special_tokens": False, "repetition_penalty": 1.0, "top_k": -1}
log = logging.getLogger(__name__)

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_TEXT_ONLY = re.compile(r"string_type|valid string|prompt\W+must be (?:a )?string", re.IGNORECASE)
"""Words of a refusal of token ids."""
_text_only = set[str]()
"""Addresses of servers that take texts only."""
_told = set[str]()
"""Addresses of servers whose ignored fields were logged."""
_CHECK_S, _CHECK_RETRIES = 30.0, 1
"""Longest wait for the list of models, in seconds, and attempts after the first one."""
_NOT_IMPLEMENTED = 501
_ENDS = {"stop": STOP, "length": LENGTH}
_LIMITS = ("max_model_len", "context_length", "max_context_length", "n_ctx")
"""Names under which servers list the longest prompt plus answer of a model: vLLM and SGLang, OpenRouter, LM Studio,
llama.cpp."""
_ABOUT_LENGTH = re.compile(
    r"context[ _-]?(?:length|window|size)|(?:maximum|model|sequence|prompt|input) length|too (?:long|large|many tokens)"
    r"|longer than|exceed|max\w*[ _]tokens|max_model_len",
    re.IGNORECASE,
)
"""Words of a refusal for its length, which differ from server to server."""


class ServerBackend:
    """Backend on a server; see `cotpress.generation.backends.Backend`. Nothing is sent before `complete`.

    Args:
        config: Address of the server and settings of the requests.
        adapter: Directory or hub id of a LoRA adapter that the server loads and generates with.
        context_tokens: Longest prompt of token ids plus budget; a longer one is refused here, without a request.
        stop_token_ids: Tokens that end the completion of token ids, beside those that the server knows.
        api_key: Key of the server in place of the one in the environment.
        takes_seeds: False sends no seed.
        tokenizer: Tokenizer of the prompts, for a server that takes texts only; without it that is an error.

    Raises:
        ConfigError: A value is out of range, or the key is not in the environment.
        ModelError: The adapter cannot be found.
    """

    def __init__(
        self,
        config: ServerGenerationConfig,
        adapter: str | None = None,
        *,
        context_tokens: int,
        stop_token_ids: Sequence[int] = (),
        api_key: str | None = None,
        takes_seeds: bool = True,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
    ) -> None:
        self._config, self._model, self._adapter = config, config.model, adapter
        self._key = _key(config) if api_key is None else api_key
        self._context_tokens, self._takes_seeds, self._tokenizer = context_tokens, takes_seeds, tokenizer
        self._token_fields = {**_VLLM_FIELDS, "stop_token_ids": list(stop_token_ids)}
        self._fields = {} if (most := config.thinking_token_budget) is None else {"thinking_token_budget": most}
        if adapter is not None:
            folder = Path(adapter).expanduser()
            self._adapter = str(folder.resolve()) if folder.is_dir() else adapter
            self._model = f"cotpress-{fingerprint(source_identity(adapter, key='adapter'))}"
        for library in ("httpx", "httpx2", "openai"):  # they log one line per request
            logging.getLogger(library).setLevel(logging.WARNING)

    def check(self, max_new_tokens: int) -> None:
        """Ask the server for its models, before work whose result it is to continue; `max_new_tokens` is the budget.

        A server without such a list passes, with a warning one that does not list the model.

        Raises:
            GenerationError: It cannot be reached, fails, refuses the key, or leaves no room for the budget.
        """
        config, listed = self._config, self.models()
        if listed and config.model not in listed:
            log.warning("generation server %s: lists %s, not '%s'", config.base_url, sorted(listed)[:12], config.model)
        known = listed.get(config.model, {})
        limit = next((known[name] for name in _LIMITS if known.get(name)), None)
        if isinstance(limit, int) and limit <= max_new_tokens:
            theirs = f"lists a limit of {limit} tokens for prompt and answer, but max_new_tokens={max_new_tokens}"
            raise GenerationError(self._message(theirs, _LONGER))

    def listed(self) -> list[str]:
        """Names of all models and adapters on the server; empty if it has no such list. Raises as `models`."""
        return list(self.models())

    def models(self) -> dict[str, dict[str, Any]]:
        """Settings of all models and adapters on the server, by name; empty if it has no such list.

        Raises:
            GenerationError: It cannot be reached, fails or refuses the key.
        """
        return asyncio.run(self._check())

    def _client(self, timeout_s: float, max_retries: int) -> "AsyncOpenAI":
        """A client of the server; a proxy of the environment is not asked for an address of this machine."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        is_local = urlsplit(self._config.base_url).hostname in _LOOPBACK
        return AsyncOpenAI(
            base_url=self._config.base_url,
            api_key=self._key,
            timeout=timeout_s,
            max_retries=max_retries,
            http_client=DefaultAsyncHttpxClient(trust_env=False) if is_local else None,
        )

    async def _check(self) -> dict[str, dict[str, Any]]:
        from openai import APIError, APIStatusError, AuthenticationError

        config = self._config
        wait, retries = min(config.timeout_s, _CHECK_S), min(config.max_retries, _CHECK_RETRIES)
        async with self._client(wait, retries) as client:
            try:
                return await self._listed(client)
            except APIError as error:
                status = error.status_code if isinstance(error, APIStatusError) else 500
                if not isinstance(error, AuthenticationError) and (status < 500 or status == _NOT_IMPLEMENTED):
                    return {}
                raise GenerationError(self._message(*self._explain(error), retries=retries)) from error
            except (AttributeError, TypeError, ValueError) as error:
                raise GenerationError(self._message(*_not_an_answer(str(error)), retries=retries)) from error

    async def _listed(self, client: "AsyncOpenAI") -> dict[str, dict[str, Any]]:
        """List the models of the server with their settings, by name; empty for JSON of another shape.

        Raises:
            ValueError: The answer is no JSON, but the page of a proxy.
        """
        answer: Any = await client.models.list()
        if isinstance(answer, str):
            raise ValueError(answer)
        models = getattr(answer, "data", None)
        return {m.id: m.model_dump() for m in models if isinstance(getattr(m, "id", None), str)} if models else {}

    def complete(
        self, requests: Sequence[Request], *, sampling: Sampling = GREEDY, on_done: OnDone | None = None
    ) -> list[Generation]:
        """See `Backend`."""
        done: dict[int, Generation] = {}

        async def work(client: "AsyncOpenAI", waiting: Iterator[tuple[int, Request]]) -> None:
            for index, request in waiting:
                done[index] = await self._send(client, request, sampling)
                if on_done is not None:
                    on_done(index, done[index])

        async def work_all() -> None:
            config = self._config
            async with self._client(config.timeout_s, config.max_retries) as client:
                if self._adapter is not None:
                    await self._load_adapter(client)
                waiting = enumerate(requests)
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(config.concurrency, len(requests))):
                        group.create_task(work(client, waiting))

        try:
            asyncio.run(work_all())
        except BaseExceptionGroup as errors:  # the first failure cancels all other requests
            raise errors.exceptions[0] from errors.exceptions[0].__cause__
        return [done[i] for i in range(len(requests))]

    async def _load_adapter(self, client: "AsyncOpenAI") -> None:
        from openai import APIError, APIStatusError

        body = {"lora_name": self._model, "lora_path": self._adapter}
        try:
            await client.post("/load_lora_adapter", body=body, cast_to=str)
        except APIStatusError as error:
            if "already" not in error.message.lower():
                raise GenerationError(
                    f"generation server {client.base_url}: it did not load the adapter '{self._adapter}' "
                    f"({error.status_code}: {_quoted(error.message)}). Fix: start vLLM with --enable-lora and "
                    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True where it sees this path; or start it with --lora-modules "
                    "NAME=DIR, leave adapter out and give generation.model=NAME"
                ) from error
        except APIError as error:
            raise GenerationError(self._message(*self._explain(error))) from error

    async def _send(self, client: "AsyncOpenAI", request: Request, sampling: Sampling) -> Generation:
        from openai import APIError

        prompt: Any = list(request.prompt)
        is_conversation = isinstance(prompt[0], dict)
        if not is_conversation and len(prompt) + request.max_new_tokens > self._context_tokens:
            return Generation(token_ids=(), text="", finish_reason=REFUSED, latency_s=0.0)
        settings = {"model": self._model, "max_tokens": request.max_new_tokens, **_sampling(sampling, request.stream)}
        if not self._takes_seeds:
            settings.pop("seed", None)
        began, answer = time.monotonic(), None
        written = self._text(prompt) if not is_conversation and self._config.base_url in _text_only else prompt
        try:
            if is_conversation:
                answer = await client.chat.completions.create(messages=prompt, **settings, extra_body=self._fields)
            else:
                fields = {**(self._token_fields if written is prompt else {}), **self._fields}
                answer = await client.completions.create(prompt=written, **settings, extra_body=fields)
            (choice,) = answer.choices
            generation = _generation(choice, answer.usage, time.monotonic() - began)
        except APIError as error:
            if written is prompt and not is_conversation and self._takes_texts(error):
                return await self._send(client, request, sampling)
            raise GenerationError(self._message(*self._explain(error), await self._limits(client, request))) from error
        except (AttributeError, TypeError, ValueError) as error:  # not JSON, or other JSON
            problem = _not_an_answer(str(error) if answer is None else str(answer))
            raise GenerationError(self._message(*problem, await self._limits(client, request))) from error
        if (ended := _unfinished(choice, generation, request.max_new_tokens)) is not None:
            raise GenerationError(self._message(ended, _LONGER, await self._limits(client, request)))
        if not is_conversation and written is prompt and generation.token_ids is None:
            self._tell_ignored()
        return generation

    def _takes_texts(self, error: "APIError") -> bool:
        """True if a server refuses a prompt for its token ids, which is logged once for each address."""
        address = self._config.base_url
        if self._tokenizer is None or not _TEXT_ONLY.search(error.message):
            return False
        if address not in _text_only:
            _text_only.add(address)
            log.warning(
                "generation server %s: it takes no token ids, so it gets the texts of the prompts, without the fields "
                "of vLLM (%s): answers may end at other tokens, special tokens may be missing in them, and its own "
                "top-k and penalties apply", address, ", ".join(self._token_fields),
            )  # fmt: skip
        return True

    def _text(self, prompt: Sequence[int]) -> str:
        """Text of a prompt, special tokens included; an error if it gives other tokens."""
        assert self._tokenizer is not None
        text = str(self._tokenizer.decode(prompt, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        if list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) != list(prompt):
            raise GenerationError(
                f"generation server {self._config.base_url}: it takes texts only, and the text of a prompt gives other "
                f"tokens than training wrote: {_quoted(text)!r}. Fix: a server that takes token ids, such as vLLM"
            )
        return text

    def _tell_ignored(self) -> None:
        """Warn, once for each address, of the fields that a server does not know if it returns no token ids."""
        if (address := self._config.base_url) not in _told:
            _told.add(address)
            names = ", ".join([*self._token_fields, *self._fields])
            log.warning(
                "generation server %s: it returns no token ids, so it seems to ignore the fields of vLLM (%s): answers "
                "may end at other tokens, and special tokens may be missing in them", address, names,
            )  # fmt: skip

    async def _limits(self, client: "AsyncOpenAI", request: Request) -> str:
        """The sizes of a request, and the limits that they meet here and, if it tells them, on the server."""
        prompt: Any = request.prompt
        if isinstance(prompt[0], dict):
            size = f"{sum(len(turn['content']) for turn in prompt)} characters"
        else:
            size = f"{len(prompt)} tokens"
        try:
            listed = await self._listed(client.with_options(max_retries=0, timeout=10.0))
            known = listed.get(self._model) or listed.get(self._config.model) or {}
            theirs = ", ".join(f"{name}={known[name]}" for name in _LIMITS if known.get(name))
        except Exception:  # many servers have no such list, and the error is told without it
            theirs = ""
        return (
            f"The request: a prompt of {size} and max_new_tokens={request.max_new_tokens}, with "
            f"model.context_tokens={self._context_tokens}. The server lists {theirs or 'no limit'}"
        )

    def _explain(self, error: "APIError") -> tuple[str, str]:
        """The problem behind an exception of the client, and its fix."""
        import openai

        config, said = self._config, _quoted(error.message)
        match error:
            case openai.APITimeoutError():
                return f"no answer within {config.timeout_s:g} s", "raise timeout_s, or lower concurrency"
            case openai.APIConnectionError():
                return f"cannot be reached or breaks off ({error.__cause__ or error})", "start it, or correct base_url"
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                got = f"the key in {config.api_key_env}" if config.api_key_env else "a request without a key"
                what = f"refused {got} ({error.status_code}): {said}"
                return what, "give api_key_env=NAME of the variable with a valid key"
            case openai.NotFoundError():
                what = f"does not know the model '{config.model}' or the address: {said}"
                return what, "correct model or base_url (it ends in /v1)"
            case openai.RateLimitError():
                return f"answered 429: {said}", "lower concurrency, or raise max_retries"
            case openai.APIStatusError():
                is_length = error.status_code < 500 and _ABOUT_LENGTH.search(said)
                return f"answered {error.status_code}: {said}", _LONGER if is_length else "see the server's own log"
        return _not_an_answer(str(error))

    def _message(self, problem: str, fix: str, limits: str = "", retries: int | None = None) -> str:
        tried = self._config.max_retries if retries is None else retries
        return (
            f"generation server {self._config.base_url}: {problem} (max_retries={tried}). "
            f"{f'{limits}. ' if limits else ''}Fix: {fix}. Finished completions are kept."
        )


_LONGER = (
    "start the server with a longer context (vLLM: --max-model-len), or a smaller max_new_tokens, or "
    "model.context_tokens=N of the server's limit, beyond which a prompt is counted as refused"
)


def _not_an_answer(got: str) -> tuple[str, str]:
    return (
        f"its answer is no completion of the OpenAI interface, got '{_quoted(got)}'",
        "correct base_url (it ends in /v1)",
    )


def _unfinished(choice: Any, generation: Generation, max_new_tokens: int) -> str | None:
    """The reason why a completion is no answer; None if the model ended it or it fills the budget."""
    refusal = getattr(getattr(choice, "message", None), "refusal", None)
    if choice.finish_reason not in _ENDS or refusal:
        return (
            f"ended an answer with finish_reason={choice.finish_reason!r}{f' ({_quoted(refusal)})' if refusal else ''}"
        )
    counted = generation.token_ids is not None or generation.reported_tokens
    if generation.finish_reason == LENGTH and counted and generation.num_tokens < max_new_tokens:
        return f"cut an answer after {generation.num_tokens} tokens by a limit of its own"
    return None


def _quoted(text: str) -> str:
    """Beginning of a server's message for an error, without secrets."""
    return without_secrets(text)[:300]


def _sampling(sampling: Sampling, stream: str) -> dict[str, Any]:
    """Fields of one request; the seed differs from stream to stream, so equal prompts do not get equal answers."""
    if sampling.temperature == 0:
        return {"temperature": 0.0}
    digest = hashlib.sha256(f"{sampling.seed}/{stream}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big") >> 1  # all servers accept 31 bits
    return {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed}


def _generation(choice: Any, usage: Any, latency_s: float) -> Generation:
    """The record of one choice; `usage` and the token ids include the end token.

    Raises:
        AttributeError: A field is missing.
        TypeError: A field has another type, as the client does not check them.
    """
    # The content of a message is null if a server keeps the thinking apart and nothing follows.
    text = (choice.message.content or "") if hasattr(choice, "message") else choice.text
    reason = _ENDS.get(choice.finish_reason, LENGTH)
    ends = int(reason == STOP)
    ids: Sequence[int] | None = getattr(choice, "token_ids", None)
    if not isinstance(text, str) or not all(isinstance(i, int) for i in ids or ()):
        raise TypeError("the text is no text, or its token ids are no numbers")
    reported = max((getattr(usage, "completion_tokens", None) or 0) - ends, 0)
    kept = None if ids is None else tuple(ids[: len(ids) - ends])
    return Generation(token_ids=kept, text=text, finish_reason=reason, latency_s=latency_s, reported_tokens=reported)


def _key(config: ServerGenerationConfig) -> str:
    if config.api_key_env is None:
        return "none"  # the client requires a key
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"api_key_env: the environment variable '{config.api_key_env}' is not set or empty. "
            f"Fix: export {config.api_key_env}=KEY, or api_key_env=null for a server without keys"
        )
    remember(key)
    return key
