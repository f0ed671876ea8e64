"""Mistakes on the command line are refused at once, by a message that names them."""

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from cotpress.cli import app
from cotpress.cli.errors import check_options, explain
from cotpress.config import register_schemas, to_objects
from cotpress.data.config import JsonlDataConfig
from cotpress.data.stage import traces
from cotpress.errors import ConfigError, CotpressError, ModelError
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_model, load_tokenizer
from cotpress.modeling.tiny import tiny_model
from cotpress.scoring.scorers.classifier import encoder_directory
from cotpress.store.artifacts import ArtifactStore
from cotpress.tasks import COMPRESS
from support.commands import ROOT, Command


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@pytest.mark.parametrize(
    ("script", "setting", "message"),
    [
        ("train", "data.num_traces=0", r"data\.num_traces: got 0, allowed: a whole number of at least 1"),
        ("train", "benchmark.num_problems=-3", r"benchmark\.num_problems: got -3"),
        ("train", "sft.tune.epochs=0", r"sft\.tune\.epochs: got 0"),
        ("train", "trainer.num_threads=0", r"trainer\.num_threads: got 0"),
        ("train", "seed=-1", r"seed: got -1, allowed: a whole number of at least 0"),
        ("train", "seed=9223372036854775808", r"seed: got .*allowed: a finite number of at most 2\^63"),
        ("train", "sft.tune.learning_rate=nan", r"learning_rate: got nan, allowed: a finite number"),
        ("train", "output_root=", r"output_root: got '', allowed: the path of a folder"),
        ("compress", "output=", r"output: got '', allowed: the path of a folder"),
        ("report", "runs=' '", r"runs: got ' ', allowed: the path of a folder"),
        ("train", "sft.tune.beta2=1.5", r"sft\.tune\.beta2: got 1\.5, allowed: a number in \[0, 1\)"),
        ("train", "sft.tune.beta2=1", r"sft\.tune\.beta2: got 1\.0, allowed: a number in \[0, 1\)"),
        ("train", "reference.tune.beta1=-1", r"reference\.tune\.beta1: got -1\.0, allowed: a number in \[0, 1\)"),
        ("train", "sft.tune.lora_dropout=2", r"sft\.tune\.lora_dropout: got 2\.0, allowed: a number in \[0, 1\)"),
        ("train", "sft.tune.warmup_fraction=3", r"sft\.tune\.warmup_fraction: got 3\.0, allowed: a number in \[0, 1\]"),
        ("train", "sft.tune.warmup_fraction=-1", r"warmup_fraction: got -1\.0, allowed: a number in \[0, 1\]"),
        (
            "train",
            "sft.validation_max_new_tokens=0",
            r"validation_max_new_tokens: got 0, allowed: a whole number",
        ),
        ("train", "sft.tune.method=none", r"sft\.tune\.method: got 'none', allowed: lora, full"),
        ("train", "model.chat.thinking_close=''", r"model\.chat\.thinking_close: got '', allowed: the text that parts"),
        ("train", "trainer.accelerator=tpu", r"trainer\.accelerator: got 'tpu', allowed: auto, cpu, gpu"),
        ("evaluate", "trainer.accelerator=tpu", r"trainer\.accelerator: got 'tpu', allowed: auto, cpu, gpu"),
        ("train", "benchmark.prompt=hello", r"benchmark\.prompt: got 'hello', allowed: a text with \{question\} in it"),
        ("evaluate", "ratio=0.5 model.chat.ratio_marker=abc", r"marker: got 'abc', allowed: a text with \{ratio\}"),
        ("train", "compression=mixed model.chat.ratio_marker=abc", r"model\.chat\.ratio_marker: got 'abc'"),
        ("compress", "compression=mixed model.chat.ratio_marker=abc", r"model\.chat\.ratio_marker: got 'abc'"),
        ("evaluate", "evaluation.samples=4 n=2", r"n: got 2, but evaluation\.samples=4.*Fix: only one of them, n=2"),
    ],
)
def test_values_out_of_range_are_refused_when_composed(script: str, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_objects(compose(script, overrides=[setting] if "' '" in setting else setting.split()))


@pytest.mark.parametrize(
    ("script", "settings"),
    [
        ("train", "sft.tune.beta1=0 sft.tune.beta2=0.95 sft.tune.lora_dropout=0.5 sft.tune.warmup_fraction=1"),
        ("train", "model.chat.ratio_marker=abc"),
        ("evaluate", "model.chat.ratio_marker=abc"),
        ("evaluate", "evaluation.samples=4"),
        ("evaluate", "evaluation.samples=4 n=4"),
    ],
)
def test_values_in_range_and_unused_values_are_accepted(script: str, settings: str) -> None:
    to_objects(compose(script, overrides=settings.split()))


def test_reference_none_needs_no_epochs() -> None:
    to_objects(compose("train", overrides=["reference=none"]))


@pytest.mark.parametrize("arguments", [["--cfg", "jobb"], ["--multirum"], ["--config-dir"]])
def test_unknown_option_is_refused_in_one_message(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"Fix: cotpress train --help") as caught:
        check_options(arguments, "train")
    assert "usage:" not in str(caught.value)


@pytest.mark.parametrize("setting", ["data=0", "~data=0"])
def test_number_as_the_choice_of_a_group_is_refused_in_one_message(setting: str) -> None:
    with pytest.raises(Exception, match="Config group override") as caught:
        compose("train", overrides=[setting])
    message = explain(caught.value, "train", ROOT / "conf")
    assert message is not None
    assert "GROUP=CHOICE with the name of a choice" in message


def test_group_without_a_place_in_the_chosen_data_names_the_data_with_one() -> None:
    with pytest.raises(Exception, match="questions") as caught:
        compose("train", overrides=["data=planted", "questions@data.questions=gsm8k"])
    message = explain(caught.value, "train", ROOT / "conf")
    assert message == "questions@data.questions: the chosen data has no such place. Allowed: with data=self_written"


def test_runs_in_a_multirun_are_refused_before_a_job_is_planned(command: Command, tmp_path: Path) -> None:
    done = command("evaluate.py", "runs=some", "-m", "benchmark=planted,math500", cwd=tmp_path)
    assert done.returncode == 2
    assert "error: runs: got a folder in a multirun. Fix: leave out -m" in done.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_another_primary_configuration_is_refused(command: Command) -> None:
    done = command("train.py", "--config-name", "foo")
    assert done.returncode == 2
    assert "--config-name: there is no configuration 'foo'" in done.stderr
    assert "Fix: leave it out" in done.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (["reference=saved", "reference.path=/nowhere"], "reference.path: there is no folder '/nowhere'"),
        (["benchmark=jsonl", "benchmark.path=/nowhere.jsonl"], "benchmark.path: '/nowhere.jsonl' does not exist"),
    ],
)
def test_missing_file_is_an_error_before_anything_is_trained(
    setting: list[str], message: str, command: Command, tmp_path: Path
) -> None:
    done = command("train.py", "scorer=cts", "model=tiny", "data.num_traces=24", *setting, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list((tmp_path / "outputs").glob("artifacts/*/*"))  # nothing was trained before


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize("adapter", ["/nowhere/adapter", "", "some/adapter"])
def test_missing_adapter_is_named_by_its_key(
    adapter: str, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    tiny = ModelConfig(name="tiny", source=ModelSource.tiny, path="llama")
    with pytest.raises(CotpressError, match=r"^adapter: .*Fix: .*adapter=DIR") as caught:
        load_model(tiny, store, adapter=adapter)
    assert "model.path" not in str(caught.value)


def test_missing_classifier_is_named_by_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"^scorer\.path: 'some/classifier'.*scorer\.path=DIR") as caught:
        encoder_directory("some/classifier")
    assert "model.path" not in str(caught.value)


def test_model_folder_without_a_tokenizer_is_an_error(store: ArtifactStore, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model(store).path, tmp_path / "model")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"there is no tokenizer in it\. Fix: copy tokenizer\.json"):
        load_tokenizer(ModelConfig(name="x", path=str(folder)), store)


def test_folder_as_data_is_an_error_that_names_its_files(store: ArtifactStore, tmp_path: Path) -> None:
    config = JsonlDataConfig(name="jsonl", path=str(tmp_path))
    with pytest.raises(ConfigError, match=r"is a folder without a file that ends in"):
        traces(config, store)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"; it has notes\.txt\. Fix: data\.path=FILE"):
        traces(config, store)


@pytest.mark.parametrize("place", ["load_plugins", "check_readable", "_run"])
def test_ctrl_c_before_the_job_starts_is_one_line_and_exit_code_130(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compress.py", "ratio=0.5"])
    monkeypatch.setattr(app, place, interrupt)
    usual = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        app.main(COMPRESS, ROOT / "conf")
    signal.signal(signal.SIGINT, usual)
    assert ended.value.code == 130
    assert capsys.readouterr().err.strip().splitlines() == [
        "error: interrupted. Finished work is kept; the same command continues from there."
    ]


class _Interrupted:
    """Its destructor is interrupted, as that of any object whose garbage collection meets Ctrl-C."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_in_a_destructor_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        _Interrupted()
        time.sleep(5)
        raise AssertionError("the interrupt was lost")

    usual, hook = signal.signal(signal.SIGINT, signal.default_int_handler), sys.unraisablehook
    with pytest.raises(SystemExit) as ended:
        app.end_with_code(work)
    signal.signal(signal.SIGINT, usual)
    assert ended.value.code == 130
    assert "ignored" not in capsys.readouterr().err
    assert sys.unraisablehook is hook


def test_an_unexpected_error_is_shown_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("no \x1b[31m access with sk-Ab12Cd34Ef56Gh78Ij90")

    with pytest.raises(SystemExit) as ended:
        app.end_with_code(fail)
    shown = capsys.readouterr().err
    assert ended.value.code == 1
    assert "RuntimeError: no \\x1b[31m access with ***" in shown
    assert "sk-Ab" not in shown
