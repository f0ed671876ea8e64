"""The number format in which a scoring model reads, and models that cannot do what a scorer needs."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from cotpress.errors import ConfigError, ModelError
from cotpress.modeling.config import Attention, Dtype, ModelConfig
from cotpress.records import ScoredTrace
from cotpress.scoring.job import scoring_job
from cotpress.scoring.models import Models
from cotpress.scoring.reader import check_cache
from cotpress.scoring.scorers.answer_attention import AnswerAttentionConfig, check_layers
from cotpress.scoring.scorers.cts import CtsConfig
from cotpress.scoring.scorers.entropy import EntropyConfig
from cotpress.scoring.scorers.gogi import GogiConfig
from cotpress.scoring.scorers.greedy_nll import GreedyNllConfig
from cotpress.scoring.scorers.llmlingua_compat import LlmlinguaCompat, decision_job
from cotpress.scoring.scorers.mix import MixConfig
from cotpress.scoring.scorers.pir import PirConfig
from cotpress.scoring.scorers.random import RandomConfig
from cotpress.scoring.scorers.reference_likelihood import ReferenceLikelihoodConfig
from cotpress.scoring.scorers.reference_walk import ReferenceWalkConfig
from cotpress.scoring.scorers.rho1_excess import Rho1Config
from cotpress.scoring.scorers.self_information import SelfInformationConfig
from cotpress.scoring.table import check_model, model_to_read, scorer_of
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records
from support.hybrid import STATEFUL, build
from support.scoring import models_of

CTS = CtsConfig(name="cts")
DIFFERENCES = [CTS, Rho1Config(name="rho1"), GreedyNllConfig(name="greedy_nll"), PirConfig(name="pir")]
OTHERS = [
    SelfInformationConfig(name="self_information"),
    EntropyConfig(name="entropy"),
    ReferenceLikelihoodConfig(name="reference_likelihood"),
    ReferenceWalkConfig(name="reference_walk"),
    GogiConfig(name="gogi"),
    AnswerAttentionConfig(name="answer_attention"),
    RandomConfig(name="random", seed=1),
]


@pytest.mark.parametrize("model_dtype", Dtype)
@pytest.mark.parametrize("config", [*DIFFERENCES, *OTHERS], ids=lambda config: config.name)
def test_scores_that_are_differences_are_computed_in_float32(config, model_dtype):
    model = ModelConfig(name="m", path="a/b", dtype=model_dtype)
    expected = Dtype.float32 if config in DIFFERENCES else model_dtype
    assert model_to_read(config, model).dtype is expected


@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
@pytest.mark.parametrize("config", [*DIFFERENCES, *OTHERS[:-1]], ids=lambda config: config.name)
def test_number_format_of_a_scorer_overrides_that_of_the_model(config, dtype):
    for model_dtype in Dtype:
        model = ModelConfig(name="m", path="a/b", dtype=model_dtype)
        assert model_to_read(replace(config, dtype=dtype), model).dtype is dtype


def test_mix_is_planned_in_the_widest_format_of_the_parts_that_count():
    parts = {"a": CTS, "b": OTHERS[0]}
    model = ModelConfig(name="m", path="a/b", dtype=Dtype.bfloat16)
    for weights, dtype in (({"a": 1.0, "b": 1.0}, Dtype.float32), ({"a": 0.0, "b": 1.0}, Dtype.bfloat16)):
        assert model_to_read(MixConfig(name="mix", parts=parts, weights=weights), model).dtype is dtype


def test_float32_scores_do_not_need_the_flash_kernel_which_has_none():
    model = ModelConfig(name="m", path="a/b", attention=Attention.flash_attention_2)
    assert model_to_read(CTS, model).attention is Attention.sdpa
    assert model_to_read(OTHERS[0], model).attention is Attention.flash_attention_2
    assert model_to_read(CTS, replace(model, attention=Attention.eager)).attention is Attention.eager


def _scored(config, rows, base, trainer, store, as_artifact):
    return scoring_job(config, traces=as_artifact(store, rows), models=models_of(base, trainer, store)).artifact()


def test_cts_of_a_bfloat16_model_are_the_float32_scores_to_the_bit_and_the_manifest_says_so(
    base, trainer, traces, as_artifact, tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    store = ArtifactStore(tmp_path)
    scores = {}
    for name, dtype, own in (
        ("wide", Dtype.float32, Dtype.auto),
        ("auto", Dtype.bfloat16, Dtype.auto),
        ("half", Dtype.bfloat16, Dtype.bfloat16),
    ):
        config = replace(CTS, dtype=own)
        made = _scored(config, traces, replace(base, dtype=dtype), trainer, store, as_artifact)
        scores[name] = made, read_records(made.file("scores.parquet"), ScoredTrace)
        expected = "bfloat16" if name == "half" else "float32"
        assert made.facts["dtype"] == expected
        assert made.manifest["identity"]["model"]["dtype"] == expected
        if name != "auto":
            assert f"tokens/s in {expected}" in caplog.text
    assert scores["auto"][0].key == scores["wide"][0].key, "the same scores have one identity"
    assert scores["half"][0].key != scores["wide"][0].key
    rough, exact = (np.concatenate([row.scores for row in scores[name][1]]) for name in ("half", "wide"))
    assert np.abs(rough - exact).max() > 1e-3


def test_readings_in_two_formats_are_two_artifacts(base, trainer, traces, as_artifact, tmp_path):
    store = ArtifactStore(tmp_path)
    half = replace(base, dtype=Dtype.bfloat16)
    models = models_of(half, trainer, store)
    jobs = [scoring_job(c, traces=as_artifact(store, traces), models=models) for c in (CTS, OTHERS[0])]
    assert [job.formats for job in jobs] == [("float32",), ("bfloat16",)]
    assert len({source.artifact().key for job in jobs for source in job.sources}) == 3


def test_mix_of_parts_in_two_formats_names_both(base, trainer, traces, as_artifact, tmp_path):
    config = MixConfig(name="mix", parts={"a": CTS, "b": OTHERS[0]}, weights={"a": 1.0, "b": 1.0})
    half = replace(base, dtype=Dtype.bfloat16)
    made = _scored(config, traces[:2], half, trainer, ArtifactStore(tmp_path), as_artifact)
    assert made.facts["dtype"] == "bfloat16, float32"


def test_scores_without_a_reading_model_name_no_format(base, trainer, traces, as_artifact, tmp_path):
    made = _scored(OTHERS[-1], traces[:2], base, trainer, ArtifactStore(tmp_path), as_artifact)
    assert "dtype" not in made.facts


def test_decisions_of_the_release_are_computed_in_float32(base, trainer, traces, as_artifact, tmp_path):
    store = ArtifactStore(tmp_path)
    models = models_of(replace(base, dtype=Dtype.bfloat16), trainer, store)
    arguments = {"ratio": 0.5, "iterative_size": 50, "traces": as_artifact(store, traces), "models": models}
    assert decision_job(CTS, **arguments).formats == ("float32",)
    assert decision_job(replace(CTS, dtype=Dtype.bfloat16), **arguments).formats == ("bfloat16",)


@pytest.fixture(scope="module")
def hybrid(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lfm2")
    build("Lfm2").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelConfig(name="lfm2", path=str(folder), context_tokens=2000)


EDITORS = [GreedyNllConfig(name="greedy_nll"), PirConfig(name="pir"), ReferenceWalkConfig(name="reference_walk")]


@pytest.mark.parametrize("config", EDITORS, ids=lambda config: config.name)
def test_scorer_that_edits_caches_is_refused_for_a_model_with_states_before_any_work(config, hybrid, store):
    mix = MixConfig(name="mix", parts={"a": CTS, "b": config}, weights={"a": 1.0, "b": 1.0})
    for chosen in (config, mix):
        with pytest.raises(ModelError, match=rf"scorer={config.name} goes on from cut .*Fix: scorer=reference_likeli"):
            check_model(chosen, hybrid, store)
    for other in (CTS, *OTHERS[:3], OTHERS[4], OTHERS[6], replace(mix, weights={"a": 1.0, "b": 0.0})):
        check_model(other, hybrid, store)


@pytest.mark.parametrize(
    ("num_layers", "problem"), [(1, None), (2, "do not all attend"), (4, "got 4, allowed: 1 to 2")]
)
def test_layers_that_attention_is_read_from_are_checked_before_any_work(num_layers, problem, hybrid, store):
    config = AnswerAttentionConfig(name="answer_attention", num_layers=num_layers)
    if problem is None:
        check_model(config, hybrid, store)
    else:
        with pytest.raises((ModelError, ConfigError), match=problem):
            check_model(config, hybrid, store)


@pytest.mark.parametrize("name", ["Mamba", "Mamba2", "FalconMamba", "FalconH1", "RecurrentGemma", "Mistral", "Phi3"])
def test_attention_is_not_read_from_layers_without_a_view_of_the_whole_text(name):
    model = build(name)
    with pytest.raises(ModelError, match="do not all attend to the whole text"):
        check_layers(model, model.config, 1)


@pytest.mark.parametrize("name", STATEFUL)
def test_scorers_of_edited_caches_refuse_every_model_with_states_that_is_loaded(name):
    with pytest.raises(ModelError, match="layers that keep a state instead"):
        check_cache("reference_walk", build(name))


@pytest.mark.parametrize("config", EDITORS, ids=lambda config: config.name)
def test_scorer_that_edits_caches_refuses_a_loaded_model_with_states(config, hybrid, trainer, store):
    models = Models(config=hybrid, reference=None, trainer=trainer, store=store)

    with pytest.raises(ModelError, match="layers that keep a state instead"):
        scorer_of(config).build(config, models)
    with pytest.raises(ModelError, match="cts with compression=llmlingua_compat goes on from cut"):
        LlmlinguaCompat(CTS, models, 0.5, 50)


@pytest.mark.parametrize("config", [CTS, OTHERS[0], OTHERS[4]], ids=lambda config: config.name)
def test_hybrid_model_scores_texts_together_as_one_by_one(config, hybrid, trainer, traces, as_artifact, tmp_path):
    scores = []
    for tokens in (1, 4096):
        one = replace(trainer, tokens_per_batch=tokens)
        made = _scored(config, traces, hybrid, one, ArtifactStore(tmp_path / str(tokens)), as_artifact)
        scores.append(read_records(made.file("scores.parquet"), ScoredTrace))
    for alone, together in zip(*scores, strict=True):
        np.testing.assert_allclose(alone.scores, together.scores, atol=2e-5)
        assert torch.isfinite(torch.tensor(together.scores)).all()
