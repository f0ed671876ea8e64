"""Readings are made once for all scorers that are formulas over them."""

from dataclasses import replace

import numpy as np
import pytest

from cotpress.records import ReadTrace, ScoredTrace
from cotpress.scoring import job as stage
from cotpress.scoring.config import Condition, ReadBy
from cotpress.scoring.job import scoring_job
from cotpress.scoring.reader import NO_QUESTION, NO_RESPONSE
from cotpress.scoring.scorers.cts import CtsConfig
from cotpress.scoring.scorers.entropy import EntropyConfig
from cotpress.scoring.scorers.reference_likelihood import ReferenceLikelihoodConfig
from cotpress.scoring.scorers.rho1_excess import Rho1Config
from cotpress.scoring.scorers.self_information import SelfInformationConfig
from cotpress.scoring.scorers.step_entropy import StepEntropyConfig
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records
from support import naive
from support.scoring import models_of

SCORERS = [
    CtsConfig(name="cts"),
    CtsConfig(name="cts", condition=Condition.question),
    CtsConfig(name="cts", condition=Condition.question_answer),
    SelfInformationConfig(name="self_information"),
    SelfInformationConfig(name="llmlingua", condition=Condition.none),
    EntropyConfig(name="entropy"),
    StepEntropyConfig(name="step_entropy", read_by=ReadBy.base),
    ReferenceLikelihoodConfig(name="reference_likelihood"),
    Rho1Config(name="rho1_excess"),
]


@pytest.fixture
def read_texts(monkeypatch):
    """Labels of the work that is computed, one for each trace."""
    labels = []
    whole = stage.PredictModule.predict_step

    def notes(module, batch, batch_idx):
        labels.extend([module._work.name] * len(batch[1]))
        return whole(module, batch, batch_idx)

    monkeypatch.setattr(stage.PredictModule, "predict_step", notes)
    return labels


def test_a_sweep_reads_each_text_once_per_model_and_condition(
    tmp_path, base, trainer, reference, traces, as_artifact, read_texts
):
    store = ArtifactStore(tmp_path)
    data = as_artifact(store, traces)
    for config in SCORERS:
        scoring_job(config, traces=data, models=models_of(base, trainer, store, reference)).artifact()
    by_reference = [f"{c.value} by reference model" for c in Condition]
    assert sorted(read_texts) == sorted(len(traces) * [*by_reference, "question by base model"])


def test_scores_that_exist_need_no_readings(tmp_path, base, trainer, traces, as_artifact, read_texts):
    import shutil

    store = ArtifactStore(tmp_path)
    data = as_artifact(store, traces)
    first = scoring_job(SCORERS[0], traces=data, models=models_of(base, trainer, store)).artifact()
    shutil.rmtree(tmp_path / "artifacts" / "read")
    read_texts.clear()
    again = scoring_job(SCORERS[0], traces=data, models=models_of(base, trainer, store)).artifact()
    assert (again.key, read_texts) == (first.key, [])


def test_a_reading_holds_logprob_entropy_and_rank_of_every_token(
    tmp_path, base, trainer, model, tokenizer, traces, as_artifact
):
    store = ArtifactStore(tmp_path)
    job = scoring_job(SCORERS[3], traces=as_artifact(store, traces), models=models_of(base, trainer, store))
    [reading] = job.sources
    for row, trace in zip(read_records(reading.artifact().file("readings.parquet"), ReadTrace), traces, strict=True):
        context = naive.context_ids(tokenizer, SCORERS[3].template, Condition.question, trace)
        table = naive.predictions(model, context, row.token_ids.tolist())
        chosen = table[np.arange(len(table)), row.token_ids]
        np.testing.assert_allclose(row.logprob, chosen, atol=2e-5)
        np.testing.assert_allclose(row.entropy, -(np.exp(table) * table).sum(1), atol=2e-5)
        assert row.rank.tolist() == (table > chosen[:, None]).sum(1).tolist()
        assert (row.refusal, row.in_windows) == ("", False)


def test_refused_traces_are_counted_by_reason(tmp_path, base, trainer, traces, as_artifact):
    store = ArtifactStore(tmp_path)
    rows = [replace(traces[0], response=" "), replace(traces[1], question=""), *traces[2:]]
    config = CtsConfig(name="cts", condition=Condition.question_answer)
    artifact = scoring_job(config, traces=as_artifact(store, rows), models=models_of(base, trainer, store)).artifact()
    assert artifact.manifest["dropped"] == {NO_RESPONSE: 1, NO_QUESTION: 1}
    assert [r.id for r in read_records(artifact.file("scores.parquet"), ScoredTrace)] == [t.id for t in rows[2:]]
