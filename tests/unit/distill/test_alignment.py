import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.distill.alignment import align, matched_ranges, merged, word_key, words
from cotpress.distill.llm import Quality


def aligned(original: str, extracted: str, **more) -> list[str | None]:
    """Original words matched by the extracted ones, each with its number among equal words."""
    source = words(original)
    matches = align(source, words(extracted), **more)
    texts = [original[w.start : w.end] for w in source]
    return [None if i is None else f"{texts[i]}#{texts[: i + 1].count(texts[i])}" for i in matches]


def kept(original: str, extracted: str) -> list[str]:
    source = words(original)
    return [original[a:b] for a, b in matched_ranges(source, align(source, words(extracted)))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4+3=7", ["4", "+", "3", "=", "7"]),
        ("x = 1,234.5.", ["x", "=", "1,234.5", "."]),
        (r"\frac{48}{2}", ["\\frac", "{", "48", "}", "{", "2", "}"]),
        ("don't  stop\n\nnow", ["don't", "stop", "now"]),
        ("所以答案 7", ["所", "以", "答", "案", "7"]),
        ("naïve 😀 Große", ["naïve", "😀", "Große"]),
        (" \n\t", []),
    ],
)
def test_words_of_a_text(text: str, expected: list[str]) -> None:
    assert [text[w.start : w.end] for w in words(text)] == expected


@pytest.mark.parametrize(
    "same",
    [
        ["divide", "Divides", "divided", "DIVIDING"],
        ["add", "adds", "added", "adding"],
        ["stop", "stops", "stopped", "stopping"],
        ["multiply", "multiplies", "multiplied", "multiplying"],
        ["box", "boxes"],
        ["Tom", "tom", "Tom's", "Tom\u2019s"],
        ["1,000", "1000"],
        ["ﬁnd", "find"],  # a ligature
    ],
)
def test_inflections_and_spellings_are_the_same_word(same: list[str]) -> None:
    assert len({word_key(word) for word in same}) == 1


@pytest.mark.parametrize(
    "other",
    [
        ["100", "1000"],
        ["1.5", "15"],
        ["3", "8"],
        ["+", "-"],
        ["\\frac", "\\Frac", "frac"],
        ["thing", "the"],
        ["so", "sos"],
    ],
)
def test_other_numbers_symbols_and_commands_are_never_the_same(other: list[str]) -> None:
    assert len({word_key(word) for word in other}) == len(other)


def test_changed_inflection_matches_and_changed_word_does_not() -> None:
    assert aligned("She divides 8 apples by 2", "divide 8 fruits by 2") == ["divides#1", "8#1", None, "by#1", "2#1"]


def test_repeated_numbers_match_beside_their_neighbours() -> None:
    text = "Tom has 4 coins. He buys 3, so 4 + 3 = 7. Let me verify: 4 + 3 = 7."
    assert aligned(text, "buys 3, 4 + 3 = 7.")[3:] == ["4#2", "+#1", "3#2", "=#1", "7#1", ".#2"]


def test_repeated_step_kept_twice_matches_twice() -> None:
    text = "2 + 2 = 4. Again 2 + 2 = 4."
    assert kept(text, "2 + 2 = 4. 2 + 2 = 4.") == ["2 + 2 = 4.", " 2 + 2 = 4."]


def test_reordered_words_match_and_no_word_is_used_twice() -> None:
    assert aligned("first add 3 then take 5", "take 5 add 3 3") == ["take#1", "5#1", "add#1", "3#1", None]


def test_reordered_word_beyond_the_window_does_not_match() -> None:
    text = "zebra " + "and " * 20 + "add 3 here"
    assert aligned(text, "add 3 zebra", window=50)[-1] == "zebra#1"
    assert aligned(text, "add 3 zebra", window=10)[-1] is None


def test_words_after_a_long_gap_match() -> None:
    text = "so 1 + 1 = 2. " + "Hmm, wait, let me think. " * 100 + "Thus 2 * 5 = 10."
    assert kept(text, "1 + 1 = 2. 2 * 5 = 10.") == [" 1 + 1 = 2.", " 2 * 5 = 10."]


def test_latex_matches_piece_by_piece() -> None:
    text = r"Okay, \(\frac{48}{2} = 24\), right? So \boxed{24}."
    assert kept(text, r"\(\frac{48}{2} = 24\) \boxed{24}") == [r" \(\frac{48}{2} = 24\)", r" \boxed{24}"]


def test_ranges_take_the_white_space_before_a_word_and_none_after() -> None:
    assert kept("Okay.\n\n8 - 3 = 5.  Good.", "8 - 3 = 5") == ["\n\n8 - 3 = 5"]


def test_empty_sides_align_to_nothing() -> None:
    assert align(words(""), words("a b")) == [None, None]
    assert align(words("a b"), []) == []


_UNIQUE = st.lists(st.integers(0, 10**6), unique=True, max_size=40).flatmap(
    lambda numbers: st.tuples(
        st.just(numbers), st.sets(st.integers(0, max(len(numbers) - 1, 0)), max_size=len(numbers))
    )
)


@given(_UNIQUE)
def test_subsequence_of_unique_words_is_aligned_exactly(drawn: tuple[list[int], set[int]]) -> None:
    numbers, chosen = drawn
    places = sorted(i for i in chosen if i < len(numbers))
    original = words(" ".join(map(str, numbers)))
    extracted = words(" ".join(str(numbers[i]) for i in places))
    matches = align(original, extracted)
    assert matches == places
    quality = Quality()
    quality.add(original, extracted, matches)
    assert (quality.variation_rate, quality.alignment_gap) == (0, 0)


@given(st.text("ab 4+=,.\n\\{}é文", max_size=60), st.data())
def test_any_subsequence_matches_completely(text: str, data: st.DataObject) -> None:
    original = words(text)
    mask = data.draw(st.lists(st.booleans(), min_size=len(original), max_size=len(original)))
    extracted = [word for word, keep in zip(original, mask, strict=True) if keep]
    matches = align(original, extracted)
    assert None not in matches
    assert [original[i].key for i in matches if i is not None] == [w.key for w in extracted]
    assert len(set(matches)) == len(matches)
    quality = Quality()
    quality.add(original, extracted, matches)
    assert (quality.variation_rate, quality.alignment_gap) == (0, 0)


@given(st.text(max_size=60), st.text(max_size=60))
def test_ranges_of_any_extraction_are_sorted_disjoint_and_inside(text: str, written: str) -> None:
    original = words(text)
    matches = align(original, words(written))
    taken = [i for i in matches if i is not None]
    assert len(set(taken)) == len(taken)
    ranges = matched_ranges(original, matches)
    flat = [edge for pair in ranges for edge in pair]
    assert flat == sorted(set(flat))
    assert all(0 <= edge <= len(text) for edge in flat)
    assert "".join(text[w.start : w.end] for w in original) == "".join(text.split())


RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda p: (min(p), max(p))), max_size=8)


@given(ranges=RANGES)
def test_merged_ranges_cover_the_same_characters_without_touching(ranges: list[tuple[int, int]]) -> None:
    result = merged(ranges)
    covered = {i for start, end in ranges for i in range(start, end)}
    assert {i for start, end in result for i in range(start, end)} == covered
    assert sum(end - start for start, end in result) == len(covered)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(result))
