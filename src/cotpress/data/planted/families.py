"""The problem families: a name, a wording, and whether training data shows it. A new family is one entry here."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from cotpress.data.planted.stories import Level, Scene, Story, change, compare, groups

ITEMS = ("apples", "books", "cards", "pens", "coins", "cookies", "stamps", "balls", "eggs", "shells")
"""What people own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A kind of word problem.

    Attributes:
        name: Name in configurations and tables.
        held_out: True if training data never shows it unless it is asked for by name.
        draw: Makes a story with the given number of steps.
    """

    name: str
    held_out: bool
    draw: Callable[[random.Random, Level], Story]


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="belongings",
            held_out=False,
            draw=change(
                Scene(
                    opening="{who} has {n} {unit}",
                    gains=("{he} buys {n}", "{he} finds {n}"),
                    losses=("{he} gives away {n}", "{he} loses {n}"),
                    ask="How many {unit} does {he} have?",
                    units=ITEMS,
                    person=True,
                )
            ),
        ),
        Family(
            name="bus",
            held_out=False,
            draw=change(
                Scene(
                    opening="a {unit} carries {n} people",
                    gains=("{n} get on",),
                    losses=("{n} get off",),
                    ask="How many people are on the {unit}?",
                    units=("bus", "train", "tram", "boat"),
                )
            ),
        ),
        Family(
            name="savings",
            held_out=False,
            draw=change(
                Scene(
                    opening="{who} has {n} {unit}",
                    gains=("{he} earns {n}",),
                    losses=("{he} spends {n}",),
                    ask="How many {unit} does {he} have?",
                    units=("dollars", "euros", "cents"),
                    person=True,
                )
            ),
        ),
        Family(
            name="boxes",
            held_out=False,
            draw=groups(
                Scene(
                    opening="there are {groups} boxes with {n} {unit} each",
                    groups="{groups} boxes hold {n} each",
                    gains=("{n} are added",),
                    losses=("{n} are taken out",),
                    ask="How many {unit} are there?",
                    units=ITEMS,
                )
            ),
        ),
        Family(
            name="compare",
            held_out=False,
            draw=compare(
                Scene(
                    opening="{who} has {n} {unit}",
                    gains=("{he} buy {n}",),
                    losses=("{he} sell {n}",),
                    ask="How many {unit} do they have together?",
                    units=ITEMS,
                )
            ),
        ),
        Family(
            name="hotel",
            held_out=True,
            draw=change(
                Scene(
                    opening="a {unit} has {n} guests",
                    gains=("{n} arrive",),
                    losses=("{n} leave",),
                    ask="How many guests are in the {unit}?",
                    units=("hotel", "hostel", "cabin", "lodge"),
                )
            ),
        ),
        Family(
            name="shelves",
            held_out=True,
            draw=groups(
                Scene(
                    opening="a shop has {groups} shelves with {n} {unit} each",
                    groups="{groups} shelves hold {n} each",
                    gains=("{n} are delivered",),
                    losses=("{n} are sold",),
                    ask="How many {unit} does the shop have?",
                    units=("jars", "bottles", "toys", "lamps"),
                )
            ),
        ),
    )
}
"""All families by name."""
