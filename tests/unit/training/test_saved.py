import dataclasses
import json
import logging
import shutil

import pytest

from cotpress.errors import ConfigError, ModelError
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.tiny import tiny_model
from cotpress.training.config import SftConfig
from cotpress.training.saved import saved_reference
from cotpress.training.stage import train_student


@pytest.fixture
def adapter(tiny_config, store, compressed, tune, hardware, tracker):
    """A finished adapter: an artifact with `adapter/`."""
    made = train_student(
        SftConfig(tune=tune), model=tiny_config, compressed=compressed, trainer=hardware, tracker=tracker, store=store
    )
    return made.path


@pytest.fixture
def whole(store, tmp_path):
    """A whole model with its tokenizer, outside of the store."""
    return shutil.copytree(tiny_model(store).path, tmp_path / "whole")


def test_adapter_folder_and_earlier_artifact_are_the_same_reference(adapter, tiny_config, store, tmp_path):
    copied = shutil.copytree(adapter / "adapter", tmp_path / "mine")
    by_artifact = saved_reference(adapter, base=tiny_config, store=store)
    assert saved_reference(copied, base=tiny_config, store=store).key == by_artifact.key
    assert by_artifact.stage == "reference"
    assert (by_artifact.path / "adapter" / "adapter_model.safetensors").is_symlink()
    assert by_artifact.facts == {"kind": "adapter"}


def test_whole_model_is_linked_not_copied(whole, tiny_config, store):
    made = saved_reference(whole, base=tiny_config, store=store)
    link = made.path / "model" / "model.safetensors"
    assert link.is_symlink()
    assert link.read_bytes() == (whole / "model.safetensors").read_bytes()


def test_changed_content_is_another_reference(whole, tiny_config, store):
    before = saved_reference(whole, base=tiny_config, store=store).key
    (whole / "generation_config.json").write_text(json.dumps({"eos_token_id": 5}))
    assert saved_reference(whole, base=tiny_config, store=store).key != before


@pytest.mark.parametrize("content", [None, "", "config.json"], ids=["no folder", "empty", "no weights"])
def test_missing_reference_names_folder_and_fix(content, tiny_config, store, tmp_path):
    folder = tmp_path / "reference"
    if content is not None:
        folder.mkdir()
    if content:
        (folder / content).write_text("{}")
    with pytest.raises(ModelError, match=r"reference\.path: .*reference"):
        saved_reference(folder, base=tiny_config, store=store)


def test_model_with_another_tokenizer_is_refused(whole, tiny_config, store):
    tokenizer = json.loads((whole / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    (whole / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match=r"another tokenizer than 'tiny'. Fix: model@reference\.base=NAME"):
        saved_reference(whole, base=tiny_config, store=store)


def test_adapter_of_another_base_model_gives_a_warning(adapter, store, tiny_config, caplog):
    caplog.set_level(logging.WARNING)
    saved_reference(adapter, base=tiny_config, store=store)
    assert caplog.text == ""
    other = dataclasses.replace(ModelConfig(name="x", source=ModelSource.tiny, path="other-base"))
    saved_reference(adapter, base=other, store=store)
    assert "names 'tiny' as its base model, but is used with 'other-base'" in caplog.text
