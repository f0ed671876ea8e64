"""Backend that starts vLLM for a stage, compares it with the model in this process, and ends it.

The order saves memory, so that one GPU serves training and answers:

1. The model in this process writes the first greedy tokens of a few of the prompts, and leaves the GPU.
2. vLLM starts with the folder of the weights, on all GPUs, and has to list the model and the context that were asked.
   An adapter is loaded into the running server, under a name that is derived from its content.
3. The server writes the same tokens. Fewer than `LEAST_AGREEMENT` of the first ones alike is an error: another model,
   an adapter without effect, another number format. Rounding alone changes few of them.
4. The server writes the completions. If it ends meanwhile, it is started again for those that are missing.

The next adapter on the same weights uses the running server; its reference is then computed on the CPU. Other weights
need another start.
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from cotpress.devices.config import TrainerConfig
from cotpress.devices.launch import pick_device
from cotpress.devices.memory import is_out_of_memory, release
from cotpress.errors import GenerationError, MemoryLimitError
from cotpress.generation.backends import GREEDY, STOP, Generation, OnDone, Request, Sampling
from cotpress.generation.config import ServerGenerationConfig, VllmGenerationConfig
from cotpress.generation.hf import TransformersBackend
from cotpress.generation.server import ServerBackend
from cotpress.generation.vllm_server import Served, VllmServer, installed, interpreter
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.foreign import ADAPTER_CONFIG
from cotpress.modeling.loading import end_ids, load_model, load_tokenizer, model_folder, model_identity, resolve_dtype
from cotpress.modeling.sources import adapter_directory
from cotpress.progress import duration
from cotpress.prompts import conversation_ids
from cotpress.store.artifacts import ArtifactStore, fingerprint

log = logging.getLogger(__name__)

PROBE_TOKENS, LEAST_AGREEMENT = 16, 0.9
"""Greedy tokens of each prompt that are compared, and the least share of equal first ones."""
LOGS = "servers"
"""Folder for the output of servers, below the output folder."""
_MAX_RETRIES = 3
_DEATH_S = 15.0
"""Seconds in which a server whose connections break has ended, if it is ending."""
_told_seeds = False


class VllmBackend:
    """Backend on a vLLM server that it starts; see `cotpress.generation.backends.Backend`. `complete` starts it.

    Args:
        config: Settings of the server.
        model: The model; its weights lie on this machine or are fetched.
        trainer: Device of the model in this process, and limits of its batches.
        store: Store of converted and generated models.
        server: Server to use, which may be running.
        adapter: Directory or hub id of a LoRA adapter.
        key: Setting of the model's path, for messages.
    """

    def __init__(
        self,
        config: VllmGenerationConfig,
        model: ModelConfig,
        trainer: TrainerConfig,
        store: ArtifactStore,
        server: VllmServer,
        *,
        adapter: str | None = None,
        key: str = "model.path",
    ) -> None:
        self._config, self._model, self._trainer, self._store = config, model, trainer, store
        self._server, self._key = server, key
        self._adapter = None if adapter is None else str(adapter_directory(adapter).resolve())
        self._tokenizer = load_tokenizer(model, store, key=key)
        self._compared = False

    def complete(
        self, requests: Sequence[Request], *, sampling: Sampling = GREEDY, on_done: OnDone | None = None
    ) -> list[Generation]:
        """See `Backend`."""
        rendered = [self._rendered(request) for request in requests]
        served, done = self._served(), dict[int, Generation]()
        self._start(served, rendered)
        began, known = time.monotonic(), -1
        while left := [i for i in range(len(rendered)) if i not in done]:

            def note(place: int, generation: Generation, left: Sequence[int] = left) -> None:
                done[left[place]] = generation
                if on_done is not None:
                    on_done(left[place], generation)

            try:
                self._client(served, sampling).complete([rendered[i] for i in left], sampling=sampling, on_done=note)
            except GenerationError as error:
                if not self._server.ended(_DEATH_S):
                    raise
                why = f"vLLM ended: {self._server.errors()}. Its output is {self._server.log_file}"
                if len(done) == known:
                    raise GenerationError(f"{why}. Started again, it ended before another answer") from error
                known = len(done)
                count = len(rendered)
                log.warning("vllm: %s. It is started again for %d of %d completions", why, count - known, count)
                self._serve(served)
        seconds, tokens = time.monotonic() - began, sum(g.num_tokens for g in done.values())
        log.info("vllm: %d tokens in %s: %.0f tokens/s", tokens, duration(seconds), tokens / max(seconds, 1e-9))
        return [done[i] for i in range(len(rendered))]

    def _rendered(self, request: Request) -> Request:
        """A request with token ids, which the model in this process would read."""
        prompt: Any = request.prompt
        if not isinstance(prompt[0], dict):
            return request
        return replace(request, prompt=tuple(conversation_ids(self._tokenizer, prompt)))

    def _served(self) -> Served:
        model, device = self._model, pick_device(self._trainer)
        thinking = (model.chat.thinking_open.strip(), model.chat.thinking_close.strip())
        limits = self._config.thinking_token_budget is not None
        return Served(
            folder=model_folder(model, self._store, key=self._key).resolve(),
            name=f"cotpress-{fingerprint(model_identity(model, device, key=self._key))}",
            dtype=str(resolve_dtype(model.dtype, device)).removeprefix("torch."),
            context_tokens=model.context_tokens,
            lora_rank=0 if self._adapter is None else max(_rank(self._adapter), model.tuning.lora.lora_rank),
            trust_remote_code=model.trust_remote_code,
            thinking=thinking if limits and all(thinking) else None,
        )

    def _client(self, served: Served, sampling: Sampling = GREEDY, *, probing: bool = False) -> ServerBackend:
        config, server = self._config, self._server
        settings = ServerGenerationConfig(
            base_url=server.base_url,
            model=served.name,
            concurrency=config.concurrency,
            timeout_s=config.timeout_s,
            max_retries=_MAX_RETRIES,
            thinking_token_budget=None if probing else config.thinking_token_budget,
        )
        takes_seeds = installed(interpreter(config)).platform != "cpu"
        if sampling.temperature and not takes_seeds:
            _tell_seeds()
        return ServerBackend(
            settings,
            self._adapter,
            context_tokens=served.context_tokens,
            stop_token_ids=end_ids(self._model, self._store, key=self._key),
            api_key=server.api_key,
            takes_seeds=takes_seeds,
        )

    def _start(self, served: Served, requests: Sequence[Request]) -> None:
        """Have a server for this model that was compared with the model in this process."""
        probes = [] if self._compared else self._probes(requests)
        runs = self._server.holds(self._config, served)
        if not runs:
            self._server.end()  # of other weights: this process needs the GPU
        expected = self._expected(probes, torch.device("cpu") if runs else pick_device(self._trainer))
        release()  # vLLM finds the memory of the GPU free
        self._serve(served)
        self._check(served)
        if probes:
            self._compare(expected, self._client(served, probing=True).complete(probes))
            self._compared = True

    def _serve(self, served: Served) -> None:
        self._server.serve(self._config, served, self._store.output_root / LOGS)

    def _probes(self, requests: Sequence[Request]) -> list[Request]:
        """Different prompts out of all of them that leave room in the context, with a small budget."""
        room = self._model.context_tokens - PROBE_TOKENS
        prompts: list[Any] = list(dict.fromkeys(tuple(r.prompt) for r in requests if len(r.prompt) <= room))
        count = min(self._config.probe_prompts, len(prompts))
        chosen = [prompts[i * len(prompts) // count] for i in range(count)]
        return [Request(prompt=prompt, max_new_tokens=PROBE_TOKENS, stream="probe") for prompt in chosen]

    def _expected(self, probes: Sequence[Request], device: torch.device) -> list[Generation]:
        """The completions of the model in this process; on the CPU if a GPU is too small for it."""
        if not probes:
            return []
        try:
            return self._in_process(device).complete(probes)
        except Exception as error:
            too_large = is_out_of_memory(error) or isinstance(error, MemoryLimitError)
            if not too_large or device.type == "cpu":
                raise
        release()
        return self._in_process(torch.device("cpu")).complete(probes)

    def _in_process(self, device: torch.device) -> TransformersBackend:
        # The number format of the server, which `auto` would choose otherwise on a CPU beside a GPU.
        model = replace(self._model, dtype=type(self._model.dtype)(self._served().dtype))
        return TransformersBackend(
            load_model(model, self._store, adapter=self._adapter, merge_adapter=True, device=device, key=self._key),
            self._tokenizer,
            context_tokens=model.context_tokens,
            generation_tokens=self._trainer.generation_tokens,
        )

    def _check(self, served: Served) -> None:
        """Compare the model and the context that the server lists with those that were asked."""
        listed = self._client(served).models()
        if served.name not in listed:
            raise GenerationError(
                f"vLLM lists the models {sorted(listed)}, not '{served.name}'. Fix: no --served-model-name among "
                f"`arguments`; its output is {self._server.log_file}"
            )
        limit = listed[served.name].get("max_model_len")
        if isinstance(limit, int) and limit < served.context_tokens:
            raise GenerationError(
                f"vLLM holds {limit} tokens of prompt and answer, but model.context_tokens={served.context_tokens}. "
                f"Fix: model.context_tokens={limit}, beyond which a prompt is counted as refused, or no "
                "--max-model-len among `arguments`"
            )

    def _compare(self, expected: Sequence[Generation], got: Sequence[Generation]) -> None:
        agreement = Agreement.of(expected, got)
        log.info("vllm: %s, of the model in this process", agreement)
        if agreement.first < LEAST_AGREEMENT * agreement.prompts:
            with_adapter = "" if self._adapter is None else f" with the adapter '{self._adapter}'"
            raise GenerationError(
                f"vLLM does not serve '{self._model.path}'{with_adapter} as this process reads it: it writes "
                f"{agreement}; at least {LEAST_AGREEMENT:.0%} of the first ones are needed. Its output is "
                f"{self._server.log_file}. Fix: an architecture and a number format (model.dtype) that this vLLM "
                "computes, no --quantization among `arguments`, or generation@evaluation.generation=transformers"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Equal greedy tokens of two engines: `first` of `prompts`, and `tokens` of `most` up to the first difference."""

    prompts: int
    first: int
    tokens: int
    most: int

    @classmethod
    def of(cls, expected: Sequence[Generation], got: Sequence[Generation]) -> "Agreement":
        """Compare completions of the same prompts; the end of an answer counts as a token."""
        pairs = [(_with_end(e), _with_end(g)) for e, g in zip(expected, got, strict=True)]
        alike = [sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(e, g, strict=False))) for e, g in pairs]
        return cls(
            prompts=len(pairs),
            first=sum(n > 0 for n in alike),
            tokens=sum(alike),
            most=sum(max(len(e), len(g)) for e, g in pairs),
        )

    def __str__(self) -> str:
        return (
            f"{self.first} of {self.prompts} first greedy tokens and {self.tokens} of {self.most} before a difference"
        )


def _with_end(generation: Generation) -> list[int]:
    return [*(generation.token_ids or ()), *([-1] if generation.finish_reason == STOP else [])]


def _rank(adapter: str) -> int:
    """Largest rank of an adapter's matrices."""
    settings = json.loads(Path(adapter, ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return max([int(settings["r"]), *map(int, settings.get("rank_pattern", {}).values())])


def _tell_seeds() -> None:
    """Say once per process that this vLLM draws without a seed of the request."""
    global _told_seeds
    if not _told_seeds:
        _told_seeds = True
        log.warning(
            "vllm: on a CPU vLLM takes no seed of a single request: answers are drawn from one stream in the order of "
            "its batches, so a repetition draws others (generation=transformers repeats the same)"
        )


def check_context(model: ModelConfig, store: ArtifactStore, max_new_tokens: int, *, key: str = "model.path") -> None:
    """Refuse a context that the model does not have, with which vLLM would not start; makes no model of a package.

    Raises:
        GenerationError: It is longer than the model's, or the budget fills it.
        ModelError: The model cannot be found.
    """
    group, limit = key.removesuffix(".path"), None
    if model.source is ModelSource.hub:
        folder = model_folder(model, store, key=key, weights=False)
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = settings.get("text_config") or settings
        rope = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
        scaled = rope.get("rope_type", rope.get("type", "default")) != "default"
        limit = None if scaled else settings.get("max_position_embeddings")
    if isinstance(limit, int) and model.context_tokens > limit:
        raise GenerationError(
            f"{group}.context_tokens: got {model.context_tokens}, but '{model.path}' has positions for {limit} tokens, "
            f"and vLLM serves no more. Fix: {group}.context_tokens={limit}"
        )
    if max_new_tokens >= model.context_tokens:
        raise GenerationError(
            f"max_new_tokens={max_new_tokens} leaves no room for a prompt in {group}.context_tokens="
            f"{model.context_tokens}. Fix: a smaller budget, or a larger context if the model has it"
        )
