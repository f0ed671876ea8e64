"""The targets, on two CPU cores and on a GPU."""

from collections.abc import Sequence

from experiments.speed.figures import Bound, Figure, Target, Verdict, judge
from experiments.speed.parts import FASTER_THAN_PLAIN, FASTER_THAN_TRL
from experiments.speed.scoring import (
    AGAINST_LIMIT,
    AGAINST_LIMIT_BEST,
    AGAINST_READINGS,
    FASTER_THAN_RELEASE,
    FASTER_THAN_RELEASE_BEST,
    MEMORY_OF_NAIVE,
)
from experiments.speed.startup import FLOW, HELP

LEAST, MOST = Bound.at_least, Bound.at_most

_EVERYWHERE = (
    Target(group="scoring", name=AGAINST_LIMIT, bound=MOST, value=1.3),
    Target(group="scoring", name=AGAINST_LIMIT_BEST, bound=MOST, value=1.3),
    Target(group="scoring", name=MEMORY_OF_NAIVE, bound=MOST, value=1 / 3, case="4096 tokens"),
    Target(group="readings", name=AGAINST_READINGS, bound=MOST, value=1.15),
    Target(group="selection", name="select", bound=MOST, value=2.0),
    Target(group="training", name=FASTER_THAN_TRL, bound=LEAST, value=1.0),
    Target(group="generation", name=FASTER_THAN_PLAIN, bound=LEAST, value=1.5),
    Target(group="startup", name="seconds", bound=MOST, value=1.5, case=HELP),
    Target(group="startup", name="seconds", bound=MOST, value=60.0, case=FLOW),
)
_CPU = (
    Target(group="scoring", name=FASTER_THAN_RELEASE, bound=LEAST, value=1.2),
    Target(group="scoring", name=FASTER_THAN_RELEASE_BEST, bound=LEAST, value=2.5),
    Target(group="sweep", name=FASTER_THAN_RELEASE_BEST, bound=LEAST, value=12.0),
)
_GPU = (
    Target(group="scoring", name=FASTER_THAN_RELEASE_BEST, bound=LEAST, value=5.0),
    Target(group="sweep", name=FASTER_THAN_RELEASE_BEST, bound=LEAST, value=25.0),
)


def verdicts(figures: Sequence[Figure], device: str, groups: Sequence[str]) -> list[Verdict]:
    """The targets of the parts that run, with their figures."""
    chosen = [t for t in (*_EVERYWHERE, *(_GPU if device == "cuda" else _CPU)) if t.group in groups]
    return judge(chosen, figures)
