"""Built-in data: word problems, their solutions, and R1-style thinking with a label for every character.

Numbers are small on purpose: a model of 135 M parameters learns the lowest difficulty from two hundred examples, so the
accuracy shows the cost of a compression. A new family of problems is an entry of `FAMILIES`.

The essential part of a thinking is the chain of equations. The rest is planted redundancy: openings, restated facts,
repeated results, hesitation, withdrawn attempts (dead ends), double-checks and a closing remark.

Data are deterministic by seed, no question comes twice, and training and evaluation have no problem in common (see
`half_of`). Every story has its own random stream, so the first hundred traces of a larger set are the set of a hundred.
"""

import hashlib
import operator
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

from cotpress.errors import ConfigError, did_you_mean
from cotpress.records import Problem, Span, Trace

PEOPLE = (
    ("Tom", "he"), ("Anna", "she"), ("Ben", "he"), ("Mia", "she"), ("Sam", "he"), ("Lily", "she"),
    ("Jack", "he"), ("Emma", "she"), ("Max", "he"), ("Sara", "she"), ("Paul", "he"), ("Kate", "she"),
)  # fmt: skip
"""Names and the pronouns that go with them."""

_OPERATORS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}


class Level(NamedTuple):
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


class Step(NamedTuple):
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
        return _OPERATORS[self.operator](self.left, self.right)


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A word problem with its solution.

    Attributes:
        opening: The first fact of the question, as a clause for the middle of a sentence.
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


def _story(
    rng: random.Random,
    level: Level,
    scene: Scene,
    voice: dict[str, str],
    *,
    facts: Sequence[str],
    steps: Sequence[Step] = (),
    quantity: int,
) -> Story:
    """A story of `facts` and the `steps` that they imply, then gains and losses of `quantity`, which stays above 0."""
    changes: list[Step] = []
    for _ in range(level.num_steps - len(steps)):
        loses = quantity > 2 and rng.random() < 0.5
        n = rng.randint(2, min(level.max_operand, quantity - 1) if loses else level.max_operand)
        sign, reason = ("-", "it gets less") if loses else ("+", "it gets more")
        event = rng.choice(scene.losses if loses else scene.gains).format(n=n, **voice)
        changes.append(Step(quantity, sign, n, event, reason))
        quantity = changes[-1].result
    events = [f"then {step.event}" if number else step.event for number, step in enumerate(changes)]
    sentences = [f"{_sentence(clause)}." for clause in (*facts, *events)]
    return Story(question=" ".join([*sentences, scene.ask.format(**voice)]), opening=facts[0], steps=(*steps, *changes))


def change(scene: Scene, rng: random.Random, level: Level) -> Story:
    """A quantity grows and shrinks."""
    voice = scene.voice(rng)
    start = rng.randint(3, level.max_start)
    return _story(rng, level, scene, voice, facts=[scene.opening.format(n=start, **voice)], quantity=start)


def groups(scene: Scene, rng: random.Random, level: Level) -> Story:
    """Equal groups, `{groups}` of `{n}` each, are multiplied; the product changes."""
    voice = scene.voice(rng)
    count, size = rng.randint(2, level.max_factor), rng.randint(2, level.max_factor)
    event = scene.groups.format(groups=count, n=size, **voice)
    product = Step(count, "*", size, event, "each of them counts")
    opening = scene.opening.format(groups=count, n=size, **voice)
    return _story(rng, level, scene, voice, facts=[opening], steps=[product], quantity=product.result)


def compare(scene: Scene, rng: random.Random, level: Level) -> Story:
    """A second person has more or fewer, both are added up, and the sum changes."""
    (first, _), (second, _) = rng.sample(PEOPLE, 2)
    voice = {"who": first, "he": "they", "unit": rng.choice(scene.units)}
    start = rng.randint(3, level.max_start)
    fewer = rng.random() < 0.5
    n = rng.randint(2, min(level.max_operand, start - 1) if fewer else level.max_operand)
    sign, comparative = ("-", "fewer") if fewer else ("+", "more")
    other = Step(start, sign, n, f"{second} has {n} {comparative} than {first}", f"{second} has {comparative}")
    total = Step(other.result, "+", start, f"{first} has {start}", "they count together")
    facts = [scene.opening.format(n=start, **voice), other.event]
    return _story(rng, level, scene, voice, facts=facts, steps=[other, total], quantity=total.result)


ITEMS = ("apples", "books", "cards", "pens", "coins", "cookies", "stamps", "balls", "eggs", "shells")
"""Possessions in stories about people."""


class Family(NamedTuple):
    """A kind of word problem; training data contain a held-out one only when it is named."""

    draw: partial[Story]
    held_out: bool = False


FAMILIES = {
    "belongings": Family(partial(change, Scene(
        opening="{who} has {n} {unit}",
        gains=("{he} buys {n}", "{he} finds {n}"), losses=("{he} gives away {n}", "{he} loses {n}"),
        ask="How many {unit} does {he} have?", units=ITEMS, person=True,
    ))),
    "bus": Family(partial(change, Scene(
        opening="a {unit} carries {n} people", gains=("{n} get on",), losses=("{n} get off",),
        ask="How many people are on the {unit}?", units=("bus", "train", "tram", "boat"),
    ))),
    "savings": Family(partial(change, Scene(
        opening="{who} has {n} {unit}", gains=("{he} earns {n}",), losses=("{he} spends {n}",),
        ask="How many {unit} does {he} have?", units=("dollars", "euros", "cents"), person=True,
    ))),
    "boxes": Family(partial(groups, Scene(
        opening="there are {groups} boxes with {n} {unit} each", groups="{groups} boxes hold {n} each",
        gains=("{n} are added",), losses=("{n} are taken out",), ask="How many {unit} are there?", units=ITEMS,
    ))),
    "compare": Family(partial(compare, Scene(
        opening="{who} has {n} {unit}", gains=("{he} buy {n}",), losses=("{he} sell {n}",),
        ask="How many {unit} do they have together?", units=ITEMS,
    ))),
    "hotel": Family(partial(change, Scene(
        opening="a {unit} has {n} guests", gains=("{n} arrive",), losses=("{n} leave",),
        ask="How many guests are in the {unit}?", units=("hotel", "hostel", "cabin", "lodge"),
    )), held_out=True),
    "shelves": Family(partial(groups, Scene(
        opening="a shop has {groups} shelves with {n} {unit} each", groups="{groups} shelves hold {n} each",
        gains=("{n} are delivered",), losses=("{n} are sold",), ask="How many {unit} does the shop have?",
        units=("jars", "bottles", "toys", "lamps"),
    )), held_out=True),
}  # fmt: skip
"""All families by name."""
TRAINING_FAMILIES = [name for name, family in FAMILIES.items() if not family.held_out]


class Filler(NamedTuple):
    """Redundant sentences; `rate` is their expected number at redundancy 1, per step or per thinking text."""

    rate: float
    kind: str
    texts: tuple[str, ...]


OPENING = Filler(
    1.0, "hesitation", ("Okay, let me see.", "Okay, let me think.", "Hmm, let me see.", "Alright, let me see.")
)
SITUATION = Filler(0.15, "restatement", ("So {fact}.", "The question says that {fact}."))
REPEAT = Filler(0.1, "repeat", ("That makes {result}.", "So now it is {result}."))
HESITATION = Filler(0.1, "hesitation", ("Hmm, okay.", "Wait, is that right? Yes.", "Hmm, let me see."))
DEAD_END = Filler(
    0.1, "dead_end", ("Maybe {left} {wrong} {right}? No, {reason}.", "Wait, {left} {wrong} {right}? No, {reason}.")
)
DOUBLE_CHECK = Filler(
    0.4, "double_check", ("Wait, let me double-check:", "Let me double-check that:", "Hmm, let me verify:")
)
CONFIRMATIONS = ("Yes.", "Right.", "Okay.")
CLOSING = Filler(0.7, "repeat", ("So the answer is {answer}.",))
RESTATEMENT_RATE = 0.9


class ThinkingWriter:
    """Writes one thinking text about a story; redundancy 0 leaves only the equations."""

    def __init__(self, rng: random.Random, redundancy: float) -> None:
        self._rng, self._redundancy = rng, redundancy
        self._text, self._spans = "", list[Span]()

    def write(self, story: Story) -> tuple[str, tuple[Span, ...]]:
        """The thinking text and its labels, which cover it without gap or overlap."""
        self._fill(OPENING)
        self._fill(SITUATION, fact=story.opening)
        for number, step in enumerate(story.steps):
            self._step(step, first=number == 0)
        for _ in range(self._count(DOUBLE_CHECK.rate)):
            step = self._rng.choice(story.steps)
            self._add(self._rng.choice(DOUBLE_CHECK.texts), DOUBLE_CHECK.kind)
            self._add(f"{step.left} {step.operator} {step.right} = {step.result}.", DOUBLE_CHECK.kind)
            self._add(self._rng.choice(CONFIRMATIONS), DOUBLE_CHECK.kind)
        self._fill(CLOSING, answer=story.answer)
        return self._text, tuple(self._spans)

    def _add(self, text: str, kind: str, *, essential: bool = False, glue: str = " ") -> None:
        """Append a piece with its label; the glue before it belongs to it."""
        start = len(self._text)
        self._text += (glue if self._text else "") + text
        self._spans.append(Span(start=start, end=len(self._text), kind=kind, essential=essential))

    def _count(self, rate: float) -> int:
        expected = rate * self._redundancy
        return int(expected) + (self._rng.random() < expected % 1)

    def _fill(self, filler: Filler, **values: object) -> None:
        for _ in range(self._count(filler.rate)):
            self._add(self._rng.choice(filler.texts).format(**values), filler.kind)

    def _step(self, step: Step, *, first: bool) -> None:
        for _ in range(self._count(DEAD_END.rate)):
            wrong = self._rng.choice([symbol for symbol in "+-" if symbol != step.operator])
            text = self._rng.choice(DEAD_END.texts)
            self._add(text.format(left=step.left, right=step.right, wrong=wrong, reason=step.reason), DEAD_END.kind)
        if self._count(RESTATEMENT_RATE):
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
        self._fill(REPEAT, result=step.result)
        self._fill(HESITATION)


MAX_DRAWS = 3000
"""Consecutive draws without a new question after which a family counts as exhausted."""


class Half(Enum):
    """Half of all combinations of numbers; see `half_of`."""

    training = "training"
    evaluation = "evaluation"


def half_of(family: str, story: Story) -> Half:
    """The half that the numbers of a story belong to; names and things do not matter.

    Training and evaluation draw from different halves, so they have no problem in common, whatever the seeds.
    """
    digest = hashlib.sha256(f"{family}:{story.numbers}".encode()).digest()
    return Half.evaluation if digest[0] % 2 else Half.training


def calculation(family: str, question: str) -> tuple[str, ...]:
    """Start, operators and operands of a built-in question, as `Story.numbers` has them."""
    scene: Scene = FAMILIES[family].draw.args[0]
    losing = ["fewer", *(re.sub(r"\{\w+\}", "", clause).strip() for clause in scene.losses)]
    parts: list[str] = []
    for sentence in question.split(". "):
        sign = "-" if any(clause in sentence for clause in losing) else "+"
        parts += [part for number in re.findall(r"\d+", sentence) for part in (sign, number)]
    if scene.groups:
        parts[2:3] = ["*"]
    if family == "compare":  # the first person's number is also added to the second's
        parts[4:4] = ["+", *parts[1:2]]
    return tuple(parts[1:])


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
        ConfigError: A family is unknown or repeated, or there are fewer different problems.
    """
    prefix = "train" if half is Half.training else "truth"
    made = []
    stories = _stories(num_traces, "traces", families or TRAINING_FAMILIES, difficulty, seed, half, group)
    for index, (family, story, rng) in enumerate(stories):
        thinking, spans = ThinkingWriter(rng, redundancy).write(story)
        made.append(
            Trace(
                id=f"{prefix}-{family}-{index:05d}",
                question=story.question,
                thinking=thinking,
                response=story.solution,
                answer=str(story.answer),
                family=family,
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
    """Problems whose numbers do not occur in traces of the other half; arguments and errors as for `traces`.

    No families means all of the evaluation half (the held-out ones included), or all training families of the other.
    """
    prefix, allowed = ("eval", list(FAMILIES)) if half is Half.evaluation else ("ask", TRAINING_FAMILIES)
    stories = _stories(num_problems, "problems", families or allowed, difficulty, seed, half, group)
    return [
        Problem(id=f"{prefix}-{family}-{index:05d}", question=story.question, answer=str(story.answer), family=family)
        for index, (family, story, _) in enumerate(stories)
    ]


def _stories(
    count: int, unit: str, families: Sequence[str], difficulty: int, seed: int, half: Half, group: str
) -> Iterator[tuple[str, Story, random.Random]]:
    """`count` different stories, each with its family and the random stream that continues with its thinking.

    Families take turns; an exhausted family is skipped. `unit` and `group` are for messages.
    """
    for name in families:
        if name not in FAMILIES:
            raise ConfigError(f"{group}.families: got '{name}'.{did_you_mean(name, FAMILIES)}")
        if families.count(name) > 1:
            raise ConfigError(f"{group}.families: got '{name}' more than once, allowed: each family once")
    active = list(families)
    seen: set[str] = set()
    while len(seen) < count:
        family = active[len(seen) % len(active)]
        rng = random.Random(f"{seed}:{half.value}:{len(seen)}")
        draws = (FAMILIES[family].draw(rng, LEVELS[difficulty]) for _ in range(MAX_DRAWS))
        story = next((s for s in draws if s.question not in seen and half_of(family, s) is half), None)
        if story is not None:
            seen.add(story.question)
            yield family, story, rng
            continue
        active.remove(family)
        if not active:
            raise ConfigError(
                f"{group}.num_{unit}: got {count}, but {', '.join(families)} have no further question after "
                f"{len(seen)}. Fix: ask for fewer, for more families or for a higher difficulty."
            )
