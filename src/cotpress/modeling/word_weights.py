"""Number of tokens of a word in a tokenizer that is neither the scorer's nor, mostly, the student's.

LLMLingua-2 weighs words so when it places its threshold, because it was made to shorten prompts of an OpenAI model.
"""

from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING

from cotpress.errors import ConfigError, install_extra

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPENAI_MODEL = "gpt-3.5-turbo"
METASPACE = "▁"
"""Sign at the beginning of a word in tokenizers of the kind of SentencePiece."""


class WordWeights(Enum):
    """Tokenizer that the length of a word is counted in."""

    tiktoken = "tiktoken"
    """That of gpt-3.5-turbo (cl100k_base), as LLMLingua counts: needs the package tiktoken and its vocabulary."""
    student = "student"
    """The student's own."""


def word_counter(weights: WordWeights, student: "Callable[[], PreTrainedTokenizerBase]") -> Callable[[str], int]:
    """Return the function that counts the tokens of a word; `student` loads the student's tokenizer.

    Raises:
        ConfigError: tiktoken or its vocabulary is not there.
    """
    if weights is WordWeights.student:
        tokenizer = student()

        @cache
        def count(word: str) -> int:
            return max(len(tokenizer(word.replace(METASPACE, " "), add_special_tokens=False)["input_ids"]), 1)

        return count
    fix = "compression.word_weights=student counts in the student's tokenizer instead, which LLMLingua does not"
    try:
        import tiktoken
    except ImportError as error:
        raise ConfigError(
            "compression.word_weights: got tiktoken, but the package is not installed. "
            f"Fix: {install_extra('llmlingua2')}; {fix}"
        ) from error
    try:
        encoding = tiktoken.encoding_for_model(OPENAI_MODEL)
    except Exception as error:  # the vocabulary is downloaded, by requests
        raise ConfigError(
            f"compression.word_weights: tiktoken cannot get its vocabulary of {OPENAI_MODEL}: {type(error).__name__}. "
            "Fix: run once with a network, or let TIKTOKEN_CACHE_DIR name a folder in which tiktoken has stored "
            f"cl100k_base on another machine; {fix}"
        ) from error
    return cache(lambda word: len(encoding.encode(word, disallowed_special=())))
