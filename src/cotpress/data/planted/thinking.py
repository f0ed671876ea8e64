"""Writes R1-style thinking about a story, with a label for every character.

The essential part is the chain of equations. The rest is planted redundancy: openings, restated facts, repeated
results, hesitation, withdrawn attempts (dead ends), double-checks and a closing remark.
"""

import random
from dataclasses import dataclass, field

from cotpress.data.planted.stories import Step, Story
from cotpress.records import Span

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
    """Expected number of planted pieces at redundancy 1.

    Attributes:
        opening: Per thinking text.
        situation: Per thinking text: the first fact, restated.
        restatement: Per step: the event that it computes.
        repeat: Per step.
        hesitation: Per step.
        dead_end: Per step.
        double_check: Per thinking text; checks one step.
        closing: Per thinking text.
    """

    opening: float = 1.0
    situation: float = 0.15
    restatement: float = 0.9
    repeat: float = 0.1
    hesitation: float = 0.1
    dead_end: float = 0.1
    double_check: float = 0.4
    closing: float = 0.7


RATES = Rates()


@dataclass(slots=True)
class _Writer:
    """Text so far and its labels; pieces are joined by single spaces, which belong to the later piece."""

    text: str = ""
    spans: list[Span] = field(default_factory=list)

    def add(self, text: str, kind: str, *, essential: bool = False, glue: str = " ") -> None:
        start = len(self.text)
        self.text += (glue if self.text else "") + text
        self.spans.append(Span(start=start, end=len(self.text), kind=kind, essential=essential))


class ThinkingWriter:
    """Writes thinking texts about stories.

    Args:
        rng: Source of every choice.
        redundancy: Factor on the expected number of planted pieces, >= 0; 0 leaves only the equations.
    """

    def __init__(self, rng: random.Random, redundancy: float) -> None:
        self._rng, self._redundancy = rng, redundancy
        self._out = _Writer()

    def write(self, story: Story) -> tuple[str, tuple[Span, ...]]:
        """The thinking text and its labels, which cover it without gap or overlap."""
        self._out = _Writer()
        for _ in range(self._count(RATES.opening)):
            self._out.add(self._rng.choice(OPENINGS), "hesitation")
        for _ in range(self._count(RATES.situation)):
            self._out.add(self._rng.choice(SITUATIONS).format(fact=story.opening), "restatement")
        for number, step in enumerate(story.steps):
            self._step(step, first=number == 0)
        for _ in range(self._count(RATES.double_check)):
            self._double_check(self._rng.choice(story.steps))
        for _ in range(self._count(RATES.closing)):
            self._out.add(self._rng.choice(CLOSINGS).format(answer=story.answer), "repeat")
        return self._out.text, tuple(self._out.spans)

    def _count(self, rate: float) -> int:
        expected = rate * self._redundancy
        return int(expected) + (self._rng.random() < expected % 1)

    def _step(self, step: Step, *, first: bool) -> None:
        for _ in range(self._count(RATES.dead_end)):
            self._dead_end(step)
        if self._count(RATES.restatement):
            if not first:
                self._out.add("Then", "connective")
            event = step.event if not first else step.event[0].upper() + step.event[1:]
            self._out.add(event, "restatement")
            self._out.add("so", "connective", glue=", ")
        self._equation(step)
        for _ in range(self._count(RATES.repeat)):
            self._out.add(self._rng.choice(REPEATS).format(result=step.result), "repeat")
        for _ in range(self._count(RATES.hesitation)):
            self._out.add(self._rng.choice(HESITATIONS), "hesitation")

    def _equation(self, step: Step) -> None:
        self._out.add(str(step.left), "operand", essential=True)
        self._out.add(step.operator, "operator", essential=True)
        self._out.add(str(step.right), "operand", essential=True)
        self._out.add("=", "operator", essential=True)
        self._out.add(str(step.result), "result", essential=True)
        self._out.add(".", "connective", glue="")

    def _dead_end(self, step: Step) -> None:
        wrong = self._rng.choice([symbol for symbol in "+-" if symbol != step.operator])
        template = self._rng.choice(DEAD_ENDS)
        self._out.add(template.format(left=step.left, right=step.right, wrong=wrong, reason=step.reason), "dead_end")

    def _double_check(self, step: Step) -> None:
        self._out.add(self._rng.choice(CHECKS), "double_check")
        self._out.add(f"{step.left} {step.operator} {step.right} = {step.result}.", "double_check")
        self._out.add(self._rng.choice(CONFIRMATIONS), "double_check")
