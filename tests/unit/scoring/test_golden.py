"""cts and self_information against numbers that independent code computed with a real model.

`golden.jsonl` holds two short texts of our own: plain forward passes of transformers over SmolLM2 in float32, in the
layout of the golden files beside the checkout, whose long texts are not part of the project.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.records import Trace
from cotpress.scoring.config import Condition, ReadBy, Template
from cotpress.scoring.reader import Reader
from cotpress.scoring.scorers.cts import CtsConfig
from cotpress.scoring.scorers.self_information import SelfInformationConfig
from support.scoring import reading_scorer

SHARED = Path(__file__).parents[3].parent / "shared"
PLAIN = {"template": Template.plain, "read_by": ReadBy.base}
FIELDS = ("id", "question", "thinking", "response")


def read_rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture(scope="module")
def golden():
    """Pairs of a golden row and its trace, shortest first."""
    if not SHARED.is_dir():
        pytest.skip("the data folder is not beside the checkout")
    data = {row["id"]: row for row in read_rows(SHARED / "data/long_cot_ci.jsonl")}
    rows = sorted(read_rows(SHARED / "golden/cts_logprobs_smollm2.jsonl"), key=lambda row: len(row["token_ids"]))
    return [(row, Trace(**{k: data[row["id"]][k] for k in FIELDS}, answer="")) for row in rows]


def cut(pair, tokenizer, num_tokens):
    """The beginning of a golden row and its trace: a causal model does not see what is cut off."""
    row, trace = pair
    _, offsets = tokenize_with_offsets(tokenizer, trace.thinking)
    thinking = trace.thinking[: offsets[num_tokens - 1, 1]]
    short = {k: v[:num_tokens] if isinstance(v, list) else v for k, v in row.items()}
    return short, Trace(id=trace.id, question=trace.question, thinking=thinking, response=trace.response, answer="")


def scorers(condition, smollm2):
    """The scorers that have golden numbers under a condition, each with those numbers' formula."""
    reader = Reader(smollm2.tokenizer, smollm2.config, Template.plain, 4096)
    column = f"logprob_{condition.value}"
    surprise = SelfInformationConfig(name="self_information", condition=condition, **PLAIN)
    yield reading_scorer(surprise, reader, smollm2.model), lambda row: -np.array(row[column])
    if condition is not Condition.none:
        cts = CtsConfig(name="cts", condition=condition, **PLAIN)
        yield reading_scorer(cts, reader, smollm2.model), lambda row: np.subtract(row[column], row["logprob_none"])


def assert_agrees(pairs, condition, smollm2):
    rows, traces = zip(*pairs, strict=True)
    for scorer, formula in scorers(condition, smollm2):
        records = list(scorer.score(list(traces)))
        for record, row in zip(records, rows, strict=True):
            np.testing.assert_array_equal(record.token_ids, row["token_ids"])
            np.testing.assert_allclose(record.scores, formula(row), atol=2e-3)
        ours, theirs = np.concatenate([r.scores for r in records]), np.concatenate([formula(row) for row in rows])
        assert spearmanr(ours, theirs).statistic > 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("condition", Condition)
def test_short_texts_of_our_own_agree(condition, smollm2):
    rows = read_rows(Path(__file__).with_name("golden.jsonl"))
    assert_agrees([(row, Trace(**{k: row[k] for k in FIELDS}, answer="")) for row in rows], condition, smollm2)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("condition", Condition)
def test_beginning_of_the_shortest_text_agrees(condition, golden, smollm2):
    assert_agrees([cut(golden[0], smollm2.tokenizer, 100)], condition, smollm2)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("condition", Condition)
def test_all_texts_agree(condition, golden, smollm2):
    assert_agrees(golden, condition, smollm2)
