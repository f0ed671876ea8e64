"""Budget forcing (s1, arXiv 2501.19393, section 3.1): a thinking that is too long is closed, and the answer asked for.

An answer is written in two requests. The first ends after N tokens. If the thinking is still open by then, the tokens
that close it and a text that begins the response (`Final Answer:`) are appended, as the release does (vllm_causallms.py
of its evaluation harness), and the second request goes on from there. An answer that ended within N tokens stays as it
is; one whose thinking was closed within them goes on without the text. All tokens count, the appended ones included,
and the budget of the answer is that of any other. vLLM's `thinking_token_budget` appends no text, so it is not used.

Without thinking tags a blank line is no sure end of the thinking, so an answer is asked for wherever N tokens are over.
"""

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, replace

from cotpress.generation.backends import LENGTH, Generation, Request
from cotpress.prompts import ChatFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class Forcing:
    """Limit of the thinking.

    Attributes:
        num_tokens: Tokens after which the thinking is closed; None for `share` of the mean thinking of the same model's
            answers without a limit.
        share: Fraction of that mean; not used with `num_tokens`.
        text: Text after the closing of the thinking.
    """

    num_tokens: int | None
    share: float = 1.0
    text: str = ""

    def at(self, mean_thinking_tokens: float) -> "Forcing":
        """The limit in tokens, for answers of this mean thinking length."""
        return replace(self, num_tokens=max(round(self.share * mean_thinking_tokens), 1), share=1.0)

    @property
    def is_relative(self) -> bool:
        """True if the limit follows from answers without it."""
        return self.num_tokens is None

    def num_without_room(self, requests: Iterable[Request], chat: ChatFormat) -> int:
        """Number of requests whose budget does not hold the limit and the text after it, so that no answer follows."""
        assert self.num_tokens is not None
        least = self.num_tokens + len(self._closing(chat))
        return sum(request.max_new_tokens <= least for request in requests)

    def _closing(self, chat: ChatFormat) -> list[int]:
        """The tokens that are appended to an open thinking."""
        return [*chat.thinking_end(), *chat.text_ids(self.text)]

    def first(self, requests: Mapping[str, Request], context_tokens: int) -> dict[str, Request]:
        """The requests that write at most the limit, by keys of their own.

        Prompts that fill `context_tokens` keep their whole budget, so that they are refused.
        """
        assert self.num_tokens is not None
        most = self.num_tokens
        return {
            _first(key): r
            if len(r.prompt) >= context_tokens
            else replace(r, max_new_tokens=min(r.max_new_tokens, most))
            for key, r in requests.items()
        }

    def second(
        self, requests: Mapping[str, Request], done: Mapping[str, Generation], chat: ChatFormat
    ) -> dict[str, Request]:
        """The requests that go on after the first ones, for answers that have not ended and whose budget is left."""
        going_on = {}
        for key, request in requests.items():
            written = done[_first(key)]
            prefix = self._prefix(written, chat)
            room = request.max_new_tokens - len(prefix)
            if written.finish_reason == LENGTH and room > 0:
                prompt = [*request.prompt, *prefix]
                going_on[_second(key)] = Request(prompt=prompt, max_new_tokens=room, stream=_second(key))
        return going_on

    def join(self, requests: Mapping[str, Request], done: MutableMapping[str, Generation], chat: ChatFormat) -> None:
        """Add the whole answers by the keys of the requests."""
        for key in requests:
            first, second = done[_first(key)], done.get(_second(key))
            if key not in done:
                done[key] = first if second is None else self._joined(first, second, chat)

    def _joined(self, first: Generation, second: Generation, chat: ChatFormat) -> Generation:
        prefix = self._prefix(first, chat)
        known = first.token_ids is not None and second.token_ids is not None
        ids = (*prefix, *(second.token_ids or ())) if known else None
        appended = chat.decoded(prefix[_num_tokens(first, chat) :])
        return Generation(
            token_ids=ids,
            text=chat.decoded(ids) if ids is not None else first.text + appended + second.text,
            finish_reason=second.finish_reason,
            latency_s=first.latency_s + second.latency_s,
            reported_tokens=len(prefix) + second.num_tokens,
        )

    def _prefix(self, written: Generation, chat: ChatFormat) -> list[int]:
        """The tokens of the first request, with those that are appended to an open thinking."""
        ids = list(chat.output_ids(written.text) if written.token_ids is None else written.token_ids)
        if chat.has_tags and chat.split_output(written.text)[2]:
            return ids
        return [*ids, *self._closing(chat)]


def _num_tokens(written: Generation, chat: ChatFormat) -> int:
    return len(chat.output_ids(written.text)) if written.token_ids is None else len(written.token_ids)


def _first(key: str) -> str:
    return f"{key}/first"


def _second(key: str) -> str:
    return f"{key}/second"
