import dataclasses

import numpy as np
import pytest
import torch

from cotpress.devices.config import TrainerConfig
from cotpress.devices.launch import run_on_devices
from cotpress.modeling.config import Dtype, ModelConfig, ModelSource
from cotpress.modeling.loading import load_model, load_tokenizer
from cotpress.records import CompressedTrace
from cotpress.store.artifacts import ArtifactStore, Summary
from cotpress.store.tables import write_records
from cotpress.training.batching import Example, Examples
from cotpress.training.config import Method, TuneConfig
from cotpress.training.module import SftModule
from cotpress.training.stage import TrainingJob, train_here


class Recorder:
    """A tracker that keeps the metrics."""

    def __init__(self):
        self.rows = []

    def log(self, stage, metrics, step=None, **_):
        self.rows.append((stage, dict(metrics), step))

    def close(self):
        pass


@pytest.fixture
def tracker():
    return Recorder()


@pytest.fixture(scope="session")
def tiny_config():
    return ModelConfig(name="tiny", source=ModelSource.tiny, path="tiny", dtype=Dtype.float32)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return ArtifactStore(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="session")
def tokenizer(tiny_config, store):
    return load_tokenizer(tiny_config, store)


@pytest.fixture
def model(tiny_config, store):
    return load_model(tiny_config, store)


@pytest.fixture
def hardware():
    return TrainerConfig(accelerator="cpu", num_threads=1, tokens_per_batch=120, checkpoint_every_s=0.0)


@pytest.fixture
def tune():
    return TuneConfig(
        method=Method.lora, learning_rate=5e-3, epochs=2, sequences_per_step=4, lora_rank=4, lora_dropout=0.1, seed=3
    )


@pytest.fixture
def examples():
    draw = np.random.default_rng(0)
    rows = [
        Example(ids=tuple(draw.integers(3, 600, size=int(n)).tolist()), num_prompt=int(n) // 3)
        for n in draw.integers(6, 50, size=18)
    ]
    return Examples(kept=rows, dropped={})


@pytest.fixture
def compressed(store):
    def rows():
        for i in range(6):
            ids = np.arange(10 + i, 22 + i, dtype=np.int32)
            yield CompressedTrace(
                id=str(i), question=f"how many apples {i}", compressed_thinking="x", response="The answer is 3.",
                answer="3", split="validation" if i == 5 else "train", token_ids=ids,
                keep_mask=np.ones(12, dtype=np.bool_), num_tokens=12, num_kept_tokens=12, target_ratio=1.0,
                actual_ratio=1.0,
            )  # fmt: skip

    def produce(workdir):
        write_records(workdir / "compressed.parquet", list(rows()), CompressedTrace)
        return Summary(num_rows=6)

    return store.build("compress", {"test": 1}, produce)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


class Training:
    """Trains the same on any hardware, with dropout; keeps the metrics as (stage, metrics, step) in `messages`."""

    def __init__(self, tiny_config, store, examples, tune, hardware, tmp_path):
        self._tune, self._base, self._examples, self._hardware = tune, tiny_config, examples, hardware
        self._tmp_path, self.store = tmp_path, store
        self.messages = []

    def __call__(self, name, *, validate=None, base=None, kind=SftModule, examples=None, start=None, **hardware):
        trainer = dataclasses.replace(self._hardware, **hardware)
        (self._tmp_path / name).mkdir(exist_ok=True)  # as the artifact store does
        job = TrainingJob(
            kind=kind, tune=self._tune, base=base or self._base, trainer=trainer, store=self.store, validate=validate,
            validations=0 if validate is None else 2, start=start,
        )  # fmt: skip
        arguments = (job, examples or self._examples, self._tmp_path / name)
        run_on_devices(train_here, arguments, trainer=trainer, on_message=self.messages.append)
        return self._tmp_path / name


@pytest.fixture
def training(tiny_config, store, tokenizer, examples, tune, hardware, tmp_path):
    # The fixture `tokenizer` makes the model before workers start, as the stages do: transformers saves nothing in a
    # worker that is not the first.
    return Training(tiny_config, store, examples, tune, hardware, tmp_path)
