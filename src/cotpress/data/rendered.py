"""Texts in the form of a chat template: whole conversations as one text, and single texts with the ends of turns.

Files that hold what a model read and wrote, special tokens included, have such texts. Known are the templates of
DeepSeek (R1), ChatML (Qwen and others), Llama 3, Gemma, Phi and Mistral.
"""

import re

_TURN = re.compile(
    r"<\uff5c(?P<deepseek>User|Assistant|System)\uff5c>"
    r"|<\|im_start\|>(?P<chatml>\w+)\n?"
    r"|<\|start_header_id\|>(?P<llama>\w+)<\|end_header_id\|>"
    r"|<start_of_turn>(?P<gemma>\w+)\n?"
    r"|<\|(?P<phi>user|assistant|system)\|>"
    r"|\[(?P<mistral>/?INST)\]"
)
"""The start of a turn, by its template."""
_BEGINNINGS = ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<|begin_of_text|>", "<bos>", "<s>")
ANSWERING = ("assistant", "model")
"""Roles of a model."""
_NAMES = {"inst": "user", "/inst": "assistant"}
_END = re.compile(
    r"(?:\s*(?:<\uff5cend\u2581of\u2581sentence\uff5c>|<\|im_end\|>|<\|eot_id\|>|<\|end_of_text\|>|<\|endoftext\|>"
    r"|<end_of_turn>|<\|end\|>))+\s*\Z"
)
"""Tokens at the end of a turn or a text."""


def rendered_turns(text: str) -> list[dict[str, str]]:
    """The turns of a conversation that is one text, each with `role` and `content`; empty for any other text.

    Before the first turn there may be a token that begins a text, and a system text after it, which are left out, as is
    an answer at the end that has only begun. Only the signs of the template of the first turn divide the text, so
    others may stand in it.
    """
    first = _TURN.search(text)
    before = "" if first is None else text[: first.start()].strip()
    if first is None or (before and not before.startswith(_BEGINNINGS)):
        return []
    signs = [sign for sign in _TURN.finditer(text) if sign.lastgroup == first.lastgroup]
    ends = [sign.start() for sign in signs[1:]] + [len(text)]
    turns = []
    for sign, end in zip(signs, ends, strict=True):
        role = sign[sign.lastgroup or 0].lower()
        content = without_end(text[sign.end() : end]).strip()
        turns.append({"role": _NAMES.get(role, role), "content": content.removesuffix("</s>").rstrip()})
    has_begun = len(turns) > 1 and turns[-1]["role"] in ANSWERING and not turns[-1]["content"].removesuffix("<think>")
    return turns[:-1] if has_begun else turns


def without_end(text: str) -> str:
    """A text without tokens that end a turn at its end."""
    return _END.sub("", text)
