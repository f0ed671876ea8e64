"""Naive scores for oracle tests: the formulas with one text at a time, full softmax, Python loops."""

import numpy as np
import torch

from cotpress.modeling.segments import unit_ranges
from cotpress.records import Unit
from cotpress.scoring.config import Condition, Template


def token_ids(tokenizer, text):
    """Token ids of a text alone."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def context_ids(tokenizer, template, condition, trace):
    """Token ids before the thinking, written by hand in the tiny model's chat format."""
    text = {
        Condition.none: "",
        Condition.answer: trace.response,
        Condition.question: trace.question,
        Condition.question_answer: trace.question + "\n\n" + trace.response,
    }[condition]
    if template is Template.plain:
        return [tokenizer.bos_token_id, *(token_ids(tokenizer, text + "\n\n") if text else [])]
    turn = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    return token_ids(tokenizer, turn) + token_ids(tokenizer, "<think>\n")


def predictions(model, context, target):
    """log p(v | context, target_<i) for every word v, float64 `[n, V]`."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*context, *target]])).logits[0]
    return logits.double().log_softmax(-1)[len(context) - 1 : -1].numpy()


def logprobs(model, tokenizer, template, condition, trace):
    """log p(x_i | c, x_<i) of every thinking token."""
    target = token_ids(tokenizer, trace.thinking)
    table = predictions(model, context_ids(tokenizer, template, condition, trace), target)
    return np.array([table[i, token] for i, token in enumerate(target)])


def entropies(model, tokenizer, template, condition, trace):
    """H(p(. | c, x_<i)) before every thinking token."""
    target = token_ids(tokenizer, trace.thinking)
    table = predictions(model, context_ids(tokenizer, template, condition, trace), target)
    return np.array([-sum(np.exp(row) * row) for row in table])


def members(unit, text, offsets):
    """Indices of the tokens of each unit, in order; the last visible character decides."""
    if unit is Unit.token:
        return [[i] for i in range(len(offsets))]
    found = []
    for start, end in unit_ranges(unit, text):
        inside = []
        for i, (a, b) in enumerate(offsets.tolist()):
            visible = [c for c in range(a, b) if not text[c].isspace()] or [b - 1]
            if start <= visible[-1] < end:
                inside.append(i)
        found.append(inside)
    return found


def pooled(unit, text, offsets, values):
    """Replace each value by the mean of its unit."""
    result = np.full(len(values), np.nan)
    for inside in members(unit, text, offsets):
        for i in inside:
            result[i] = sum(values[j] for j in inside) / len(inside)
    return result


def ranks(scores):
    """Share of scores below each score; equal ones count half."""
    n = len(scores)
    return np.array([(sum(o < s for o in scores) + 0.5 * sum(o == s for o in scores)) / n for s in scores])
