"""Combined rules of the selection, against a naive deletion loop, by hand, and as properties of any text."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cotpress.compression.config import Alignment, CompressionConfig, Protection
from cotpress.compression.protection import protected_tokens
from cotpress.compression.ranking import Rules, TokenizedTrace, rank_traces, student_scores
from cotpress.errors import ArtifactError
from cotpress.modeling.alignment import kept_text
from cotpress.modeling.segments import character_groups, unit_ids
from cotpress.modeling.selection import num_to_keep
from cotpress.records import ScoredTrace, Trace, Unit

PIECES = [
    "so ", "12", " + 30", " =", " 42", ".", "\n", "\n\n", "Wait", " double-check", ":", "😀", "é", "中文",
    " \\frac{1}{2}", " 7", "  ", "\t", "step 3.", " 42 ",
]  # fmt: skip
SCORES = [-2.0, 0.0, 0.5, 3.0]
"""Few values, so that ties are common."""


@st.composite
def tokenized(draw: st.DrawFn) -> TokenizedTrace:
    """Draw a text with arbitrary token boundaries; some characters are several tokens, like byte-level pieces."""
    text = draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join))
    cuts = sorted({0, len(text), *draw(st.lists(st.integers(0, len(text)), max_size=14))})
    offsets: list[tuple[int, int]] = []
    for start, end in itertools.pairwise(cuts):
        offsets += [(start, end)] * (draw(st.integers(1, 3)) if end == start + 1 else 1)
    scores = draw(st.lists(st.sampled_from(SCORES), min_size=len(offsets), max_size=len(offsets)))
    return TokenizedTrace(
        trace=Trace(id="t", question="", thinking=text, response="", answer="42"),
        ids=np.arange(len(offsets), dtype=np.int32),
        offsets=np.array(offsets, dtype=np.int32),
        scores=np.array(scores, dtype=np.float32),
    )


@st.composite
def rules(draw: st.DrawFn) -> Rules:
    return Rules(
        granularity=draw(st.sampled_from(Unit)),
        alignment=draw(st.sampled_from(Alignment)),
        protection=draw(st.sampled_from(Protection)),
        keep_strings=tuple(draw(st.sampled_from([[], ["Wait"], ["\n", ":"]]))),
        max_consecutive_deletions=draw(st.sampled_from([None, 1, 2, 4])),
    )


RATIOS = st.floats(min_value=0.01, max_value=1.0)
some = settings(max_examples=50, deadline=None)


def cut(rule: Rules, tokens: TokenizedTrace, ratio: float) -> NDArray[np.bool_]:
    return rank_traces(rule, [tokens]).cut(np.array([ratio]))


def held_by_rule(rule: Rules, tokens: TokenizedTrace) -> set[int]:
    mask = protected_tokens(
        rule.protection, tokens.trace.thinking, tokens.offsets, answer="42", keep_strings=rule.keep_strings
    )
    last = {len(mask) - 1} if rule.alignment is Alignment.next else set()
    return {int(i) for i in np.flatnonzero(mask)} | last


def naive(rule: Rules, tokens: TokenizedTrace, ratio: float) -> list[bool]:
    """Delete tokens by rising score until the ratio is met or all others are held."""
    num_tokens, groups = len(tokens.ids), character_groups(tokens.offsets).tolist()
    held = {i for i in range(num_tokens) if groups[i] in {groups[token] for token in held_by_rule(rule, tokens)}}
    units = unit_ids(rule.granularity, tokens.trace.thinking, tokens.offsets).tolist()
    members = {u: [i for i in range(num_tokens) if units[i] == u] for u in units}
    mean = {u: np.float32(sum(float(tokens.scores[i]) for i in group) / len(group)) for u, group in members.items()}
    deleted: set[int] = set()
    free = {groups[i] for i in set(range(num_tokens)) - held}
    parts = {g: {i for i in range(num_tokens) if groups[i] == g} for g in free}
    for g in sorted(free, key=lambda g: (mean[units[min(parts[g])]], -units[min(parts[g])], -g)):
        surplus = num_tokens - len(deleted) - num_to_keep(num_tokens, ratio)
        gaps = "".join("." if i in deleted | parts[g] else "x" for i in range(num_tokens)).split("x")
        limit = rule.max_consecutive_deletions
        if limit is not None and max(map(len, gaps)) > limit:
            continue
        if surplus < len(parts[g]) / 2 or surplus <= 0:  # more than half of its tokens would stay
            break
        deleted |= parts[g]
    return [i not in deleted for i in range(num_tokens)]


@some
@given(rules(), tokenized(), RATIOS)
def test_selection_equals_a_naive_deletion_loop(rule: Rules, tokens: TokenizedTrace, ratio: float) -> None:
    assert cut(rule, tokens, ratio).tolist() == naive(rule, tokens, ratio)


@pytest.mark.parametrize("granularity", Unit)
@pytest.mark.parametrize("alignment", Alignment)
def test_every_combination_of_rules_equals_the_naive_loop(granularity: Unit, alignment: Alignment) -> None:
    text = "Step 1: 12 + 30 = 42.\nWait, double-check 😀: \\frac{84}{2} is 42. So 42"
    cuts = [0, 4, 6, 7, 10, 12, 13, 15, 17, 20, 21, 22, 26, 27, 34, 35, 40, 41, 42, 42, 43, 45, 49, 50, 52, 58, 62]
    offsets = [(a, b) if b > a else (a, a + 1) for a, b in itertools.pairwise([*cuts, len(text)])]
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, len(offsets)).astype(np.float32)
    tokens = TokenizedTrace(
        trace=Trace(id="t", question="", thinking=text, response="", answer="42"),
        ids=np.arange(len(offsets), dtype=np.int32), offsets=np.array(offsets, dtype=np.int32), scores=scores,
    )  # fmt: skip
    for protection, keep, limit in itertools.product(Protection, [(), ("\n", "Step")], [None, 1, 3]):
        rule = Rules(
            granularity=granularity, alignment=alignment, protection=protection, keep_strings=keep,
            max_consecutive_deletions=limit,
        )  # fmt: skip
        for ratio in (0.1, 0.3, 0.5, 0.77, 1.0):
            assert cut(rule, tokens, ratio).tolist() == naive(rule, tokens, ratio), rule


@some
@given(rules(), tokenized(), RATIOS)
def test_kept_count_is_exact_or_that_of_held_tokens(rule: Rules, tokens: TokenizedTrace, ratio: float) -> None:
    ranking = rank_traces(rule, [tokens])
    sizes = np.bincount(character_groups(tokens.offsets))
    asked = max(round(ratio * len(tokens.ids)), ranking.held.sum())
    assert abs(ranking.cut(np.array([ratio])).sum() - asked) <= sizes.max() // 2  # a character's tokens stay together
    assert ranking.held[list(held_by_rule(rule, tokens))].all()


@some
@given(rules(), tokenized(), RATIOS, RATIOS)
def test_masks_are_nested_as_the_ratio_falls(rule: Rules, tokens: TokenizedTrace, a: float, b: float) -> None:
    smaller, larger = (cut(rule, tokens, ratio) for ratio in sorted((a, b)))
    assert not (smaller & ~larger).any()


@some
@given(rules(), tokenized())
def test_ratio_one_keeps_the_whole_text(rule: Rules, tokens: TokenizedTrace) -> None:
    text = tokens.trace.thinking
    assert kept_text(text, tokens.offsets, cut(rule, tokens, 1.0)) == text


@some
@given(rules(), tokenized(), RATIOS)
def test_at_most_one_unit_is_cut_and_keeps_its_beginning(rule: Rules, tokens: TokenizedTrace, ratio: float) -> None:
    ranking = rank_traces(rule, [tokens])
    mask, units = (
        ranking.cut(np.array([ratio])),
        unit_ids(rule.granularity, tokens.trace.thinking, tokens.offsets),
    )
    free = [mask[(units == u) & ~ranking.held].tolist() for u in np.unique(units)]
    partial = [kept for kept in free if len(set(kept)) > 1]
    assert len(partial) <= 1
    assert all(kept == sorted(kept, reverse=True) for kept in partial)


@some
@given(rules(), st.lists(tokenized(), min_size=1, max_size=5), RATIOS)
def test_traces_are_ranked_as_if_alone(rule: Rules, traces: list[TokenizedTrace], ratio: float) -> None:
    together = rank_traces(rule, traces).cut(np.full(len(traces), ratio))
    assert together.tolist() == np.concatenate([cut(rule, t, ratio) for t in traces]).tolist()


def trace(text: str, scores: list[float], answer: str = "") -> TokenizedTrace:
    """Return one token per word, with the space before it."""
    ends = [*(i for i, c in enumerate(text) if c == " "), len(text)]
    return TokenizedTrace(
        trace=Trace(id="t", question="", thinking=text, response="", answer=answer),
        ids=np.arange(len(ends), dtype=np.int32),
        offsets=np.array(list(itertools.pairwise([0, *ends])), dtype=np.int32),
        scores=np.array(scores, dtype=np.float32),
    )


def test_steps_are_kept_whole_by_their_mean_except_for_one() -> None:
    tokens = trace("a b c. d e. f g h.", [9, 0, 0, 4, 4, 2, 2, 2])  # means 3, 4, 2
    kept = {
        n: kept_text("a b c. d e. f g h.", tokens.offsets, cut(Rules(granularity=Unit.step), tokens, n / 8))
        for n in (2, 4, 5, 7)
    }
    assert kept == {2: " d e.", 4: "a b d e.", 5: "a b c. d e.", 7: "a b c. d e. f g"}


def test_earlier_unit_wins_a_tie() -> None:
    tokens = trace("a b. c d. e f.", [1, 1, 0, 2, 2, 0])
    assert cut(Rules(granularity=Unit.step), tokens, 0.5).tolist() == [True, True, True, False, False, False]


def scored(scores: list[float], offsets: list[tuple[int, int]], tokenizer: str = "student") -> ScoredTrace:
    return ScoredTrace(
        id="t", token_ids=np.arange(len(scores), dtype=np.int32), offsets=np.array(offsets, np.int32),
        scores=np.array(scores, np.float32), tokenizer=tokenizer, scorer="x",
    )  # fmt: skip


def seen(alignment: Alignment, text: str, by: ScoredTrace, offsets: list[tuple[int, int]]) -> list[float]:
    target = np.array(offsets, np.int32)
    whole = Trace(id="t", question="", thinking=text, response="", answer="")
    return student_scores(alignment, by, whole, np.arange(len(target), dtype=np.int32), target, "student").tolist()


def test_alignment_own_keeps_the_best_token_and_next_the_one_before() -> None:
    offsets = [(0, 1), (1, 2), (2, 3), (3, 4)]
    by = scored([5, 1, 4, 2], offsets)
    own, following = (seen(alignment, "abcd", by, offsets) for alignment in Alignment)
    assert (own, following) == ([5, 1, 4, 2], [1, 4, 2, 2])
    masks = [
        cut(Rules(alignment=alignment), trace("a b c d", values), 0.5).tolist()
        for alignment, values in zip(Alignment, (own, following), strict=True)
    ]
    assert masks == [[True, False, True, False], [False, True, False, True]]


def test_next_applies_to_tokens_of_the_scorer_before_projection() -> None:
    by = scored([5, 1, 3], [(0, 2), (2, 4), (4, 6)], tokenizer="other")
    single = [(i, i + 1) for i in range(6)]
    assert seen(Alignment.own, "abcdef", by, single) == [5, 5, 1, 1, 3, 3]
    assert seen(Alignment.next, "abcdef", by, single) == [1, 1, 3, 3, 3, 3]


def test_next_holds_the_last_token_even_above_the_ratio() -> None:
    ranking = rank_traces(Rules(alignment=Alignment.next), [trace("a b c", [3, 2, 1]), trace("a", [1])])
    assert ranking.held.tolist() == [False, False, True, True]
    assert ranking.cut(np.array([0.1, 0.4])).tolist() == [False, False, True, True]


@pytest.mark.parametrize(("values", "offsets"), [([np.nan], [(0, 1)]), ([1.0], [(0, 9)])])
def test_scores_that_do_not_fit_are_refused(values: list[float], offsets: list[tuple[int, int]]) -> None:
    with pytest.raises(ArtifactError, match="do not fit"):
        seen(Alignment.next, "a", scored(values, offsets), [(0, 1)])


def test_rules_of_a_configuration_resolve_escapes_and_ignore_order() -> None:
    config = CompressionConfig(keep_strings=["b", r"\n", "a", r"\neq", r"\n\t", "b"])
    assert Rules.of(config).keep_strings == ("\n", "\n\t", r"\neq", "a", "b")
    assert Rules.of(CompressionConfig(keep_strings=["\n"])) == Rules.of(CompressionConfig(keep_strings=[r"\n"]))
    assert Rules.of(CompressionConfig(granularity=Unit.token)) == Rules()
    assert Rules.of(CompressionConfig()) == Rules(granularity=Unit.word), "the default"


@pytest.mark.parametrize("granularity", Unit)
def test_white_space_alone_is_one_unit(granularity: Unit) -> None:
    tokens = trace(" \n", [1, 1])
    assert cut(Rules(granularity=granularity), tokens, 0.5).tolist() == [True, False]
