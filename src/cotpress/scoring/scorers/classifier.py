"""The keep/drop token classifier behind TokenSkip: finding it, reading windows of text, keep probabilities.

A published classifier (hub id or directory) is used as it is. With `train=true` an encoder gets a fresh two-class
head and is fine-tuned on the distilled labels first (classifier_training.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.devices.memory import smaller_batches
from cotpress.errors import ConfigError, ModelError
from cotpress.modeling.alignment import encode_plainly, tokenize_with_offsets
from cotpress.modeling.foreign import reading
from cotpress.modeling.loading import quiet_transformers, without_limits
from cotpress.modeling.sources import PACKAGE_PREFIX, directory_sha256, model_directory, package_folder, source_identity
from cotpress.scoring.config import TokenskipConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KEEP = 1
"""Index of the class that means keep, as in the published LLMLingua-2 models."""

_Part = tuple[int, NDArray[np.int32]]
"""Index of a text, and the token ids of one of its windows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A text in the encoder's tokens.

    Attributes:
        token_ids: int32 `[n]`, without special tokens.
        offsets: int32 `[n, 2]`, covering the text.
        word_ids: int64 `[n]`, ascending: the pre-tokenizer's word each token belongs to.
    """

    token_ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    word_ids: NDArray[np.int64]


def encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> Encoded:
    """`text` in the encoder's tokens."""
    ids, offsets = tokenize_with_offsets(tokenizer, text)
    words: list[int | None] = encode_plainly(tokenizer, text).word_ids()
    # A token that was added to the tokenizer belongs to no word: it is its own.
    known = np.array([-1 if w is None else w for w in words], dtype=np.int64)
    starts = np.ones(len(known), dtype=np.bool_)
    starts[1:] = (known[1:] != known[:-1]) | (known[1:] < 0)
    return Encoded(token_ids=ids, offsets=offsets, word_ids=np.cumsum(starts) - 1)


def windows(word_ids: NDArray[np.int64], window_tokens: int) -> list[slice]:
    """Consecutive ranges of at most `window_tokens` tokens, cut between words where a word fits a window."""
    starts = np.flatnonzero(np.diff(word_ids, prepend=-1))
    found, begin = [], 0
    while begin < len(word_ids):
        limit = begin + window_tokens
        if limit < len(word_ids):
            at = int(starts[np.searchsorted(starts, limit, side="right") - 1])
            limit = at if at > begin else limit
        found.append(slice(begin, min(limit, len(word_ids))))
        begin = limit
    return found


class Classifier:
    """A token classifier with its tokenizer."""

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", window_tokens: int) -> None:
        """Raises ConfigError if the windows are longer than the encoder can read."""
        self.model, self.tokenizer = model, tokenizer
        limit = min(int(model.config.max_position_embeddings), int(tokenizer.model_max_length))
        if not 1 <= window_tokens <= limit - 2:
            raise ConfigError(f"scorer.window_tokens: got {window_tokens}, this encoder allows 1 to {limit - 2}")
        self.window_tokens = window_tokens

    def batch(self, windows_ids: Sequence[NDArray[np.int32]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and attention mask, int64 `[B, L]`, of windows between the encoder's two special tokens."""
        first, last = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        longest = max(map(len, windows_ids)) + 2
        ids = torch.full((len(windows_ids), longest), int(self.tokenizer.pad_token_id), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, window in enumerate(windows_ids):
            whole = torch.tensor([first, *window.tolist(), last])
            ids[row, : len(whole)] = whole
            mask[row, : len(whole)] = 1
        return ids, mask

    def keep_probabilities(self, texts: Sequence[Encoded], tokens_per_batch: int) -> Iterator[NDArray[np.float32]]:
        """Yields P(keep) of every token, float32 `[n]` in [0, 1], one array per text, in order."""
        parts = [
            (owner, text.token_ids[part])
            for owner, text in enumerate(texts)
            for part in windows(text.word_ids, self.window_tokens)
        ]
        scored: list[list[NDArray[np.float32]]] = [[np.empty(0, dtype=np.float32)] for _ in texts]
        finished = 0
        smaller = smaller_batches(self.model, "classifying tokens")
        for batch in _batches(parts, tokens_per_batch):
            for (owner, _), values in zip(batch, smaller.run([ids for _, ids in batch], self._score, len), strict=True):
                scored[owner].append(values)
            last_owner = batch[-1][0]  # may have more windows to come; all texts before it are complete
            yield from map(np.concatenate, scored[finished:last_owner])
            finished = last_owner
        yield from map(np.concatenate, scored[finished:])

    @torch.inference_mode()
    def _score(self, parts: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
        ids, mask = self.batch(parts)
        logits = self.model(
            input_ids=ids.to(self.model.device), attention_mask=mask.to(self.model.device)
        ).logits.float()
        keep = logits.softmax(dim=-1)[..., KEEP].cpu().numpy()
        return [keep[row, 1 : len(part) + 1] for row, part in enumerate(parts)]


def _batches(parts: Sequence[_Part], tokens_per_batch: int) -> Iterator[list[_Part]]:
    """Consecutive windows whose padded size, special tokens included, is within the budget; at least one."""
    batch: list[_Part] = []
    longest = 0
    for part in parts:
        longest = max(longest, len(part[1]) + 2)
        if batch and longest * (len(batch) + 1) > tokens_per_batch:
            yield batch
            batch, longest = [], len(part[1]) + 2
        batch.append(part)
    if batch:
        yield batch


def encoder_directory(path: str) -> Path:
    """The folder of an encoder: `package:NAME`, a local directory or a hub id.

    Raises:
        ModelError: It cannot be found.
    """
    if not path.startswith(PACKAGE_PREFIX):
        return model_directory(path, key="scorer.path")
    package = path.removeprefix(PACKAGE_PREFIX)
    folder = package_folder(package)
    found = sorted({p.parent for p in folder.rglob("*.safetensors") if (p.parent / "config.json").is_file()})
    if len(found) != 1:
        raise ModelError(
            f"the Python package '{package}' should carry one folder with config.json and safetensors weights, "
            f"got {[str(p.relative_to(folder)) for p in found]}. Fix: reinstall it, or give scorer.path=DIR"
        )
    return found[0]


def encoder_identity(path: str) -> dict[str, str]:
    """What determines an encoder's files."""
    if path.startswith(PACKAGE_PREFIX):
        return {"directory": directory_sha256(encoder_directory(path))}
    return source_identity(path, key="scorer.path")


def load_classifier(folder: Path, config: TokenskipConfig, *, new_head: bool, device: torch.device) -> Classifier:
    """A token classifier in eval mode, float32.

    Args:
        folder: Weights, config and tokenizer.
        config: Settings of the scorer.
        new_head: Give an encoder a fresh two-class head (drawn from torch's random state); otherwise the
            folder must hold a complete two-class token classifier.
        device: Where the weights end up.

    Raises:
        ModelError: It cannot be loaded, or is no two-class token classifier.
    """
    from transformers import AutoModelForTokenClassification, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # the report of a head that is new on purpose
    try:
        with reading(f"'{config.path}' cannot be loaded as a token classifier from {folder}"), quiet_transformers():
            loaded: Any = AutoModelForTokenClassification.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True,
                output_loading_info=True,
                **({"num_labels": 2} if new_head else {}),
            )  # fmt: skip
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    finally:
        transformers_logging.set_verbosity(verbosity)
    model, info = loaded
    if not new_head and (info["missing_keys"] or model.config.num_labels != 2):
        raise ModelError(
            f"'{config.path}' is no finished keep/drop classifier ({model.config.num_labels} labels, without weights: "
            f"{sorted(info['missing_keys'])}). Fix: scorer.train=true trains a head on the distilled labels"
        )
    model.to(device).eval()
    return Classifier(model, without_limits(tokenizer), config.window_tokens)
