import threading
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from cotpress.devices.config import Shard
from cotpress.errors import ArtifactError, ConfigError, DataError, WorkerError
from cotpress.modeling.config import Dtype
from cotpress.records import ScoredTrace
from cotpress.scoring import job as stage
from cotpress.scoring.job import Job, scoring_job
from cotpress.scoring.scorers.self_information import SelfInformationConfig
from cotpress.scoring.scorers.tokenskip import TokenskipConfig
from cotpress.store import parts
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records
from support.jobs import dies_once
from support.scoring import models_of


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(parts, "CHUNK_CHARACTERS", 60)


@pytest.fixture
def rows(traces):
    return [replace(t, id=f"{t.id}-{i}") for i in range(3) for t in traces]


@pytest.fixture
def job(tmp_path, rows, base, trainer, as_artifact):
    base = replace(base, dtype=Dtype.float32)  # workers do not see the patch that hides bfloat16 from `auto`

    def make(place="one", config=None, distilled=None, **hardware) -> Job:
        store = ArtifactStore(tmp_path / place)
        return scoring_job(
            config or SelfInformationConfig(name="self_information"),
            traces=as_artifact(store, rows),
            models=models_of(base, replace(trainer, **hardware), store, None, distilled),
        )

    return make


@pytest.fixture
def computed(monkeypatch):
    """Numbers of the chunks that are scored in this process."""
    numbers = []
    whole = stage.PredictModule.predict_step

    def notes(module, batch, batch_idx):
        numbers.append(batch[0].number)
        return whole(module, batch, batch_idx)

    monkeypatch.setattr(stage.PredictModule, "predict_step", notes)
    return numbers


def content(artifact):
    return artifact.file("scores.parquet").read_bytes(), artifact.manifest


@pytest.mark.slow
def test_two_devices_give_the_same_bytes_as_one(job, rows):
    alone = job().artifact()
    shared = job("two", devices=2, num_threads=1).artifact()
    assert content(shared) == content(alone)
    assert [r.id for r in read_records(shared.file("scores.parquet"), ScoredTrace)] == [t.id for t in rows]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 3])
def test_devices_share_the_classifier_that_one_of_them_trains(job, devices, tokenskip_config, distilled):
    config = replace(tokenskip_config, epochs=1)
    assert isinstance(config, TokenskipConfig)
    alone = job(config=config, distilled=distilled).artifact()
    assert content(job("more", config, distilled, devices=devices, num_threads=1).artifact()) == content(alone)


def test_shards_are_jobs_of_their_own_and_the_last_one_merges(job, computed):
    alone = job().artifact()
    whole, expected = list(computed), content(alone)
    computed.clear()
    assert [job("shards").shard(Shard(k, 3)) for k in (3, 1)] == [False, False]
    assert job("shards").shard(Shard(2, 3))
    assert sorted(computed) == whole
    assert content(job("shards").artifact()) == expected
    assert sorted(computed) == whole
    assert job("shards").shard(Shard(2, 3))  # it is all done


def test_shard_that_died_is_all_that_the_same_command_computes_again(job, computed, monkeypatch):
    assert not job().shard(Shard(1, 2))
    done = list(computed)
    computed.clear()
    once = stage.PredictModule.predict_step

    def dies_at_the_second(module, batch, batch_idx):
        if computed:
            raise KeyboardInterrupt
        return once(module, batch, batch_idx)

    monkeypatch.setattr(stage.PredictModule, "predict_step", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        job().shard(Shard(2, 2))
    monkeypatch.setattr(stage.PredictModule, "predict_step", once)
    assert not job().shard(Shard(1, 2))
    assert job().shard(Shard(2, 2))
    assert sorted(done + computed) == list(range(len(done + computed)))


def test_rows_of_a_shard_are_read_before_those_of_others_are_there(job, rows):
    whole = {row.id: row for row in read_records(job("whole").artifact().file("scores.parquet"), ScoredTrace)}
    scoring = job()
    chunks = parts.plan_chunks(scoring.traces.file("traces.parquet"))
    assert not scoring.shard(Shard(2, 2))
    with scoring.rows("reader") as read:
        half = [row for of_chunk in read(chunks[1::2]) for row in of_chunk]
        with pytest.raises(ArtifactError, match="cannot be read"):
            list(read(chunks))
    assert scoring.key == scoring.artifact().key
    with scoring.rows("reader") as read:
        everything = [row for of_chunk in read(chunks) for row in of_chunk]
    assert [row.id for row in everything] == [trace.id for trace in rows]
    assert 0 < len(half) < len(rows)
    for row in [*half, *everything]:
        np.testing.assert_array_equal(row.scores, whole[row.id].scores)


def test_rows_stay_while_they_are_read(job):
    scoring, read_to_the_end = job(), []
    assert scoring.shard(Shard(1, 1))
    with scoring.rows("reader"):
        other = threading.Thread(target=lambda: read_to_the_end.append(job().artifact()))
        other.start()
        other.join(0.3)
        assert other.is_alive()
    other.join()
    assert read_to_the_end


def test_command_without_shards_finishes_what_shards_have_begun(job, computed):
    assert not job().shard(Shard(2, 4))
    done = list(computed)
    computed.clear()
    artifact = job().artifact()
    assert not set(done) & set(computed)
    assert content(artifact) == content(job("alone").artifact())


def test_whole_waits_for_a_shard_that_is_being_computed(job, computed):
    entered, go_on, ends = threading.Event(), threading.Event(), []
    reading = job().sources[0]
    with reading.store.sharing("read", reading.identity, "1-of-2") as folder:
        assert folder is not None

        def build():
            entered.set()
            job().artifact()
            ends.append(go_on.is_set())

        # Not in the main thread: file locks of one process exclude each other by file object.
        other = threading.Thread(target=build)
        other.start()
        entered.wait()
        other.join(0.3)
        assert other.is_alive()
        assert computed == []
        go_on.set()
    other.join()
    assert ends == [True]


@pytest.mark.parametrize("text", ["0/4", "5/4", "2", "a/b", "1/0", "-1/4", ""])
def test_shard_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="allowed: K/N with 1 <= K <= N"):
        Shard.parse(text)


def test_shard_reads_as_it_is_written():
    assert str(Shard.parse("2/8")) == "2/8"


def test_no_training_trace_is_an_error(tmp_path, base, trainer, traces, as_artifact, with_split):
    store = ArtifactStore(tmp_path)
    rows = [with_split(t, "validation") for t in traces]
    empty = scoring_job(
        SelfInformationConfig(name="s"), traces=as_artifact(store, rows), models=models_of(base, trainer, store)
    )
    with pytest.raises(DataError, match="the train split is empty"):
        empty.artifact()


@pytest.mark.slow
def test_worker_that_is_killed_costs_what_it_was_working_on(job, tmp_path):
    scoring = job(devices=2, num_threads=1)
    first, *others = scoring.sources
    dying = replace(first, make=partial(dies_once, first.make, tmp_path / "died"))
    deadly = replace(scoring, sources=(dying, *others))
    with pytest.raises(WorkerError, match="killed by SIGKILL"):
        deadly.artifact()
    assert content(deadly.artifact()) == content(job("alone").artifact())
