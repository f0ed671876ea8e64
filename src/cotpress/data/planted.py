"""Built-in data: word problems, their solutions, and R1-style thinking with a label for every character.

A thinking restates the question, computes each step, checks it by the inverse calculation, states the answer, goes over
all steps again, and states it once more; longer ones also try a wrong operator first and withdraw it. Only the
equations of the steps are essential. The content follows from the story by rules (`LEVELS`); only the wording is drawn.
So a model that decodes greedily writes the same redundancy as the traces that it was trained on, and there is something
to compress in it. Redundancy that is drawn at a rate below one half never appears in greedy answers.

Start, operands and results have two digits, factors one. Short stories only add up, without carrying, which a model of
135 M parameters learns from few traces. A new family of problems is an entry of `FAMILIES`.

Data are deterministic by seed, no question comes twice, and training and evaluation have no calculation in common (see
`half_of`). Every story has its own random stream, so the first hundred traces of a larger set are the set of a hundred.
"""

import hashlib
import operator
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from typing import Any, NamedTuple

from cotpress.errors import ConfigError, did_you_mean
from cotpress.records import Problem, Span, Trace

PEOPLE = (
    ("Tom", "he"), ("Anna", "she"), ("Ben", "he"), ("Mia", "she"), ("Sam", "he"), ("Lily", "she"),
    ("Jack", "he"), ("Emma", "she"), ("Max", "he"), ("Sara", "she"), ("Paul", "he"), ("Kate", "she"),
)  # fmt: skip
"""Names and the pronouns that go with them."""

_OPERATORS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_INVERSES = {"+": "-", "-": "+", "*": "/"}


class Length(Enum):
    """Length of the built-in stories and of the thinking about them."""

    short = "short"
    """Two steps, 120 to 180 tokens of thinking: learnt on a CPU by a model of 135 M parameters."""
    long = "long"
    """Five steps with withdrawn attempts, about 450 tokens."""
    very_long = "very_long"
    """Twelve steps with withdrawn attempts that go on for a step, up to 1,500 tokens: for GPUs."""


class Level(NamedTuple):
    """Rules for the content of a thinking.

    Attributes:
        num_steps: Calculations per story, at least 2.
        dead_end_steps: Calculations of a withdrawn attempt, which stands before each step that has another operator
            than the one before it; 0 leaves them out.
        num_reviews: Number of times that all steps are gone over at the end.
        max_new_tokens: Budget of an answer, in tokens of SmolLM2: half more than the longest thinking and response.
        signs: Operators of changes and comparisons.
        factors: Numbers of equal groups. Two groups are added up, more are multiplied.
        regroups: True if digits may carry and borrow.
    """

    num_steps: int
    dead_end_steps: int
    num_reviews: int
    max_new_tokens: int
    signs: str = "+-"
    factors: tuple[int, ...] = (2, 3, 4)
    regroups: bool = True


LEVELS = {
    Length.short: Level(
        num_steps=2, dead_end_steps=0, num_reviews=1, max_new_tokens=320, signs="+", factors=(2,), regroups=False
    ),
    Length.long: Level(num_steps=5, dead_end_steps=1, num_reviews=1, max_new_tokens=900),
    Length.very_long: Level(num_steps=12, dead_end_steps=2, num_reviews=2, max_new_tokens=2600),
}
"""Levels by length."""
LEAST, MOST = 10, 99
"""Bounds of all numbers but those of equal groups."""


class Step(NamedTuple):
    """One calculation of the solution.

    Attributes:
        operator: `+`, `-` or `*`.
        event: Event of the story, as a clause for the middle of a sentence, e.g. `he gives away 13`.
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

    @property
    def equation(self) -> str:
        """The calculation with its result."""
        return f"{self.left} {self.operator} {self.right} = {self.result}"

    @property
    def inverse(self) -> str:
        """The inverse calculation, which leads from the result back to the left number."""
        return f"{self.result} {_INVERSES[self.operator]} {self.right} = {self.left}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A word problem with its solution.

    Attributes:
        facts: The facts and events of the question in order, as clauses for the middle of a sentence.
        ask: The last sentence of the question.
        steps: Calculations in order; the last result is the answer.
    """

    facts: tuple[str, ...]
    ask: str
    steps: tuple[Step, ...]

    @property
    def question(self) -> str:
        """Text of the problem."""
        return " ".join([*(f"{_sentence(clause)}." for clause in self.facts), self.ask])

    @property
    def answer(self) -> int:
        """Result of the last step."""
        return self.steps[-1].result

    @property
    def solution(self) -> str:
        """Response after the thinking: the steps one after the other, each with its event."""
        steps = [f"{_sentence(_after(i, step))}: {step.equation}." for i, step in enumerate(self.steps)]
        return " ".join([*steps, f"The answer is \\boxed{{{self.answer}}}."])

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


def _after(number: int, step: Step) -> str:
    """The event of a step; every one but the first is connected with the one before."""
    return f"then {step.event}" if number else step.event


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
    """A story of `facts` and the `steps` that they imply, then gains and losses of `quantity`."""
    changes: list[Step] = []
    for num_left in reversed(range(level.num_steps - len(steps))):
        allowed = {sign: _operands(level, quantity, sign, num_left) for sign in level.signs}
        sign = rng.choice([sign for sign, operands in allowed.items() if operands])
        n = rng.choice(allowed[sign])
        reason, clauses = ("it gets more", scene.gains) if sign == "+" else ("it gets less", scene.losses)
        changes.append(Step(quantity, sign, n, rng.choice(clauses).format(n=n, **voice), reason))
        quantity = changes[-1].result
    events = [_after(number, step) for number, step in enumerate(changes)]
    return Story(facts=(*facts, *events), ask=scene.ask.format(**voice), steps=(*steps, *changes))


@cache
def _operands(level: Level, left: int, sign: str, num_left: int) -> tuple[int, ...]:
    """Numbers that may follow `left` and the operator where `num_left` changes of the result come after it."""
    return tuple(
        right
        for right in range(LEAST, MOST + 1)
        if _is_allowed(level, left, sign, right) and _has_room(level, _OPERATORS[sign](left, right), num_left)
    )


@cache
def _has_room(level: Level, quantity: int, num_left: int) -> bool:
    """True if a quantity may change so many times."""
    return num_left == 0 or any(_operands(level, quantity, sign, num_left - 1) for sign in level.signs)


def _is_allowed(level: Level, left: int, sign: str, right: int) -> bool:
    """True if the result has two digits and, where the level does not regroup, no digit carries or borrows."""
    if not LEAST <= _OPERATORS[sign](left, right) <= MOST:
        return False
    if level.regroups:
        return True
    # A factor, which has one digit, multiplies each digit of the other number.
    pairs = zip(divmod(left, 10) if sign != "*" else (left, left), divmod(right, 10), strict=True)
    return all(0 <= _OPERATORS[sign](one, other) <= 9 for one, other in pairs)


def change(scene: Scene, rng: random.Random, level: Level) -> Story:
    """A quantity grows and shrinks."""
    voice = scene.voice(rng)
    start = rng.choice([n for n in range(LEAST, MOST + 1) if _has_room(level, n, level.num_steps)])
    return _story(rng, level, scene, voice, facts=[scene.opening.format(n=start, **voice)], quantity=start)


def groups(scene: Scene, rng: random.Random, level: Level) -> Story:
    """Equal groups, `{groups}` of `{n}` each, are counted together; their sum changes."""
    voice = scene.voice(rng)
    count = rng.choice(level.factors)
    size = rng.choice(_sizes(level, count))
    left, sign = _counted(count, size)
    total = Step(left, sign, size, scene.groups.format(groups=count, n=size, **voice), "each of them counts")
    opening = scene.opening.format(groups=count, n=size, **voice)
    return _story(rng, level, scene, voice, facts=[opening], steps=[total], quantity=total.result)


def _counted(count: int, size: int) -> tuple[int, str]:
    """Left number and operator that lead from the size of equal groups to their sum."""
    return (size, "+") if count == 2 else (count, "*")


@cache
def _sizes(level: Level, count: int) -> tuple[int, ...]:
    """Sizes of so many equal groups."""
    sizes = ((size, *_counted(count, size)) for size in range(LEAST, MOST + 1))
    return tuple(size for size, left, sign in sizes if size in _operands(level, left, sign, level.num_steps - 1))


def compare(scene: Scene, rng: random.Random, level: Level) -> Story:
    """A second person has more or fewer, both are added up, and the sum changes."""
    (first, _), (second, _) = rng.sample(PEOPLE, 2)
    voice = {"who": first, "he": "they", "unit": rng.choice(scene.units)}
    sign = rng.choice(level.signs)
    comparative = "more" if sign == "+" else "fewer"
    start, n = rng.choice(_compared(level, sign))
    other = Step(start, sign, n, f"{second} has {n} {comparative} than {first}", f"{second} has {comparative}")
    total = Step(other.result, "+", start, f"{first} has {start}", "they count together")
    facts = [scene.opening.format(n=start, **voice), other.event]
    return _story(rng, level, scene, voice, facts=facts, steps=[other, total], quantity=total.result)


@cache
def _compared(level: Level, sign: str) -> tuple[tuple[int, int], ...]:
    """Pairs of a first person's number and the difference of the second, whose numbers may be added up."""
    return tuple(
        (start, n)
        for start in range(LEAST, MOST + 1)
        for n in _operands(level, start, sign, 0)
        if _is_allowed(level, _OPERATORS[sign](start, n), "+", start)
        and _has_room(level, _OPERATORS[sign](start, n) + start, level.num_steps - 2)
    )


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
    "bags": Family(partial(groups, Scene(
        opening="{who} has {groups} bags with {n} {unit} each", groups="{groups} bags have {n} each",
        gains=("{he} buys {n}", "{he} finds {n}"), losses=("{he} sells {n}", "{he} loses {n}"),
        ask="How many {unit} does {he} have?", units=ITEMS, person=True,
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
        opening="there are {groups} shelves with {n} {unit} each", groups="{groups} shelves hold {n} each",
        gains=("{n} are delivered",), losses=("{n} are sold",), ask="How many {unit} are there?",
        units=("jars", "bottles", "toys", "lamps"),
    )), held_out=True),
}  # fmt: skip
"""All families by name."""
TRAINING_FAMILIES = [name for name, family in FAMILIES.items() if not family.held_out]


OPENINGS = ("Okay, let me see.", "Okay, let me think.", "Hmm, let me see.", "Alright, let me think.")
RESTATEMENTS = ("So {facts}.", "The question says that {facts}.", "I know that {facts}.")
FIRST, NEXT = ("First, ", "At first ", "To begin, "), ("Then ", "Next, ", "After that ")
DEAD_ENDS = ("Maybe {wrong}? No, {reason}.", "Is it {wrong}? Wait, no, {reason}.")
CHECKS = ("Let me check: {inverse}.", "To verify: {inverse}.", "Checking: {inverse}.")
CONFIRMATIONS = ("Yes.", "Right.", "Okay.")
REVIEWS = ("Wait, let me go over it again:", "Hmm, once more from the start:", "Let me go through it again:")
ANSWERS = ("So the answer is {answer}.", "Then the answer is {answer}.")
CLOSINGS = ("So the answer is {answer}.", "That makes {answer}.", "So it is {answer}.")


class ThinkingWriter:
    """Writes one thinking text about a story; `rng` draws the wording."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._text, self._spans = "", list[Span]()

    def write(self, story: Story, level: Level) -> tuple[str, tuple[Span, ...]]:
        """The thinking text and its labels, which cover it without gap or overlap."""
        self._say(OPENINGS, "hesitation")
        self._say(RESTATEMENTS, "restatement", facts=", ".join(story.facts))
        for number, step in enumerate(story.steps):
            if number and step.operator != story.steps[number - 1].operator:
                self._dead_end(step, story.steps[number + 1 :], level.dead_end_steps)
            self._step(step, first=number == 0)
            self._say(CHECKS, "double_check", inverse=step.inverse)
            self._say(CONFIRMATIONS, "double_check")
        self._say(ANSWERS, "closing", answer=story.answer)
        for _ in range(level.num_reviews):
            self._say(REVIEWS, "repeat")
            self._add(f"{', then '.join(step.equation for step in story.steps)}.", "repeat")
        self._say(CLOSINGS, "repeat", answer=story.answer)
        return self._text, tuple(self._spans)

    def _add(self, text: str, kind: str, *, essential: bool = False, glue: str = " ") -> None:
        """Append a piece with its label; the glue before it belongs to it."""
        start = len(self._text)
        self._text += (glue if self._text else "") + text
        self._spans.append(Span(start=start, end=len(self._text), kind=kind, essential=essential))

    def _say(self, texts: Sequence[str], kind: str, **values: object) -> None:
        self._add(self._rng.choice(texts).format(**values), kind)

    def _dead_end(self, step: Step, later: Sequence[Step], num_steps: int) -> None:
        """Try the wrong one of plus and minus, go on with it for some steps, and withdraw it."""
        quantity, tried = step.left, []
        for number, tested in enumerate([step, *later][:num_steps]):
            sign = tested.operator if number else "+" if step.operator == "-" else "-"
            result = _OPERATORS[sign](quantity, tested.right)
            tried.append(f"{quantity} {sign} {tested.right} = {result}")
            quantity = result
        if tried:
            self._say(DEAD_ENDS, "dead_end", wrong=", and ".join(tried), reason=f"{step.event}, {step.reason}")

    def _step(self, step: Step, *, first: bool) -> None:
        self._add(f"{self._rng.choice(FIRST if first else NEXT)}{step.event}, so", "event")
        for part, kind in (
            (step.left, "operand"), (step.operator, "operator"), (step.right, "operand"),
            ("=", "operator"), (step.result, "result"),
        ):  # fmt: skip
            self._add(str(part), kind, essential=True)
        self._add(".", "event", glue="")


MAX_DRAWS = 3000
"""Consecutive draws without a new question after which a family counts as exhausted."""


class Half(Enum):
    """Half of all combinations of numbers; see `half_of`."""

    training = "training"
    evaluation = "evaluation"


def half_of(story: Story) -> Half:
    """The half that the numbers of a story belong to; family, names and things do not matter.

    Training and evaluation draw from different halves, so they have no calculation in common, whatever the families,
    sizes and seeds.
    """
    digest = hashlib.sha256(str(story.numbers).encode()).digest()
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
        left, parts[2] = _counted(int(parts[1]), int(parts[3]))
        parts[1] = str(left)
    if family == "compare":  # the first person's number is also added to the second's
        parts[4:4] = ["+", *parts[1:2]]
    return tuple(parts[1:])


def settings_of(config: Any) -> dict[str, Any]:
    """The arguments of `traces` or `problems` that a configuration of planted data holds."""
    names = ("num_traces", "num_problems", "families", "length", "seed")
    return {name: getattr(config, name) for name in names if hasattr(config, name)}


def traces(
    *,
    num_traces: int,
    families: Sequence[str],
    length: Length,
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
    stories = _stories(num_traces, "traces", families or TRAINING_FAMILIES, length, seed, half, group)
    for index, (family, story, rng) in enumerate(stories):
        thinking, spans = ThinkingWriter(rng).write(story, LEVELS[length])
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
    length: Length,
    seed: int,
    half: Half = Half.evaluation,
    group: str = "benchmark",
) -> list[Problem]:
    """Problems whose numbers do not occur in traces of the other half; arguments and errors as for `traces`.

    No families means all of the evaluation half (the held-out ones included), or all training families of the other.
    """
    prefix, allowed = ("eval", list(FAMILIES)) if half is Half.evaluation else ("ask", TRAINING_FAMILIES)
    stories = _stories(num_problems, "problems", families or allowed, length, seed, half, group)
    return [
        Problem(id=f"{prefix}-{family}-{index:05d}", question=story.question, answer=str(story.answer), family=family)
        for index, (family, story, _) in enumerate(stories)
    ]


def _stories(
    count: int, unit: str, families: Sequence[str], length: Length, seed: int, half: Half, group: str
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
        draws = (FAMILIES[family].draw(rng, LEVELS[length]) for _ in range(MAX_DRAWS))
        story = next((s for s in draws if s.question not in seen and half_of(s) is half), None)
        if story is not None:
            seen.add(story.question)
            yield family, story, rng
            continue
        active.remove(family)
        if not active:
            raise ConfigError(
                f"{group}.num_{unit}: got {count}, but {', '.join(families)} have no further question after "
                f"{len(seen)}. Fix: ask for fewer, for more families or for data of another length."
            )
