"""Built-in data: word problems, their solutions, and R1-style thinking with a label for every character.

Numbers are small on purpose: a model of 135 M parameters learns the lowest difficulty from two hundred examples, so the
accuracy shows the cost of a compression. A new family of problems is an entry of `_FAMILIES`.

The essential part of a thinking is the chain of equations. The rest is planted redundancy: openings, restated facts,
repeated results, hesitation, withdrawn attempts (dead ends), double-checks and a closing remark.

Data are deterministic by seed, no question comes twice, and training and evaluation have no problem in common. Every
story has its own random stream, so the first hundred traces of a larger set are the set of a hundred.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cotpress.errors import ConfigError, did_you_mean
from cotpress.records import Problem, Span, Trace

PEOPLE = (
    ("Tom", "he"), ("Anna", "she"), ("Ben", "he"), ("Mia", "she"), ("Sam", "he"), ("Lily", "she"),
    ("Jack", "he"), ("Emma", "she"), ("Max", "he"), ("Sara", "she"), ("Paul", "he"), ("Kate", "she"),
)  # fmt: skip
"""Names and the pronouns that go with them."""

_SYMBOLS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A level of difficulty: calculations per story (at least 2), and the largest numbers in it."""

    num_steps: int
    max_start: int
    max_operand: int
    max_factor: int


LEVELS = {
    1: Level(num_steps=2, max_start=12, max_operand=6, max_factor=4),
    2: Level(num_steps=3, max_start=12, max_operand=9, max_factor=5),
    3: Level(num_steps=4, max_start=20, max_operand=12, max_factor=9),
}
"""Levels by difficulty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One calculation of the solution.

    Attributes:
        operator: `+`, `-` or `*`.
        event: Event of the story, as a clause for the middle of a sentence, e.g. `he gives away 3`.
        reason: Reason for the operator, e.g. `it gets less`; ends a withdrawn attempt.
    """

    left: int
    operator: str
    right: int
    event: str
    reason: str

    @property
    def result(self) -> int:
        """Value of the calculation."""
        return _SYMBOLS[self.operator](self.left, self.right)


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A word problem with its solution.

    Attributes:
        question: The whole question.
        opening: Its first fact, as a clause for the middle of a sentence.
        steps: Calculations in order; the last result is the answer.
    """

    question: str
    opening: str
    steps: tuple[Step, ...]

    @property
    def answer(self) -> int:
        """Result of the last step."""
        return self.steps[-1].result

    @property
    def solution(self) -> str:
        """Response after the thinking: all steps as one calculation, read from left to right."""
        operations = "".join(f" {step.operator} {step.right}" for step in self.steps)
        return f"{self.steps[0].left}{operations} = \\boxed{{{self.answer}}}"

    @property
    def numbers(self) -> tuple[str | int, ...]:
        """Start, operators and operands, which identify the problem numerically."""
        first = self.steps[0]
        return (first.left, *(part for step in self.steps for part in (step.operator, step.right)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Wording of a story in which a quantity changes.

    Every text may hold `{n}` (a number), `{who}` and `{he}` (a person, if `person` is set) and `{unit}`.

    Attributes:
        opening: The first fact; with equal groups also `{groups}`, their number.
        gains: Clauses for events that add to the quantity.
        losses: Clauses for events that reduce it.
        ask: The question asked at the end.
        units: Values of `{unit}`.
        person: True if the story is about one person.
        groups: Short form of the equal groups, for the thinking; empty if the story has none.
    """

    opening: str
    gains: tuple[str, ...]
    losses: tuple[str, ...]
    ask: str
    units: tuple[str, ...]
    person: bool = False
    groups: str = ""

    def voice(self, rng: random.Random) -> dict[str, str]:
        """Values of all placeholders of one story but the numbers."""
        who, he = rng.choice(PEOPLE) if self.person else ("", "it")
        return {"who": who, "he": he, "unit": rng.choice(self.units)}


def _sentence(clause: str) -> str:
    return clause[0].upper() + clause[1:]


def _changes(
    rng: random.Random, scene: Scene, voice: dict[str, str], quantity: int, *, num_steps: int, level: Level
) -> list[Step]:
    """`num_steps` gains and losses that start at `quantity` and never fall below 1."""
    steps = []
    for _ in range(num_steps):
        loses = quantity > 2 and rng.random() < 0.5
        n = rng.randint(2, min(level.max_operand, quantity - 1) if loses else level.max_operand)
        event = rng.choice(scene.losses if loses else scene.gains).format(n=n, **voice)
        step = Step(
            left=quantity,
            operator="-" if loses else "+",
            right=n,
            event=event,
            reason="it gets less" if loses else "it gets more",
        )
        steps.append(step)
        quantity = step.result
    return steps


def _tell(opening: str, changes: Sequence[Step], ask: str) -> str:
    """The whole text of the problem: the opening, the changes joined by `then`, and the question."""
    events = [f"then {step.event}" if number else step.event for number, step in enumerate(changes)]
    return " ".join([*(f"{_sentence(fact)}." for fact in (opening, *events)), ask])


def change(scene: Scene) -> Callable[[random.Random, Level], Story]:
    """Family in which a quantity grows and shrinks."""

    def draw(rng: random.Random, level: Level) -> Story:
        voice = scene.voice(rng)
        start = rng.randint(3, level.max_start)
        opening = scene.opening.format(n=start, **voice)
        changes = _changes(rng, scene, voice, start, num_steps=level.num_steps, level=level)
        return Story(
            question=_tell(opening, changes, scene.ask.format(**voice)),
            opening=opening,
            steps=tuple(changes),
        )

    return draw


def groups(scene: Scene) -> Callable[[random.Random, Level], Story]:
    """Family that starts with equal groups; `{groups}` and `{n}` of the opening are multiplied."""

    def draw(rng: random.Random, level: Level) -> Story:
        voice = scene.voice(rng)
        count, size = rng.randint(2, level.max_factor), rng.randint(2, level.max_factor)
        opening = scene.opening.format(groups=count, n=size, **voice)
        product = Step(
            left=count,
            operator="*",
            right=size,
            event=scene.groups.format(groups=count, n=size, **voice),
            reason="each of them counts",
        )
        changes = _changes(rng, scene, voice, product.result, num_steps=level.num_steps - 1, level=level)
        return Story(
            question=_tell(opening, changes, scene.ask.format(**voice)),
            opening=opening,
            steps=(product, *changes),
        )

    return draw


def compare(scene: Scene) -> Callable[[random.Random, Level], Story]:
    """Family in which a second person has more or fewer, both are added up, and the sum changes."""

    def draw(rng: random.Random, level: Level) -> Story:
        (first, _), (second, _) = rng.sample(PEOPLE, 2)
        voice = {"who": first, "he": "they", "unit": rng.choice(scene.units)}
        start = rng.randint(3, level.max_start)
        fewer = rng.random() < 0.5
        n = rng.randint(2, min(level.max_operand, start - 1) if fewer else level.max_operand)
        opening = scene.opening.format(n=start, **voice)
        comparison = f"{second} has {n} {'fewer' if fewer else 'more'} than {first}"
        other = Step(
            left=start,
            operator="-" if fewer else "+",
            right=n,
            event=comparison,
            reason=f"{second} has {'fewer' if fewer else 'more'}",
        )
        total = Step(
            left=other.result, operator="+", right=start, event=f"{first} has {start}", reason="they count together"
        )
        changes = _changes(rng, scene, voice, total.result, num_steps=level.num_steps - 2, level=level)
        return Story(
            question=_tell(f"{opening}. {comparison}", changes, scene.ask.format(**voice)),
            opening=opening,
            steps=(other, total, *changes),
        )

    return draw


ITEMS = ("apples", "books", "cards", "pens", "coins", "cookies", "stamps", "balls", "eggs", "shells")
"""Possessions in stories about people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A kind of word problem; training data contain a held-out one only when it is named."""

    name: str
    held_out: bool
    draw: Callable[[random.Random, Level], Story]


_FAMILIES = (
    Family(name="belongings", held_out=False, draw=change(Scene(
        opening="{who} has {n} {unit}",
        gains=("{he} buys {n}", "{he} finds {n}"), losses=("{he} gives away {n}", "{he} loses {n}"),
        ask="How many {unit} does {he} have?", units=ITEMS, person=True,
    ))),
    Family(name="bus", held_out=False, draw=change(Scene(
        opening="a {unit} carries {n} people", gains=("{n} get on",), losses=("{n} get off",),
        ask="How many people are on the {unit}?", units=("bus", "train", "tram", "boat"),
    ))),
    Family(name="savings", held_out=False, draw=change(Scene(
        opening="{who} has {n} {unit}", gains=("{he} earns {n}",), losses=("{he} spends {n}",),
        ask="How many {unit} does {he} have?", units=("dollars", "euros", "cents"), person=True,
    ))),
    Family(name="boxes", held_out=False, draw=groups(Scene(
        opening="there are {groups} boxes with {n} {unit} each", groups="{groups} boxes hold {n} each",
        gains=("{n} are added",), losses=("{n} are taken out",), ask="How many {unit} are there?", units=ITEMS,
    ))),
    Family(name="compare", held_out=False, draw=compare(Scene(
        opening="{who} has {n} {unit}", gains=("{he} buy {n}",), losses=("{he} sell {n}",),
        ask="How many {unit} do they have together?", units=ITEMS,
    ))),
    Family(name="hotel", held_out=True, draw=change(Scene(
        opening="a {unit} has {n} guests", gains=("{n} arrive",), losses=("{n} leave",),
        ask="How many guests are in the {unit}?", units=("hotel", "hostel", "cabin", "lodge"),
    ))),
    Family(name="shelves", held_out=True, draw=groups(Scene(
        opening="a shop has {groups} shelves with {n} {unit} each", groups="{groups} shelves hold {n} each",
        gains=("{n} are delivered",), losses=("{n} are sold",), ask="How many {unit} does the shop have?",
        units=("jars", "bottles", "toys", "lamps"),
    ))),
)  # fmt: skip
FAMILIES = {family.name: family for family in _FAMILIES}
"""All families by name."""


OPENINGS = ("Okay, let me see.", "Okay, let me think.", "Hmm, let me see.", "Alright, let me see.")
SITUATIONS = ("So {fact}.", "The question says that {fact}.")
REPEATS = ("That makes {result}.", "So now it is {result}.")
HESITATIONS = ("Hmm, okay.", "Wait, is that right? Yes.", "Hmm, let me see.")
DEAD_ENDS = ("Maybe {left} {wrong} {right}? No, {reason}.", "Wait, {left} {wrong} {right}? No, {reason}.")
CHECKS = ("Wait, let me double-check:", "Let me double-check that:", "Hmm, let me verify:")
CONFIRMATIONS = ("Yes.", "Right.", "Okay.")
CLOSINGS = ("So the answer is {answer}.",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Expected number of planted pieces at redundancy 1, per step or per thinking text."""

    opening: float = 1.0
    situation: float = 0.15
    restatement: float = 0.9
    repeat: float = 0.1
    hesitation: float = 0.1
    dead_end: float = 0.1
    double_check: float = 0.4
    closing: float = 0.7


RATES = Rates()


class ThinkingWriter:
    """Writes one thinking text about a story; redundancy 0 leaves only the equations."""

    def __init__(self, rng: random.Random, redundancy: float) -> None:
        self._rng, self._redundancy = rng, redundancy
        self._text, self._spans = "", list[Span]()

    def write(self, story: Story) -> tuple[str, tuple[Span, ...]]:
        """The thinking text and its labels, which cover it without gap or overlap."""
        for _ in range(self._count(RATES.opening)):
            self._add(self._rng.choice(OPENINGS), "hesitation")
        for _ in range(self._count(RATES.situation)):
            self._add(self._rng.choice(SITUATIONS).format(fact=story.opening), "restatement")
        for number, step in enumerate(story.steps):
            self._step(step, first=number == 0)
        for _ in range(self._count(RATES.double_check)):
            step = self._rng.choice(story.steps)
            self._add(self._rng.choice(CHECKS), "double_check")
            self._add(f"{step.left} {step.operator} {step.right} = {step.result}.", "double_check")
            self._add(self._rng.choice(CONFIRMATIONS), "double_check")
        for _ in range(self._count(RATES.closing)):
            self._add(self._rng.choice(CLOSINGS).format(answer=story.answer), "repeat")
        return self._text, tuple(self._spans)

    def _add(self, text: str, kind: str, *, essential: bool = False, glue: str = " ") -> None:
        """Append a piece with its label; the glue before it belongs to it."""
        start = len(self._text)
        self._text += (glue if self._text else "") + text
        self._spans.append(Span(start=start, end=len(self._text), kind=kind, essential=essential))

    def _count(self, rate: float) -> int:
        expected = rate * self._redundancy
        return int(expected) + (self._rng.random() < expected % 1)

    def _step(self, step: Step, *, first: bool) -> None:
        for _ in range(self._count(RATES.dead_end)):
            wrong = self._rng.choice([symbol for symbol in "+-" if symbol != step.operator])
            text = self._rng.choice(DEAD_ENDS)
            self._add(text.format(left=step.left, right=step.right, wrong=wrong, reason=step.reason), "dead_end")
        if self._count(RATES.restatement):
            if not first:
                self._add("Then", "connective")
            self._add(_sentence(step.event) if first else step.event, "restatement")
            self._add("so", "connective", glue=", ")
        for part, kind in (
            (step.left, "operand"), (step.operator, "operator"), (step.right, "operand"),
            ("=", "operator"), (step.result, "result"),
        ):  # fmt: skip
            self._add(str(part), kind, essential=True)
        self._add(".", "connective", glue="")
        for _ in range(self._count(RATES.repeat)):
            self._add(self._rng.choice(REPEATS).format(result=step.result), "repeat")
        for _ in range(self._count(RATES.hesitation)):
            self._add(self._rng.choice(HESITATIONS), "hesitation")


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

    No families means all that are not held out; `group` is the configuration group of the settings, for messages.

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

    No families means all of the evaluation half (the held-out ones included), or all training families of the other.

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
        draws = (family.draw(rng, level) for _ in range(MAX_DRAWS))
        story = next((s for s in draws if s.question not in seen and half_of(family.name, s) is half), None)
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
