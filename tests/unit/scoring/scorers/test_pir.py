from dataclasses import replace

import numpy as np
import pytest
import torch

from cotpress.records import Unit
from cotpress.scoring.config import Condition, Target, Template
from cotpress.scoring.reader import NOTHING_FOLLOWS
from cotpress.scoring.scorers.pir import Ablation, PirConfig, PirScorer
from support import naive


@pytest.fixture
def make(read, sure):
    def build(tokens_per_batch=300, **settings):
        config = PirConfig(name="pir", **settings)
        return PirScorer(config, read(config.template, tokens_per_batch), sure)

    return build


def naive_scores(model, tokenizer, trace, offsets, *, unit, target, condition, template):
    """Log-ratio of the perplexities of the answer, one plain forward for each text."""
    chat = template is Template.chat
    context = naive.context_ids(tokenizer, template, condition, trace)
    closing = naive.token_ids(tokenizer, "\n</think>\n\n" if chat else "\n\n")
    text = trace.answer if target is Target.answer else trace.response
    answer = [*naive.token_ids(tokenizer, text), *([tokenizer.eos_token_id] if chat else [])]
    thinking = naive.token_ids(tokenizer, trace.thinking)

    def perplexity(kept):
        table = naive.predictions(model, [*context, *kept, *closing], answer)
        return np.exp(-np.mean([table[j, token] for j, token in enumerate(answer)]))

    scores = np.full(len(thinking), np.nan)
    for step in filter(None, naive.members(unit, trace.thinking, offsets)):
        without = [token for i, token in enumerate(thinking) if i not in step]
        scores[step] = np.log(perplexity(without) / perplexity(thinking))
    return scores


@pytest.mark.parametrize("template", Template)
@pytest.mark.parametrize("condition", [Condition.none, Condition.question])
@pytest.mark.parametrize(
    ("unit", "target"), [(Unit.step, Target.response), (Unit.step, Target.answer), (Unit.word, Target.response)]
)
def test_equals_the_ratio_of_perplexities(unit, target, condition, template, make, sure, tokenizer, stepwise):
    settings = {"unit": unit, "target": target, "condition": condition, "template": template}
    trace = replace(stepwise, thinking=stepwise.thinking.replace("😀", ""))  # one of several tokens
    [record] = make(**settings).score([trace])
    expected = naive_scores(sure, tokenizer, trace, record.offsets, **settings)
    np.testing.assert_allclose(record.scores, expected, atol=2e-4)
    assert np.ptp(expected) > 0.01


@pytest.mark.parametrize("ablation", Ablation)
def test_batch_size_changes_nothing(ablation, make, stepwise):
    [one], [many] = (make(size, ablation=ablation).values([stepwise]) for size in (1, 9000))
    np.testing.assert_allclose(one, many, atol=1e-4)


def test_hidden_steps_equal_a_masked_forward_of_the_whole_text(make, sure, tokenizer, stepwise):
    scorer = make(ablation=Ablation.attention)
    [record] = scorer.score([stepwise])
    ids, thinking, answer = scorer.whole(stepwise)

    def mean_logprob(hidden):
        query, key = np.indices((len(ids), len(ids)))
        seen = (key <= query) & ~((query >= thinking.stop) & np.isin(key, hidden))
        with torch.no_grad():
            logits = sure(torch.tensor([ids]), attention_mask=torch.tensor(seen)[None, None]).logits[0]
        return np.mean([logits[t - 1].log_softmax(-1)[ids[t]].item() for t in answer])

    expected = np.full(len(thinking), np.nan)
    for step in naive.members(Unit.step, stepwise.thinking, record.offsets):
        expected[step] = mean_logprob([]) - mean_logprob([thinking.start + i for i in step])
    np.testing.assert_allclose(record.scores, expected, atol=2e-4)


def test_traces_without_the_target_are_refused(make, stepwise):
    no_answer, no_response = replace(stepwise, answer=" "), replace(stepwise, response=" ")
    for target, missing, other in (
        (Target.response, no_response, no_answer),
        (Target.answer, no_answer, no_response),
    ):
        scorer = make(target=target)
        assert scorer.refusal(missing) == NOTHING_FOLLOWS
        assert scorer.refusal(other) is None
