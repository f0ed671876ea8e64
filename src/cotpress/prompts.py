"""How a conversation is written, as token ids: one definition for training, scoring and evaluation.

A training sequence is `prompt + completion`:

    prompt      chat template (system, question [+ ratio marker], start of the assistant's turn)
    completion  thinking_open  thinking  thinking_close  response  end of turn

What the model's template writes of `thinking_open` at the end of the prompt is not written a second time.

A layout without tags (TokenSkip's: `thinking_open: ""`, `thinking_close: "\n\n"`) has its response in the last
paragraph.

The thinking is spliced in as token ids, so the tokens that were kept are the tokens that are trained on.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from cotpress.errors import ConfigError
from cotpress.modeling_config import ChatConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def marker_text(template: str, ratio: float | None) -> str:
    """Text of the ratio control marker; empty for no ratio and for 1.0 (TokenSkip, arXiv 2502.12067, section 3.3).

    Raises:
        ConfigError: The template has no `{ratio}`.
    """
    if ratio is None or ratio >= 1.0:
        return ""
    if "{ratio}" not in template:
        raise ConfigError(f"model.chat.ratio_marker: got '{template}', it must contain {{ratio}}")
    return template.replace("{ratio}", f"{ratio:g}")


class ChatFormat:
    """Writes prompts and completions for one tokenizer.

    Raises:
        ConfigError: Nothing would part the thinking from the response.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", chat: ChatConfig) -> None:
        if not chat.thinking_close:
            raise ConfigError(
                "model.chat.thinking_close is empty, so thinking and response cannot be told apart. Fix: the text "
                "between them; where there are no tags a blank line, "
                'model.chat.thinking_open="" model.chat.thinking_close="\\n\\n"'
            )
        self._tokenizer, self._chat = tokenizer, chat
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
        return str(self._tokenizer.apply_chat_template([*system, user], tokenize=False, add_generation_prompt=True))

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
        body = text.removeprefix(self._chat.thinking_open)
        tag = self._chat.thinking_close.strip()
        if tag:
            thinking, found, response = body.partition(tag)
        else:
            thinking, found, response = body.rstrip().rpartition(self._chat.thinking_close)
        return (thinking.strip(), response.strip(), True) if found else (body.strip(), "", False)

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
