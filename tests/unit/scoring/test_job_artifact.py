import gc
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from cotpress.devices.config import TrainerConfig
from cotpress.errors import DataError, MemoryLimitError, ModelError
from cotpress.modeling.logprobs import WINDOW_OVERLAP
from cotpress.records import ReadTrace, ScoredTrace
from cotpress.scoring import job as stage
from cotpress.scoring import reader
from cotpress.scoring.config import Condition, ReadBy
from cotpress.scoring.job import ChunkJob, DerivedJob
from cotpress.scoring.reader import CONDITION_TOO_LONG, TOO_LONG
from cotpress.scoring.scorers.answer_attention import AnswerAttentionConfig
from cotpress.scoring.scorers.cts import CtsConfig
from cotpress.scoring.scorers.random import RandomConfig
from cotpress.scoring.scorers.reference_walk import ReferenceWalkConfig
from cotpress.scoring.scorers.self_information import SelfInformationConfig, SelfInformationScorer
from cotpress.store import parts, tables
from cotpress.store.artifacts import ArtifactStore, Summary
from cotpress.store.tables import read_records
from support.scoring import models_of, reading

CTS = CtsConfig(name="cts")


def run(config, rows, store, base, trainer, as_artifact, reference=None):
    data = as_artifact(store, rows)
    return stage.scoring_job(config, traces=data, models=models_of(base, trainer, store, reference)).artifact()


def scores_of(artifact):
    return {s.id: s for s in read_records(artifact.file("scores.parquet"), ScoredTrace)}


@pytest.fixture
def fresh(tmp_path):
    return ArtifactStore(tmp_path)


def test_only_the_train_split_is_scored_in_its_order(fresh, base, trainer, traces, as_artifact, with_split):
    rows = [with_split(t, "validation" if t.id == "t2" else "train") for t in traces]
    artifact = run(CTS, rows, fresh, base, trainer, as_artifact)
    assert list(scores_of(artifact)) == ["t0", "t1", "t3", "t4"]
    assert artifact.stage == "score"
    assert not (artifact.path / "scratch").exists()


def test_batch_size_changes_neither_identity_nor_scores(fresh, base, trainer, traces, as_artifact, tmp_path):
    first = run(CTS, traces, fresh, base, trainer, as_artifact)
    assert run(CTS, traces, fresh, base, TrainerConfig(tokens_per_batch=4096), as_artifact).key == first.key
    other_store = ArtifactStore(tmp_path / "other")
    other = run(CTS, traces, other_store, base, TrainerConfig(accelerator="cpu", tokens_per_batch=1), as_artifact)
    for key, record in scores_of(first).items():
        np.testing.assert_allclose(record.scores, scores_of(other)[key].scores, atol=2e-5)


def test_too_long_traces_are_dropped_and_counted_where_windows_make_no_sense(fresh, base, trainer, traces, as_artifact):
    config = AnswerAttentionConfig(name="answer_attention", num_layers=1)
    artifact = run(config, traces, fresh, replace(base, context_tokens=150), trainer, as_artifact)
    assert artifact.manifest["dropped"] == {TOO_LONG: 1}
    assert "t3" not in scores_of(artifact)
    assert "windows" not in artifact.facts


def test_too_long_traces_are_read_in_windows_and_the_manifest_says_so(fresh, base, trainer, traces, as_artifact):
    narrow = replace(base, context_tokens=100)
    artifact = run(CTS, traces, fresh, narrow, trainer, as_artifact)
    assert artifact.manifest["dropped"] == {}
    assert artifact.facts["windows"] == {"num_traces": 1, "overlap": WINDOW_OVERLAP}
    assert artifact.manifest["identity"]["windows"] == {"overlap": WINDOW_OVERLAP}
    wide = run(CTS, traces, fresh, base, trainer, as_artifact)
    assert "windows" not in wide.facts
    there, whole = scores_of(artifact), scores_of(wide)
    for key in ("t0", "t1", "t2", "t4"):
        np.testing.assert_allclose(there[key].scores, whole[key].scores, atol=2e-5)
    assert not np.allclose(there["t3"].scores, whole["t3"].scores, atol=1e-3)


def test_windows_are_part_of_the_identity_only_if_a_text_may_need_them(fresh, base, trainer, traces, as_artifact):
    artifact = run(CTS, traces, fresh, base, trainer, as_artifact)
    assert "windows" not in artifact.manifest["identity"]
    long = replace(traces[0], thinking="wait " * 400)
    assert "windows" in run(CTS, [long], fresh, base, trainer, as_artifact).manifest["identity"]


@pytest.mark.usefixtures("usual_garbage_collection")
def test_memory_does_not_grow_with_the_number_of_traces(fresh, read, model, traces, as_artifact, trainer, monkeypatch):
    monkeypatch.setattr(parts, "CHUNK_CHARACTERS", 4000)
    monkeypatch.setattr(reader, "_TRACES_AT_HAND", 16)
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 16)
    write = parts.Parts.write

    def write_without_garbage(own, chunk, rows, tally):
        gc.collect()  # Lightning leaves reference cycles, which Python would collect at its own time
        write(own, chunk, rows, tally)

    monkeypatch.setattr(parts.Parts, "write", write_without_garbage)

    def peak(number):
        rows = [replace(traces[0], id=f"r{i}", thinking=f"{i} " + traces[0].thinking) for i in range(number)]
        data = as_artifact(fresh, rows)
        del rows
        work = reading(read(tokens_per_batch=1024), [model], ReadBy.base, Condition.none)
        readings = ChunkJob(
            stage="read", label="r", identity={"n": number}, make=lambda: work, traces=data, trainer=trainer,
            store=fresh, record=ReadTrace, file="readings.parquet",
        )  # fmt: skip
        derived = DerivedJob(
            scorer="s", identity={"n": number}, sources=(readings,), traces=data, store=fresh,
            combine=SelfInformationScorer(SelfInformationConfig(name="s")).combine,
        )  # fmt: skip
        used = []
        for job in (readings, derived):
            tracemalloc.start()
            assert job.artifact().manifest["num_rows"] == number
            used.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        return used

    peak(5)  # what is made once
    # Both fill several chunks. Some bytes of every chunk remain; a trace kept with its row would take over 800 bytes.
    for few, many in zip(peak(150), peak(350), strict=True):
        assert many - few < 100 * 200


def test_nothing_that_can_be_scored_is_an_error_with_the_reasons(fresh, base, trainer, traces, as_artifact):
    with pytest.raises(DataError, match=f"5 {CONDITION_TOO_LONG}"):
        run(CTS, traces, fresh, replace(base, context_tokens=5), trainer, as_artifact)


def test_killed_job_goes_on_from_its_finished_chunks(fresh, base, trainer, traces, as_artifact, monkeypatch):
    monkeypatch.setattr(parts, "CHUNK_CHARACTERS", 1)  # one trace per chunk
    whole = stage.PredictModule.predict_step
    calls = []

    def dies_at_the_third(module, batch, batch_idx):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(batch[1][0].id)
        return whole(module, batch, batch_idx)

    monkeypatch.setattr(stage.PredictModule, "predict_step", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(CTS, traces, fresh, base, trainer, as_artifact)
    again = []

    def notes(module, batch, batch_idx):
        again.append(batch[1][0].id)
        return whole(module, batch, batch_idx)

    monkeypatch.setattr(stage.PredictModule, "predict_step", notes)
    artifact = run(CTS, traces, fresh, base, trainer, as_artifact)
    assert [*calls, *again] == [t.id for t in traces] * 2  # once under each condition
    assert list(scores_of(artifact)) == [t.id for t in traces]


def _memory_for(model_class, tokens, monkeypatch):
    """Forward passes over more tokens fail as they do on a full GPU; returns the sizes of those that did not."""
    forward, sizes = model_class.forward, []

    def limited(self, input_ids=None, **more):
        if input_ids.numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        sizes.append(input_ids.numel())
        return forward(self, input_ids=input_ids, **more)

    monkeypatch.setattr(model_class, "forward", limited)
    return sizes


@pytest.mark.parametrize(
    "config",
    [CTS, SelfInformationConfig(name="self_information"), ReferenceWalkConfig(name="reference_walk")],
    ids=lambda c: c.name,
)
def test_batches_that_do_not_fit_the_memory_are_made_smaller_and_scores_stay(
    fresh, base, traces, as_artifact, tmp_path, monkeypatch, caplog, config
):
    from transformers import LlamaModel

    short = [replace(t, id=f"{t.id}/{i}", thinking=t.thinking[:120]) for t in traces for i in range(3)]
    hardware = TrainerConfig(accelerator="cpu", tokens_per_batch=1000)
    whole = run(config, short, ArtifactStore(tmp_path / "whole"), base, hardware, as_artifact)
    sizes = _memory_for(LlamaModel, 250, monkeypatch)
    with caplog.at_level("WARNING"):
        artifact = run(config, short, fresh, base, hardware, as_artifact)
    assert max(sizes) <= 250
    assert sum("out of memory" in r.getMessage() for r in caplog.records) == 1
    assert artifact.key == whole.key
    for key, record in scores_of(whole).items():
        np.testing.assert_allclose(record.scores, scores_of(artifact)[key].scores, atol=2e-5)


def test_text_that_does_not_fit_the_memory_alone_is_an_error_that_names_it(
    fresh, base, traces, as_artifact, monkeypatch
):
    from transformers import LlamaModel

    _memory_for(LlamaModel, 20, monkeypatch)
    hardware = TrainerConfig(accelerator="cpu", tokens_per_batch=1000)
    with pytest.raises(MemoryLimitError, match=r"by base model, at trace 't0'.*single text.*trainer\.tokens_per_batch"):
        run(CTS, traces, fresh, base, hardware, as_artifact)


def test_score_that_is_not_finite_is_an_error_that_names_the_trace(
    fresh, base, trainer, traces, as_artifact, monkeypatch
):
    from cotpress.scoring.scorers import random

    monkeypatch.setattr(random, "stable_uniform", lambda seed, name, n: np.full(n, np.nan, dtype=np.float32))
    with pytest.raises(ModelError, match=r"trace 't0' are not finite"):
        run(RandomConfig(name="random", seed=1), traces, fresh, base, trainer, as_artifact)


def test_random_scores_do_not_depend_on_the_reference_model(fresh, base, trainer, traces, as_artifact):
    config = RandomConfig(name="random", seed=1)
    reference = fresh.build("reference", {"r": 1}, lambda workdir: Summary(num_rows=0))
    first = run(config, traces, fresh, base, trainer, as_artifact)
    assert run(config, traces, fresh, base, trainer, as_artifact, reference).key == first.key
    assert run(replace(config, seed=2), traces, fresh, base, trainer, as_artifact).key != first.key


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_reference_model_is_used_adapter_or_full(kind, fresh, base, trainer, traces, as_artifact):
    from peft import LoraConfig, get_peft_model

    from cotpress.modeling.loading import load_model

    def produce(workdir):
        torch.manual_seed(0)
        lora = LoraConfig(target_modules="all-linear", init_lora_weights=False)
        tuned = get_peft_model(load_model(base, fresh), lora)
        (tuned if kind == "adapter" else tuned.merge_and_unload()).save_pretrained(workdir / kind)
        return Summary(num_rows=0)

    reference = fresh.build("reference", {"kind": kind}, produce)
    plain = scores_of(run(CTS, traces, fresh, base, trainer, as_artifact))
    tuned = scores_of(run(CTS, traces, fresh, base, trainer, as_artifact, reference))
    assert np.abs(plain["t0"].scores - tuned["t0"].scores).max() > 0.01
