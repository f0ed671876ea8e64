# ruff: noqa: RUF001 - characters that look like others are what is tested
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cotpress.compression.config import Protection
from cotpress.compression.protection import protected_tokens

PIECES = ["so ", "12", "x3", " = ", "é", "\\frac{48}{2}", "-", "a", "1,200", "7.5", "😀", "中文", "\n", "\\", "$", "**"]
TEXTS = st.one_of(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.text(max_size=30))


def single(text: str) -> NDArray[np.int32]:
    """Return offsets of one token per character."""
    return np.array([[i, i + 1] for i in range(len(text))], np.int32).reshape(-1, 2)


def shown(protection: Protection, text: str, **more: object) -> str:
    """Return the text with a dot for every unprotected character; white space stays."""
    held = protected_tokens(protection, text, single(text), **more)  # type: ignore[arg-type]
    return "".join(c if h or c.isspace() else "." for c, h in zip(text, held, strict=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \frac{48}{2} = 24, yes", r".. \frac{48}{2} = 24. ..."),
        ("double-check, e-mail, x-axis, and/or km/h", "............. ....... ....... ...... ...."),
        ("a 20-minute walk, top-5", ". 20....... ..... ....5"),
        ("x-y n - 1 5-3 x-1 a/b", ".-. . - 1 5-3 .-1 ./."),
        ("\\(x^2\\) \\[y_1\\] $5", "\\(.^2\\) \\[._1\\] $5"),
        ("\\alpha-x \\pi/y \\operatorname*{max}", "\\alpha-. \\pi/. \\operatorname*{...}"),
        ("- one 3\n * two\n-- **bold** 2*3", ". ... 3\n . ...\n.. ........ 2*3"),
        ("*so* x**2 2 * 3 (a)*b **x", ".... .**2 2 * 3 ...*. ..."),
        ("1,200.50 and 3.14. .5 1, 2 1{,}000", "1,200.50 ... 3.14. .5 1. 2 1{,}000"),
        ("snake_case a_n x_{10}", ".......... ._. ._{10}"),
        ("2 ≤ x × ÷ · − √2 → ½x² ≈ ±3", "2 ≤ . × ÷ · − √2 → ½.² ≈ ±3"),
        (r"a \\ b \text{per hour} 50\% \{1\}", r". \\ . \text{... ....} 50\% \{1\}"),
        ("1–2 and – so", "1–2 ... . .."),
        ("", ""),
        ("\\", "\\"),
    ],
)
def test_math_marks_numbers_operators_and_whole_commands(text: str, expected: str) -> None:
    assert shown(Protection.math, text) == expected


@pytest.mark.parametrize(
    ("answer", "text", "expected"),
    [
        ("7", "7 17 7.5 7. x7 x_7 (7) 77 7a", "7 .. ... 7. .. ... .7. .. 7."),
        ("7", "10-7 =7 $7 7% 7.0 -7 0.7 1.7.7", "...7 .7 .7 7. 7.0 .. ... ....."),
        ("7", r"3\times7 \frac78 \frac7x", r".......7 ....... .....7."),
        ("1,200", "1200 1,200 11,200 1200.00 1,2000 200", "1200 1,200 ...... 1200.00 ...... ..."),
        ("1200", r"1,200 1{,}200 1\,200 1, 200", r"1,200 1{,}200 1\,200 .. ..."),
        ("-3", "x = -3, 10-3, 3, −3", ". . -3. ..... .. −3"),
        ("0", "0 10 0.0 -0 .0", "0 .. 0.0 -0 .0"),
        ("$18", "18 dollars, $18, $1", "18 ........ .18. .."),
        ("50%", "50% of 150%", "50. .. ...."),
        (r"\frac{1}{2}", r"x=\frac{1}{2}, \dfrac{1}{2}", r"..\frac{1}{2}. ............"),
        (r"$\frac12$", r"\frac12 \frac123", r"\frac12 ........"),
        ("3/4", "3/4 13/4 3/45 3/4.5 2.3/4 3/4.", "3/4 .... .... ..... ..... 3/4."),
        ("B", "B AB (B) Both", "B .. .B. ...."),
        ("x+1", "x+1 x+12 ax+1", "x+1 .... ...."),
        ("", "7 and 8", ". ... ."),
        ("  ", "7  8", ".  ."),
    ],
)
def test_answer_is_found_as_a_whole_number_or_word(answer: str, text: str, expected: str) -> None:
    assert shown(Protection.answer, text, answer=answer) == expected


def test_only_the_answer_rule_uses_the_answer() -> None:
    assert shown(Protection.none, "the 7", answer="the") == "... ."
    assert shown(Protection.digits, "the 7", answer="the") == "... 7"


def test_kept_strings_add_to_the_rule() -> None:
    assert shown(Protection.digits, "Step 1: go", keep_strings=["Step", ":"]) == "Step 1: .."


def test_kept_strings_are_literal_and_may_overlap() -> None:
    assert shown(Protection.none, "aaab a.b", keep_strings=["aa", "a.b"]) == "aaa. a.b"
    held = protected_tokens(Protection.none, "a\n\n\nb", single("a\n\n\nb"), keep_strings=["\n\n"])
    assert held.tolist() == [False, True, True, True, False]


def test_token_with_one_marked_character_is_protected() -> None:
    thinking = "so 12+x3 = é4 ok"
    offsets = np.array([[0, 2], [2, 5], [5, 6], [6, 8], [8, 11], [11, 13], [13, 16]], dtype=np.int32)
    held = protected_tokens(Protection.digits, thinking, offsets)
    assert [thinking[a:b] for (a, b), h in zip(offsets, held, strict=True) if h] == [" 12", "x3", "é4"]


def test_every_byte_piece_of_a_marked_character_is_protected() -> None:
    offsets = np.array([[0, 1], [1, 2], [1, 2], [1, 2], [2, 3]], np.int32)
    assert protected_tokens(Protection.math, "a≤b", offsets).tolist() == [False, True, True, True, False]


@given(TEXTS, st.sampled_from(Protection), st.lists(st.sampled_from(PIECES), max_size=2), st.text(max_size=3))
def test_coarser_token_is_protected_if_one_of_its_characters_is(
    text: str, protection: Protection, keep: list[str], answer: str
) -> None:
    held = protected_tokens(protection, text, single(text), answer=answer, keep_strings=keep)
    pairs = np.array([[i, min(i + 2, len(text))] for i in range(0, len(text), 2)], np.int32).reshape(-1, 2)
    coarse = protected_tokens(protection, text, pairs, answer=answer, keep_strings=keep)
    assert coarse.tolist() == [bool(held[a:b].any()) for a, b in pairs]


@given(TEXTS)
def test_math_protects_every_digit_and_whole_commands(text: str) -> None:
    offsets = single(text + " \\frac")
    held = protected_tokens(Protection.math, text + " \\frac", offsets)
    assert held[protected_tokens(Protection.digits, text + " \\frac", offsets)].all()
    assert held[-5:].all()


@pytest.mark.parametrize("protection", Protection)
def test_empty_text_has_an_empty_mask(protection: Protection) -> None:
    assert protected_tokens(protection, "", single(""), answer="1", keep_strings=["a"]).shape == (0,)
