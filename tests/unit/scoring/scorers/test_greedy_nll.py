from dataclasses import replace

import numpy as np
import pytest
import torch

from cotpress.errors import ConfigError
from cotpress.scoring.config import Condition, Template
from cotpress.scoring.reader import NOTHING_FOLLOWS, Reader
from cotpress.scoring.scorers.greedy_nll import GreedyNllConfig, GreedyNllScorer
from cotpress.settings import check_settings


@pytest.fixture
def make(base, tokenizer, model):
    def build(tokens_per_batch=300, base=base, **settings):
        config = GreedyNllConfig(name="greedy_nll", **settings)
        return GreedyNllScorer(config, Reader(tokenizer, base, config.template, tokens_per_batch), model)

    return build


def naive_logprob(model, ids, counted):
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(logprobs[t - 1, ids[t]].item() for t in counted)


def naive_joint(model, context, remaining, closing, following):
    ids = [*context, *remaining, *closing, *following]
    end = len(context) + len(remaining)
    return naive_logprob(model, ids, [*range(len(context), end), *range(end + len(closing), len(ids))])


def naive_scores(model, context, thinking, closing, following, per_round):
    left, scores, place = list(range(len(thinking))), [0] * len(thinking), 0
    while left:
        joint = {
            i: naive_joint(model, context, [thinking[j] for j in left if j != i], closing, following) for i in left
        }
        # The same text read twice may differ in the last digits.
        for i in sorted(left, key=lambda i: (-round(joint[i], 4), i))[:per_round]:
            scores[i], place = place, place + 1
            left.remove(i)
    return scores


@pytest.mark.parametrize("template", Template)
@pytest.mark.parametrize("condition", [Condition.none, Condition.question])
@pytest.mark.parametrize("per_round", [1, 2, 100])
def test_equals_brute_force(per_round, condition, template, make, model, tokenizer, traces):
    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    question = traces[0].question if condition is Condition.question else ""
    if template is Template.plain:
        context = [tokenizer.bos_token_id, *(ids(question + "\n\n") if question else [])]
        closing, end = ids("\n\n"), []
    else:
        context = ids(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n") + ids("<think>\n")
        closing, end = ids("\n</think>\n\n"), [tokenizer.eos_token_id]
    scorer = make(template=template, condition=condition, deletions_per_round=per_round)
    for text in ("so 3 apples plus 4", "wait wait wait is 77", "7"):
        trace = replace(traces[0], thinking=text)
        [scores] = scorer.values([trace])
        following = [*ids(trace.response), *end]
        expected = naive_scores(model, context, ids(text), closing, following, per_round)
        np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("deletions_per_round", [1, 3])
def test_scores_are_a_total_order(deletions_per_round, make, traces):
    for trace in (traces[1], traces[4]):
        [scores] = make(deletions_per_round=deletions_per_round).values([trace])
        assert sorted(scores.tolist()) == list(range(len(scores)))


def test_of_equal_tokens_in_a_row_the_earlier_goes_first(make, traces, tokenizer):
    trace = replace(traces[0], thinking="77777")
    assert len(set(tokenizer(trace.thinking)["input_ids"])) == 1
    [scores] = make().values([trace])
    np.testing.assert_array_equal(scores, [0, 1, 2, 3, 4])


def test_batch_size_does_not_change_the_order(make, traces):
    trace = replace(traces[0], thinking="3 apples plus 4 apples is 7")
    [small], [large] = make(tokens_per_batch=1).values([trace]), make(tokens_per_batch=9000).values([trace])
    np.testing.assert_array_equal(small, large)


def test_thinking_over_the_limit_is_refused_with_the_limit_named(make, traces):
    num_tokens = make().num_tokens(traces[0])
    assert make(max_tokens=num_tokens).refusal(traces[0]) is None
    limit = num_tokens - 1
    assert make(max_tokens=limit).refusal(traces[0]) == f"thinking longer than scorer.max_tokens={limit}"
    assert make().refusal(replace(traces[0], response=" ")) == NOTHING_FOLLOWS


@pytest.mark.parametrize("key", ["max_tokens", "deletions_per_round"])
def test_limits_below_one_are_errors(key):
    with pytest.raises(ConfigError, match=rf"scorer\.{key}: got 0, allowed: a whole number of at least 1"):
        check_settings(GreedyNllConfig(name="greedy_nll", **{key: 0}), "scorer")
