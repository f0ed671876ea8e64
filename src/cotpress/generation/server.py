"""The backend that asks a server with the OpenAI interface: vLLM, SGLang, llama.cpp, a hosted model.

Rendered prompts go to `/completions` as token ids, so the server reads exactly what training wrote; conversations go to
`/chat/completions`. For the former, fields of vLLM are set with which its answers are the same records that the
transformers backend gives: it tells the generated token ids, keeps special tokens in the text, and leaves out the
penalties and cuts of the model's generation_config.json (Qwen2.5 has a repetition penalty there), which it applies
unasked. Requests run in one event loop, at most `concurrency` at once; the client repeats what may pass (408, 409, 429,
5xx, time-outs, lost connections).

A key is read from the environment when it is needed; it stands in the request's header and nowhere else.

A LoRA adapter that a vLLM server loads when it is asked for.

The server has to be started with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment, and it
has to see the adapter under the same path. The name follows from the adapter's content, so that no two adapters share
one and an adapter that is loaded already is not loaded again.
"""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cotpress.errors import ConfigError, GenerationError
from cotpress.generation.base import (
    GREEDY,
    LENGTH,
    REFUSED,
    STOP,
    Generation,
    Message,
    OnDone,
    Sampling,
    budgets,
)
from cotpress.generation.config import ServerGenerationConfig
from cotpress.modeling.sources import source_identity
from cotpress.store.artifacts import fingerprint
from cotpress.store.redaction import remember, without_secrets

if TYPE_CHECKING:
    from openai import APIError, APIStatusError, AsyncOpenAI


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedAdapter:
    """What the server is told.

    Attributes:
        name: What requests name as their model.
        path: Absolute folder, or hub id.
    """

    name: str
    path: str

    @classmethod
    def of(cls, adapter: str) -> Self:
        """The adapter in a folder or on the hub.

        Raises:
            ModelError: It cannot be found.
        """
        folder = Path(adapter).expanduser()
        path = str(folder.resolve()) if folder.is_dir() else adapter
        return cls(name=f"cotpress-{fingerprint(source_identity(adapter, key='adapter'))}", path=path)

    async def load(self, client: "AsyncOpenAI") -> None:
        """Have it loaded.

        Raises:
            GenerationError: The server does not load adapters, or not this one.
        """
        from openai import APIStatusError

        try:
            await client.post("/load_lora_adapter", body={"lora_name": self.name, "lora_path": self.path}, cast_to=str)
        except APIStatusError as error:
            if "already" in error.message.lower():
                return
            said = without_secrets(error.message)[:300]
            raise GenerationError(
                f"generation server {client.base_url}: it did not load the adapter '{self.path}' ({error.status_code}: "
                f"{said}). Fix: start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True where it sees "
                "this path; or start it with --lora-modules NAME=DIR, leave adapter out and give generation.model=NAME"
            ) from error


_Request = Callable[["AsyncOpenAI"], Awaitable[Any]]
_AS_ASKED = {"return_token_ids": True, "skip_special_tokens": False, "repetition_penalty": 1.0, "top_k": -1}
_ANSWER_CHARACTERS = 300
"""So much of a server's own message is quoted."""
_NO_KEY = "none"
"""What the client sends where no key is asked for; it does not do without."""


class ServerBackend:
    """See `cotpress.generation.base.Backend`."""

    def __init__(self, config: ServerGenerationConfig, adapter: str | None = None) -> None:
        """Checks the settings; the server is asked nothing yet.

        Args:
            config: Where it is, and what it is asked for.
            adapter: Directory or hub id of a LoRA adapter that the server shall load and write with; None writes with
                `config.model`, which may be the name of an adapter that it has loaded.

        Raises:
            ConfigError: The key is not in the environment.
            ModelError: The adapter cannot be found.
        """
        self._config, self._key = config, _key(config)
        self._adapter = None if adapter is None else ServedAdapter.of(adapter)
        for library in ("httpx", "httpx2", "openai"):  # they log one line per request
            logging.getLogger(library).setLevel(logging.WARNING)

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int | Sequence[int],
        sampling: Sampling = GREEDY,
        streams: Sequence[str] | None = None,
        on_done: OnDone | None = None,
    ) -> list[Generation]:
        """See `Backend`."""
        limits = budgets(max_new_tokens, len(prompts))

        def request(index: int) -> _Request:
            return lambda client: client.completions.create(
                prompt=list(prompts[index]),
                **self._settings(limits[index], sampling, _seed(sampling, index, streams)),
                extra_body=_AS_ASKED,
            )

        return self._run([request(i) for i in range(len(prompts))], lambda choice: choice.text, on_done)

    def chat(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        on_done: OnDone | None = None,
    ) -> list[Generation]:
        """See `Backend`."""

        def request(index: int) -> _Request:
            messages: Any = list(conversations[index])
            return lambda client: client.chat.completions.create(
                messages=messages, **self._settings(max_new_tokens, sampling, _seed(sampling, index))
            )

        return self._run(
            [request(i) for i in range(len(conversations))], lambda choice: choice.message.content, on_done
        )

    def _settings(self, max_new_tokens: int, sampling: Sampling, seed: int) -> dict[str, Any]:
        model = self._config.model if self._adapter is None else self._adapter.name
        fixed = {"model": model, "max_tokens": max_new_tokens}
        if sampling.temperature == 0:
            return {**fixed, "temperature": 0.0}
        return {**fixed, "temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed}

    def _run(
        self, requests: Sequence[_Request], text_of: Callable[[Any], str | None], on_done: OnDone | None
    ) -> list[Generation]:
        done: dict[int, Generation] = {}

        async def work(client: "AsyncOpenAI", waiting: Iterator[tuple[int, _Request]]) -> None:
            for index, request in waiting:
                done[index] = await self._ask(client, request, text_of)
                if on_done is not None:
                    on_done(index, done[index])

        async def work_all() -> None:
            from openai import AsyncOpenAI

            config = self._config
            async with AsyncOpenAI(
                base_url=config.base_url, api_key=self._key, timeout=config.timeout_s, max_retries=config.max_retries
            ) as client:
                if self._adapter is not None:
                    await self._load(client, self._adapter)
                waiting = enumerate(requests)
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self._config.concurrency, len(requests))):
                        group.create_task(work(client, waiting))

        try:
            asyncio.run(work_all())
        except BaseExceptionGroup as errors:  # the first failure has ended all other requests
            raise errors.exceptions[0] from errors.exceptions[0].__cause__
        return [done[i] for i in range(len(requests))]

    async def _load(self, client: "AsyncOpenAI", adapter: ServedAdapter) -> None:
        from openai import APIError

        try:
            await adapter.load(client)
        except APIError as error:
            raise GenerationError(self._explain(error)) from error

    async def _ask(self, client: "AsyncOpenAI", request: _Request, text_of: Callable[[Any], str | None]) -> Generation:
        from openai import APIError, BadRequestError

        began = time.monotonic()
        try:
            answer = await request(client)
        except BadRequestError as error:
            if "context" in str(error).lower():  # every server words it differently
                return Generation(token_ids=(), text="", finish_reason=REFUSED, latency_s=time.monotonic() - began)
            raise GenerationError(self._explain(error)) from error
        except APIError as error:
            raise GenerationError(self._explain(error)) from error
        except ValueError as error:  # not JSON
            raise GenerationError(self._not_an_answer(str(error))) from error
        try:
            (choice,) = answer.choices
            return _generation(choice, text_of(choice), answer.usage, time.monotonic() - began)
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
                what, fix = (
                    f"refused {got} ({error.status_code})",
                    "give api_key_env=NAME of the variable with a valid key",
                )
            case openai.NotFoundError():
                what = f"does not know the model '{config.model}' or the address: {self._quoted(error)}"
                fix = "correct model or base_url (it ends in /v1)"
            case openai.APIStatusError():
                what, fix = f"answered {error.status_code}: {self._quoted(error)}", "see the server's own log"
            case _:
                return self._not_an_answer(str(error))
        return f"{where}: {what} (max_retries={config.max_retries}). Fix: {fix}. What was finished is kept."

    def _quoted(self, error: "APIStatusError") -> str:
        return self._without_key(error.message)

    def _not_an_answer(self, got: str) -> str:
        return (
            f"generation server {self._config.base_url}: its answer is no completion of the OpenAI interface, "
            f"got '{self._without_key(got)}'. Fix: correct base_url (it ends in /v1)"
        )

    def _without_key(self, text: str) -> str:
        return without_secrets(text)[:_ANSWER_CHARACTERS]


def _seed(sampling: Sampling, index: int, streams: Sequence[str] | None = None) -> int:
    """The seed of one request: equal prompts in one call must not get equal answers."""
    if streams is None:
        return sampling.seed + index
    digest = hashlib.sha256(f"{sampling.seed}/{streams[index]}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1  # servers take 31 bits everywhere


def _generation(choice: Any, text: str | None, usage: Any, latency_s: float) -> Generation:
    """What one choice says; `usage` counts the end token, and so do the token ids."""
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
        return _NO_KEY
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"generation.api_key_env: the environment variable '{config.api_key_env}' is not set or empty. "
            f"Fix: export {config.api_key_env}=KEY, or api_key_env=null for a server that wants none"
        )
    remember(key)
    return key
