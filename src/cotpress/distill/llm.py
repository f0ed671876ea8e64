"""What a language model is asked to copy out of a thinking text, and what it answered.

The instruction follows LLMLingua-2 (arXiv 2403.12968, section 3.1: only delete, keep the order, change nothing, add
nothing), with another aim: not whatever can be reconstructed, but what the answer is derived from. CTS (arXiv
2505.17827) does not publish its instruction. Long thinking is asked for in chunks, as there (512 tokens), because
models cut long texts ever shorter.
"""

import itertools
import re

from cotpress.distill.alignment import words
from cotpress.generation.base import Message
from cotpress.modeling.segments import step_ranges
from cotpress.records import Trace

PROMPT_VERSION = 1
"""Raise it with every change of the texts below: extractions of another instruction are other extractions."""

_SYSTEM = "You shorten chains of thought by deleting words."
_RULES = """\
Below stand a problem and a part of the reasoning about it. Copy from the reasoning only the words that are needed to \
derive the answer, and delete all others.

1. Only delete. Keep the order of what is left.
2. Do not change a word: 'divided' -> 'divide' is wrong.
3. Do not add words or symbols and do not abbreviate: '30 plus 20 equals 50' -> '30 + 20 = 50' is wrong.
4. Keep numbers, operators and formulas of every step that is needed exactly as they are written.
5. Delete hesitation, restated questions, repetitions, checks of what is known already, and attempts that are given up.
6. Write only what is left, without a comment. If nothing of it is needed, write NONE."""
_NONE = "NONE"
_FENCED = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.DOTALL)


def conversation(trace: Trace, start: int, end: int, *, show_response: bool) -> list[Message]:
    """The question to the language model about `trace.thinking[start:end]`.

    Args:
        trace: The solved problem.
        start: First character of the chunk.
        end: One past its last character.
        show_response: Show the written response too, if there is one.
    """
    parts = [_RULES, f"Problem:\n{trace.question.strip()}"]
    if show_response and trace.response.strip():
        parts.append(f"Solution:\n{trace.response.strip()}")
    parts.append(f"Reasoning:\n{trace.thinking[start:end].strip()}")
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "\n\n".join(parts)}]


def extracted_text(answer: str) -> str:
    """The copied words in a model's answer: without its own thinking, a fence around them, or the word for nothing."""
    text = answer.rpartition("</think>")[2].strip()
    fenced = _FENCED.match(text)
    text = fenced[1].strip() if fenced else text
    return "" if text.rstrip(".") == _NONE else text


def chunk_ranges(text: str, chunk_words: int) -> list[tuple[int, int]]:
    """Consecutive character ranges that cover `text`, of at most `chunk_words` words each, cut where steps end.

    A single step with more words is cut between words. White space alone has no chunk.
    """
    if not text.strip():
        return []
    chunks: list[tuple[int, int]] = []
    room = 0
    for start, end in step_ranges(text):
        ends = [start + word.end for word in words(text[start:end])]
        if chunks and len(ends) <= room:
            chunks[-1] = (chunks[-1][0], end)
            room -= len(ends)
            continue
        cuts = [start, *ends[chunk_words - 1 : -1 : chunk_words], end]
        chunks += itertools.pairwise(cuts)
        room = chunk_words - (len(ends) - 1) % chunk_words - 1
    return chunks
