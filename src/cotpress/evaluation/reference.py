"""Outputs counted in another tokenizer: CTS counts those of every model with that of Qwen2.5-7B-Instruct.

Counted when results are read and not when answers are generated: the tokenizer determines no answer, so another one
asks no student again.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from cotpress.errors import ConfigError, ModelError
from cotpress.modeling.foreign import reading
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
        with reading("no tokenizer can be loaded"):
            folder = tokenizer_directory(tokenizer, key="evaluation.reference_tokenizer")
            loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except ModelError as error:
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
