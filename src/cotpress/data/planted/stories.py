"""Word problems with the calculations that solve them, and their families. A new family is an entry of `FAMILIES`.

Numbers are small on purpose: a model of 135 M parameters learns the lowest difficulty from two hundred examples, so
the accuracy shows the cost of a compression.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    """A level of difficulty.

    Attributes:
        num_steps: Calculations per story, at least 2.
        max_start: Largest number a story starts with.
        max_operand: Largest number added or subtracted.
        max_factor: Largest factor of a product.
    """

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
    """A kind of word problem.

    Attributes:
        name: Name in configurations and tables.
        held_out: True if training data contains it only when it is named.
        draw: Draws a story of a level.
    """

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
