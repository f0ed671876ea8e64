from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.segments import character_groups, is_blank, owners, step_ranges, unit_ids, word_ranges
from cotpress.records import Unit

PIECES = [
    "😀",
    "👩‍👩‍👧",
    "é",
    "\\frac{48}{2}",
    " 12 ",
    "3.5",
    ". ",
    "\n\n",
    "\r\n",
    "the answer",
    "=",
    "中文。",
    "\t",
    "$x.$ ",
]
texts = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40),
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
)
units = st.sampled_from([Unit.word, Unit.step])
prop = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pieces(ranges, text):
    return [text[a:b] for a, b in ranges]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", []),
        ("7", ["7"]),
        (" \n\t", [" \n\t"]),
        ("One. Two! Three? Four", ["One.", " Two!", " Three?", " Four"]),
        ("It is 3.5 apples. So 7", ["It is 3.5 apples.", " So 7"]),
        ("x = .5\ny = 1.", ["x = .5", "\ny = 1."]),
        ("first line\n\nsecond line", ["first line", "\n\nsecond line"]),
        ("Take 2 from no.\nThen 3", ["Take 2 from no.", "\nThen 3"]),
        ("Done.  \n\n  ", ["Done.  \n\n  "]),
        ("  Hmm... wait.", ["  Hmm...", " wait."]),
        ('He said "7." Then left', ['He said "7."', " Then left"]),
        ("(So 7.) And **8.** Then $y=5.$ End", ["(So 7.)", " And **8.**", " Then $y=5.$", " End"]),
        ("Plan:\n1. Add 2.\n 2. Take 3.", ["Plan:", "\n1. Add 2.", "\n 2. Take 3."]),
        ("The sum is 7. 8 is more", ["The sum is 7.", " 8 is more"]),
        ("它是七。所以八", ["它是七。", "所以八"]),
        ("a \r\nb", ["a", " \r\nb"]),
        ("\\frac{1}{2} = 0.5.\\\\ Next", ["\\frac{1}{2} = 0.5.\\\\ Next"]),
    ],
)
def test_steps_of_hand_written_cases(text, steps):
    assert pieces(step_ranges(text), text) == steps


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("\u00a0 \n", ["\u00a0 \n"]),
        ("3 + 4=7", ["3", " +", " 4", "=", "7"]),
        ("so 3.5 + 1,200 = 1203.5.", ["so", " 3.5", " +", " 1,200", " =", " 1203.5", "."]),
        ("double-check: it's 7?", ["double-check", ":", " it's", " 7", "?"]),
        ("x2 - y_1", ["x", "2", " -", " y", "_", "1"]),
        ("数学 7个", ["数", "学", " 7", "个"]),
        ("リンゴを食べ", ["リ", "ン", "ゴ", "を", "食", "べ"]),
        ("กินที่ 3", ["กิ", "น", "ที่", " 3"]),
        ("사과는 8개", ["사과는", " 8", "개"]),
        ("हिन्दी में", ["हिन्दी", " में"]),
        ("cafe\u0301s x²", ["cafe\u0301s", " x²"]),
        ("no 👩‍👩‍👧 ❤️🇫🇷!", ["no", " 👩‍👩‍👧", " ❤️", "🇫🇷", "!"]),
        ("a =\u0338 b\x1c", ["a", " =\u0338", " b\x1c"]),
        ("  a\n\nb  ", ["  a", "\n\nb  "]),
        ("so\u2003\\frac{1}{2}", ["so", "\u2003\\frac", "{", "1", "}", "{", "2", "}"]),
    ],
)
def test_words_of_hand_written_cases(text, words):
    assert pieces(word_ranges(text), text) == words


@prop
@given(text=texts)
def test_ranges_cover_the_text_without_gap_or_overlap(text):
    for ranges in (word_ranges(text), step_ranges(text)):
        assert "".join(pieces(ranges, text)) == text
        assert all(before[1] == after[0] for before, after in pairwise(ranges))
        assert all(start < end for start, end in ranges)
        assert bool(ranges) == bool(text)


@prop
@given(text=texts)
def test_steps_are_made_of_whole_words(text):
    words = {end for _, end in word_ranges(text)}
    assert all(end in words for _, end in step_ranges(text))


@prop
@given(text=texts, unit=units)
def test_every_token_is_in_a_unit_and_units_ascend(text, unit, tokenizer, wordpiece):
    ranges = word_ranges(text) if unit is Unit.word else step_ranges(text)
    for each in (tokenizer, wordpiece):
        _, offsets = tokenize_with_offsets(each, text)
        ids = unit_ids(unit, text, offsets)
        assert ids.dtype == np.int64
        assert ids.shape == (len(offsets),)
        assert (np.diff(ids) >= 0).all()
        assert all(0 <= i < len(ranges) for i in ids)


@prop
@given(text=texts, unit=units)
def test_last_visible_character_of_a_token_decides(text, unit, tokenizer):
    ranges = word_ranges(text) if unit is Unit.word else step_ranges(text)
    _, offsets = tokenize_with_offsets(tokenizer, text)
    groups = character_groups(offsets)
    for group, owner in zip(groups, unit_ids(unit, text, offsets), strict=True):
        start, end = offsets[groups == group, 0].min(), offsets[groups == group, 1].max()
        last = max((c for c in range(start, end) if not text[c].isspace()), default=end - 1)
        assert ranges[owner][0] <= last < ranges[owner][1]


def test_full_stop_and_blank_line_in_one_token_end_the_step():
    text = "So 7.\n\nThen 8"
    offsets = np.array([[0, 2], [2, 4], [4, 7], [7, 11], [11, 13]], dtype=np.int32)  # So| 7|.\n\n|Then| 8
    assert unit_ids(Unit.step, text, offsets).tolist() == [0, 0, 0, 1, 1]
    assert unit_ids(Unit.word, text, offsets).tolist() == [0, 1, 2, 3, 4]


def test_white_space_alone_belongs_to_the_next_unit():
    text = "a \n b "
    offsets = np.array([[0, 1], [1, 2], [2, 3], [3, 5], [5, 6]], dtype=np.int32)  # a| |\n| b|
    assert unit_ids(Unit.step, text, offsets).tolist() == [0, 1, 1, 1, 1]
    assert is_blank(text, offsets).tolist() == [False, True, True, False, True]


def test_pieces_of_one_character_share_its_unit_and_units_ascend():
    text = "a 😀 b"
    offsets = np.array([[0, 1], [1, 3], [2, 3], [2, 3], [0, 0], [3, 5]], dtype=np.int32)
    assert unit_ids(Unit.word, text, offsets).tolist() == [0, 1, 1, 1, 1, 2]


def test_unit_inside_a_longer_token_has_no_token():
    text = "a b c"
    offsets = np.array([[0, 3], [3, 5]], dtype=np.int32)
    assert unit_ids(Unit.word, text, offsets).tolist() == [1, 2]


def test_unit_token_is_each_token_or_those_of_one_character():
    assert unit_ids(Unit.token, "abc", np.array([[0, 1], [1, 3]], dtype=np.int32)).tolist() == [0, 1]
    # b| 😀, first bytes| last bytes and é, first byte| last byte
    pieces = np.array([[0, 1], [1, 3], [2, 4], [3, 4]], dtype=np.int32)
    assert unit_ids(Unit.token, "b 😀é", pieces).tolist() == [0, 1, 1, 1]
    assert unit_ids(Unit.word, "b 😀é", pieces).tolist() == [0, 2, 2, 2]
    assert unit_ids(Unit.token, "", np.empty((0, 2), dtype=np.int32)).tolist() == []


def test_last_visible_character_decides_about_the_range() -> None:
    text = "ab. \n cd"
    offsets = np.array([[0, 2], [2, 5], [5, 6], [6, 8]], dtype=np.int32)  # ab|. \n| |cd
    assert owners([(0, 3), (3, 8)], text, offsets).tolist() == [0, 0, 1, 1]
    assert owners([(0, 2), (6, 8)], text, offsets).tolist() == [0, -1, -1, 1]
    assert owners([], text, offsets).tolist() == [-1] * 4
