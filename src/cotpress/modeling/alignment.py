"""Characters of tokens: offsets, projection of scores from one tokenizer to another, text of kept tokens.

All positions count Unicode code points, half open. Offsets from `tokenize_with_offsets` cover the whole text, so
`kept_text` with every token kept is the text itself. `decoded_text` is the text of kept ids, where the two may differ.
"""

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cotpress.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenize_with_offsets(
    tokenizer: "PreTrainedTokenizerBase", text: str
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the token ids of `text`, int32 `[n]`, and the characters of each token, int32 `[n, 2]`; see `cover`.

    No special token is added, and one spelled out in the text (`<|im_end|>`) is split into ordinary tokens: as a token,
    an end of turn inside a thinking would teach a student to stop there. Added tokens that are not special (`<think>`
    in some tokenizers) stay whole. Pieces of one multi-byte character share it, so neighbouring ranges may overlap.

    Raises:
        ModelError: The tokenizer cannot give offsets.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"tokenizer {type(tokenizer).__name__} gives no character offsets. Fix: use a model with a fast tokenizer "
            "(a tokenizer.json beside its weights)"
        )
    encoded = encode_plainly(tokenizer, text, return_offsets_mapping=True)
    ids = np.asarray(encoded["input_ids"], dtype=np.int32)
    offsets = np.asarray(encoded["offset_mapping"], dtype=np.int32).reshape(-1, 2)
    return ids, cover(offsets, len(text))


def encode_plainly(tokenizer: "PreTrainedTokenizerBase", text: str, **options: Any) -> Any:
    """Encode `text` as `tokenize_with_offsets` does, with further options of the tokenizer."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False, **options)


def cover(offsets: NDArray[np.int32], num_chars: int) -> NDArray[np.int32]:
    """Extend offsets so that they cover every character: uncovered ones go to the next token, at the end to the last.

    Some tokenizers trim the leading space from a token's range (GPT-2 style `trim_offsets`), others drop white space
    altogether (WordPiece); text rebuilt from such ranges would lack it. The starts, `[n, 0]`, are in ascending order.
    """
    if len(offsets) == 0:
        return offsets
    reached = np.maximum.accumulate(offsets[:, 1])
    covering = offsets.copy()
    covering[0, 0] = 0
    covering[1:, 0] = np.minimum(offsets[1:, 0], reached[:-1])
    if reached[-1] < num_chars:
        covering[-1, 1] = num_chars
    return covering


def project_scores(
    source_offsets: NDArray[np.int32],
    source_scores: NDArray[np.float32],
    target_offsets: NDArray[np.int32],
    num_chars: int,
) -> NDArray[np.float32]:
    """Project scores of one tokenizer's tokens to another tokenizer's tokens, through the shared characters.

    A character's score is the mean over the source tokens on it; a target token's score is the mean over its scored
    characters. A target token without one gets the mean of the nearest scored target tokens on either side.

    Source offsets are int32 `[n, 2]`, source scores float32 `[n]`, target offsets int32 `[m, 2]`, the result is float32
    `[m]`; `num_chars` is the length of the text.

    Raises:
        ValueError: No character is scored, but there are target tokens.
    """
    if len(target_offsets) == 0:
        return np.empty(0, dtype=np.float32)
    owners, chars = _expand(source_offsets)
    char_scores, scored = _means(source_scores[owners], chars, num_chars)
    owners, chars = _expand(target_offsets)
    owners, chars = owners[scored[chars]], chars[scored[chars]]
    means, known = _means(char_scores[chars], owners, len(target_offsets))
    return _fill_from_neighbours(means, known).astype(np.float32)


def kept_text(text: str, offsets: NDArray[np.int32], keep_mask: NDArray[np.bool_]) -> str:
    """Return the characters of the kept tokens, in order, each once."""
    bounds = [np.bincount(offsets[keep_mask, side], minlength=len(text) + 1) for side in (0, 1)]
    kept = np.cumsum(bounds[0] - bounds[1])[: len(text)] > 0
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")[kept].tobytes().decode("utf-32-le")


def decoded_text(
    tokenizer: "PreTrainedTokenizerBase",
    text: str,
    ids: NDArray[np.int32],
    offsets: NDArray[np.int32],
    keep_mask: NDArray[np.bool_],
) -> str:
    """Return the text that the kept token ids of `text` stand for; every character's tokens are kept or not together.

    It is `kept_text`, except where the tokenizer writes the same text in other characters: Qwen's makes one of a letter
    and its combining accent (Unicode NFC). There the kept ids are decoded. A tokenizer that changes case or white space
    cannot give back what it has read, and the text is that of the kept characters.
    """
    whole = decode(tokenizer, ids)
    if whole != text and unicodedata.normalize("NFKC", whole) == unicodedata.normalize("NFKC", text):
        return decode(tokenizer, ids[keep_mask])
    return kept_text(text, offsets, keep_mask)


def retokenized(tokenizer: "PreTrainedTokenizerBase", text: str) -> tuple[str, NDArray[np.int32]]:
    """Return the tokens of a text, int32 `[n]`, after the text that they stand for, as `decoded_text` gives it."""
    ids, offsets = tokenize_with_offsets(tokenizer, text)
    return decoded_text(tokenizer, text, ids, offsets, np.ones(len(ids), dtype=np.bool_)), ids


def decode(tokenizer: "PreTrainedTokenizerBase", ids: NDArray[np.int32]) -> str:
    """Return the text of token ids, special tokens included, without the clean-up of spaces that some settings ask."""
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def spans_to_mask(offsets: NDArray[np.int32], spans: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """Return the mask of tokens whose last character lies in one of the spans, bool `[n]`.

    It selects the training tokens of reference models and classifiers. It differs from `segments.owners` in tokens that
    end in white space, and stays as it is because existing fingerprints of trained models stand for its selection.
    """
    starts, ends = offsets[:, 0], offsets[:, 1]
    inside = np.zeros(ends.max(initial=0) + 1, dtype=np.bool_)
    for start, end in spans:
        inside[start:end] = True
    return (starts < ends) & inside[ends - 1]


def pool(values: NDArray[np.float32], group_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Replace each value by the mean of its group, float32 `[n]`; `group_ids` are non-negative, `[n]`."""
    return _means(values, group_ids)[0][group_ids].astype(np.float32)


def _means(
    values: NDArray[np.floating[Any]], groups: NDArray[np.int64], num_groups: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the mean of every group, 0 for an empty one, and the mask of groups that are not empty."""
    counts = np.bincount(groups, minlength=num_groups)
    sums = np.bincount(groups, weights=values, minlength=num_groups)
    return sums / np.maximum(counts, 1), counts > 0


def _expand(offsets: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return every (token, character) pair of the ranges, as two int64 arrays."""
    lengths = (offsets[:, 1] - offsets[:, 0]).astype(np.int64)
    owners = np.repeat(np.arange(len(offsets)), lengths)
    first_pair = np.cumsum(lengths) - lengths
    return owners, np.arange(len(owners)) - first_pair[owners] + offsets[owners, 0]


def _fill_from_neighbours(values: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not known.any():
        raise ValueError("no character of the text is scored: there is nothing to project")
    index = np.arange(len(values))
    before = np.maximum.accumulate(np.where(known, index, -1))
    after = np.minimum.accumulate(np.where(known, index, len(values))[::-1])[::-1]
    left = np.where(before >= 0, before, after)
    right = np.where(after < len(values), after, before)
    return np.where(known, values, (values[left % len(values)] + values[right % len(values)]) / 2)
