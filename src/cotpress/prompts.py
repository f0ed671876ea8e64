"""Token ids of conversations, in one format for training, scoring and evaluation.

A training sequence is `prompt + completion`:

    prompt      chat template (system, question [+ ratio marker], start of the assistant's turn)
    completion  thinking_open  thinking  thinking_close  response  end of turn

The part of `thinking_open` that the model's template writes at the end of the prompt is left out of the completion.
Thinking is inserted as token ids, so that exactly the kept tokens are trained on.

An empty thinking (ratio 0) leaves the texts around it: `<think>\n\n</think>\n\n`, as Qwen3 writes it.

In a layout without tags (TokenSkip's: `thinking_open: ""`, `thinking_close: "\n\n"`) the response is the last
paragraph, and with an empty thinking the whole completion. Only models trained in this layout follow it; the output of
other models has no such division.

Special tokens come from the format alone: the template, and the settings of `ChatConfig`, whose texts are the user's
own (Llama's marker has them). One that a question, thinking or response spells out (`<|im_end|>`) is tokenized as the
characters that it is written with, because as a token it would end the turn. Added tokens that are not special, such as
`<think>` of Qwen3, end no turn; they stay whole in every text.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, NamedTuple
from weakref import WeakKeyDictionary

from cotpress.errors import ConfigError, ModelError
from cotpress.settings import Rule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_SEPARATOR = Rule(
    bool,
    "the text that parts thinking and response; where there are no tags a blank line, "
    "model.chat.thinking_open= model.chat.thinking_close=$'\\n\\n'",
)
_QUESTION = Rule(lambda text: "{question}" in text, "a text with {question} in it")


@dataclass(kw_only=True, slots=True)
class ChatConfig:
    """Format of a conversation with the model (config group `chat`, at `model.chat`)."""

    system: str | None = None
    """System text; null uses the default of the model's template."""
    user: Annotated[str, _QUESTION] = "{question}"
    """Text of the user's turn before the ratio marker; `{question}` is replaced."""
    template: str | None = None
    """Chat template (Jinja) in place of the tokenizer's, for turns that this does not write; null: the tokenizer's."""
    enable_thinking: bool | None = None
    """Value of the variable of this name in the template, by which Qwen3's switches thinking on and off; null: its own
    default."""
    thinking_open: str = "<think>\n"
    """Text before the thinking, at the start of the completion, unless the model's template ends the prompt with it."""
    thinking_close: Annotated[str, _SEPARATOR] = "\n</think>\n\n"
    """Text between the thinking and the response."""
    ratio_marker: str = "<|eot_id|>{ratio}<|eot_id|>"
    """Control marker after the question that states a ratio (TokenSkip); `{ratio}` is replaced."""


def check_marker(chat: ChatConfig, ratios: Iterable[float]) -> None:
    """Raise a `ConfigError` for a control marker without `{ratio}` if it has to state one of `ratios`, below 1."""
    marker = chat.ratio_marker
    if "{ratio}" not in marker and any(ratio < 1 for ratio in ratios):
        raise ConfigError(f"model.chat.ratio_marker: got '{marker}', allowed: a text with {{ratio}} in it")


def marker_text(template: str, ratio: float | None) -> str:
    """Text of the ratio control marker; empty for None and 1.0 (TokenSkip, arXiv 2502.12067, section 3.3)."""
    return "" if ratio is None or ratio >= 1.0 else template.replace("{ratio}", f"{ratio:g}")


def messages(chat: ChatConfig, question: str, ratio: float | None = None) -> list[dict[str, str]]:
    """Messages before the assistant's turn: the system text if there is one, and the question with its marker."""
    content = chat.user.replace("{question}", question) + marker_text(chat.ratio_marker, ratio)
    user = {"role": "user", "content": content}
    return [user] if chat.system is None else [{"role": "system", "content": chat.system}, user]


def assistant_text(chat: ChatConfig, thinking: str, response: str) -> str:
    """Text of the assistant's turn; without tags and thinking the response alone."""
    close = chat.thinking_close if thinking or chat.thinking_close.strip() else ""
    return f"{chat.thinking_open}{thinking}{close}{response}"


TEMPLATE_DATE = datetime(2024, 7, 26, 12)  # for templates that use the current date; the default of Llama 3's
_DIRECTIVES = [f"%{letter}" for letter in (*"aAbBcdDeFHIjmMpSTuUwWxXyYZ", "-d", "-m", "-H", "-I", "-M", "-S")]
# transformers accepts no function for a template, but a macro replaces the function of the same name. Its final line
# break belongs to the tag (`trim_blocks`), so that the text after it still begins a line.
_CLOCK = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f"|replace('{directive}', '{TEMPLATE_DATE.strftime(directive)}')" for directive in _DIRECTIVES)
    + " }}{%- endmacro %}\n"
)


class _Form(NamedTuple):
    """Form in which a chat template takes messages."""

    in_parts: bool = False
    """Contents are lists of parts, `[{"type": "text", "text": ...}]`."""
    without_system: bool = False
    """The system text stands at the beginning of the user's turn, before a blank line."""

    def applied(self, conversation: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
        """The conversation in this form."""
        turns = [dict(turn) for turn in conversation]
        if self.without_system and len(turns) > 1 and turns[0]["role"] == "system":
            first, second, *rest = turns
            turns = [{**second, "content": f"{first['content']}\n\n{second['content']}"}, *rest]
        if self.in_parts:
            turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
        return turns


_FORMS = {
    _Form(): "",
    _Form(in_parts=True): "takes contents as lists of parts, and gets them so",
    _Form(without_system=True): "has no system turn; the system text stands at the beginning of the user's turn",
    _Form(in_parts=True, without_system=True): "takes contents as lists of parts and has no system turn; the system "
    "text stands at the beginning of the user's turn",
}
"""Forms in the order in which they are tried, each with what is logged of it."""
_EXAMPLE = ({"role": "system", "content": "example system"}, {"role": "user", "content": "example question"})
_forms: "WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[str, bool], _Form]]" = WeakKeyDictionary()


def render_chat(
    tokenizer: "PreTrainedTokenizerBase",
    conversation: Sequence[Mapping[str, object]],
    *,
    add_generation_prompt: bool,
    chat: ChatConfig | None = None,
) -> str:
    """Render a conversation with the chat template that `chat` names, by default the tokenizer's, with a fixed date.

    Some templates print the current date (`strftime_now`: Llama 3.1, gpt-oss). Prompts of training, scoring and
    evaluation would then depend on the day, without a change of fingerprint; all of them get `TEMPLATE_DATE`.

    Raises:
        ModelError: There is no template, or it cannot render a system text and a question in any known form.
    """
    chat = chat or ChatConfig()
    form = _form(tokenizer, chat, has_system=conversation[0]["role"] == "system")
    try:
        return _rendered(tokenizer, chat, form.applied(conversation), add_generation_prompt)
    except Exception as error:  # a template may raise anything, for a single conversation too
        raise ModelError(f"{_named(tokenizer, chat.template)} fails: {_reason(error)}") from error


def published_template(tokenizer: "PreTrainedTokenizerBase", chat: ChatConfig) -> str:
    """Chat template that renders a user's turn as a prompt of `chat` where only the tokenizer is known.

    A conversation that does not begin with a system turn gets the system text of `chat`, and variables that are not
    given the values of `chat`; the date is `TEMPLATE_DATE`. Conversations of `messages` are rendered as ever. The
    user's text is not changed: `chat.user` and the ratio marker stay with the writer of the conversation.

    Raises:
        ModelError: As `render_chat`.
    """
    template = chat.template or tokenizer.get_chat_template()
    added = [_CLOCK] if "strftime_now" in template else []
    if chat.enable_thinking is not None:
        value = str(chat.enable_thinking).lower()
        added.append(f"{{% if enable_thinking is not defined %}}{{% set enable_thinking = {value} %}}{{% endif %}}")
    form = _form(tokenizer, chat, has_system=chat.system is not None)
    if chat.system is not None and not form.without_system:
        (turn,) = form.applied([{"role": "system", "content": chat.system}])
        literal = json.dumps([turn], ensure_ascii=False)  # also a literal of Jinja
        added.append(
            "{% if messages and messages[0]['role'] != 'system' %}"
            f"{{% set messages = {literal} + messages %}}{{% endif %}}"
        )
    return "".join([*added, template])


def _named(tokenizer: "PreTrainedTokenizerBase", template: str | None) -> str:
    owner = f"of '{tokenizer.name_or_path}'"
    return f"the chat template {owner}" if template is None else f"model.chat.template {owner}"


def _form(tokenizer: "PreTrainedTokenizerBase", chat: ChatConfig, *, has_system: bool) -> _Form:
    """The first form in which an example is rendered with all of its texts; it is logged once for each tokenizer."""
    template = chat.template
    if not (template or tokenizer.chat_template):
        raise ModelError(
            f"the tokenizer of '{tokenizer.name_or_path}' has no chat template, so there is no format for questions "
            "and answers. Fix: the instruct variant of this model, or its chat_template.jinja beside the tokenizer"
        )
    known, key = _forms.setdefault(tokenizer, {}), (template or str(tokenizer.chat_template), has_system)
    if key in known:
        return known[key]
    problems, example = [], _EXAMPLE if has_system else _EXAMPLE[1:]
    for form, note in _FORMS.items():
        try:
            text = _rendered(tokenizer, chat, form.applied(example), add_generation_prompt=True)
        except Exception as error:  # a template may raise anything
            problems.append(_reason(error))
            continue
        lost = [turn["role"] for turn in example if turn["content"] not in text]
        if not lost:
            if note:
                log.warning("%s %s", _named(tokenizer, template), note)
            known[key] = form
            return form
        problems.append(f"it leaves out the text of the {lost[0]}")
    fix = "Fix: another template as chat_template.jinja beside the tokenizer, or another model"
    raise ModelError(f"{_named(tokenizer, template)} cannot render a question: {problems[0]}. {fix}")


def _rendered(
    tokenizer: "PreTrainedTokenizerBase",
    chat: ChatConfig,
    conversation: Sequence[Mapping[str, object]],
    add_generation_prompt: bool,
) -> str:
    template = chat.template
    options = {} if chat.enable_thinking is None else {"enable_thinking": chat.enable_thinking}
    dated = "strftime_now" in (template or str(tokenizer.chat_template))
    rendered = tokenizer.apply_chat_template(
        list(conversation),
        chat_template=_CLOCK + (template or tokenizer.get_chat_template()) if dated else template,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        **options,
    )
    return str(rendered)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


class _Spelled:
    """Special tokens that a text spells out, hidden from the tokenizer while a chat template renders the text.

    Each is replaced by a private character that the text does not have. The special tokens of the rendered text are
    then those of the format, at which a tokenizer divides it; the parts with private characters are tokenized plainly,
    as they were written. A text without special tokens is tokenized as a whole, as usual.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", text: str) -> None:
        special = {token.content: id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._tokenizer, self._special_ids = tokenizer, set(special.values())
        spelled = sorted((token for token in special if token and token in text), key=len, reverse=True)
        private = (chr(code) for code in range(0xF0000, 0xFFFFE) if chr(code) not in text)  # Unicode plane 15
        self._hidden = dict(zip(spelled, private, strict=False))

    def hidden(self, text: str) -> str:
        """The text with private characters in place of the special tokens that it spells out."""
        for token, character in self._hidden.items():
            text = text.replace(token, character)
        return text

    def ids(self, rendered: str) -> list[int]:
        """Token ids of a rendered text with texts of `hidden` in it."""
        if not self._hidden:
            return _ids(self._tokenizer, rendered)
        encoded = self._tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets, made = encoded["input_ids"], encoded["offset_mapping"], list[int]()
        first, start = 0, 0  # of the part between two special tokens: its first token and character
        for place, id_ in enumerate([*ids, None]):
            if id_ is not None and id_ not in self._special_ids:
                continue
            end = len(rendered) if id_ is None else offsets[place][0]
            part = rendered[start:end]
            written = self._written(part)
            made += ids[first:place] if written == part else plain_ids(self._tokenizer, written)
            if id_ is not None:
                made.append(id_)
                first, start = place + 1, offsets[place][1]
        return made

    def _written(self, text: str) -> str:
        for token, character in self._hidden.items():
            text = text.replace(character, token)
        return text


def plain_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of a text of the data, as `modeling.alignment.encode_plainly` gives them with offsets."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return ids


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def conversation_ids(tokenizer: "PreTrainedTokenizerBase", conversation: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation up to the start of the assistant's turn; no content gives a special token."""
    spelled = _Spelled(tokenizer, "\n".join(turn["content"] for turn in conversation))
    turns = [{**turn, "content": spelled.hidden(turn["content"])} for turn in conversation]
    return spelled.ids(render_chat(tokenizer, turns, add_generation_prompt=True))


_CONTEXT_TOKENS = 16  # decoded as context; more than one character has, whose tokens may be single bytes
_UNFINISHED = "\ufffd"  # output of a decoder for an incomplete character, of which some bytes are missing


class ChatFormat:
    """Prompts and completions for one tokenizer, and the division of generated text into thinking and response.

    Attributes:
        has_tags: True if a tag separates thinking and response, False if white space does.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", chat: ChatConfig) -> None:
        self._tokenizer, self._chat = tokenizer, chat
        self.has_tags = bool(chat.thinking_close.strip())
        self._close = self.output_ids(chat.thinking_close)

    def check(self) -> None:
        """Raise a `ModelError` if no training sequence can be written with this tokenizer."""
        self.completion_ids([], "")
        self.prompt_ids("?")

    @property
    def end_id(self) -> int:
        """Token that ends the assistant's turn; `ModelError` without one."""
        if self._tokenizer.eos_token_id is None:
            raise ModelError(
                f"the tokenizer of '{self._tokenizer.name_or_path}' has no eos token, which ends every answer. "
                "Fix: name the token that ends a turn as eos_token in its tokenizer_config.json"
            )
        return int(self._tokenizer.eos_token_id)

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a text of the data alone; special tokens that it spells out are plain characters."""
        return plain_ids(self._tokenizer, text)

    def output_ids(self, text: str) -> list[int]:
        """Token ids of a text that a model wrote or that the format holds, in which special tokens are tokens."""
        return _ids(self._tokenizer, text)

    def num_text_tokens(self, text: str) -> int:
        """Number of tokens of `text` with those that the tokenizer itself adds, e.g. the first one of Llama."""
        return len(self._tokenizer(text, verbose=False)["input_ids"])

    def prompt_ids(self, question: str, ratio: float | None = None) -> list[int]:
        """Token ids of the prompt, up to the start of the assistant's turn."""
        spelled = _Spelled(self._tokenizer, question)
        return spelled.ids(self._prompt(spelled.hidden(question), ratio))

    def _prompt(self, question: str, ratio: float | None = None) -> str:
        turns = messages(self._chat, question, ratio)
        return render_chat(self._tokenizer, turns, add_generation_prompt=True, chat=self._chat)

    def completion_ids(self, thinking: Sequence[int], response: str) -> list[int]:
        """Token ids of the assistant's turn around the given thinking tokens, as `assistant_text` joins its parts."""
        close = self._close if len(thinking) or self.has_tags else []
        return [*self.thinking_start(), *thinking, *close, *self.text_ids(response), self.end_id]

    def completion_weights(self, thinking: Sequence[float], completion: Sequence[int]) -> tuple[float, ...]:
        """Weights of the loss of a completion by token: those of its thinking tokens, and 1 for all others."""
        start = len(self.thinking_start())
        return (*[1.0] * start, *thinking, *[1.0] * (len(completion) - start - len(thinking)))

    def opening_ids(self) -> list[int]:
        """Token ids before a completion without a question: no chat template, system text or user's turn.

        These are the token that the tokenizer puts before all texts (Llama's), and the part of `thinking_open` that the
        template writes, otherwise none. SmolLM2's first token is none of the first kind, as its template writes it.
        """
        first = self._tokenizer("?")["input_ids"][:1]
        written = self._chat.thinking_open.removesuffix(self._opening)
        return [*(first if first == [self._tokenizer.bos_token_id] else []), *self.output_ids(written)]

    def thinking_start(self) -> list[int]:
        """Token ids of the completion before the first thinking token."""
        return self.output_ids(self._opening)

    def opening_identity(self) -> dict[str, str]:
        """Part of an identity: the opening where the template shortens the configured one, otherwise empty."""
        return {} if self._opening == self._chat.thinking_open else {"opening": self._opening}

    def thinking_end(self) -> list[int]:
        """Token ids of the completion that close the thinking."""
        return list(self._close)

    def split_output(self, text: str) -> tuple[str, str, bool]:
        """`(thinking, response, closed)` of a generated completion; all of it is thinking if it is not closed.

        The first closing tag ends the thinking. Without tags the last blank line does, as thinking may contain others.
        """
        begin, closing = self._begin(text), self._closing(text)
        if closing is None:
            return text[begin:].strip(), "", False
        return text[begin : closing[0]].strip(), text[closing[1] :].strip(), True

    def num_thinking_tokens(self, ids: Sequence[int]) -> int:
        """Number of generated tokens, the opening tag's included, that end before the closing text; all without one.

        They are counted as generated, as tokenizing the text again could merge inserted ones. A binary search decodes
        each token about twice.
        """
        closing = self._closing(self.decoded(ids))
        if closing is None:
            return len(ids)
        low, high, length = 0, len(ids), 0  # `length`: characters of the first `low` tokens
        while low < high:
            middle = (low + high + 1) // 2
            start = max(low - _CONTEXT_TOKENS, 0)
            known, reached = self.decoded(ids[start:low]), self.decoded(ids[start:middle])
            more = length - len(known)
            if more + len(reached.rstrip(_UNFINISHED)) <= closing[0]:
                low, length = middle, more + len(reached)
            else:
                high = middle - 1
        return low

    def decoded(self, ids: Sequence[int]) -> str:
        """Text of generated tokens, in which special tokens are written out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def _begin(self, text: str) -> int:
        """Index of the first character of the thinking, after its opening tag with white space around it."""
        tag, start = self._chat.thinking_open.strip(), len(text) - len(text.lstrip())
        return start + len(tag) if tag and text.startswith(tag, start) else 0

    def _closing(self, text: str) -> tuple[int, int] | None:
        """Range of the closing text in a completion; None if there is none."""
        begin = self._begin(text)
        if self.has_tags:
            mark = self._chat.thinking_close.strip()
            start = text.find(mark, begin)
        else:
            mark = self._chat.thinking_close
            start = text.rstrip().rfind(mark, begin)
        return None if start < 0 else (start, start + len(mark))

    def begins_thinking(self, output: str) -> bool:
        """True if the thinking of a generated completion was opened, by the model or by the template."""
        tag = self._chat.thinking_open.strip()
        return bool(tag) and (output.lstrip().startswith(tag) or self._prompt_opens(tag))

    @cached_property
    def _opening(self) -> str:
        """Text between the prompt and the thinking: the part of `thinking_open` that the template does not write."""
        whole, tag = self._chat.thinking_open, self._chat.thinking_open.strip()
        if not tag or not self._prompt_opens(tag):  # the templates of R1's distilled models and QwQ do
            return whole
        written = self._example_prompt.rpartition(tag)[2]  # white space
        rest = whole.partition(tag)[2]
        return rest.removeprefix(written) if rest.startswith(written) else ""

    def _prompt_opens(self, tag: str) -> bool:
        return self._example_prompt.rstrip().endswith(tag)

    @cached_property
    def _example_prompt(self) -> str:
        """Any prompt, as all prompts have the same end."""
        return self._prompt("?")
