"""What a generation backend takes and gives back; the same for a model in this process and for a server."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict

STOP, LENGTH, REFUSED = "stop", "length", "refused"
"""Finish reasons: the model ended, the budget ended it, the prompt leaves no room in the model's context."""


class Message(TypedDict):
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 is greedy.
        top_p: Smallest set of likeliest tokens with this much probability, in (0, 1].
        seed: Seed of the draws; greedy decoding does not use it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


GREEDY = Sampling()


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One generated completion.

    Attributes:
        token_ids: Generated tokens, the end token not included; None if a server does not tell them.
        text: The same as text; special tokens that the model wrote inside are kept (a `</think>` may be one).
        finish_reason: `stop` (the model ended), `length` (the budget ended it) or `refused` (nothing was written
            because prompt and budget do not fit the model's context).
        latency_s: Seconds of wall time: of its request; or its share of the time of every forward that it was part
            of, so that those of all completions add up to the time of the call.
        reported_tokens: Number of tokens by the server's own count, the end token not counted; used only without
            `token_ids`.
    """

    token_ids: tuple[int, ...] | None
    text: str
    finish_reason: str
    latency_s: float
    reported_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        """Number of generated tokens, the end token not counted."""
        return self.reported_tokens if self.token_ids is None else len(self.token_ids)


OnDone = Callable[[int, Generation], None]
"""Called in the caller's thread with a prompt's index and its completion as soon as that is finished."""


class Backend(Protocol):
    """Writes completions; results come in the order of the prompts, whatever the order they were finished in."""

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int | Sequence[int],
        sampling: Sampling = GREEDY,
        streams: Sequence[str] | None = None,
        on_done: OnDone | None = None,
    ) -> list[Generation]:
        """Completions of rendered prompts, given as exact token ids.

        Args:
            prompts: Token ids, each of at least one token.
            max_new_tokens: Budget per completion, in tokens, the end token included; one for all or one for each.
            sampling: How tokens are chosen.
            streams: Name of each prompt's stream of random numbers, so that what is drawn does not depend on which
                other prompts are asked in the same call; None names them by their index.
            on_done: Called once per prompt.

        Raises:
            GenerationError: A server cannot be reached, refuses, or answers with something else.
        """

    def chat(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        on_done: OnDone | None = None,
    ) -> list[Generation]:
        """Answers to conversations, rendered by the model's own chat template; arguments as in `complete`.

        Streams of random numbers are named by index.
        """


def budgets(max_new_tokens: int | Sequence[int], num_prompts: int) -> list[int]:
    """The budget of each of so many prompts."""
    return [max_new_tokens] * num_prompts if isinstance(max_new_tokens, int) else list(max_new_tokens)
