import pytest

from cotpress.evaluation.config import Baseline, BudgetForcingConfig, EvaluationConfig, Instructions
from cotpress.evaluation.forcing import Forcing
from cotpress.evaluation.protocol import protocol, shortening
from cotpress.generation.backends import GREEDY

TEXTS = EvaluationConfig(
    instructions=Instructions(
        be_concise="short", only_numbers="numbers", abbre_words="abbr.", lc_prompt="leave out {percent}%",
        chain_of_draft="draft",
    ),
    budget_forcing=BudgetForcingConfig(text="Answer:"),
)  # fmt: skip
PROMPTS = {
    Baseline.be_concise: "short", Baseline.only_numbers: "numbers", Baseline.abbre_words: "abbr.",
    Baseline.chain_of_draft: "draft",
}  # fmt: skip


@pytest.mark.parametrize("kind", PROMPTS)
def test_prompts_are_equal_at_every_ratio(kind):
    changed = shortening(kind, 0.5, TEXTS)
    assert changed == shortening(kind, 1.0, TEXTS)
    assert (changed.instruction, changed.ratio, changed.truncates) == (PROMPTS[kind], 1.0, False)


@pytest.mark.parametrize(("ratio", "text"), [(0.5, "leave out 50%"), (0.7, "leave out 30%"), (0.45, "leave out 55%")])
def test_length_control_names_the_share_that_the_ratio_removes(ratio, text):
    changed = shortening(Baseline.lc_prompt, ratio, TEXTS)
    assert (changed.instruction, changed.ratio) == (text, ratio)


@pytest.mark.parametrize("kind", [Baseline.lc_prompt, Baseline.truncation, Baseline.budget_forcing])
def test_ratio_one_shortens_nothing(kind):
    assert shortening(kind, 1.0, TEXTS) is None


@pytest.mark.parametrize("kind", [Baseline.base, Baseline.original, Baseline.ratio_one, Baseline.shortest])
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


def test_budget_forcing_is_a_share_of_the_thinking_unless_it_is_a_number_of_tokens():
    share = shortening(Baseline.budget_forcing, 0.5, TEXTS)
    assert (share.ratio, share.forcing) == (0.5, Forcing(num_tokens=None, share=0.5, text="Answer:"))
    fixed = EvaluationConfig(budget_forcing=BudgetForcingConfig(text="", thinking_tokens=30))
    for ratio in (0.5, 1.0):
        given = shortening(Baseline.budget_forcing, ratio, fixed)
        assert (given.ratio, given.forcing) == (1.0, Forcing(num_tokens=30))
    changed = protocol(fixed, max_new_tokens=512, context_tokens=1, usual=GREEDY, shortening=given)
    assert (changed.max_new_tokens, changed.forcing) == (512, Forcing(num_tokens=30))
