"""Training sequences that are too long, in each mode, and the traces that all systems of a run can hold."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotpress.errors import ConfigError
from cotpress.prompts import ChatFormat
from cotpress.records import COMPRESSED_FILE, CompressedTrace, ValuableTrace
from cotpress.settings import check_settings
from cotpress.store.artifacts import Summary
from cotpress.store.tables import read_records, write_records
from cotpress.training.batching import Example, student_sequences
from cotpress.training.config import Overlong, ReferenceConfig, SftConfig
from cotpress.training.overlong import left_out, limited, sequence_lengths, set_digest, shortened
from cotpress.training.stage import train_reference, train_student


def _example(num_prompt, num_targets, row=""):
    return Example(ids=tuple(range(num_prompt + num_targets)), num_prompt=num_prompt, row=row)


@pytest.mark.parametrize(
    ("prompt", "completion", "limit", "expected"),
    [
        (30, 20, 100, (30, 20)),
        (40, 60, 100, (40, 60)),  # fits exactly
        (90, 20, 100, (80, 20)),  # a short completion stays whole
        (300, 49, 100, (51, 49)),
        (10, 500, 100, (10, 90)),  # a short prompt stays whole
        (49, 80, 100, (49, 51)),
        (50, 80, 100, (39, 61)),  # both get their share
        (300, 50, 100, (86, 14)),
        (200, 700, 100, (23, 77)),
        (57, 123, 97, (31, 66)),
    ],
)
def test_cut_leaves_as_many_tokens_as_llama_factory(prompt, completion, limit, expected):
    # The expected numbers are those of LLaMA-Factory's infer_seqlen(prompt, completion, limit).
    left = shortened(_example(prompt, completion), limit)
    assert (left.num_prompt, left.num_targets) == expected
    assert left.ids == (*range(left.num_prompt), *range(prompt, prompt + left.num_targets))


@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 80))
def test_cut_keeps_what_fits_and_fills_the_limit_otherwise(prompt, completion, limit):
    whole = _example(prompt, completion)
    left = shortened(whole, limit)
    assert left == whole if len(whole.ids) <= limit else len(left.ids) == limit


def test_long_sequences_are_left_out_or_cut_and_counted():
    sequences = [_example(3, 5, "a"), _example(3, 9, "b"), _example(3, 6, "c")]
    drop, cut = limited(sequences, 9), limited(sequences, 9, cut=True)
    assert [e.row for e in drop.kept] == ["a", "c"]
    assert (drop.dropped, drop.num_cut) == ({"longer than 9 tokens": 1}, 0)
    assert [(e.row, len(e.ids)) for e in cut.kept] == [("a", 8), ("b", 9), ("c", 9)]
    assert (cut.dropped, cut.num_cut) == ({}, 1)


def test_cut_keeps_the_weights_of_the_tokens_that_stay():
    whole = Example(ids=tuple(range(10)), num_prompt=2, weights=(0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 0.25, 1.0))
    left = shortened(whole, 5)
    assert (left.ids, left.weights) == ((0, 1, 2, 3, 4), (0.0, 0.0, 0.5))
    examples = limited([whole], 3, cut=True)  # leaves two tokens without a loss
    assert examples.dropped == {"no target within 3 tokens": 1}


def test_sequence_without_a_target_after_the_cut_is_left_out():
    examples = limited([_example(1000, 5, "a"), _example(4, 4, "b")], 10, cut=True)
    assert [e.row for e in examples.kept] == ["b"]
    assert examples.dropped == {"no target within 10 tokens": 1}


def test_systems_have_the_same_traces_whatever_one_of_them_lacks():
    original = {"short": 5, "middle": 12, "long": 20, "refused": 6}
    half = {"short": 3, "middle": 7, "long": 11}
    marked = {"short": 11, "middle": 8, "long": 12, "refused": 4}  # a marker may make a sequence longer
    systems = {"original": original, "half": half, "marked": marked}
    kept = {}
    for name, lengths in systems.items():
        without = left_out(lengths, [other for other in systems.values() if other is not lengths], 11)
        sequences = [_example(2, n - 2, id_) for id_, n in lengths.items()]
        kept[name] = {e.row for e in limited(sequences, 11, without=without).kept}
    assert kept == {name: {"short"} for name in systems}
    assert left_out(half, [original], 11) == {
        "middle": "longer than 11 tokens in another system",
        "long": "longer than 11 tokens in another system",
    }
    assert left_out(original, [half], 11) == {"refused": "missing in another system"}


def _traces(store, compressed, lengths):
    """An artifact of the traces of `compressed` with so many tokens of thinking by their ids."""

    def produce(folder):
        rows = [r for r in read_records(compressed.file(COMPRESSED_FILE), CompressedTrace) if r.id in lengths]
        changed = [dataclasses.replace(r, token_ids=np.arange(lengths[r.id], dtype=np.int32) + 9) for r in rows]
        write_records(folder / COMPRESSED_FILE, changed, CompressedTrace)
        return Summary(num_rows=len(rows))

    return store.build("compress", {"test": lengths}, produce)


@pytest.fixture
def whole(store, compressed):
    """Five traces, each longer than the one before it."""
    return _traces(store, compressed, {str(i): 8 + 3 * i for i in range(5)})


@pytest.fixture
def shorter(store, compressed):
    """The same traces with less of their thinking, without the first one."""
    return _traces(store, compressed, {str(i): 6 for i in range(1, 5)})


@pytest.fixture
def limit(whole, tiny_config, tokenizer, store):
    """Length of the third of the five whole traces; the lengths agree with the sequences that are trained on."""
    chat = ChatFormat(tokenizer, tiny_config.chat)
    lengths = sequence_lengths(whole, chat, format_=tiny_config.chat, tokenizer_key="t", store=store)
    rows = read_records(whole.file(COMPRESSED_FILE), CompressedTrace)
    assert lengths == {s.row: len(s.ids) for s in student_sequences(rows, chat)}
    return lengths["2"]


@pytest.fixture
def training(tiny_config, tune, hardware, tracker, store):
    """Train a student in a mode, with at most `max_tokens` tokens."""

    def train(mode, traces, beside=(), max_tokens=4096):
        config = SftConfig(tune=dataclasses.replace(tune, max_tokens=max_tokens), overlong=mode)
        return train_student(
            config, model=tiny_config, compressed=traces, beside=beside, trainer=hardware, tracker=tracker, store=store
        )

    return train


def test_student_is_the_same_in_every_mode_if_all_sequences_fit(training, whole, shorter):
    assert len({training(mode, shorter, [whole]).key for mode in Overlong}) == 1


def test_students_are_trained_on_the_traces_that_each_has_and_can_hold(training, whole, shorter, limit, caplog):
    first = training(Overlong.common, whole, [shorter], limit)
    second = training(Overlong.common, shorter, [whole], limit)
    assert first.facts["traces"] == second.facts["traces"] == set_digest(["1", "2"])
    assert first.manifest["dropped"] == {"missing in another system": 1, f"longer than {limit} tokens": 2}
    assert second.manifest["dropped"] == {f"longer than {limit} tokens in another system": 2}
    assert (first.facts["num_alone"], second.facts["num_alone"]) == (3, 4)
    assert f"of 4 traces; 2 longer than {limit} tokens in another system; sft.overlong=drop would train on 4" in (
        caplog.text
    )
    alone = training(Overlong.drop, shorter, [whole], limit)
    assert alone.facts["traces"] == set_digest(["1", "2", "3", "4"])


def test_runs_at_several_ratios_share_the_student_of_whole_traces(training, whole, limit, store, compressed):
    halves = [_traces(store, compressed, dict.fromkeys("01234", n)) for n in (4, 6)]
    students = {training(Overlong.common, whole, [half], limit).key for half in halves}
    assert students == {training(Overlong.drop, whole, [], limit).key}


def test_cut_student_counts_the_cut_sequences(training, whole, limit, caplog):
    student = training(Overlong.cut, whole, (), limit)
    assert student.manifest["num_rows"] == 5
    assert student.manifest["dropped"] == {}
    assert student.facts["num_cut"] == 2
    assert f"5 of 5 traces; 2 cut at {limit} tokens, so without their end token" in caplog.text


def test_reference_model_may_be_trained_on_cut_sequences(tiny_config, store, tune, hardware, tracker):
    thinking = "wait let me check the price so the total is 12"
    row = ValuableTrace(
        id="a", question="how much", thinking=thinking, response="The answer is 12.", answer="12", valuable=((0, 46),)
    )

    def produce(folder):
        write_records(folder / "valuable.parquet", [row], ValuableTrace)
        return Summary(num_rows=1)

    config = ReferenceConfig(tune=dataclasses.replace(tune, max_tokens=25), overlong=Overlong.cut)
    made = train_reference(
        config, base=tiny_config, distilled=store.build("distill", {"test": "cut"}, produce), trainer=hardware,
        tracker=tracker, store=store,
    )  # fmt: skip
    assert made is not None
    assert (made.manifest["num_rows"], made.facts["num_cut"]) == (1, 1)


def test_reference_model_has_nothing_in_common_with_others(tune):
    with pytest.raises(ConfigError, match=r"reference\.overlong: got 'common', allowed: drop, cut"):
        check_settings(ReferenceConfig(tune=tune, overlong=Overlong.common), "reference")
