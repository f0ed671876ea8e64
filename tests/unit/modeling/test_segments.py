from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cotpress.modeling.alignment import tokenize_with_offsets
from cotpress.modeling.segments import (
    character_groups,
    is_blank,
    owners,
    paragraph_ranges,
    segment_ranges,
    step_ranges,
    unit_ids,
    unit_ranges,
    word_ranges,
)
from cotpress.records import SEGMENT_STARTS, Unit

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
    " \n \n",
    "Wait",
    "- **hmm**",
    ", no. ",
    "Let me double\u2011check",
]
texts = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40),
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
)
units = st.sampled_from([unit for unit in Unit if unit is not Unit.token])
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


@pytest.mark.parametrize(
    ("text", "paragraphs"),
    [
        ("", []),
        ("\n\n", ["\n\n"]),
        ("a.\nb\n\nc", ["a.\nb", "\n\nc"]),
        ("a\n \t\n\n  b \n\n", ["a", "\n \t\n\n  b \n\n"]),
        ("\n\na\r\n\r\nb", ["\n\na", "\r\n\r\nb"]),
        ("a\n\u00a0\nb", ["a", "\n\u00a0\nb"]),
        ("a  b\n  c", ["a  b\n  c"]),
    ],
)
def test_paragraphs_of_hand_written_cases(text, paragraphs):
    assert pieces(paragraph_ranges(text), text) == paragraphs


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("", []),
        ("Wait", ["Wait"]),
        ("So 7. Wait, is it? Yes. Alternatively, 8.", ["So 7.", " Wait, is it? Yes.", " Alternatively, 8."]),
        ("So 7.\nwait - 8\nWAIT: 9", ["So 7.", "\nwait - 8", "\nWAIT: 9"]),
        ("a. Waiting b. Waits c. Wait-list d. Wait's e. Wait2 f.",
         ["a. Waiting b. Waits c. Wait-list d. Wait's e. Wait2 f."]),
        ("a. Wait\u2014b. Wait... c", ["a.", " Wait\u2014b.", " Wait... c"]),
        ("a. (Wait, b.) c. \u201cHmm\u201d, d. - *However*, e.",
         ["a.", " (Wait, b.) c.", " \u201cHmm\u201d, d.", " - *However*, e."]),
        ("a\n- **However**, b\n2. Hold on, c", ["a", "\n- **However**, b", "\n2. Hold on, c"]),
        ("a. So wait, b. I wait. c", ["a. So wait, b. I wait. c"]),
        ("a. Let me double-check b. Let me double\u2011check c. Let  me\u00a0Check d.",
         ["a.", " Let me double-check b.", " Let me double\u2011check c.", " Let  me\u00a0Check d."]),
        ("a. Let\u2019s verify b. Let's verify c. Let me see d.",
         ["a.", " Let\u2019s verify b.", " Let's verify c. Let me see d."]),
        ("a. Hmm. Wait, no. Let me check: 4. b. Hmm. c.", ["a.", " Hmm. Wait, no. Let me check: 4. b.", " Hmm. c."]),
        ("a. But, wait! b", ["a.", " But, wait! b"]),
    ],
)  # fmt: skip
def test_segments_of_hand_written_cases(text, segments):
    assert pieces(segment_ranges(text), text) == segments


@pytest.mark.parametrize(
    ("starts", "text", "segments"),
    [
        (["等等"], "是七。等等我再看。好。", ["是七。", "等等我再看。好。"]),
        (["Apr\u00e8s"], "a. Apre\u0300s b. APR\u00c8S c. apr\u00e8s-midi d.",
         ["a.", " Apre\u0300s b.", " APR\u00c8S c. apr\u00e8s-midi d."]),
        (["Apre\u0300s"], "a. Apr\u00e8s b.", ["a.", " Apr\u00e8s b."]),
        (["Em"], "a. \u00bfEm b. Emb c. Eme\u0301 d.", ["a.", " \u00bfEm b. Emb c. Eme\u0301 d."]),
        (["Стоп"], "a. стоп, b.", ["a.", " стоп, b."]),
        (["C++ (x"], "a. c++ (x b. C+ c.", ["a.", " c++ (x b. C+ c."]),
    ],
)  # fmt: skip
def test_segments_begin_with_the_given_texts_of_any_language(starts, text, segments):
    assert pieces(segment_ranges(text, starts), text) == segments


@prop
@given(text=texts, start=st.sampled_from(SEGMENT_STARTS))
def test_every_opening_begins_a_segment_after_a_full_stop(text, start):
    whole = f"{text} x.\n{start} y."
    assert (len(whole) - len(f"\n{start} y."), len(whole)) in segment_ranges(whole)


@prop
@given(text=texts, unit=units)
def test_ranges_cover_the_text_without_gap_or_overlap(text, unit):
    ranges = unit_ranges(unit, text)
    assert "".join(pieces(ranges, text)) == text
    assert all(before[1] == after[0] for before, after in pairwise(ranges))
    assert all(start < end for start, end in ranges)
    assert bool(ranges) == bool(text)


@prop
@given(text=texts)
def test_paragraphs_and_segments_are_made_of_whole_steps(text):
    steps = {end for _, end in step_ranges(text)}
    for ranges in (paragraph_ranges(text), segment_ranges(text)):
        assert all(end in steps for _, end in ranges)


@prop
@given(text=texts)
def test_steps_are_made_of_whole_words(text):
    words = {end for _, end in word_ranges(text)}
    assert all(end in words for _, end in step_ranges(text))


@prop
@given(text=texts, unit=units)
def test_every_token_is_in_a_unit_and_units_ascend(text, unit, tokenizer, wordpiece):
    ranges = unit_ranges(unit, text)
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
    ranges = unit_ranges(unit, text)
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


def test_tokens_are_in_the_segments_of_the_given_openings():
    text = "So 7.\n\nNow 8"
    offsets = np.array([[0, 2], [2, 4], [4, 7], [7, 10], [10, 12]], dtype=np.int32)  # So| 7|.\n\n|Now| 8
    assert unit_ids(Unit.segment, text, offsets).tolist() == [0] * 5
    assert unit_ids(Unit.segment, text, offsets, ["now"]).tolist() == [0, 0, 0, 1, 1]
    assert unit_ids(Unit.paragraph, text, offsets).tolist() == [0, 0, 0, 1, 1]


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
