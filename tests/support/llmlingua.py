"""Outputs of LLMLingua 0.2.2 on long traces, from the data folder beside the checkout."""

import difflib
import json
from typing import Any

import pytest

from support.commands import ROOT

SHARED = ROOT.parent / "shared"
NUM_RELEASED = 18
"""Outputs of the release: six traces at three ratios."""


def released(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """An output of the release with its arguments, and the trace that it was made of; skips the test without them."""
    if not SHARED.is_dir():
        pytest.skip("the data folder is not beside the checkout")
    golden = _rows("golden/llmlingua_cts.jsonl")
    assert len(golden) == NUM_RELEASED
    row = golden[number]
    return row, next(trace for trace in _rows("data/long_cot_ci.jsonl") if trace["id"] == row["id"])


def check_released(tokenizer: Any, text: str, row: dict[str, Any]) -> None:
    """Compare a compressed text with that of the release, token by token."""
    ours, theirs = (tokenizer(own, add_special_tokens=False)["input_ids"] for own in (text, row["compressed"]))
    assert difflib.SequenceMatcher(None, ours, theirs, autojunk=False).ratio() >= 0.99
    assert abs(len(ours) - row["num_compressed_tokens"]) <= 0.01 * row["num_tokens"]


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SHARED / name).read_text(encoding="utf-8").split("\n") if line]
