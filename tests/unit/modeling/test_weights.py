from pathlib import Path

import pytest

from cotpress.errors import ArtifactError
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.weights import TrainedWeights
from cotpress.store.artifacts import ArtifactStore, Summary

BASE = ModelConfig(name="base", source=ModelSource.tiny, path="tiny", revision="main", context_tokens=64)


def weights(folder: Path, settings: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / settings).write_text("{}")
    (folder / "weights.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize("inside", ["", "adapter"])
def test_adapter_goes_on_the_base_model(tmp_path: Path, inside: str) -> None:
    adapter = weights(tmp_path / inside, "adapter_config.json")
    trained = TrainedWeights.below(tmp_path)
    assert trained == TrainedWeights(path=str(adapter), is_adapter=True)
    assert trained.on(BASE) == (BASE, str(adapter))


@pytest.mark.parametrize("inside", ["", "model"])
def test_whole_model_replaces_the_weights_and_keeps_the_other_settings(tmp_path: Path, inside: str) -> None:
    folder = weights(tmp_path / inside, "config.json")
    trained = TrainedWeights.below(tmp_path)
    assert trained == TrainedWeights(path=str(folder), is_adapter=False)
    model, adapter = trained.on(BASE)
    assert (model.source, model.path, model.revision, adapter) == (ModelSource.hub, str(folder), None, None)
    assert (model.name, model.context_tokens) == ("base", 64)


def test_adapter_beside_a_whole_model_is_preferred(tmp_path: Path) -> None:
    weights(tmp_path, "config.json")
    adapter = weights(tmp_path / "adapter", "adapter_config.json")
    assert TrainedWeights.below(tmp_path) == TrainedWeights(path=str(adapter), is_adapter=True)


def test_settings_without_weights_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert TrainedWeights.below(tmp_path) is None


def test_string_is_an_adapter_of_a_folder_or_the_hub() -> None:
    assert TrainedWeights.of("owner/adapter").on(BASE) == (BASE, "owner/adapter")


def test_artifact_without_weights_is_an_error_that_lists_its_files(tmp_path: Path) -> None:
    def produce(folder: Path) -> Summary:
        (folder / "log.csv").write_text("x")
        return Summary(num_rows=0)

    artifact = ArtifactStore(tmp_path).build("sft", {"a": 1}, produce)
    with pytest.raises(ArtifactError, match=r"sft/\w+ holds no weights in adapter/ or model/ but \['log\.csv'\]"):
        TrainedWeights.of(artifact)
