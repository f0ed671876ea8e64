"""The one table of scorers, and the decorator that adds a scorer from outside of the package."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cotpress.errors import ConfigError
from cotpress.modeling.config import Attention, Dtype, ModelConfig
from cotpress.plugins import add_choice
from cotpress.scoring.base import ReadingScorer, ScorerKind
from cotpress.scoring.config import ReadingConfig, ScorerConfig
from cotpress.scoring.guard import guard
from cotpress.scoring.reader import no_cache_error
from cotpress.scoring.scorers.answer_attention import AnswerAttentionConfig, AnswerAttentionScorer, check_layers
from cotpress.scoring.scorers.cts import CtsConfig, CtsScorer
from cotpress.scoring.scorers.entropy import EntropyConfig, EntropyScorer
from cotpress.scoring.scorers.first_token_surprisal import FirstTokenSurprisalConfig, FirstTokenSurprisalScorer
from cotpress.scoring.scorers.gogi import GogiConfig, GogiScorer
from cotpress.scoring.scorers.greedy_nll import GreedyNllConfig, GreedyNllScorer
from cotpress.scoring.scorers.mix import MixConfig, MixScorer
from cotpress.scoring.scorers.pir import PirConfig, PirScorer
from cotpress.scoring.scorers.planted import PlantedConfig, PlantedScorer
from cotpress.scoring.scorers.position import PositionConfig, PositionScorer
from cotpress.scoring.scorers.random import RandomConfig, RandomScorer
from cotpress.scoring.scorers.reference_likelihood import ReferenceLikelihoodConfig, ReferenceLikelihoodScorer
from cotpress.scoring.scorers.reference_walk import ReferenceWalkConfig, ReferenceWalkScorer
from cotpress.scoring.scorers.rho1_excess import Rho1Config, Rho1Scorer
from cotpress.scoring.scorers.self_information import SelfInformationConfig, SelfInformationScorer
from cotpress.scoring.scorers.step_entropy import StepEntropyConfig, StepEntropyScorer
from cotpress.scoring.scorers.tokenskip import TokenskipConfig, TokenskipScorer

if TYPE_CHECKING:
    from cotpress.scoring.models import Models
    from cotpress.store.artifacts import ArtifactStore

S = TypeVar("S", bound=type[ScorerKind])


class Entry(NamedTuple):
    """A row of the table: the settings of a scorer, and the class that computes its scores."""

    settings: type[ScorerConfig]
    scorer: type[ScorerKind]


SCORERS: dict[str, Entry] = {
    "cts": Entry(CtsConfig, CtsScorer),
    "self_information": Entry(SelfInformationConfig, SelfInformationScorer),
    "entropy": Entry(EntropyConfig, EntropyScorer),
    "step_entropy": Entry(StepEntropyConfig, StepEntropyScorer),
    "first_token_surprisal": Entry(FirstTokenSurprisalConfig, FirstTokenSurprisalScorer),
    "rho1": Entry(Rho1Config, Rho1Scorer),
    "reference_likelihood": Entry(ReferenceLikelihoodConfig, ReferenceLikelihoodScorer),
    "reference_walk": Entry(ReferenceWalkConfig, ReferenceWalkScorer),
    "gogi": Entry(GogiConfig, GogiScorer),
    "answer_attention": Entry(AnswerAttentionConfig, AnswerAttentionScorer),
    "greedy_nll": Entry(GreedyNllConfig, GreedyNllScorer),
    "pir": Entry(PirConfig, PirScorer),
    "random": Entry(RandomConfig, RandomScorer),
    "position": Entry(PositionConfig, PositionScorer),
    "planted": Entry(PlantedConfig, PlantedScorer),
    "tokenskip": Entry(TokenskipConfig, TokenskipScorer),
    "mix": Entry(MixConfig, MixScorer),
}
"""All scorers; a YAML in conf/scorer builds on the settings of one of them under `NAME_schema`."""


def scorer_of(config: ScorerConfig) -> type[ScorerKind]:
    """The class that computes the scores of some settings.

    Raises:
        ConfigError: No scorer has settings of this class.
    """
    for entry in SCORERS.values():
        if type(config) is entry.settings:
            return entry.scorer
    raise ConfigError(f"scorer: no scorer for {type(config).__name__}. Fix: choose one, e.g. scorer=cts")


def scorer_identity(config: ScorerConfig, models: "Models") -> dict[str, Any]:
    """The `identity` of the scorer of some settings, for a mix with those of its parts."""
    from cotpress.store.source import identified  # not at every start, as it reads all files of the package

    identity = scorer_of(config).identity(config, models)
    if isinstance(config, MixConfig):
        identity["parts"] = {
            name: identified(scorer_identity(part, models), scorer_of(part)) for name, part in config.weighted.items()
        }
    return identity


def model_to_read(config: ScorerConfig, model: ModelConfig) -> ModelConfig:
    """The scoring model in the number format of a scorer (`scorer.dtype`); for a mix in the widest of its parts.

    The kernel of flash attention does not compute in float32; sdpa takes its place.
    """
    formats = []
    for part in _parts(config):
        if isinstance(part, ReadingConfig):
            own = Dtype.float32 if part.dtype is Dtype.auto and scorer_of(part).is_difference else part.dtype
            formats.append(model.dtype if own is Dtype.auto else own)
    order = (Dtype.float32, Dtype.auto, Dtype.bfloat16)
    dtype = min(formats, key=order.index, default=model.dtype)
    flash = model.attention is Attention.flash_attention_2 and dtype is Dtype.float32 is not model.dtype
    return replace(model, dtype=dtype, attention=Attention.sdpa if flash else model.attention)


def check_model(config: ScorerConfig, model: ModelConfig, store: "ArtifactStore") -> None:
    """Refuse a scoring model whose layers do not allow what a scorer does; no weights are loaded.

    Raises:
        ModelError: They do not, or the model cannot be found.
    """
    from cotpress.modeling.architecture import keeps_state
    from cotpress.modeling.loading import architecture_of

    for part in _parts(config):
        if scorer_of(part).edits_cache and keeps_state(*architecture_of(model, store)):
            raise no_cache_error(part.name, model.path)
        if isinstance(part, AnswerAttentionConfig):
            check_layers(*architecture_of(model, store), part.num_layers)


def num_passes(config: ScorerConfig, model: ModelConfig | None = None) -> int | None:
    """Forward passes of the scoring model over each text; see `ScorerKind.passes`. Parts of a mix share readings.

    With the `model`, those in another number format are counted by themselves.
    """
    readings, others = set(), 0
    for part in _parts(config):
        scorer = scorer_of(part)
        if issubclass(scorer, ReadingScorer) and isinstance(part, ReadingConfig):
            dtype = None if model is None else model_to_read(part, model).dtype
            readings |= {(part.template, dtype, *reading) for reading in scorer(part).readings()}
        elif scorer.passes is None:
            return None
        else:
            others += scorer.passes
    return len(readings) + others


def _parts(config: ScorerConfig) -> Iterator[ScorerConfig]:
    """The scorers that a mix, also one of mixes, is computed from; any other scorer itself."""
    if not isinstance(config, MixConfig):
        yield config
        return
    for part in config.weighted.values():
        yield from _parts(part)


def register_scorer(name: str, settings: type[ScorerConfig]) -> Callable[[S], S]:
    """Add the decorated class to the table; `scorer=NAME` then chooses it on the command line.

    Args:
        name: Name on the command line.
        settings: Dataclass of its settings; every scorer has a class of its own.

    Raises:
        ConfigError: The name or the settings belong to another scorer, or see `add_choice`.
    """

    def register(scorer: S) -> S:
        taken = [n for n, entry in SCORERS.items() if n == name or entry.settings is settings]
        if taken:
            raise ConfigError(
                f"register_scorer('{name}'): the scorer '{taken[0]}' has this name or these "
                "settings. Fix: another name, and a settings class of its own"
            )
        if not (isinstance(scorer, type) and issubclass(scorer, ScorerKind)):
            raise ConfigError(
                f"register_scorer('{name}'): got {scorer!r}, allowed: a class that derives from ReadingScorer, "
                "TokenScorer or another ScorerKind. Fix: class NAME(ReadingScorer[SETTINGS])"
            )
        if missing := sorted(getattr(scorer, "__abstractmethods__", ())):
            raise ConfigError(
                f"register_scorer('{name}'): {scorer.__name__} lacks {', '.join(missing)}. Fix: define it"
            )
        guard(name, scorer)
        add_choice(["scorer"], name, settings, ScorerConfig)
        SCORERS[name] = Entry(settings, scorer)
        return scorer

    return register
