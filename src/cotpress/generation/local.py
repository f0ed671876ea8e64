"""The backend that runs a transformers model in this process."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from cotpress.generation.base import GREEDY, REFUSED, Generation, Message, OnDone, Sampling, budgets
from cotpress.generation.hf import generate
from cotpress.generation.packed_linear import pack_linears
from cotpress.prompts import render_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TransformersBackend:
    """See `cotpress.generation.base.Backend`."""

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        context_tokens: int,
        generation_tokens: int,
        packed: bool = False,
    ) -> None:
        """Wraps a model that is ready to write.

        Args:
            model: Causal language model in eval mode.
            tokenizer: Its tokenizer.
            context_tokens: Longest prompt plus budget; what is longer is refused.
            generation_tokens: Completions written at once, counted as prompt plus budget of each.
            packed: The model will only write: on a CPU its linear layers are replaced by packed ones.
        """
        if packed:
            pack_linears(model)
        self._model, self._tokenizer = model, tokenizer
        self._context_tokens, self._generation_tokens = context_tokens, generation_tokens

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
        done: dict[int, Generation] = {}

        def note(index: int, generation: Generation) -> None:
            done[index] = generation
            if on_done is not None:
                on_done(index, generation)

        limits = budgets(max_new_tokens, len(prompts))
        needs = [len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)]
        fitting = [i for i, need in enumerate(needs) if need <= self._context_tokens]
        for index in sorted(set(range(len(prompts))) - set(fitting)):
            note(index, Generation(token_ids=(), text="", finish_reason=REFUSED, latency_s=0.0))
        room = max((needs[i] for i in fitting), default=1)
        generate(
            self._model,
            self._tokenizer,
            [prompts[i] for i in fitting],
            max_new_tokens=[limits[i] for i in fitting],
            batch_size=max(self._generation_tokens // room, 1),
            sampling=sampling,
            streams=None if streams is None else [streams[i] for i in fitting],
            on_done=lambda place, generation: note(fitting[place], generation),
        )
        return [done[i] for i in range(len(prompts))]

    def chat(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        on_done: OnDone | None = None,
    ) -> list[Generation]:
        """See `Backend`."""
        prompts = [self._prompt_ids(conversation) for conversation in conversations]
        return self.complete(prompts, max_new_tokens=max_new_tokens, sampling=sampling, on_done=on_done)

    def _prompt_ids(self, conversation: Sequence[Message]) -> list[int]:
        text = render_chat(self._tokenizer, conversation, add_generation_prompt=True)
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
