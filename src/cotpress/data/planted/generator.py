"""Draws built-in traces and problems: deterministic by seed, no question twice, training and evaluation disjoint.

Every story has its own random stream, so the first hundred traces of a larger set are the set of a hundred.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

from cotpress.data.planted.stories import FAMILIES, LEVELS, Family, Level, Story
from cotpress.data.planted.thinking import ThinkingWriter
from cotpress.errors import ConfigError, did_you_mean
from cotpress.records import Problem, Trace

VERSION = 1
"""Raise it with every change by which the same configuration gives other texts; part of every fingerprint."""
MAX_DRAWS = 3000
"""Consecutive draws without a new question after which a family counts as exhausted."""


class Half(Enum):
    """Half of all combinations of numbers; see `half_of`."""

    training = "training"
    evaluation = "evaluation"


def half_of(family: str, story: Story) -> Half:
    """The half that the numbers of a story belong to; names and things do not matter.

    Training traces and benchmark problems are drawn from different halves, so with any seeds they have no problem in
    common.
    """
    digest = hashlib.sha256(f"{family}:{story.numbers}".encode()).digest()
    return Half.evaluation if digest[0] % 2 else Half.training


def settings_of(config: Any) -> dict[str, Any]:
    """The arguments of `traces` or `problems` that a configuration of planted data holds."""
    names = ("num_traces", "num_problems", "families", "difficulty", "redundancy", "seed")
    return {name: getattr(config, name) for name in names if hasattr(config, name)}


def traces(
    *,
    num_traces: int,
    families: Sequence[str],
    difficulty: int,
    redundancy: float,
    seed: int,
    half: Half = Half.training,
    group: str = "data",
) -> list[Trace]:
    """Solved problems with labelled thinking, all in the split `train`.

    Args:
        num_traces: Number of traces, at least 1.
        families: Names; empty means every family that is not held out.
        difficulty: A key of `LEVELS`.
        redundancy: Factor on the amount of planted redundancy, >= 0.
        seed: Equal seeds give equal traces.
        half: Half of the numbers to draw from.
        group: Configuration group of these settings, for messages.

    Raises:
        ConfigError: A value is out of range, a family is unknown, or there are fewer different problems.
    """
    if redundancy < 0:
        raise ConfigError(f"{group}.redundancy: got {redundancy}, allowed: a number of at least 0")
    chosen = _families(f"{group}.families", families) or [f for f in FAMILIES.values() if not f.held_out]
    level = _level(f"{group}.difficulty", difficulty)
    prefix = "train" if half is Half.training else "truth"
    made = []
    for index, (family, story, rng) in enumerate(
        _stories(chosen, level, count=num_traces, key=f"{group}.num_traces", seed=seed, half=half)
    ):
        thinking, spans = ThinkingWriter(rng, redundancy).write(story)
        made.append(
            Trace(
                id=f"{prefix}-{family.name}-{index:05d}",
                question=story.question,
                thinking=thinking,
                response=story.solution,
                answer=str(story.answer),
                family=family.name,
                spans=spans,
            )
        )
    return made


def problems(
    *,
    num_problems: int,
    families: Sequence[str],
    difficulty: int,
    seed: int,
    half: Half = Half.evaluation,
    group: str = "benchmark",
) -> list[Problem]:
    """Problems whose numbers do not occur in traces of the other half.

    Args:
        num_problems: Number of problems, at least 1.
        families: Names; empty means all families of the evaluation half (the held-out ones included), or all training
            families of the training half.
        difficulty: A key of `LEVELS`.
        seed: Equal seeds give equal problems.
        half: Half of the numbers to draw from.
        group: Configuration group of these settings, for messages.

    Raises:
        ConfigError: A value is out of range, a family is unknown, or there are fewer different problems.
    """
    allowed = [f for f in FAMILIES.values() if half is Half.evaluation or not f.held_out]
    chosen = _families(f"{group}.families", families) or allowed
    level = _level(f"{group}.difficulty", difficulty)
    drawn = _stories(chosen, level, count=num_problems, key=f"{group}.num_problems", seed=seed, half=half)
    prefix = "eval" if half is Half.evaluation else "ask"
    return [
        Problem(
            id=f"{prefix}-{family.name}-{index:05d}",
            question=story.question,
            answer=str(story.answer),
            family=family.name,
        )
        for index, (family, story, _) in enumerate(drawn)
    ]


def _stories(
    families: Sequence[Family], level: Level, *, count: int, key: str, seed: int, half: Half
) -> Iterator[tuple[Family, Story, random.Random]]:
    """`count` different stories of one half, each with the random stream that continues with its thinking.

    Families take turns; an exhausted family is skipped.
    """
    if count < 1:
        raise ConfigError(f"{key}: got {count}, allowed: a whole number of at least 1")
    active = list(families)
    seen: set[str] = set()
    while len(seen) < count:
        family = active[len(seen) % len(active)]
        rng = random.Random(f"{seed}:{half.value}:{len(seen)}")
        story = _new_story(family, level, rng, half, seen)
        if story is not None:
            seen.add(story.question)
            yield family, story, rng
            continue
        active.remove(family)
        if not active:
            raise ConfigError(
                f"{key}: got {count}, but {', '.join(f.name for f in families)} have no further question after "
                f"{len(seen)}. Fix: ask for fewer, for more families or for a higher difficulty."
            )


def _new_story(family: Family, level: Level, rng: random.Random, half: Half, seen: set[str]) -> Story | None:
    """A story of the half with a new question; None if the family seems to be exhausted."""
    for _ in range(MAX_DRAWS):
        story = family.draw(rng, level)
        if story.question not in seen and half_of(family.name, story) is half:
            return story
    return None


def _families(key: str, names: Sequence[str]) -> list[Family]:
    for name in names:
        if name not in FAMILIES:
            raise ConfigError(f"{key}: got '{name}'.{did_you_mean(name, FAMILIES)}")
        if names.count(name) > 1:
            raise ConfigError(f"{key}: got '{name}' more than once, allowed: each family once")
    return [FAMILIES[name] for name in names]


def _level(key: str, difficulty: int) -> Level:
    if difficulty not in LEVELS:
        raise ConfigError(f"{key}: got {difficulty}, allowed: {', '.join(map(str, LEVELS))}")
    return LEVELS[difficulty]
