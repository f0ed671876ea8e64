"""Units of each trace that scorers are judged on, with their known worth and the scores of trivial rules.

A unit is a token of the base model's tokenizer where tokens are labelled, else a step or sentence, to which tokens
belong by the rule of `cotpress.modeling.segments`. Every scorer is judged on the same units.

Trivial rules need no model and are lower bounds for scorers:

    position     index of the unit
    length       characters of the token's word, or of the step
    digit share  1 if the token has a digit; the share of digits among the step's characters
    new bigrams  1 if the token's word and the word before it did not stand next to each other earlier in the text;
                 the share of such words in the step

Words are compared in lower case. No rule has a direction of its own: short steps may matter more, or long ones.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.segments import owners, unit_ids, word_ranges
from cotpress.records import EDITED_STEP, SentenceImportance, Trace, TruthKind, Unit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One trace with `n` tokens and `m` judged units."""

    num_chars: int  # length of the thinking
    token_ids: NDArray[np.int32]  # `[n]`, tokens of the base model
    offsets: NDArray[np.int32]  # `[n, 2]`, characters that each token stands for
    units: NDArray[np.int64]  # `[n]`, unit of each token; -1 for none. Every unit has a token.
    worth: Floats  # `[m]`: 1 for essential and 0 for redundant units, or the measured importance
    kinds: tuple[str, ...]  # planted kind of each unit; empty if units have no kinds
    rules: Mapping[str, Floats]  # `[m]` by name, scores of the trivial rules

    def unit_scores(self, token_scores: NDArray[np.float32]) -> Floats:
        """Return the mean score of each unit's tokens, float64 `[m]`."""
        judged = self.units >= 0
        units, num_units = self.units[judged], len(self.worth)
        sums = np.bincount(units, weights=token_scores[judged].astype(np.float64), minlength=num_units)
        return np.asarray(sums / np.bincount(units, minlength=num_units), dtype=np.float64)


def build_case(
    kind: TruthKind, trace: Trace, sentences: Sequence[SentenceImportance], tokenizer: "PreTrainedTokenizerBase"
) -> Case:
    """Return the case of one trace, in the base model's tokens.

    The truth is in its labelled spans or, for the kind `importance`, in its `sentences`, which are in order.
    """
    ids, offsets = tokenize_with_offsets(tokenizer, trace.thinking)
    text, kinds = trace.thinking, tuple[str, ...]()
    if kind is TruthKind.tokens:
        places = owners([(s.start, s.end) for s in trace.spans], text, offsets)
        labelled = places >= 0
        spans = [trace.spans[i] for i in places[labelled].tolist()]
        units = np.where(labelled, np.cumsum(labelled) - 1, -1)
        worth, kinds = [float(s.essential) for s in spans], tuple(s.kind for s in spans)
        rules = {name: values[labelled] for name, values in token_rules(text, offsets).items()}
    else:
        if kind is TruthKind.steps:
            judged = [(s.start, s.end, float(s.essential)) for s in trace.spans if s.kind != EDITED_STEP]
        else:
            judged = [(s.start, s.end, s.importance) for s in sentences]
        ranges = [(start, end) for start, end, _ in judged]
        places = owners(ranges, text, offsets)
        seen = np.unique(places[places >= 0])  # a unit inside a longer token has no token of its own
        units = np.where(places >= 0, np.searchsorted(seen, places), -1)
        worth = [judged[i][2] for i in seen.tolist()]
        rules = step_rules(text, [ranges[i] for i in seen.tolist()])
    return Case(
        num_chars=len(trace.thinking),
        token_ids=ids,
        offsets=offsets,
        units=units.astype(np.int64),
        worth=np.array(worth, dtype=np.float64),
        kinds=kinds,
        rules=rules,
    )


POSITION, LENGTH, DIGIT_SHARE, NEW_BIGRAMS = "position", "length", "digit share", "new bigrams"
DIRECTIONS = {
    POSITION: ("late", "early"),
    LENGTH: ("long", "short"),
    DIGIT_SHARE: ("high", "low"),
    NEW_BIGRAMS: ("many", "few"),
}
"""Units that are kept first by a high value of a rule, and by a low one."""


def token_rules(text: str, offsets: NDArray[np.int32]) -> dict[str, Floats]:
    """Score every token by every rule, float64 `[n]` each, given the tokens' characters, int32 `[n, 2]`."""
    words = [text[a:b].strip() for a, b in word_ranges(text)]
    owners = unit_ids(Unit.word, text, offsets)
    lengths = np.array([len(w) for w in words], dtype=np.float64)
    pieces = [text[a:b] for a, b in offsets.tolist()]
    return {
        POSITION: np.arange(len(offsets), dtype=np.float64),
        LENGTH: lengths[owners],
        DIGIT_SHARE: np.array([any(c.isdigit() for c in piece) for piece in pieces], dtype=np.float64),
        NEW_BIGRAMS: newness(words)[owners],
    }


def step_rules(text: str, steps: Sequence[tuple[int, int]]) -> dict[str, Floats]:
    """Score every step by every rule, float64 `[m]` each, given the steps' characters, in order and disjoint."""
    ranges = word_ranges(text)
    new = newness([text[a:b].strip() for a, b in ranges])
    ends = np.array([b for _, b in ranges], dtype=np.int64)
    pieces = ["".join(text[a:b].split()) for a, b in steps]
    new_of_steps = [new[(ends > a) & (ends <= b)] for a, b in steps]
    return {
        POSITION: np.arange(len(steps), dtype=np.float64),
        LENGTH: np.array([len(text[a:b].strip()) for a, b in steps], dtype=np.float64),
        DIGIT_SHARE: np.array([sum(c.isdigit() for c in piece) / max(len(piece), 1) for piece in pieces]),
        NEW_BIGRAMS: np.array([words.sum() / max(len(words), 1) for words in new_of_steps]),
    }


def newness(words: Sequence[str]) -> Floats:
    """Return 1 for each word that follows its predecessor for the first time, else 0, float64 `[words]`."""
    seen: set[tuple[str, str]] = set()
    new = []
    for pair in itertools.pairwise(["", *(w.lower() for w in words)]):
        new.append(float(pair not in seen))
        seen.add(pair)
    return np.array(new, dtype=np.float64)
