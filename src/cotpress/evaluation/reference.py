"""Outputs counted in another tokenizer: CTS counts those of every model with that of Qwen2.5-7B-Instruct.

Counted when results are read and not when answers are generated: the tokenizer determines no answer, so another one
asks no student again.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from cotpress.errors import ConfigError, CotpressError
from cotpress.modeling.sources import tokenizer_directory
from cotpress.records import Prediction

CountTokens = Callable[[str], int]


def token_counter(tokenizer: str | None) -> CountTokens | None:
    """Counts the tokens of a text, special tokens not added.

    Args:
        tokenizer: Hub id or folder; None counts nothing.

    Raises:
        ConfigError: It cannot be loaded.
    """
    if tokenizer is None:
        return None
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer_directory(tokenizer), local_files_only=True)
    except (CotpressError, OSError, ValueError, ImportError, KeyError) as error:
        raise ConfigError(
            f"evaluation.reference_tokenizer: got '{tokenizer}', which cannot be loaded: {error}. Allowed: a hub id or "
            "a folder that holds a tokenizer. Fix: download it once where there is a network, or give null to count "
            "in the student's own tokenizer only"
        ) from error
    return lambda text: len(loaded(text, add_special_tokens=False, verbose=False)["input_ids"])


def with_reference_tokens(predictions: Sequence[Prediction], count: CountTokens | None) -> list[Prediction]:
    """The predictions with `reference_tokens` filled in; as they are without a counter."""
    if count is None:
        return list(predictions)
    return [replace(p, reference_tokens=count(p.output)) for p in predictions]
