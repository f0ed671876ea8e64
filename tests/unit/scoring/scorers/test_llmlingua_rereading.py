import numpy as np
import pytest
import torch

from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_model
from cotpress.scoring.scorers.llmlingua_compat import Rereader

IDS = np.arange(5, 45, dtype=np.int32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from cotpress.store.artifacts import ArtifactStore

    config = ModelConfig(name="tiny", source=ModelSource.tiny, path="tiny")
    return load_model(config, ArtifactStore(tmp_path_factory.mktemp("outputs")))


def naive(model, ids):
    with torch.no_grad():
        logps = model(input_ids=torch.as_tensor(ids.astype(np.int64))[None]).logits[0].log_softmax(-1)
    return np.array([-logps[i, token].item() for i, token in enumerate(ids[1:].tolist())])


def test_whole_text_at_once_equals_a_plain_forward(model):
    values = Rereader(model).surprisals(IDS)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, naive(model, IDS), atol=2e-5)


def test_prefix_is_read_but_not_scored(model):
    np.testing.assert_allclose(Rereader(model, IDS[:8]).surprisals(IDS[8:]), naive(model, IDS)[8:], atol=2e-5)


@pytest.mark.parametrize("prefix", [[], [7, 8, 9]])
def test_end_that_changed_is_read_after_the_beginning_that_stayed(prefix, model, monkeypatch):
    reader, forward, sizes = Rereader(model, prefix), model.model.forward, []

    def counted(input_ids, **more):
        sizes.append(input_ids.numel())
        return forward(input_ids, **more)

    monkeypatch.setattr(model.model, "forward", counted)
    for keep in (10, 30, 0):
        reader.surprisals(IDS)
        changed = np.concatenate([IDS[:keep], IDS[::-3]])
        whole = np.concatenate([np.array(prefix, dtype=np.int32), changed])
        sizes.clear()
        values = reader.surprisals(changed, since=keep)
        assert sizes == [len(changed) - keep if keep else len(whole)]
        np.testing.assert_allclose(values, naive(model, whole)[len(prefix) + keep :], atol=2e-5)


def test_one_token_has_no_token_after_it(model):
    assert Rereader(model).surprisals(IDS[:1]).shape == (0,)
