"""The selection of LLMLingua-2, also against texts that the release made (`tests/tool/llmlingua2_release.py`)."""

import json
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from cotpress.compression.config import Alignment, CompressionConfig, Protection, Selection
from cotpress.config import register_schemas, to_objects
from cotpress.errors import ConfigError, ModelError
from cotpress.modeling.selection import draw_ratio
from cotpress.modeling.word_weights import WordWeights, word_counter
from cotpress.records import CompressedTrace, RewrittenTrace, Trace, Unit
from cotpress.scoring.scorers.classifier import load_classifier
from cotpress.scoring.scorers.llmlingua2_compat import (
    Llmlingua2Compat,
    Llmlingua2Options,
    Spelling,
    Word,
    chunks,
    kept_words,
)
from cotpress.scoring.scorers.tokenskip import TokenskipConfig
from cotpress.settings import check_settings
from cotpress.store.tables import read_records
from cotpress.tasks.checks import check
from cotpress.tasks.flow import Compression
from cotpress.tracking import Tracker
from support.llmlingua2 import FOLDERS, GOLDEN, save_classifier, texts
from support.real_tokenizers import real_tokenizer

ROOT = Path(__file__).parents[4]
RELEASE = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("classifiers")
    for kind in FOLDERS:
        save_classifier(kind, made)
    return made


def classifier(folder, kind, window=510):
    path = folder / FOLDERS[kind]
    config = TokenskipConfig(name="tokenskip", path=str(path), train=False, window_tokens=window, seed=1)
    return load_classifier(path, config, new_head=False, device=torch.device("cpu"))


def compat(read_by, count=len, tokens_per_batch=4096, **options):
    config = TokenskipConfig(name="tokenskip", path="", train=False, seed=1)
    return Llmlingua2Compat(config, read_by, Llmlingua2Options(**options), count, tokens_per_batch)


def trace(text, number=0):
    return Trace(id=f"t{number}", question="", thinking=text, response="", answer="")


def marked(row, thinking):
    """Texts of the tokens that stay."""
    return [thinking[a:b] for (a, b), score in zip(row.offsets.tolist(), row.scores, strict=True) if score]


@pytest.mark.parametrize("call", range(len(RELEASE["calls"])))
@pytest.mark.parametrize("kind", FOLDERS)
def test_texts_are_those_of_the_release(folder, kind, call):
    traces = [trace(text, i) for i, text in enumerate(texts())]
    rows = [row for row in RELEASE["outputs"] if row["kind"] == kind and row["call"] == call]
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in RELEASE["calls"][call].items()}
    num_compared = 0
    for rate in sorted({row["rate"] for row in rows}):
        expected = {row["text"]: row["output"] for row in rows if row["rate"] == rate}
        ours = compat(classifier(folder, kind), RELEASE["word_tokens"].__getitem__, ratios=(rate,), **arguments)
        for number, row in zip(expected, ours.score([traces[n] for n in expected]), strict=True):
            if expected[number] is None:  # the release stops with an error
                assert row.text == ""
            else:
                assert row.text == expected[number], (rate, number)
                num_compared += bool(row.text)
    assert num_compared > 40


@pytest.mark.parametrize("kind", FOLDERS)
def test_decisions_are_about_the_words_of_the_text(folder, kind):
    thinking = r"Step 12:  the total ☃ is" + "\n\n" + r"\frac{48}{2} = 24. naïve unsolved recheckings so 7"
    ours = compat(classifier(folder, kind), ratios=(0.6,), force_tokens=("Step", "\n\n"))
    [row] = ours.score([trace(thinking)])
    stays = "".join(marked(row, thinking))
    assert "☃" not in stays
    assert "Step" in stays
    assert "\n\n" in stays  # an added token stands for it
    assert "".join(stays.split()) == "".join(row.text.replace("ï", "").split())
    assert 0 < row.scores.mean() < 1


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_row_does_not_depend_on_batch_and_neighbours(folder, kind):
    traces = [trace(text, i) for i, text in enumerate(texts())]
    together = list(compat(classifier(folder, kind), ratios=(0.5,)).score(traces))
    ours = compat(classifier(folder, kind), tokens_per_batch=1, ratios=(0.5,))
    for one, row in zip(traces, together, strict=True):
        [alone] = ours.score([one])
        assert alone.text == row.text
        np.testing.assert_array_equal(alone.scores, row.scores)


def test_each_trace_is_cut_to_the_ratio_that_it_draws_and_ratio_one_changes_nothing(folder):
    thinking = "so we have\n\nthe total ☃ number"
    ours = compat(classifier(folder, "bert"), ratios=(0.5, 1.0), seed=4)
    rows = list(ours.score([trace(thinking, i) for i in range(12)]))
    assert {row.ratio for row in rows} == {0.5, 1.0}
    for row in rows:
        assert (row.text == thinking) == (row.scores.all()) == (row.ratio == 1)
    [alone] = compat(classifier(folder, "bert"), ratios=(0.5,)).score([trace(thinking)])
    assert {row.text for row in rows if row.ratio == 0.5} == {alone.text}


@given(st.lists(st.sampled_from("ab."), max_size=60), st.integers(1, 12))
def test_chunks_tile_the_tokens_and_end_after_the_last_full_stop(tokens, window):
    ranges = chunks(tokens, window, (".",))
    assert [i for part in ranges for i in range(part.start, part.stop)] == list(range(len(tokens)))
    for part in ranges[:-1]:
        room = tokens[part.start : part.start + window + 1]
        if tokens[part.stop - 1] != ".":
            assert part.stop - part.start == window + 1
            assert "." not in room[1:]
        else:
            assert "." not in room[part.stop - part.start :]


def words(**probabilities):
    return [Word(text, [p], i, i + 1) for i, (text, p) in enumerate(probabilities.items())]


def test_long_words_weigh_more_at_the_threshold():
    some = words(a=0.9, b=0.8, c=0.2, d=0.1)
    assert kept_words(some, 0.5, lambda _: 1, (), drop_consecutive=False) == [True, True, False, False]
    counts = {"a": 1, "b": 5, "c": 1, "d": 1}.__getitem__  # the median is now the value of b itself, which goes
    assert kept_words(some, 0.5, counts, (), drop_consecutive=False) == [True, False, False, False]


def test_percentile_is_cut_to_a_whole_number():
    some = [Word(str(i), [float(i)], i, i + 1) for i in range(1001)]
    for ratio, percent in {0.9: 10, 0.8: 20, 0.7: 31, 0.6: 41, 0.5: 51, 0.995: 1}.items():
        assert kept_words(some, ratio, lambda _: 1, (), drop_consecutive=False).index(True) == 10 * percent + 1


def test_repeated_forced_words_go_unless_something_stays_between_them():
    line = [(":", 1.0), ("x", 0.1), (":", 1.0), ("y", 0.9), (":", 1.0), ("z", 0.2), ("v", 0.1), ("w", 0.1)]
    some = [Word(text, [p], i, i + 1) for i, (text, p) in enumerate(line)]
    kept = kept_words(some, 0.5, lambda _: 1, (":",), drop_consecutive=True)
    assert kept == [True, False, False, True, True, True, False, False]
    assert kept_words(some, 0.5, lambda _: 1, (":",), drop_consecutive=False)[2]


def test_tokenizer_without_words_of_a_known_kind_is_an_error(folder):
    read_by = classifier(folder, "bert")
    read_by.tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(ModelError, match=r"tokenizer of the kind BPE.*Fix: another scorer\.path"):
        Spelling(read_by, (), {})


def test_more_forced_texts_than_the_release_allows_are_an_error(folder):
    with pytest.raises(ConfigError, match=r"compression\.keep_strings: got 101 texts, LLMLingua-2 allows 100"):
        compat(classifier(folder, "bert"), ratios=(0.5,), force_tokens=tuple(map(str, range(101))))


# The flow


def compression(tmp_path, *overrides):
    register_schemas()
    small = ["model=tiny", "data.num_traces=12", f"output_root={tmp_path}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("compress", overrides=["compression=llmlingua2_compat", *small, *overrides])
    return Compression(to_objects(composed), create_autospec(Tracker, instance=True))


def published(folder, tmp_path, *overrides):
    path = folder / FOLDERS["bert"]
    weights = "compression.word_weights=student"
    return compression(tmp_path, "scorer=tokenskip_mbert", f"scorer.path={path}", weights, *overrides)


def rows_of(flow):
    return read_records(flow.compressed().file("compressed.parquet"), CompressedTrace)


def test_students_learn_from_the_tokens_of_the_texts(folder, tmp_path):
    flow = published(folder, tmp_path, "ratio=0.5")
    decided = {r.id: r for r in read_records(flow.decisions.file("rewritten.parquet"), RewrittenTrace)}
    rows = rows_of(flow)
    assert len(rows) == len(decided) > 9
    for row in rows:
        assert row.compressed_thinking == decided[row.id].text
        assert row.compressed_thinking == flow.tokenizer.decode(row.token_ids)
        assert row.num_kept_tokens == len(row.token_ids)
        assert len(row.keep_mask) == row.num_tokens
        assert row.actual_ratio == row.num_kept_tokens / row.num_tokens
        assert row.marker_ratio is None
        assert 0 < row.keep_mask.mean() < 1
    assert not any(label.startswith("score") for label in flow.stages)


def test_mixed_ratios_are_stated_by_markers(folder, tmp_path):
    flow = published(folder, tmp_path, "compression.mixed_ratios=[0.5,1]", "ratio=0.5")
    rows, thinking = rows_of(flow), {t.id: t.thinking for t in read_records(flow.traces.file("traces.parquet"), Trace)}
    assert {row.marker_ratio for row in rows} == {0.5, 1.0}
    for row in rows:
        assert row.marker_ratio == row.target_ratio
        assert (row.compressed_thinking == thinking[row.id]) == row.keep_mask.all() == (row.marker_ratio == 1)
        assert row.target_ratio == draw_ratio((0.5, 1.0), 42, row.id)  # that of compression=mixed


def test_ratio_one_keeps_everything_and_reads_nothing(tmp_path):
    flow = compression(tmp_path, "ratio=1", "scorer=tokenskip_xlmr")
    assert flow.compressed().key == flow.uncompressed().key
    assert flow.decisions is None


def test_settings_are_the_arguments_of_the_llama_call_of_tokenskip(folder, tmp_path):
    llama = [
        "compression.keep_strings=[Step,':']",
        "compression.protection=digits",
        "compression.drop_consecutive=true",
    ]
    options = published(folder, tmp_path, "compression.mixed_ratios=[0.9,0.5]", *llama)._deciding.make.args[2]
    weights, forced = WordWeights.student, ("Step", ":")
    assert options == Llmlingua2Options(
        ratios=(0.5, 0.9), seed=42, force_tokens=forced, force_reserve_digit=True, drop_consecutive=True,
        word_weights=weights,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"granularity": Unit.step}, r"compression\.granularity has no effect"),
        ({"alignment": Alignment.next}, r"compression\.alignment has no effect.*Fix: compression=single or mixed"),
        ({"max_consecutive_deletions": 3}, r"compression\.max_consecutive_deletions has no effect"),
        ({"protection": Protection.math}, r"compression\.protection: got 'math'.*Fix: compression\.protection=digits"),
        ({"selection": Selection.exact, "drop_consecutive": True}, "drop_consecutive has no effect"),
        ({"selection": Selection.llmlingua_compat, "drop_consecutive": True}, "drop_consecutive has no effect"),
    ],
)
def test_settings_that_would_be_ignored_are_an_error(settings, message):
    settings = CompressionConfig(**{"selection": Selection.llmlingua2_compat, **settings})
    with pytest.raises(ConfigError, match=message):
        check_settings(settings, "compression")


def test_other_scorers_are_an_error_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match=r"scorer: got 'cts'.*Fix: scorer=tokenskip_xlmr"):
        check(compression(tmp_path, "scorer=cts", "compression.word_weights=student")._config)
    assert not list(tmp_path.glob("artifacts/score"))


# The number of tokens of a word


def test_weights_of_the_student_count_its_tokens_of_the_word():
    count = word_counter(WordWeights.student, lambda: real_tokenizer("smollm2"))
    assert count("▁because") == 1
    assert count("unsolvedness") > 1


class Encoding:
    def encode(self, text, disallowed_special):
        assert disallowed_special == ()
        return [*text]


@pytest.fixture
def tiktoken(monkeypatch):
    module = ModuleType("tiktoken")
    monkeypatch.setitem(sys.modules, "tiktoken", module)
    return module


def test_weights_of_tiktoken_are_those_of_the_model_that_the_release_names(tiktoken):
    tiktoken.encoding_for_model = {"gpt-3.5-turbo": Encoding()}.__getitem__
    assert word_counter(WordWeights.tiktoken, list)("▁so") == 3


def test_missing_vocabulary_is_an_error_with_the_fix(tiktoken):
    def offline(model):
        raise ConnectionError("no route")

    tiktoken.encoding_for_model = offline
    with pytest.raises(ConfigError, match=r"cannot get its vocabulary.*ConnectionError.*TIKTOKEN_CACHE_DIR"):
        word_counter(WordWeights.tiktoken, list)


def test_missing_package_is_an_error_before_anything_runs(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    without = published(folder, tmp_path, "ratio=0.5", "compression.word_weights=tiktoken")._config
    with pytest.raises(
        ConfigError, match=r"compression\.word_weights: got tiktoken.*Fix: pip install 'tiktoken>=0\.9'"
    ):
        check(without)
    assert not list(tmp_path.glob("artifacts/decide/*"))
    without.ratio = 1  # nothing is counted
    check(without)
