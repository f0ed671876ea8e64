"""What is judged in each trace: its units, what they are worth, and what trivial rules say about them.

A unit is a token of the base model's tokenizer where tokens are labelled, else a step or sentence. A token belongs to
the unit that its last character lies in. Every scorer is judged on the same units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cotpress.fidelity.trivial import step_rules, token_rules
from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.records import EDITED_STEP, SentenceImportance, Span, Trace, TruthKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One trace with `n` tokens and `m` judged units.

    Attributes:
        id: The trace.
        num_chars: Length of its thinking.
        token_ids: int32 `[n]`, base model's tokens.
        offsets: int32 `[n, 2]`, characters that each token stands for.
        units: int64 `[n]`, unit of each token; -1 for none. Every unit has a token.
        worth: float64 `[m]`: 1 for essential and 0 for redundant units, or the measured importance.
        kinds: Planted kind of each unit; empty if units have no kinds.
        rules: float64 `[m]` by name: what trivial rules score the units.
    """

    id: str
    num_chars: int
    token_ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    units: NDArray[np.int64]
    worth: Floats
    kinds: tuple[str, ...]
    rules: Mapping[str, Floats]

    def unit_scores(self, token_scores: NDArray[np.float32]) -> Floats:
        """Mean score of each unit's tokens, float64 `[m]`."""
        judged = self.units >= 0
        owners, num_units = self.units[judged], len(self.worth)
        sums = np.bincount(owners, weights=token_scores[judged].astype(np.float64), minlength=num_units)
        return np.asarray(sums / np.bincount(owners, minlength=num_units), dtype=np.float64)


def build_case(
    kind: TruthKind, trace: Trace, sentences: Sequence[SentenceImportance], tokenizer: "PreTrainedTokenizerBase"
) -> Case:
    """The case of one trace.

    Args:
        kind: What is known about it.
        trace: Labelled by spans, unless it is the importance of its sentences that is known.
        sentences: Of this trace, in order; not looked at for other kinds.
        tokenizer: Of the base model.
    """
    ids, offsets = tokenize_with_offsets(tokenizer, trace.thinking)
    match kind:
        case TruthKind.tokens:
            ranges = [(s.start, s.end) for s in trace.spans]
            places = _owners(ranges, offsets, len(trace.thinking))
            labelled = places >= 0
            spans: list[Span] = [trace.spans[i] for i in places[labelled].tolist()]
            units = np.where(labelled, np.cumsum(labelled) - 1, -1)
            worth = [float(s.essential) for s in spans]
            kinds = tuple(s.kind for s in spans)
            rules = {name: values[labelled] for name, values in token_rules(trace.thinking, offsets).items()}
        case TruthKind.steps:
            judged = [s for s in trace.spans if s.kind != EDITED_STEP]
            ranges = [(s.start, s.end) for s in judged]
            units, seen = _present(_owners(ranges, offsets, len(trace.thinking)))
            worth, kinds = [float(judged[i].essential) for i in seen], ()
            rules = step_rules(trace.thinking, [ranges[i] for i in seen])
        case TruthKind.importance:
            ranges = [(s.start, s.end) for s in sentences]
            units, seen = _present(_owners(ranges, offsets, len(trace.thinking)))
            worth, kinds = [sentences[i].importance for i in seen], ()
            rules = step_rules(trace.thinking, [ranges[i] for i in seen])
    return Case(
        id=trace.id,
        num_chars=len(trace.thinking),
        token_ids=ids,
        offsets=offsets,
        units=units.astype(np.int64),
        worth=np.array(worth, dtype=np.float64),
        kinds=kinds,
        rules=rules,
    )


def _owners(ranges: Sequence[tuple[int, int]], offsets: NDArray[np.int32], num_chars: int) -> NDArray[np.int64]:
    """Index of the range that the last character of each token lies in, int64 `[n]`; -1 for none."""
    at = np.full(num_chars + 1, -1, dtype=np.int64)  # the last place is for tokens without characters
    for index, (start, end) in enumerate(ranges):
        at[start:end] = index
    nonempty = offsets[:, 1] > offsets[:, 0]
    return at[np.where(nonempty, offsets[:, 1] - 1, num_chars)]


def _present(owners: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[int]]:
    """`owners` renumbered without gaps, -1 kept, and the old numbers in order."""
    seen = np.unique(owners[owners >= 0])
    renumbered = np.where(owners >= 0, np.searchsorted(seen, owners), -1)
    return renumbered.astype(np.int64), seen.tolist()
