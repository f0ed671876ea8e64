"""Which scorers LLMLingua 0.2.2 knows, as far as their settings tell; imports no model."""

from cotpress.errors import ConfigError
from cotpress.records import Unit
from cotpress.scoring.config import Condition, CtsConfig, ScorerConfig, SelfInformationConfig


def llmlingua_settings(config: ScorerConfig) -> CtsConfig | SelfInformationConfig:
    """The same settings, if LLMLingua 0.2.2 knows such a score (compression=llmlingua_compat).

    Raises:
        ConfigError: It does not.
    """
    problem = None
    if isinstance(config, CtsConfig):
        if config.condition is Condition.none:
            problem = "scorer.condition: got 'none', which compares the text with itself. Fix: scorer.condition=answer"
        elif config.baseline is not Condition.none:
            problem = f"scorer.baseline: got '{config.baseline.value}', but the release compares with no condition. "
            problem += "Fix: scorer.baseline=none"
    elif isinstance(config, SelfInformationConfig):
        if config.condition is not Condition.none:
            problem = f"scorer.condition: got '{config.condition.value}', but plain LLMLingua knows no condition. "
            problem += "Fix: scorer.condition=none"
    else:
        problem = f"scorer: got '{config.name}', but the release knows two scores: scorer=cts, or "
        problem += "scorer=self_information scorer.condition=none (plain LLMLingua)"
    if problem is None:
        assert isinstance(config, CtsConfig | SelfInformationConfig)
        if config.pooling is Unit.token:
            return config
        problem = (
            f"scorer.pooling: got '{config.pooling.value}', but the release scores tokens. Fix: scorer.pooling=token"
        )
    raise ConfigError(f"compression=llmlingua_compat repeats LLMLingua 0.2.2. {problem}")
