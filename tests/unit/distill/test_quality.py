import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.distill.alignment import align, words
from cotpress.distill.llm import Quality, outliers


def quality(original: str, extracted: str) -> Quality:
    source, written = words(original), words(extracted)
    return Quality.of(source, written, align(source, written))


def test_rates_by_hand() -> None:
    # original: 10 words; written: 6, of which "thus" is new; "7" is written twice but stands there once
    made = quality("so 4 + 3 = 7 and done now then", "thus 4 + 3 7 7")
    assert made == Quality(num_original=10, num_extracted=6, num_copied=5, num_matched=4)
    assert made.variation_rate == pytest.approx(1 / 6)
    assert made.alignment_gap == pytest.approx(5 / 10 - 4 / 10)


def test_verbatim_copy_has_no_variation_and_no_gap() -> None:
    made = quality("Hmm, 8 - 3 = 5. Yes.", "8 - 3 = 5.")
    assert (made.variation_rate, made.alignment_gap) == (0, 0)


def test_rephrased_text_is_all_variation() -> None:
    assert quality("eight minus three is five", "8 - 3 = 5").variation_rate == 1


def test_chunks_count_together_not_as_a_mean_of_rates() -> None:
    parts = [
        Quality(num_original=90, num_extracted=30, num_copied=30, num_matched=30),
        Quality(num_original=10, num_extracted=10, num_copied=0, num_matched=0),
    ]
    assert Quality.total(parts).variation_rate == pytest.approx(0.25)


def test_empty_extraction_has_rates_of_zero() -> None:
    empty = Quality.total([])
    assert (empty.variation_rate, empty.alignment_gap) == (0, 0)


def test_share_drops_the_highest_by_hand() -> None:
    values = {f"t{i}": i / 100 for i in range(20)}
    assert outliers(values, 0.05, 1.0) == {"t19"}
    assert outliers(values, 0.10, 1.0) == {"t19", "t18"}
    assert outliers(values, 0.0, 1.0) == set()


def test_equally_good_samples_are_all_kept() -> None:
    assert outliers(dict.fromkeys("abcdefghij", 0.0), 0.5, 1.0) == set()
    assert outliers({"a": 0.3, "b": 0.3, "c": 0.1, "d": 0.1}, 0.25, 1.0) == set()
    assert outliers({"a": 0.3, "b": 0.2, "c": 0.2, "d": 0.1}, 0.5, 1.0) == {"a"}


def test_highest_kept_value_holds_for_every_share() -> None:
    values = {"a": 0.9, "b": 0.6, "c": 0.5, "d": 0.1}
    assert outliers(values, 0.0, 0.5) == {"a", "b"}
    assert outliers(values, 0.25, 0.5) == {"a", "b"}
    assert outliers({}, 0.5, 0.5) == set()


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1)), st.floats(0, 0.99))
def test_share_is_not_exceeded_and_no_kept_sample_is_worse_than_a_dropped_one(
    values: dict[str, float], share: float
) -> None:
    bad = outliers(values, share, 1.0)
    assert len(bad) <= share * len(values)
    kept = [v for name, v in values.items() if name not in bad]
    assert not bad or max(kept) < min(values[name] for name in bad)
