r"""Thinking tags: the division of a model's output into thinking and response.

A tag is never a part of a thinking or response, whose tokens are scored, cut and trained:

- `<think>...</think>` (R1, QwQ, Qwen3, and the layouts in `_PAIRS`): the text between the tags is the thinking, the
  text after them the response. The opening may be missing, as some chat templates write it at the end of the prompt.
- `<|begin_of_thought|>...<|end_of_thought|>` (OpenThoughts, Bespoke-Stratos), whose response may stand between
  `<|begin_of_solution|>` and `<|end_of_solution|>`.
- `<|channel|>analysis<|message|>...<|end|>...<|channel|>final<|message|>...<|return|>` (harmony, the format of
  gpt-oss), also as its tokenizer decodes it without special tokens: `analysis...assistantfinal...`.

White space at the borders is left out. A text counts as it is written: a tag that is only mentioned, in code or LaTeX,
is a tag as well. R1's `<answer>` is no thinking tag. An empty thinking block gives an empty thinking.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from cotpress.data.rows import BadRow
from cotpress.records import Trace

_NAMES = ("think", "thinking", "thought", "reasoning", "seed:think")
_PAIRS = {f"<{name}>": f"</{name}>" for name in _NAMES} | {
    "[think]": "[/think]",
    "\u25c1think\u25b7": "\u25c1/think\u25b7",
    "<|begin_of_thought|>": "<|end_of_thought|>",
}
"""Tags that open and close a thinking, in lower case."""
_SOLUTION = ("<|begin_of_solution|>", "<|end_of_solution|>")
_TAG = re.compile(
    rf"(?i:</?(?:{'|'.join(_NAMES)})>|<\|(?:begin|end)_of_thought\|>|\u25c1/?think\u25b7)"
    r"|\[/?THINK\]"  # in lower case it is a word of a text
)
_HARMONY = re.compile(r"<\|(?:channel|message)\|>")
_DECODED_HARMONY = re.compile(r"\s*analysis(?=\S)(?P<thinking>.*?)assistantfinal(?P<response>.*)", re.DOTALL)
_DECODED_OPENING = re.compile(r"\s*analysis(?=[A-Z\u4e00-\u9fff])")
"""The start of such a text; in English `analysis` stands before a space."""
_MESSAGE = re.compile(
    r"\s*(?:<\|start\|>assistant)?<\|channel\|>\s*(?P<channel>\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"(?P<text>.*?)(?P<end><\|end\|>|<\|return\|>|<\|call\|>|(?=<\|(?:start|channel)\|>)|\Z)",
    re.DOTALL,
)
_MARKER = re.compile(r"<\|eot_id\|>\s*\d*\.?\d+\s*<\|eot_id\|>")
"""TokenSkip's ratio marker; see `ChatConfig.ratio_marker`."""
_ANSWER_BEGINS = re.compile(
    r"(?:<\|im_start\|>assistant|<\|start_header_id\|>assistant<\|end_header_id\|>|<\|start\|>assistant|\[/INST\]"
    r"|<start_of_turn>model|<\uff5cAssistant\uff5c>|<\|assistant\|>)\s*(?:<think>\s*)?\Z"
)
"""The end of a prompt that a chat template has rendered (ChatML, Llama 3, gpt-oss, Mistral, Gemma, DeepSeek, Phi)."""
_ALLOWED = "one thinking, then a response: <think>...</think>..."


def has_tags(text: str) -> bool:
    """True if a text holds a thinking tag, a tag of a solution, or a channel."""
    return (
        _TAG.search(text) is not None
        or _HARMONY.search(text) is not None
        or any(tag in text for tag in _SOLUTION)
        or _DECODED_OPENING.match(text) is not None
        or _DECODED_HARMONY.match(text) is not None
    )


def divided(thinking: str, response: str) -> tuple[str, str]:
    """Thinking and response without tags; texts without tags stay as they are.

    Tags in the response divide it, if there is no thinking or if it repeats the thinking. Tags around the thinking are
    stripped; the text after them is the response, if there is none.

    Raises:
        BadRow: The thinking is not closed, nested or there twice, or there is text in front of it; or nothing is left
            of it between its tags.
    """
    if not has_tags(thinking) and not has_tags(response):
        return thinking, response
    if has_tags(thinking):
        own, rest = divide(thinking)
        if rest and response.strip() and rest != response.strip():
            raise _bad("text after the thinking", rest, "nothing after its closing tag, or the response")
        thinking, response = own, response if response.strip() else rest
    if has_tags(response):
        own, rest = divide(response)
        if own and thinking.strip() and own != thinking.strip():
            raise _bad("more than one thinking", own, "tags in the response only if it repeats the thinking")
        thinking, response = thinking if thinking.strip() else own, rest
    if not thinking.strip():
        raise BadRow("empty thinking", field="thinking", got="nothing between its tags", allowed="text")
    if has_tags(thinking) or has_tags(response):  # such as those of a solution inside the thinking
        raise _bad("misplaced tags", f"{thinking} ... {response}", _ALLOWED)
    return thinking, response


def apart(thinking: Any, response: Any) -> tuple[Any, Any]:
    """As `divided`, for values of a row; without tags, or of a type that the reader refuses, they stay as they are."""
    if not isinstance(thinking, str | None) or not isinstance(response, str | int | float | None):
        return thinking, response
    given = "" if response is None else str(response)
    thought, rest = divided(thinking or "", given)
    return thinking if thought == (thinking or "") else thought, response if rest == given else rest


def check_question(question: Any) -> None:
    """Raise a `BadRow` for a question with a ratio marker, whose thinking is compressed already, or a whole prompt."""
    if not isinstance(question, str):
        return
    if _ANSWER_BEGINS.search(question[-100:]):
        raise BadRow(
            "a rendered prompt in place of the question", field="question", got=repr(question[-60:]),
            allowed="the text of the user's turn alone; the chat template of the model is put around it",
        )  # fmt: skip
    if _MARKER.search(question):
        raise BadRow(
            "already compressed (a ratio marker is in the question)", field="question", got=repr(question[-60:]),
            allowed="an uncompressed trace",
        )  # fmt: skip


def without_tags(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a row of the standard columns without thinking tags in its texts; response and answer may be missing."""
    check_question(row.get("question"))
    texts = row.get("thinking"), row.get("response")
    parts = apart(*texts)
    own = {} if parts == texts else {"thinking": parts[0], "response": parts[1]}
    yield {"response": None, "answer": None, **row, **own}


def divide(text: str) -> tuple[str, str]:
    """`(thinking, response)` of an output; the thinking is empty if there is none.

    Raises:
        BadRow: See `divided`.
    """
    if _HARMONY.search(text):
        return _divide_channels(text)
    if decoded := _DECODED_HARMONY.match(text):
        text = f"<think>{decoded['thinking']}</think>{decoded['response']}"
    elif _DECODED_OPENING.match(text):
        raise _bad("thinking is not closed", text[-60:], "assistantfinal after the channel analysis")
    tags = list(_TAG.finditer(text))
    if not tags:
        return "", _solution(text)
    names = [tag[0].lower() for tag in tags]
    start = 0
    if names[0] in _PAIRS:
        if text[: tags[0].start()].strip():
            raise _bad("text before the thinking", text, "nothing before its opening tag")
        start, opening = tags[0].end(), names.pop(0)
        if names[:1] and names[0] in _PAIRS:
            raise _bad("nested thinking tags", text[start:], _ALLOWED)
        if names[:1] != [_PAIRS[opening]]:
            raise _bad("thinking is not closed", text[-60:], f"{_PAIRS[opening]} after the thinking")
    if len(names) > 1:
        reason = "more than one thinking" if names[1] in _PAIRS else "thinking is closed twice"
        raise _bad(reason, " ".join(tag[0] for tag in tags), _ALLOWED)
    close = tags[-1]
    return text[start : close.start()].strip(), _solution(text[close.end() :])


def response_of(output: str) -> str:
    """The text of an output after its thinking: all of it without tags, nothing if the thinking was left open.

    Of an output with tags in another order, the first closing tag ends the thinking, as in the evaluation.
    """
    try:
        return divide(output)[1]
    except BadRow:
        closing = next((tag for tag in _TAG.finditer(output) if tag[0].lower() not in _PAIRS), None)
        return "" if closing is None else output[closing.end() :].strip()


def untagged(trace: Trace, *, is_labelled: bool = False) -> Trace:
    """The trace without thinking tags in its texts.

    All sources of traces and truths pass here, also those that divide nothing themselves. If there are labels of
    characters of the thinking, in the trace or elsewhere (`is_labelled`), nothing can be removed from it.

    Raises:
        BadRow: The texts cannot be divided, or labels would be lost.
    """
    thinking, response = divided(trace.thinking, trace.response)
    if (thinking, response) == (trace.thinking, trace.response):
        return trace
    if (trace.spans or is_labelled) and thinking != trace.thinking:
        raise _bad("thinking tags in a labelled thinking", trace.thinking, "a thinking without its tags")
    return replace(trace, thinking=thinking, response=response)


def _solution(text: str) -> str:
    """The text between the tags of a solution, or all of a text without them."""
    text = text.strip()
    opening, close = _SOLUTION
    if opening not in text and close not in text:
        return text
    if text.count(opening) != 1 or text.count(close) > 1:
        raise _bad("more than one solution", text, f"one text between {opening} and {close}")
    if not text.endswith(close):
        reason = "text after the solution" if close in text else "response is not closed"
        raise _bad(reason, text[-60:], f"{close} at the end")
    if not text.startswith(opening):
        raise _bad("text before the solution", text, f"{opening} after the thinking")
    return text.removeprefix(opening).removesuffix(close).strip()


def _divide_channels(text: str) -> tuple[str, str]:
    """Thinking (channel `analysis`) and response (`final`) of an output in the harmony format."""
    channels: dict[str, str] = {}
    at = 0
    while message := _MESSAGE.match(text, at):
        channel, at = message["channel"], message.end()
        if channel not in ("analysis", "final"):
            raise _bad("a channel other than analysis and final", channel, "analysis, then final")
        if channel in channels:
            raise _bad("more than one thinking", text, "one message in the channel analysis, one in final")
        if channel == "analysis" and not message["end"] and at == len(text):
            raise _bad("thinking is not closed", text[-60:], "<|end|> after the channel analysis")
        channels[channel] = message["text"].strip()
    if text[at:].strip() or not channels:
        reason = "text outside of the channels" if channels else "text before the thinking"
        raise _bad(reason, text[at:], "<|channel|>analysis<|message|>...<|end|>")
    thinking, response = channels.get("analysis", ""), channels.get("final", "")
    if has_tags(thinking) or has_tags(response):
        raise _bad("nested thinking tags", text, "channels without other tags")
    return thinking, response


def _bad(reason: str, text: str, allowed: str) -> BadRow:
    return BadRow(reason, got=repr(text.strip()[:60]), allowed=allowed)
