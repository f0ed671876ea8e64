"""Characters of tokens: offsets, projection of scores from one tokenizer to another, text of kept tokens.

All positions count Unicode code points, half open. Offsets from `tokenize_with_offsets` cover the whole text, so
`kept_text` with every token kept is the text itself.
"""

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
    """Return the token ids of `text` and the characters of each token, without special tokens.

    No special token is added, and one spelled out in the text (`<|im_end|>`) is split into ordinary tokens: as a token,
    an end of turn inside a thinking would teach a student to stop there. Added tokens that are not special (`<think>`
    in some tokenizers) stay whole.

    Returns:
        Token ids, int32 `[n]`, and offsets, int32 `[n, 2]`. Pieces of one multi-byte character share it, so
        neighbouring ranges may overlap. See `cover` for characters that the tokenizer reports for no token.

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
    altogether (WordPiece); text rebuilt from such ranges would lack it.

    Args:
        offsets: int32 `[n, 2]`, starts in ascending order.
        num_chars: Length of the text.
    """
    if len(offsets) == 0:
        return offsets
    reached = np.concatenate([[0], np.maximum.accumulate(offsets[:, 1])]).astype(np.int32)
    starts = np.minimum(offsets[:, 0], reached[:-1])
    ends = offsets[:, 1].copy()
    if reached[-1] < num_chars:
        ends[-1] = num_chars
    return np.stack([starts, ends], axis=1)


def project_scores(
    source_offsets: NDArray[np.int32],
    source_scores: NDArray[np.float32],
    target_offsets: NDArray[np.int32],
    num_chars: int,
) -> NDArray[np.float32]:
    """Project scores of one tokenizer's tokens to another tokenizer's tokens, through the shared characters.

    A character's score is the mean over the source tokens on it; a target token's score is the mean over its scored
    characters. A target token without one gets the mean of the nearest scored target tokens on either side.

    Args:
        source_offsets: int32 `[n, 2]`.
        source_scores: float32 `[n]`.
        target_offsets: int32 `[m, 2]`.
        num_chars: Length of the text.

    Returns:
        float32 `[m]`.

    Raises:
        ValueError: No character is scored, but there are target tokens.
    """
    if len(target_offsets) == 0:
        return np.empty(0, dtype=np.float32)
    owners, chars = _expand(source_offsets)
    counts = np.bincount(chars, minlength=num_chars)
    sums = np.bincount(chars, weights=source_scores.astype(np.float64)[owners], minlength=num_chars)
    sums = sums.astype(np.float64)  # bincount of nothing is an integer array
    char_scores = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)

    owners, chars = _expand(target_offsets)
    scored = counts[chars] > 0
    owners, chars = owners[scored], chars[scored]
    num_scored = np.bincount(owners, minlength=len(target_offsets))
    totals = np.bincount(owners, weights=char_scores[chars], minlength=len(target_offsets)).astype(np.float64)
    means = np.divide(totals, num_scored, out=np.zeros_like(totals), where=num_scored > 0)
    return _fill_from_neighbours(means, num_scored > 0).astype(np.float32)


def kept_text(text: str, offsets: NDArray[np.int32], keep_mask: NDArray[np.bool_]) -> str:
    """Return the characters of the kept tokens, in order, each once."""
    edges = np.zeros(len(text) + 1, dtype=np.int64)
    np.add.at(edges, offsets[keep_mask, 0], 1)
    np.add.at(edges, offsets[keep_mask, 1], -1)
    kept = np.concatenate([[False], np.cumsum(edges[:-1]) > 0, [False]])
    borders = np.flatnonzero(kept[1:] != kept[:-1]).tolist()
    return "".join(text[a:b] for a, b in zip(borders[::2], borders[1::2], strict=True))


def spans_to_mask(offsets: NDArray[np.int32], spans: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """Return the mask of tokens whose last character lies in one of the spans, bool `[n]`.

    It selects the training tokens of reference models and classifiers. It differs from `segments.owners` in tokens that
    end in white space, and stays as it is because existing fingerprints of trained models stand for its selection.
    """
    if len(offsets) == 0:
        return np.zeros(0, dtype=np.bool_)
    num_chars = max([int(offsets[:, 1].max()), *(end for _, end in spans)])
    inside = np.zeros(num_chars, dtype=np.bool_)
    for start, end in spans:
        inside[start:end] = True
    nonempty = offsets[:, 1] > offsets[:, 0]
    return nonempty & inside[np.maximum(offsets[:, 1] - 1, 0)] if num_chars else nonempty


def pool(values: NDArray[np.float32], group_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Replace each value by the mean of its group, float32 `[n]`; `group_ids` are non-negative, `[n]`."""
    if len(values) == 0:
        return np.empty(0, dtype=np.float32)
    sums = np.bincount(group_ids, weights=values.astype(np.float64))
    means = sums / np.maximum(np.bincount(group_ids), 1)
    return means[group_ids].astype(np.float32)


def _expand(offsets: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return every (token, character) pair of the ranges, as two int64 arrays."""
    lengths = (offsets[:, 1] - offsets[:, 0]).astype(np.int64)
    owners = np.repeat(np.arange(len(offsets), dtype=np.int64), lengths)
    first_pair = np.cumsum(lengths) - lengths
    chars = np.arange(len(owners), dtype=np.int64) - first_pair[owners] + offsets[owners, 0]
    return owners, chars


def _fill_from_neighbours(values: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not known.any():
        raise ValueError("no character of the text is scored: there is nothing to project")
    index = np.arange(len(values))
    before = np.maximum.accumulate(np.where(known, index, -1))
    after = np.minimum.accumulate(np.where(known, index, len(values))[::-1])[::-1]
    left = np.where(before >= 0, before, after)
    right = np.where(after < len(values), after, before)
    return np.where(known, values, (values[left % len(values)] + values[right % len(values)]) / 2)
