"""From the settings of the evaluation to what a student is asked under."""

from cotpress.evaluation.config import EvaluationConfig
from cotpress.generation.base import Sampling

TEMPERATURE, TOP_P = 0.6, 0.95
"""For several samples per question, unless given: the values of CTS (arXiv 2505.17827, section 4.1)."""


def sampling(config: EvaluationConfig, seed: int) -> Sampling | None:
    """How tokens are chosen; None is greedy."""
    temperature = (TEMPERATURE if config.samples > 1 else 0.0) if config.temperature is None else config.temperature
    if temperature == 0:
        return None
    return Sampling(temperature=temperature, top_p=TOP_P if config.top_p is None else config.top_p, seed=seed)


def answer_budget(max_new_tokens: int, ratio: float, config: EvaluationConfig) -> int:
    """Tokens that an answer may take: the benchmark's budget, times the ratio only if that was asked for."""
    return max(round(max_new_tokens * ratio), 1) if config.budget_follows_ratio else max_new_tokens
