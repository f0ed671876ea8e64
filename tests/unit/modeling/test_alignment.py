import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cotpress.errors import ModelError
from cotpress.modeling.alignment import (
    cover,
    kept_text,
    pool,
    project_scores,
    spans_to_mask,
    tokenize_with_offsets,
)

texts = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40),
    st.lists(
        st.sampled_from(
            ["😀", "👩‍👩‍👧", "é", "\\frac{48}{2}", " 12 ", "\n\n", "the answer", "=", "中文", "\t", "<|im_end|>"]
        )
    ).map("".join),
)
prop = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=["byte_bpe", "wordpiece"])
def any_tokenizer(request):
    return request.getfixturevalue("tokenizer" if request.param == "byte_bpe" else "wordpiece")


@prop
@given(text=texts)
def test_offsets_cover_the_text_in_order(any_tokenizer, text):
    ids, offsets = tokenize_with_offsets(any_tokenizer, text)
    assert ids.dtype == offsets.dtype == np.int32
    assert offsets.shape == (len(ids), 2)
    assert (offsets[:, 0] <= offsets[:, 1]).all()
    assert (np.diff(offsets[:, 0]) >= 0).all()
    assert (offsets >= 0).all()
    assert (offsets <= len(text)).all()
    if len(ids):
        assert kept_text(text, offsets, np.ones(len(ids), dtype=bool)) == text


@prop
@given(text=texts, data=st.data())
def test_kept_text_equals_a_character_loop(tokenizer, text, data):
    ids, offsets = tokenize_with_offsets(tokenizer, text)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))), dtype=bool)
    kept = {c for (a, b), keep in zip(offsets.tolist(), mask, strict=True) if keep for c in range(a, b)}
    assert kept_text(text, offsets, mask) == "".join(text[c] for c in sorted(kept))


@prop
@given(text=texts, data=st.data())
def test_projection_equals_a_naive_loop(tokenizer, wordpiece, text, data):
    source_ids, source = tokenize_with_offsets(wordpiece, text)
    _, target = tokenize_with_offsets(tokenizer, text)
    scores = np.array(
        data.draw(st.lists(st.floats(-5, 5, width=32), min_size=len(source_ids), max_size=len(source_ids))),
        dtype=np.float32,
    )
    if len(source_ids) == 0:
        if len(target):
            with pytest.raises(ValueError, match="nothing to project"):
                project_scores(source, scores, target, len(text))
        return
    char_scores = [
        [s for (a, b), s in zip(source.tolist(), scores.tolist(), strict=True) if a <= c < b] for c in range(len(text))
    ]
    expected = [np.mean([np.mean(char_scores[c]) for c in range(a, b) if char_scores[c]]) for a, b in target.tolist()]
    got = project_scores(source, scores, target, len(text))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)


@prop
@given(text=st.text(alphabet="ab 12.\n", max_size=30))
def test_projection_onto_the_same_tokens_is_the_identity(tokenizer, text):
    ids, offsets = tokenize_with_offsets(tokenizer, text)
    scores = np.linspace(-3, 3, len(ids), dtype=np.float32)
    np.testing.assert_allclose(project_scores(offsets, scores, offsets, len(text)), scores, atol=1e-6)


def test_target_without_scored_character_gets_the_mean_of_its_neighbours():
    source = np.array([[2, 4], [8, 10]], dtype=np.int32)
    target = np.array([[0, 2], [2, 4], [4, 6], [6, 8], [8, 10], [10, 12]], dtype=np.int32)
    got = project_scores(source, np.array([1.0, 4.0], dtype=np.float32), target, 12)
    np.testing.assert_array_equal(got, np.array([1.0, 1.0, 2.5, 2.5, 4.0, 4.0], dtype=np.float32))


def test_projection_of_nothing_onto_nothing_is_empty():
    nothing = np.empty((0, 2), dtype=np.int32)
    assert project_scores(nothing, np.empty(0, dtype=np.float32), nothing, 0).shape == (0,)


def test_trimmed_offsets_get_the_space_before_them():
    trimmed = np.array([[0, 3], [4, 6], [8, 9]], dtype=np.int32)
    np.testing.assert_array_equal(cover(trimmed, 11), [[0, 3], [3, 6], [6, 11]])


def test_one_token_text_is_one_range(tokenizer):
    ids, offsets = tokenize_with_offsets(tokenizer, "7")
    assert len(ids) == 1
    np.testing.assert_array_equal(offsets, [[0, 1]])


def test_keeping_one_piece_of_a_character_keeps_the_character(tokenizer):
    _, offsets = tokenize_with_offsets(tokenizer, "a😀b")
    mask = np.zeros(len(offsets), dtype=bool)
    mask[2] = True
    assert kept_text("a😀b", offsets, mask) == "😀"


@pytest.mark.parametrize("spans", [[(0, 6), (9, 12)], [(0, 5), (8, 12)]])
def test_last_character_decides_on_both_sides_of_a_space(spans):
    offsets = np.array([[0, 5], [5, 8], [8, 12]], dtype=np.int32)
    np.testing.assert_array_equal(spans_to_mask(offsets, spans), [True, False, True])


def test_no_spans_mark_nothing_and_no_tokens_have_an_empty_mask():
    offsets = np.array([[0, 0], [0, 2]], dtype=np.int32)
    assert not spans_to_mask(offsets, []).any()
    np.testing.assert_array_equal(spans_to_mask(offsets, [(0, 2)]), [False, True])
    assert spans_to_mask(np.empty((0, 2), dtype=np.int32), [(0, 3)]).shape == (0,)


def test_pool_gives_each_token_the_mean_of_its_word():
    values = np.array([1.0, 3.0, 5.0, 9.0], dtype=np.float32)
    np.testing.assert_array_equal(pool(values, np.array([0, 0, 2, 0])), np.array([13 / 3, 13 / 3, 5, 13 / 3], "f4"))
    assert pool(np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)).shape == (0,)


def test_slow_tokenizer_is_an_error_with_a_reason():
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="no character offsets"):
        tokenize_with_offsets(Slow(), "text")


def test_special_token_spelled_out_in_a_text_is_text(any_tokenizer):
    end = any_tokenizer.eos_token or any_tokenizer.sep_token
    text = f"so {end} the total"
    ids, offsets = tokenize_with_offsets(any_tokenizer, text)
    special = set(any_tokenizer.all_special_ids) - {any_tokenizer.unk_token_id}
    assert not special & set(ids.tolist())
    assert kept_text(text, offsets, np.ones(len(ids), dtype=np.bool_)) == text
    # Elsewhere the tokenizer still makes the end of a turn one token.
    assert any_tokenizer(end, add_special_tokens=False)["input_ids"] == [any_tokenizer.convert_tokens_to_ids(end)]


def test_text_without_special_tokens_has_the_tokens_of_the_tokenizer(any_tokenizer):
    text = "Let me see: 12 apples, \\frac{1}{2} of them 数 <b>green</b>\n\nnaïve 😀 "
    ids, _ = tokenize_with_offsets(any_tokenizer, text)
    assert ids.tolist() == any_tokenizer(text, add_special_tokens=False)["input_ids"]
