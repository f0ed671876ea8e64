"""Models that the command line names by hub id or folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from cotpress.cli.errors import explain
from cotpress.cli.models import with_models
from cotpress.config import TrainConfig, register_schemas, to_objects
from cotpress.errors import ConfigError
from cotpress.store.artifacts import plain
from support.commands import ROOT, Command

CONF = ROOT / "conf"


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
    ConfigStore.instance().repo.pop("model", None)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(tmp_path_factory.mktemp("user"))


def composed(*arguments: str) -> TrainConfig:
    with_models(arguments, CONF)
    config = to_objects(compose("train", overrides=list(arguments)))
    assert isinstance(config, TrainConfig)
    return config


@pytest.mark.parametrize("typed", ["some/Model-1.5B", "{tmp}/my model", "{tmp}/my model/", "{tmp}"])
def test_a_hub_id_or_folder_means_the_choice_hub_with_that_path(typed: str, tmp_path: Path) -> None:
    (tmp_path / "my model").mkdir()
    typed = typed.format(tmp=tmp_path)
    expected = compose("train", overrides=["model=hub", f"model.path='{typed}'"])
    assert plain(composed(f"model='{typed}'")) == plain(to_objects(expected))


def test_a_folder_of_the_working_directory_or_below_home_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "student").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert composed("model=student").model.path == "student"
    assert composed("model=./student").model.path == "./student"
    assert composed("model='~/student'").model.path == str(tmp_path / "student")


def test_the_reference_model_can_be_named_by_its_hub_id_too() -> None:
    config = composed("model=a/b", "model@reference.base=c/d")
    assert config.reference.base is not None
    assert (config.model.path, config.reference.base.path) == ("a/b", "c/d")


def test_a_choice_wins_over_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert composed("model=tiny").model.path == "llama"


def test_a_hub_id_with_a_preset_gets_a_note() -> None:
    (note,) = with_models(["model@reference.base=Qwen/Qwen2.5-7B-Instruct"], CONF)
    assert note.startswith("model@reference.base=qwen7b is this model with the settings of its preset")
    assert with_models(["model=qwen7b", "model=some/other"], CONF) == []


@pytest.mark.parametrize("typed", ["/no/where", "./nowhere", "~/nowhere", "a/b/c"])
def test_a_path_that_is_no_folder_is_refused_with_what_is_allowed(typed: str) -> None:
    expected = r"model: got '.*', but there is no folder '/.*a hub id OWNER/NAME.*model=DIR"
    with pytest.raises(ConfigError, match=expected):
        with_models([f"model='{typed}'"], CONF)


def test_a_path_that_is_no_folder_is_refused_with_the_folders_beside_it(tmp_path: Path) -> None:
    (tmp_path / "qwen-7b").mkdir()
    (tmp_path / "notes.txt").touch()
    expected = rf"there is no folder '.*qwen-7'\. Did you mean 'qwen-7b'\? '{tmp_path}' holds qwen-7b\. .*model=smollm2"
    with pytest.raises(ConfigError, match=expected):
        with_models([f"model='{tmp_path}/qwen-7'"], CONF)


def test_an_unknown_name_lists_the_choices_and_the_other_ways() -> None:
    assert with_models(["model=qwen"], CONF) == []
    with pytest.raises(Exception, match="qwen") as error:
        compose("train", overrides=["model=qwen"])
    message = explain(error.value, "train", CONF)
    assert message is not None
    assert message.endswith("Others: a hub id, model=OWNER/NAME, or a folder, model=DIR")


@pytest.mark.slow
def test_typed_models_can_be_swept(command: Command, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    done = command("train.py", "-m", "model=./a,./b", f"output_root={tmp_path}/out", cwd=tmp_path)
    assert done.returncode == 1
    for name in ("a", "b"):
        assert f"model.path: './{name}' has no config.json" in done.stderr


@pytest.mark.parametrize("name", ["qwen3b", "qwen3-14b", "r1-llama8b", "gpt-oss-20b"])
def test_a_preset_has_the_recipes_of_the_papers_and_room_for_their_answers(name: str) -> None:
    model = composed(f"model={name}").model
    assert model.context_tokens >= 32768
    assert (model.tuning.lora.learning_rate, model.tuning.full.learning_rate) == (5e-5, 1e-5)


def test_every_preset_has_the_name_of_its_file() -> None:
    for file in (CONF / "model").glob("*.yaml"):
        name = OmegaConf.to_container(OmegaConf.load(file), resolve=False)["name"]
        assert name == ("${.path}" if file.stem == "hub" else file.stem)
