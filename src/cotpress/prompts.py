"""How a conversation is written, as token ids: one definition for training, scoring and evaluation.

A training sequence is `prompt + completion`:

    prompt      chat template (system, question [+ ratio marker], start of the assistant's turn)
    completion  thinking_open  thinking  thinking_close  response  end of turn

What the model's template writes of `thinking_open` at the end of the prompt is not written a second time.

A layout without tags (TokenSkip's: `thinking_open: ""`, `thinking_close: "\n\n"`) has its response in the last
paragraph of what it trains. Nothing but this training tells a model so: what another one writes has no such division.

The thinking is spliced in as token ids, so the tokens that were kept are the tokens that are trained on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Annotated

from cotpress.errors import ConfigError
from cotpress.settings import Rule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


WITHOUT_TAGS = 'where there are no tags a blank line, model.chat.thinking_open="" model.chat.thinking_close="\\n\\n"'
"""What to give where nothing would part the thinking from the response."""


@dataclass(kw_only=True, slots=True)
class ChatConfig:
    """How a conversation with the model is written."""

    system: str | None = None
    """System text; null leaves it to the model's own template."""
    thinking_open: str = "<think>\n"
    """Text before the thinking, at the start of the completion, unless the model's template ends the prompt with it."""
    thinking_close: Annotated[str, Rule(bool, f"the text that parts thinking and response; {WITHOUT_TAGS}")] = (
        "\n</think>\n\n"
    )
    """Text between the thinking and the response."""
    ratio_marker: str = "<|eot_id|>{ratio}<|eot_id|>"
    """Control marker after the question when a ratio is announced (TokenSkip); `{ratio}` is replaced."""


def check_marker(chat: ChatConfig, ratios: Iterable[float]) -> None:
    """Refuse a control marker that could not announce ratios.

    Args:
        chat: Holds the marker.
        ratios: What it is to announce; 1 is announced by no marker.

    Raises:
        ConfigError: There is something to announce, and no place for it.
    """
    if "{ratio}" not in chat.ratio_marker and any(ratio < 1 for ratio in ratios):
        raise ConfigError(f"model.chat.ratio_marker: got '{chat.ratio_marker}', allowed: a text with {{ratio}} in it")


TEMPLATE_DATE = datetime(2024, 7, 26, 12)
"""The day that a chat template is told where it asks for today's: the one that Llama 3's own template falls back to."""
_DIRECTIVES = [f"%{letter}" for letter in (*"aAbBcdDeFHIjmMpSTuUwWxXyYZ", "-d", "-m", "-H", "-I", "-M", "-S")]
# transformers hands no function to a template, but a macro hides the function of the same name. The line break at its
# end belongs to the tag (`trim_blocks`), so what follows begins a line as it did.
_CLOCK = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f"|replace('{directive}', '{TEMPLATE_DATE.strftime(directive)}')" for directive in _DIRECTIVES)
    + " }}{%- endmacro %}\n"
)


def render_chat(
    tokenizer: "PreTrainedTokenizerBase", conversation: Sequence[Mapping[str, object]], *, add_generation_prompt: bool
) -> str:
    """A conversation as the tokenizer's chat template writes it, on whatever day it is asked.

    Some templates print today's date (`strftime_now`: Llama 3.1, gpt-oss). Prompts of training, scoring and evaluation
    would differ by the day each ran on, and no fingerprint would know; so they all get `TEMPLATE_DATE`.
    """
    asks = "strftime_now" in str(tokenizer.chat_template)
    rendered = tokenizer.apply_chat_template(
        list(conversation),
        chat_template=_CLOCK + tokenizer.get_chat_template() if asks else None,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
    )
    return str(rendered)


def marker_text(template: str, ratio: float | None) -> str:
    """Text of the ratio control marker; empty for no ratio and for 1.0 (TokenSkip, arXiv 2502.12067, section 3.3).

    Raises:
        ConfigError: The template has no `{ratio}`.
    """
    if ratio is None or ratio >= 1.0:
        return ""
    if "{ratio}" not in template:
        raise ConfigError(f"model.chat.ratio_marker: got '{template}', allowed: a text with {{ratio}} in it")
    return template.replace("{ratio}", f"{ratio:g}")


_CONTEXT_TOKENS = 16
"""Tokens that are decoded before those that matter: more than the tokens of one character, which may be its bytes."""
_UNFINISHED = "\ufffd"
"""What a decoder writes for the first bytes of a character whose others are not there yet."""


class ChatFormat:
    """Writes prompts and completions for one tokenizer.

    Attributes:
        has_tags: Thinking and response are parted by a text that stands nowhere else, not by white space.

    Raises:
        ConfigError: Nothing would part the thinking from the response.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", chat: ChatConfig) -> None:
        if not chat.thinking_close:
            raise ConfigError(
                "model.chat.thinking_close is empty, so thinking and response cannot be told apart. Fix: the text "
                f"between them; {WITHOUT_TAGS}"
            )
        self._tokenizer, self._chat = tokenizer, chat
        self.has_tags = bool(chat.thinking_close.strip())
        self._close = self.text_ids(chat.thinking_close)
        self._end = [tokenizer.eos_token_id]

    def text_ids(self, text: str) -> list[int]:
        """Token ids of `text` alone, without special tokens."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def prompt_ids(self, question: str, ratio: float | None = None) -> list[int]:
        """Token ids of the prompt, up to where the assistant begins to write."""
        return self.text_ids(self._prompt(question, ratio))

    def _prompt(self, question: str, ratio: float | None = None) -> str:
        user = {"role": "user", "content": question + marker_text(self._chat.ratio_marker, ratio)}
        system = [] if self._chat.system is None else [{"role": "system", "content": self._chat.system}]
        return render_chat(self._tokenizer, [*system, user], add_generation_prompt=True)

    def completion_ids(self, thinking: Sequence[int], response: str) -> list[int]:
        """Token ids of the assistant's turn around the given thinking tokens."""
        return [*self.thinking_start(), *thinking, *self._close, *self.text_ids(response), *self._end]

    def thinking_start(self) -> list[int]:
        """Token ids that open the thinking: what precedes its first token inside the completion."""
        return self.text_ids(self._opening)

    def opening_identity(self) -> dict[str, str]:
        """What tells an opening that the template shortens from the configured one; nothing where it does not."""
        return {} if self._opening == self._chat.thinking_open else {"opening": self._opening}

    def thinking_end(self) -> list[int]:
        """Token ids that close the thinking: what follows its last token inside the completion."""
        return list(self._close)

    def split_output(self, text: str) -> tuple[str, str, bool]:
        """`(thinking, response, closed)` of a generated completion; all of it is thinking if it was never closed.

        A closing tag ends the thinking where it first stands. A blank line, which a thinking may hold as well, where it
        last stands.
        """
        begin, closing = self._begin(text), self._closing(text)
        if closing is None:
            return text[begin:].strip(), "", False
        return text[begin : closing[0]].strip(), text[closing[1] :].strip(), True

    def num_thinking_tokens(self, ids: Sequence[int]) -> int:
        """How many tokens of a generated completion lie wholly before what closes its thinking; all if nothing does.

        They are counted as they were written, what opens the thinking included: tokens that were spliced may merge when
        their text is tokenized again. After the text as a whole, half of what is left is decoded at each step, so that
        every token is decoded about twice, however many there are.
        """
        closing = self._closing(self._decoded(ids))
        if closing is None:
            return len(ids)
        low, high, length = 0, len(ids), 0  # `length` characters are those of the first `low` tokens
        while low < high:
            middle = (low + high + 1) // 2
            start = max(low - _CONTEXT_TOKENS, 0)
            known, reached = self._decoded(ids[start:low]), self._decoded(ids[start:middle])
            more = length - len(known)
            if more + len(reached.rstrip(_UNFINISHED)) <= closing[0]:
                low, length = middle, more + len(reached)
            else:
                high = middle - 1
        return low

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def _begin(self, text: str) -> int:
        """Where the thinking of a completion begins, after what opens it."""
        opening = self._chat.thinking_open
        return len(opening) if text.startswith(opening) else 0

    def _closing(self, text: str) -> tuple[int, int] | None:
        """First character of what closes the thinking of a completion and one past its last; None if nothing does."""
        begin = self._begin(text)
        if self.has_tags:
            mark = self._chat.thinking_close.strip()
            at = text.find(mark, begin)
        else:
            mark = self._chat.thinking_close
            at = text.rstrip().rfind(mark, begin)
        return None if at < 0 else (at, at + len(mark))

    def begins_thinking(self, output: str) -> bool:
        """Whether the thinking of a generated completion was opened: by the model, or by the template before it."""
        tag = self._chat.thinking_open.strip()
        return bool(tag) and (output.lstrip().startswith(tag) or self._prompt_opens(tag))

    @cached_property
    def _opening(self) -> str:
        """Text between the prompt and the thinking: what the template has not written of `thinking_open`.

        The templates of R1's distilled models and QwQ end the prompt with the tag, so that the model begins inside of
        the thinking.
        """
        whole, tag = self._chat.thinking_open, self._chat.thinking_open.strip()
        if not tag or not self._prompt_opens(tag):
            return whole
        written = self._some_prompt.rpartition(tag)[2]  # white space
        rest = whole.partition(tag)[2]
        return rest.removeprefix(written) if rest.startswith(written) else ""

    def _prompt_opens(self, tag: str) -> bool:
        return self._some_prompt.rstrip().endswith(tag)

    @cached_property
    def _some_prompt(self) -> str:
        """They all end alike."""
        return self._prompt("?")
