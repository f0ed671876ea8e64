"""A text that is read piece by piece, while what was read last may change: its beginning stays in the cache.

Shape suffixes: L positions, D hidden size, V vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from cotpress.modeling.head import target_logprobs
from cotpress.modeling.loading import split_head

if TYPE_CHECKING:
    from transformers import DynamicCache


class Rereader:
    """Reads token ids after those in its key-value cache; positions are those in the text as it then is.

    Args:
        model: A causal language model in eval mode.

    Raises:
        ModelError: The architecture cannot be split into body and head.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._split = split_head(model)
        self._device = next(model.parameters()).device
        self._cache = self._empty()

    @property
    def num_read(self) -> int:
        """Tokens in the cache."""
        return int(self._cache.get_seq_length())

    @torch.inference_mode()
    def surprisals(self, ids: Sequence[int] | NDArray[np.int32], num_unscored: int = 0) -> NDArray[np.float32]:
        """-log p(ids_i+1 | cache, ids_<=i) in nats, float32 `[len(ids) - num_unscored - 1]`; the ids are then cached.

        The logits of the whole text never exist, only those of a bounded number of positions.

        Args:
            ids: At least one token.
            num_unscored: Tokens at the beginning of `ids` that are read only: the first number is that of the token
                two places after them, seen from the one next to them.
        """
        ids_1L = torch.as_tensor(np.asarray(ids, dtype=np.int64), device=self._device)[None]
        output = self._split.decoder(input_ids=ids_1L, past_key_values=self._cache, use_cache=True)
        hidden_LD = output.last_hidden_state[0, num_unscored:-1]
        targets_L = ids_1L[0, num_unscored + 1 :]
        values: NDArray[np.float32] = -target_logprobs(self._split.head, hidden_LD, targets_L).cpu().numpy()
        return values

    def forget_after(self, num_tokens: int) -> None:
        """Keep the first `num_tokens` of the cache; what is read next follows them."""
        assert num_tokens <= self.num_read
        if num_tokens == 0:
            self._cache = self._empty()
        else:
            self._cache.crop(num_tokens - self.num_read)

    @staticmethod
    def _empty() -> "DynamicCache":
        from transformers import DynamicCache

        # Without the model's config: every layer keeps everything, so that the end can be cut off anywhere.
        return DynamicCache()
