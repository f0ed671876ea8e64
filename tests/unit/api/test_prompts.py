"""Prompt compression: a context is compressed given a question; LLMLingua's own selections give the release's texts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cotpress
from support.llmlingua import NUM_RELEASED, check_released, released
from support.llmlingua2 import save_classifier

CONTEXT = "Room 3 opens at 9. It is blue, and so is the door. The key hangs by the 12 boxes.\n\nRoom 4 is closed."
QUESTION = "When does room 3 open?"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier("bert", tmp_path_factory.mktemp("classifier"))


def test_context_is_compressed_given_a_question(settings: dict[str, Any], classifier: Path) -> None:
    checkpoint = {"path": str(classifier), "train": False}
    for scorer, options in (("cts", {"condition": "question"}), ("llmlingua", {}), ("tokenskip", checkpoint)):
        options = {**options, **settings, "granularity": "token"}
        result = cotpress.compress(CONTEXT, scorer, 0.5, question=QUESTION, **options)
        assert result.row.num_kept_tokens == round(0.5 * result.row.num_tokens)
        rest = iter(CONTEXT)
        assert all(character in rest for character in result.text)
        other = cotpress.compress(CONTEXT, scorer, 0.5, question="What hangs by the boxes?", **options)
        assert np.array_equal(result.scores, other.scores) == (scorer != "cts")


def test_texts_of_llmlingua_2_are_those_of_the_command(
    settings: dict[str, Any], rows: list[dict[str, str]], command: Callable[..., Any], classifier: Path
) -> None:
    given = ["scorer=tokenskip", f"scorer.path={classifier}", "scorer.train=false", "ratio=0.5"]
    expected, _ = command(*given, "compression=llmlingua2_compat", "compression.word_weights=student")
    results = cotpress.compress(
        rows, "tokenskip", 0.5, path=str(classifier), train=False, selection="llmlingua2_compat",
        word_weights="student", **settings,
    )  # fmt: skip
    assert [own.text for own in results] == [row.compressed_thinking for row in expected]
    assert [own.mask.tolist() for own in results] == [row.keep_mask.tolist() for row in expected]
    assert any(own.text != row["thinking"] for own, row in zip(results, rows, strict=True))


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", range(NUM_RELEASED))
def test_text_is_that_of_llmlingua(number: int, smollm2: Any) -> None:
    row, trace = released(number)
    given = row["args"]
    result = cotpress.compress(
        trace["thinking"], "cts", given["rate"], model=(smollm2.model, smollm2.tokenizer), answer=trace["response"],
        selection="llmlingua_compat", iterative_size=given["iterative_size"],
    )  # fmt: skip
    check_released(smollm2.tokenizer, result.text, row)
    assert "".join(token for token, kept in zip(result.tokens, result.mask, strict=True) if kept) == result.text
