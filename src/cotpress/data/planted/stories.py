"""Stories: how a word problem is drawn, and the calculations that solve it.

Numbers stay small on purpose: a model of 135 M parameters learns the lowest difficulty from two hundred examples, so
that what a compression costs shows in the accuracy.
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
    """How hard stories are.

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
"""What the difficulties 1 to 3 mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One calculation of the solution.

    Attributes:
        operator: `+`, `-` or `*`.
        event: What happens in the story, as a clause that can stand in mid-sentence, e.g. `he gives away 3`.
        reason: Why the operator is this one, e.g. `gives away` means less; closes a withdrawn attempt.
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
        opening: Its first fact, as a clause that can stand in mid-sentence.
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
        """What is written after the thinking: all steps as one calculation, read from left to right."""
        operations = "".join(f" {step.operator} {step.right}" for step in self.steps)
        return f"{self.steps[0].left}{operations} = \\boxed{{{self.answer}}}"

    @property
    def numbers(self) -> tuple[str | int, ...]:
        """Start and signed operands: what makes this problem numerically the one it is."""
        first = self.steps[0]
        return (first.left, *(part for step in self.steps for part in (step.operator, step.right)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Wording of a story in which a quantity changes.

    Every text may hold `{n}` (a number), `{who}` and `{he}` (a person, if `person` is set) and `{unit}`.

    Attributes:
        opening: The first fact; with equal groups also `{groups}`, their number.
        gains: Clauses for what adds to the quantity.
        losses: Clauses for what takes from it.
        ask: The question asked at the end.
        units: What `{unit}` may be.
        person: True if the story is about one person.
        groups: The equal groups in short, as thinking restates them; empty if the story has none.
    """

    opening: str
    gains: tuple[str, ...]
    losses: tuple[str, ...]
    ask: str
    units: tuple[str, ...]
    person: bool = False
    groups: str = ""

    def voice(self, rng: random.Random) -> dict[str, str]:
        """Who and what one story is about: values for every placeholder but the numbers."""
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
    """The question: the opening, the changes joined by `then`, and what is asked."""
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
