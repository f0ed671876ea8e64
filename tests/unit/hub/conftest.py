import pytest

from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.store.artifacts import ArtifactStore


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    return ModelConfig(name="tiny", source=ModelSource.tiny, path="tiny")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("outputs"))
