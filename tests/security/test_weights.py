"""Weights are read from safetensors or GGUF, checkpoints from safetensors, and artifacts contain no pickles."""

import io
import json
import pickle
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from cotpress.data.files import find_files
from cotpress.data.rows import TRACE_FIELDS, RowReader
from cotpress.devices.config import TrainerConfig
from cotpress.errors import ArtifactError, ModelError, TrainingError
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_model
from cotpress.records import Trace
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.tables import read_records, schema
from cotpress.training.adapters import make_trainable, save_trained
from cotpress.training.batching import Example, Examples
from cotpress.training.checkpoints import STATE
from cotpress.training.config import Method, TuneConfig
from cotpress.training.fit import fit
from cotpress.training.module import SftModule
from security.conftest import RunsWhenUnpickled, edit
from support.training_jobs import checkpoint_folder

TINY = ModelConfig(name="tiny", source=ModelSource.tiny, path="llama")


def load(folder: Path, store: ArtifactStore) -> object:
    return load_model(ModelConfig(name="given", path=str(folder)), store)


def test_folder_with_pickled_weights_only_is_refused(model_folder: Path, store: ArtifactStore, ran: Path) -> None:
    (model_folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": RunsWhenUnpickled(ran)}, model_folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no safetensors weights.*pytorch_model\.bin.*Fix: save it once"):
        load(model_folder, store)
    assert not ran.exists()


@pytest.mark.parametrize(
    "named", ["pytorch_model.bin", "../outside.safetensors", "/tmp/x.safetensors", "gone.safetensors"]
)
def test_index_that_names_files_elsewhere_or_of_another_format_is_refused(
    named: str, model_folder: Path, store: ArtifactStore, ran: Path
) -> None:
    shutil.copy(model_folder / "model.safetensors", model_folder.parent / "outside.safetensors")
    (model_folder / "model.safetensors").rename(model_folder / "model-00001-of-00001.safetensors")
    torch.save({"model.embed_tokens.weight": RunsWhenUnpickled(ran)}, model_folder / "pytorch_model.bin")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": named}}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"Allowed: safetensors files beside it"):
        load(model_folder, store)
    assert not ran.exists()


def test_truncated_or_missing_weights_are_an_error(model_folder: Path, store: ArtifactStore) -> None:
    file = model_folder / "model.safetensors"
    weights = load_file(file)
    save_file({k: v for k, v in weights.items() if "q_proj" not in k}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"2 of its weights are not in .*q_proj"):
        load(model_folder, store)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(model_folder, store)


@pytest.fixture
def adapter(store: ArtifactStore, tmp_path: Path) -> Path:
    tune = TuneConfig(method=Method.lora, learning_rate=1.0, epochs=1, sequences_per_step=1, seed=1)
    model = make_trainable(load_model(TINY, store), tune)
    save_trained(model, model, tune, "llama", tmp_path)
    return tmp_path / "adapter"


def _pickled(adapter: Path, ran: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"weight": RunsWhenUnpickled(ran)}, adapter / "adapter_model.bin")


def _importing(adapter: Path, ran: Path) -> None:
    edit(adapter / "adapter_config.json", megatron_config={"a": 1}, megatron_core="antigravity")


def _incomplete(adapter: Path, ran: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, adapter / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_pickled, r"adapter: .*no adapter_model\.safetensors.*adapter_model\.bin"),
        (_importing, "would import the module 'antigravity'"),
        (_incomplete, "missing adapter keys"),
    ],
)
def test_pickled_importing_or_incomplete_adapter_is_refused(
    damage: Callable[[Path, Path], None], message: str, adapter: Path, store: ArtifactStore, ran: Path
) -> None:
    assert load_model(TINY, store, adapter=adapter) is not None
    damage(adapter, ran)
    with pytest.raises(ModelError, match=message):
        load_model(TINY, store, adapter=adapter)
    assert not ran.exists()


def test_nothing_of_a_checkpoint_is_unpickled(tmp_path: Path, ran: Path, store: ArtifactStore) -> None:
    tune = TuneConfig(method=Method.lora, epochs=1, sequences_per_step=1, lora_rank=2, seed=3, learning_rate=1e-3)
    trainer = TrainerConfig(accelerator="cpu", num_threads=1, tokens_per_batch=120, checkpoint_every_s=0.0)
    examples = Examples(kept=[Example(ids=(5, 6, 7, 8), num_prompt=1)], dropped={})

    def train() -> None:
        model = make_trainable(load_model(TINY, store), tune)
        fit(model, SftModule, examples, tune, workdir=tmp_path, trainer=trainer, log_metrics=lambda *_: None)

    train()
    folder = checkpoint_folder(tmp_path)
    state = json.loads((folder / STATE).read_text())
    (name,) = state["files"]
    content = pickle.dumps(RunsWhenUnpickled(ran))
    (folder / name).write_bytes(content)
    (folder / STATE).write_text(json.dumps({**state, "files": {name: zlib.crc32(content)}}))
    with pytest.raises(TrainingError, match=r"the checkpoint '.*' of the interrupted run cannot be read"):
        train()
    (folder / STATE).write_bytes(content)
    train()  # it is damaged
    assert not ran.exists()


def test_parquet_with_a_pickled_type_is_not_unpickled(tmp_path: Path, ran: Path) -> None:
    """Old versions of pyarrow unpickled a column's type from the file's metadata."""
    stream = io.BytesIO()
    pickle.dump(RunsWhenUnpickled(ran), stream)
    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": stream.getvalue()}
    names = [f.name for f in schema(Trace)][:5]
    fields = [pa.field(name, pa.string(), metadata=metadata if name == "thinking" else None) for name in names]
    path = tmp_path / "traces.parquet"
    pq.write_table(pa.table([["x"]] * 5, schema=pa.schema(fields)), path)
    with pytest.raises(ArtifactError, match="has columns"):
        read_records(path, Trace)
    list(RowReader(find_files(path, "data.path"), TRACE_FIELDS, strict=False, key="data.path"))
    assert not ran.exists()
