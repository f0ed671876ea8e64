"""The tiny model's conversation format, which the tests of self-written data share."""

import pytest
import torch

from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer
from cotpress.prompts import ChatFormat
from cotpress.store.artifacts import ArtifactStore


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    torch.set_num_threads(1)
    return ModelConfig(name="tiny", source=ModelSource.tiny, path="llama", context_tokens=2000)


@pytest.fixture(scope="session")
def written(tiny: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> ChatFormat:
    return ChatFormat(load_tokenizer(tiny, ArtifactStore(tmp_path_factory.mktemp("tiny"))), tiny.chat)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
