"""Units of each trace that scorers are judged on, the scores of trivial rules, and measures of agreement.

A unit is a token of the base model's tokenizer where tokens are labelled, else a step or sentence, to which tokens
belong by the rule of `cotpress.modeling.segments`. Every scorer is judged on the same units, by rank only, so that no
scorer's unit or spread matters. Intervals are over questions, since neither the tokens and steps of one trace
are independent nor the traces of one question.

Trivial rules need no model and are lower bounds for scorers:

    position     index of the unit
    length       characters of the token's word, or of the step
    digit share  1 if the token has a digit; the share of digits among the step's characters
    new bigrams  1 if the token's word and the word before it did not stand next to each other earlier in the text;
                 the share of such words in the step

Words are compared in lower case. No rule has a direction of its own: short steps may matter more, or long ones.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.segments import owners, unit_ids, word_ranges
from cotpress.modeling.selection import rank_many
from cotpress.records import EDITED_STEP, Interval, SentenceImportance, Trace, TruthKind, Unit
from cotpress.statistics import mean_interval

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


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


FEWEST = 10
"""Questions from which on an interval is bootstrapped."""
SEED = 0  # seed of the resamples of every interval, so that a repeated command gives the same numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Intervals over questions: their level, and the number of resamples."""

    confidence: float
    num_resamples: int

    def mean(self, values: Sequence[float], questions: Sequence[str] | None = None) -> Interval:
        """Return the mean over questions, at least one, with its percentile bootstrap interval (Efron 1979).

        Below `FEWEST` questions it is Student's t interval, as percentiles of so few are too narrow; that of a single
        question is empty.

        Args:
            values: One per trace.
            questions: That of each trace; the traces of one question are averaged first. None if each has its own.
        """
        data = np.asarray(values, dtype=np.float64)
        if questions is not None:
            _, members = np.unique(np.asarray(questions), return_inverse=True)
            data = np.bincount(members, data) / np.bincount(members)
        if 1 < len(data) < FEWEST:
            return mean_interval(data, self.confidence)
        means = _weights(len(data), self.num_resamples) @ data / len(data)
        low, high = np.quantile(means, [(1 - self.confidence) / 2, (1 + self.confidence) / 2]).tolist()
        mean = float(data.mean())
        return Interval(value=mean, low=min(low, mean), high=max(high, mean), n=len(data))


@functools.lru_cache(maxsize=8)
def _weights(num_values: int, num_resamples: int) -> NDArray[np.float64]:
    """Return how often each resample draws each value, float64 `[num_resamples, num_values]`."""
    rng = np.random.default_rng(SEED)
    return rng.multinomial(num_values, np.full(num_values, 1 / num_values), size=num_resamples).astype(np.float64)


def auc(scores: Floats, positive: Bools) -> float:
    """Return the chance that a positive unit has a higher score than a negative one, ties counting half (ROC AUC)."""
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    rank_sum = float(rankdata(scores)[positive].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def kept_share(scores: Floats, offsets: NDArray[np.int32], essential: Bools, ratio: float) -> float:
    """Return the share of the essential tokens that a compression to `ratio` keeps."""
    kept = rank_many(scores, offsets, np.array([len(scores)])).cut(np.array([ratio]))
    return float((kept & essential).sum() / essential.sum())


def rank_correlation(scores: Floats, importance: Floats) -> float:
    """Return Spearman's rank correlation with importances that are not all equal; 0 if all scores are."""
    if np.ptp(scores) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(scores), rankdata(importance))[0, 1])


def partial_rank_correlation(scores: Floats, importance: Floats) -> float | None:
    """Return Spearman's rank correlation with position partialled out.

    All three are ranked, and the residuals of scores and importance after a linear regression on position are
    correlated. None if one of them has no residuals. Both are in the order of the text.
    """
    position = np.arange(len(scores), dtype=np.float64)
    rests = [_without(rankdata(values), position) for values in (scores, importance)]
    if any(np.ptp(rest) < 1e-9 * len(scores) for rest in rests):
        return None
    return float(np.corrcoef(rests[0], rests[1])[0, 1])


def _without(values: Floats, position: Floats) -> Floats:
    """Return the residuals of `values` after a linear regression on `position`."""
    centred, place = values - values.mean(), position - position.mean()
    return np.asarray(centred - place * (centred @ place) / max(float(place @ place), 1e-12), dtype=np.float64)


RATIOS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # ratios of `kept@R`
MIN_SENTENCES = 3  # minimum for a correlation with position partialled out


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Measures of one trace, without those that are not defined for it."""

    # Measures by name, the main one first. AP is the average precision, `kept@R` the share of the essential tokens that
    # a compression to R keeps.
    metrics: Mapping[str, float]
    # ROC AUC by kind of token: of an essential kind against all redundant tokens, of all essential tokens against a
    # redundant kind
    kinds: Mapping[str, float]

    @property
    def main(self) -> float:
        """Measure that tables are sorted by."""
        return next(iter(self.metrics.values()))


def unusable(kind: TruthKind, case: Case) -> str | None:
    """Return the reason why nothing can be measured on a trace, or None."""
    if kind is TruthKind.importance:
        if len(case.worth) < MIN_SENTENCES:
            return f"fewer than {MIN_SENTENCES} sentences"
        return "all sentences equally important" if np.ptp(case.worth) == 0 else None
    if len(case.worth) == 0 or not case.worth.any():
        return "nothing essential"
    return "nothing redundant" if case.worth.all() else None


def judge(kind: TruthKind, case: Case, scores: Floats) -> Judgement:
    """Measure how well the scores of one trace's units, float64 `[m]`, agree with its truth; it is not `unusable`."""
    if kind is TruthKind.importance:
        metrics = {"rank correlation": rank_correlation(scores, case.worth)}
        partial = partial_rank_correlation(scores, case.worth)
        if partial is not None:
            metrics["position partialled out"] = partial
        return Judgement(metrics=metrics, kinds={})
    essential = case.worth > 0
    metrics = {"ROC AUC": auc(scores, essential)}
    if kind is TruthKind.steps:
        return Judgement(metrics=metrics, kinds={})
    metrics["AP"] = float(average_precision_score(essential, scores))
    offsets = case.offsets[case.units >= 0]  # each labelled token is a unit
    metrics |= {f"kept@{ratio:g}": kept_share(scores, offsets, essential, ratio) for ratio in RATIOS}
    kinds = {}
    for name in sorted(set(case.kinds)):
        of_kind = np.array(case.kinds) == name
        compared = of_kind | (~essential if essential[of_kind].all() else essential)
        kinds[name] = auc(scores[compared], essential[compared])
    return Judgement(metrics=metrics, kinds=kinds)
