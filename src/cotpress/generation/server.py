"""Backend that sends requests to a server with the OpenAI interface: vLLM, SGLang, llama.cpp or a hosted model.

Token ids go to `/completions`, so the server reads exactly what training wrote; conversations go to
`/chat/completions`. Requests with token ids set four fields of vLLM, so that its answers are the same records as those
of the transformers backend: it returns token ids, keeps special tokens in the text, and leaves out the repetition
penalty and top-k of the model's generation_config.json (Qwen2.5 has a penalty there). The client repeats requests that
fail with 408, 409, 429, 5xx, a time-out or a lost connection. A key appears in the header of requests only.

A vLLM server that was started with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True loads a LoRA adapter on
request, from the same path as here. The name of the adapter on the server is derived from its content.
"""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotpress.errors import ConfigError, GenerationError
from cotpress.generation.backends import GREEDY, LENGTH, REFUSED, STOP, Generation, OnDone, Request, Sampling
from cotpress.generation.config import ServerGenerationConfig
from cotpress.modeling.sources import source_identity
from cotpress.store.artifacts import fingerprint
from cotpress.store.redaction import remember, without_secrets

if TYPE_CHECKING:
    from openai import APIError, AsyncOpenAI

_VLLM_FIELDS = {"return_token_ids": True, "skip_special_tokens": False, "repetition_penalty": 1.0, "top_k": -1}


class ServerBackend:
    """Backend on a server; see `cotpress.generation.backends.Backend`. Nothing is sent before `complete`.

    Args:
        config: Address of the server and settings of the requests.
        adapter: Directory or hub id of a LoRA adapter that the server loads and generates with.

    Raises:
        ConfigError: A value is out of range, or the key is not in the environment.
        ModelError: The adapter cannot be found.
    """

    def __init__(self, config: ServerGenerationConfig, adapter: str | None = None) -> None:
        self._config, self._key, self._model, self._adapter = config, _key(config), config.model, adapter
        if adapter is not None:
            folder = Path(adapter).expanduser()
            self._adapter = str(folder.resolve()) if folder.is_dir() else adapter
            self._model = f"cotpress-{fingerprint(source_identity(adapter, key='adapter'))}"
        for library in ("httpx", "httpx2", "openai"):  # they log one line per request
            logging.getLogger(library).setLevel(logging.WARNING)

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
            from openai import AsyncOpenAI

            config = self._config
            async with AsyncOpenAI(
                base_url=config.base_url, api_key=self._key, timeout=config.timeout_s, max_retries=config.max_retries
            ) as client:
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
            raise GenerationError(self._explain(error)) from error

    async def _send(self, client: "AsyncOpenAI", request: Request, sampling: Sampling) -> Generation:
        from openai import APIError, BadRequestError

        prompt: Any = list(request.prompt)
        settings = {"model": self._model, "max_tokens": request.max_new_tokens, **_sampling(sampling, request.stream)}
        began = time.monotonic()
        try:
            if isinstance(prompt[0], dict):
                answer = await client.chat.completions.create(messages=prompt, **settings)
            else:
                answer = await client.completions.create(prompt=prompt, **settings, extra_body=_VLLM_FIELDS)
        except BadRequestError as error:
            if "context" in str(error).lower():  # the wording differs from server to server
                return Generation(token_ids=(), text="", finish_reason=REFUSED, latency_s=time.monotonic() - began)
            raise GenerationError(self._explain(error)) from error
        except APIError as error:
            raise GenerationError(self._explain(error)) from error
        except ValueError as error:  # not JSON
            raise GenerationError(self._not_an_answer(str(error))) from error
        try:
            (choice,) = answer.choices
            return _generation(choice, answer.usage, time.monotonic() - began)
        except (AttributeError, TypeError, ValueError) as error:
            raise GenerationError(self._not_an_answer(str(answer))) from error

    def _explain(self, error: "APIError") -> str:
        import openai

        where, config = f"generation server {self._config.base_url}", self._config
        match error:
            case openai.APITimeoutError():
                what = f"no answer within {config.timeout_s:g} s"
                fix = "raise timeout_s, or lower concurrency"
            case openai.APIConnectionError():
                what = f"cannot be reached ({error.__cause__ or error})"
                fix = "start it, or correct base_url"
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                got = f"the key in {config.api_key_env}" if config.api_key_env else "a request without a key"
                what = f"refused {got} ({error.status_code})"
                fix = "give api_key_env=NAME of the variable with a valid key"
            case openai.NotFoundError():
                what = f"does not know the model '{config.model}' or the address: {_quoted(error.message)}"
                fix = "correct model or base_url (it ends in /v1)"
            case openai.APIStatusError():
                what, fix = f"answered {error.status_code}: {_quoted(error.message)}", "see the server's own log"
            case _:
                return self._not_an_answer(str(error))
        return f"{where}: {what} (max_retries={config.max_retries}). Fix: {fix}. Finished completions are kept."

    def _not_an_answer(self, got: str) -> str:
        return (
            f"generation server {self._config.base_url}: its answer is no completion of the OpenAI interface, "
            f"got '{_quoted(got)}'. Fix: correct base_url (it ends in /v1)"
        )


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
    """The record of one choice; `usage` and the token ids include the end token."""
    text: str | None = choice.message.content if hasattr(choice, "message") else choice.text
    reason = {"stop": STOP, "length": LENGTH}.get(choice.finish_reason, str(choice.finish_reason))
    ends = int(reason == STOP)
    ids: Sequence[int] | None = getattr(choice, "token_ids", None)
    reported = 0 if usage is None else max(usage.completion_tokens - ends, 0)
    kept = None if ids is None else tuple(ids[: len(ids) - ends])
    return Generation(
        token_ids=kept, text=text or "", finish_reason=reason, latency_s=latency_s, reported_tokens=reported
    )


def _key(config: ServerGenerationConfig) -> str:
    if config.api_key_env is None:
        return "none"  # the client requires a key
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"generation.api_key_env: the environment variable '{config.api_key_env}' is not set or empty. "
            f"Fix: export {config.api_key_env}=KEY, or api_key_env=null for a server without keys"
        )
    remember(key)
    return key
