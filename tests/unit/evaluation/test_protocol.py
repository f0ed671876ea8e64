import pytest

from cotpress.evaluation.config import Baseline, EvaluationConfig, Instructions
from cotpress.evaluation.protocol import protocol, shortening
from cotpress.generation.backends import GREEDY

TEXTS = Instructions(be_concise="short", only_numbers="numbers", abbre_words="abbr.", lc_prompt="leave out {percent}%")
PROMPTS = {Baseline.be_concise: "short", Baseline.only_numbers: "numbers", Baseline.abbre_words: "abbr."}


@pytest.mark.parametrize("kind", PROMPTS)
def test_prompts_are_equal_at_every_ratio(kind):
    changed = shortening(kind, 0.5, TEXTS)
    assert changed == shortening(kind, 1.0, TEXTS)
    assert (changed.instruction, changed.ratio, changed.truncates) == (PROMPTS[kind], 1.0, False)


@pytest.mark.parametrize(("ratio", "text"), [(0.5, "leave out 50%"), (0.7, "leave out 30%"), (0.45, "leave out 55%")])
def test_length_control_names_the_share_that_the_ratio_removes(ratio, text):
    changed = shortening(Baseline.lc_prompt, ratio, TEXTS)
    assert (changed.instruction, changed.ratio) == (text, ratio)


@pytest.mark.parametrize("kind", [Baseline.lc_prompt, Baseline.truncation])
def test_ratio_one_shortens_nothing(kind):
    assert shortening(kind, 1.0, TEXTS) is None


@pytest.mark.parametrize("kind", [Baseline.base, Baseline.original, Baseline.ratio_one])
def test_other_baselines_shorten_nothing(kind):
    assert shortening(kind, 0.5, TEXTS) is None


@pytest.mark.parametrize("follows", [False, True])
def test_truncation_cuts_the_budget_once_whether_or_not_budgets_follow_the_ratio(follows):
    config = EvaluationConfig(budget_follows_ratio=follows)
    cut = shortening(Baseline.truncation, 0.5, TEXTS)
    changed = protocol(config, max_new_tokens=512, context_tokens=1, usual=GREEDY, ratio=cut.ratio, shortening=cut)
    assert (changed.max_new_tokens, changed.instruction) == (256, "")


def test_prompting_keeps_the_budget():
    prompted = shortening(Baseline.lc_prompt, 0.5, TEXTS)
    changed = protocol(
        EvaluationConfig(),
        max_new_tokens=512,
        context_tokens=1,
        usual=GREEDY,
        ratio=prompted.ratio,
        shortening=prompted,
    )
    assert (changed.max_new_tokens, changed.instruction) == (512, "leave out 50%")
