"""From the settings of the evaluation to what a student is asked under."""

from cotpress.evaluation.asking import Protocol
from cotpress.evaluation.baselines import Shortening
from cotpress.evaluation.config import EvaluationConfig
from cotpress.generation.base import Sampling

TEMPERATURE, TOP_P = 0.6, 0.95
"""For several samples per question, unless given: the values of CTS (arXiv 2505.17827, section 4.1)."""


def protocol(
    config: EvaluationConfig,
    *,
    max_new_tokens: int,
    context_tokens: int,
    seed: int,
    ratio: float = 1.0,
    marker_ratio: float | None = None,
    shortening: Shortening | None = None,
) -> Protocol:
    """How a student is asked.

    Args:
        config: The settings of the evaluation.
        max_new_tokens: The benchmark's budget.
        context_tokens: Longest prompt plus answer.
        seed: Seed of the draws.
        ratio: Asked kept fraction.
        marker_ratio: Ratio announced by the control marker, or None.
        shortening: What a baseline without training changes, or None.
    """
    truncates = shortening is not None and shortening.truncates
    follows = truncates or config.budget_follows_ratio
    return Protocol(
        max_new_tokens=answer_budget(max_new_tokens, ratio, follows_ratio=follows),
        context_tokens=context_tokens,
        marker_ratio=marker_ratio,
        instruction="" if shortening is None else shortening.instruction,
        samples=config.samples,
        sampling=sampling(config, seed),
    )


def sampling(config: EvaluationConfig, seed: int) -> Sampling | None:
    """How tokens are chosen; None is greedy."""
    temperature = (TEMPERATURE if config.samples > 1 else 0.0) if config.temperature is None else config.temperature
    if temperature == 0:
        return None
    return Sampling(temperature=temperature, top_p=TOP_P if config.top_p is None else config.top_p, seed=seed)


def answer_budget(max_new_tokens: int, ratio: float, *, follows_ratio: bool) -> int:
    """Tokens that an answer may take: the benchmark's budget, times the ratio only if that was asked for."""
    return max(round(max_new_tokens * ratio), 1) if follows_ratio else max_new_tokens
