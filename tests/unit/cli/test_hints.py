"""Every usual wrong name or value is answered in one line with the text to type, by the real commands."""

import shlex
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from cotpress.cli.errors import explain
from cotpress.cli.hints import MEANT, SCRIPTS, VALUE, WORDS, meant_by, meant_elsewhere
from cotpress.cli.schema import settings_of
from cotpress.config import register_schemas, to_objects
from cotpress.errors import ConfigError
from support.commands import ROOT, Command

CONF = ROOT / "conf"
BOTH = "(students), or reference.tune"


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(tmp_path_factory.mktemp("user"))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("train learning_rate=1e-4", f"unknown key 'learning_rate'. Fix: sft.tune.learning_rate=1e-4 {BOTH}."
         "learning_rate=1e-4 (reference model)"),
        ("train data=/x/file.jsonl", "data: unknown choice '/x/file.jsonl'. Fix: data=jsonl data.path=/x/file.jsonl"),
        ("fidelity data=open-r1/OpenR1-Math-220k", "data: unknown choice 'open-r1/OpenR1-Math-220k'. Fix: data=hub "
         "data.path=open-r1/OpenR1-Math-220k"),
        ("train 'scorer = cts'", "'scorer = cts' cannot be read. Fix: scorer=cts"),
        ("compress ratio=null", "ratio: got null, allowed: a number in [0, 1], the fraction of the thinking tokens "
         "KEPT. Fix: leave it out for 0.7, or ratio=1 to keep every token"),
        ("train +ratio=0.3", "'+ratio=0.3' adds a key that exists. Fix: ratio=0.3"),
        ("train ++lr=1 +foo.bar=2", f"unknown key 'lr'. Fix: sft.tune.learning_rate=1 {BOTH}.learning_rate=1 "
         "(reference model)"),
        ("compress 'output=${oc.env:NOPE}'", "output: the value cannot be resolved: \"Environment variable 'NOPE' not "
         "found\". Fix: set the variable, or give a value for its absence, ${oc.env:NOPE,VALUE}"),
        ("compress data=jsonl data.path=/x/a,b.jsonl", "data.path: got several values, '/x/a,b.jsonl'. Fix: "
         "'data.path=\"/x/a,b.jsonl\"' for one path with a comma; with -m each of them is a job (python compress.py "
         "-m data.path=/x/a,b.jsonl)"),
        ("train evaluation.baselines=base,original", "evaluation.baselines: got several values, 'base,original'. Fix: "
         "'evaluation.baselines=[base,original]' for a list; with -m each of them is a job (python train.py -m "
         "evaluation.baselines=base,original)"),
        ("train ratio=0,5", "ratio: got several values, '0,5'. Fix: ratio=0.5, with a decimal point; with -m each of "
         "them is a job (python train.py -m ratio=0,5)"),
        ("train ratio=70%", "ratio: got '70%', allowed: a number in [0, 1], the fraction of the thinking tokens KEPT. "
         "Fix: ratio=0.7"),
        ("train model.dtype=bf16", "model.dtype: got 'bf16', allowed: auto, float32, bfloat16. Fix: "
         "model.dtype=bfloat16"),
        ("compress --data a.jsonl", "got '--data', but settings are written without dashes. Fix: data=jsonl "
         "data.path=a.jsonl"),
        ("train --data=planted", "got '--data=planted', but settings are written without dashes. Fix: data=planted"),
        ("train launcher=slurm", "unknown key 'launcher'. Fix: -m hydra/launcher=submitit_slurm"),
        ("train -m hydra/launcher=slurm", "hydra/launcher: unknown choice 'slurm'. Fix: "
         "hydra/launcher=submitit_slurm"),
        ("train partition=gpu", "unknown key 'partition'. Fix: -m hydra/launcher=submitit_slurm "
         "hydra.launcher.partition=gpu"),
        ("train hydra.launcher.partition=gpu", "unknown key 'hydra.launcher.partition'. Fix: -m "
         "hydra/launcher=submitit_slurm hydra.launcher.partition=gpu"),
        ("train -m hydra/launcher=submitit_slurm partition=gpu", "unknown key 'partition'. Fix: "
         "hydra.launcher.partition=gpu"),
        *[(f"train -m hydra/launcher=submitit_slurm hydra.launcher.{typed}", f"unknown key "
           f"'hydra.launcher.{typed.partition('=')[0]}'. Fix: hydra.launcher.{own}")
          for typed, own in [("time=1:30:00", "timeout_min=90"), ("time=2-01:00:00", "timeout_min=2940"),
                             ("time=90", "timeout_min=90"), ("time=30:00", "timeout_min=30"),
                             ("walltime=2h", "timeout_min=MINUTES"), ("mem=16G", "mem_gb=16"),
                             ("memory=500M", "mem_gb=GB"), ("gpus=2", "gpus_per_node=2"), ("cpus=4", "cpus_per_task=4"),
                             ("queue=long", "partition=long")]],
        ("train hydra/launcher=submitit_slurm", "hydra/launcher=submitit_slurm starts the jobs of a multirun, and this "
         "command is a single job, which would run in this process. Fix: python train.py -m "
         "hydra/launcher=submitit_slurm ..., for a single job as well"),
        ("compress -m scorer=random,head ratio=0.5,0.7 'output=out/${ratio}'", "output: 'out/${ratio}' names one place "
         "for jobs that differ in scorer. Fix: output=out, in which each job gets a place of its own"),
        ("train --ratio 0.5", "got '--ratio', but settings are written without dashes. Fix: ratio=0.5"),
        ("train -ratio 0.5", "got '-ratio', but settings are written without dashes. Fix: ratio=0.5"),
        ("train ratio 0.5", "got 'ratio', allowed: KEY=VALUE or GROUP=CHOICE, without spaces around the '='. Fix: "
         "ratio=0.5"),
        ("train --num-train-epochs=2", "got '--num-train-epochs=2', but settings are written without dashes. Fix: "
         f"sft.tune.epochs=2 {BOTH}.epochs=2 (reference model)"),
        ("train lora_r 16", f"got 'lora_r', allowed: KEY=VALUE. Fix: sft.tune.lora_rank=16 {BOTH}.lora_rank=16 "
         "(reference model)"),
        ("evaluate dataset=gsm8k", "unknown key 'dataset'. Fix: benchmark=gsm8k"),
        ("compress dataset=/x/ü.jsonl", "unknown key 'dataset'. Fix: data=jsonl 'data.path=/x/ü.jsonl'"),
        ("compress 'data=\"/x/a, b.jsonl\"'", "data: unknown choice '/x/a, b.jsonl'. Fix: data=jsonl "
         "'data.path=\"/x/a, b.jsonl\"'"),
    ],
)  # fmt: skip
def test_a_wrong_name_or_value_is_answered_with_the_text_to_type(typed: str, message: str, command: Command) -> None:
    script, *arguments = shlex.split(typed)
    done = command(f"{script}.py", *arguments)
    assert done.stderr == f"\nerror: {message}\n"
    assert done.returncode == 2
    assert not (command.folder / "outputs" / "artifacts").exists()


@pytest.mark.parametrize(
    ("typed", "start"),
    [
        ("train scorer=CTS", "scorer: unknown choice 'CTS'. Did you mean 'cts'? Allowed: "),
        ("train model=qwen-14b", "model: unknown choice 'qwen-14b'. Did you mean 'qwen14b'? Allowed: "),
        ("train model=Qwen-7B", "model: unknown choice 'Qwen-7B'. Did you mean 'qwen7b'? Allowed: "),
        ("evaluate learning_rate=1e-4", "unknown key 'learning_rate'. evaluate.py does not have it, but train.py with "
         "sft.tune.learning_rate=1e-4 (students); compress.py, fidelity.py with reference.tune.learning_rate=1e-4. "),
        ("compress data=jsonl data.num_traces=5", "unknown key 'data.num_traces'. It is a setting of data=planted. "
         "Allowed: columns, "),
        ("report ratio=0.5", "unknown key 'ratio'. report.py does not have it, but train.py, compress.py, "
         "evaluate.py. "),
    ],
)  # fmt: skip
def test_a_name_that_is_nearly_one_or_of_another_command_is_named_before_the_choices(
    typed: str, start: str, command: Command
) -> None:
    script, *arguments = shlex.split(typed)
    done = command(f"{script}.py", *arguments)
    assert done.stderr.startswith(f"\nerror: {start}")
    assert done.stderr.count("\n") == 2


def test_all_wrong_settings_are_named_at_once(command: Command) -> None:
    wrong = ["lr=1e-4", "wandb=true", "scorer=ctss", "seed=abc", "data.path=F"]
    done = command("train.py", "model=tiny", *wrong)
    head, *problems = done.stderr.strip().splitlines()
    assert head == "error: 5 problems:"
    assert [problem.strip().partition(" ")[0] for problem in problems] == ["1.", "2.", "3.", "4.", "5."]
    for name in ("'lr'", "'wandb'", "'ctss'", "'abc'", "'data.path'"):
        assert done.stderr.count(name) == 1
    done = command("train.py", "--lr", "1e-4", "--epochs", "2")
    assert "2 problems" in done.stderr
    assert done.stderr.count("without dashes") == 2


def test_a_multirun_is_refused_with_the_values_of_all_jobs(command: Command, tmp_path: Path) -> None:
    done = command("train.py", "-m", "lora_r=4,8", "seed=1,2", "epochs=3", cwd=tmp_path)
    assert done.returncode == 2
    assert "2 problems" in done.stderr
    assert f"'lora_r'. Fix: sft.tune.lora_rank=4,8 {BOTH}.lora_rank=4,8 (reference model)\n" in done.stderr
    assert not list(tmp_path.rglob("sweep.json"))


def test_the_package_names_its_commands_in_the_same_words(command: Command) -> None:
    done = command.module("cotpress", "train", "model=tiny", "lr=1e-4", "ratio=0,5")
    assert done.stderr == (
        "\nerror: 2 problems:\n  1. ratio: got several values, '0,5'. Fix: ratio=0.5, with a decimal point; with -m "
        "each of them is a job (python -m cotpress train -m ratio=0,5)\n  2. unknown key 'lr'. Fix: "
        "sft.tune.learning_rate=1e-4 (students), or reference.tune.learning_rate=1e-4 (reference model)\n"
    )
    assert done.returncode == 2


@pytest.fixture
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("compress learning_rate=1e-4", "unknown key 'learning_rate'. Fix: reference.tune.learning_rate=1e-4"),
        ("train epochs=2", f"unknown key 'epochs'. Fix: sft.tune.epochs=2 {BOTH}.epochs=2 (reference model)"),
        ("train trainer.max_epochs=3", f"unknown key 'trainer.max_epochs'. Fix: sft.tune.epochs=3 {BOTH}.epochs=3 "
         "(reference model)"),
        ("train sft.lr=1e-4", "unknown key 'sft.lr'. Fix: sft.tune.learning_rate=1e-4"),
        ("train wandb=true", "unknown key 'wandb'. Fix: tracker=wandb"),
        ("evaluate logger=wandb", "unknown key 'logger'. Fix: tracker=wandb"),
        ("compress data=./a.csv", "data: unknown choice './a.csv'. Fix: data=jsonl data.path=./a.csv"),
        ("compress data=a.jsonl", "data: unknown choice 'a.jsonl'. Fix: data=jsonl data.path=a.jsonl"),
        ("train data.path=F", "unknown key 'data.path'. It is a setting of data=jsonl, data=hub. Fix: data=jsonl "
         "data.path=F"),
        ("train data.path=openai/gsm8k", "unknown key 'data.path'. It is a setting of data=jsonl, data=hub. Fix: "
         "data=hub data.path=openai/gsm8k"),
        ("evaluate benchmark=HuggingFaceH4/MATH-500", "benchmark: unknown choice 'HuggingFaceH4/MATH-500'. Fix: "
         "benchmark=math500"),
        ("train reference=/x/adapter", "reference: unknown choice '/x/adapter'. Fix: reference=saved "
         "reference.path=/x/adapter"),
        ("train ratio=70", "ratio: got 70.0, allowed: a number in [0, 1], the fraction of the thinking tokens KEPT. "
         "Fix: ratio=0.7"),
        ("fidelity confidence=95", "confidence: got 95.0, allowed: a number in (0, 1). Fix: confidence=0.95"),
        ("train trainer.devices=all", "trainer.devices: got 'all', allowed: a whole number. Fix: trainer.devices=null"),
        ("train trainer.devices=-1", "trainer.devices: got -1, allowed: a whole number of at least 1, or null. Fix: "
         "trainer.devices=null"),
        ("compress data.limit=-1", "data.limit: got -1, allowed: a whole number of at least 1, or null. Fix: "
         "data.limit=null"),
        ("train trainer.num_nodes=-1", "trainer.num_nodes: got -1, allowed: a whole number of at least 1"),
        ("compress path=a.jsonl", "unknown key 'path'. Fix: data=jsonl data.path=a.jsonl (traces), or "
         "model.path=a.jsonl"),
        ("compress data=jsonl path=a.jsonl", "unknown key 'path'. Fix: data.path=a.jsonl (traces), or "
         "model.path=a.jsonl"),
        ("evaluate path=a.jsonl", "unknown key 'path'. Fix: benchmark=jsonl benchmark.path=a.jsonl (problems), or "
         "model.path=a.jsonl"),
        ("train gpus=2", "unknown key 'gpus'. Fix: trainer.devices=2"),
        ("compress num_gpus=2", "unknown key 'num_gpus'. Fix: trainer.devices=2"),
        ("evaluate devices=2", "unknown key 'devices'. Fix: trainer.devices=2"),
        ("evaluate temperature=0.6", "unknown key 'temperature'. Fix: evaluation.temperature=0.6"),
        ("train max_new_tokens=512", "unknown key 'max_new_tokens'. Fix: benchmark.max_new_tokens=512"),
        ("train max_seq_length=2048", f"unknown key 'max_seq_length'. Fix: sft.tune.max_tokens=2048 {BOTH}."
         "max_tokens=2048 (reference model)"),
        ("compress output_dir=/x", "unknown key 'output_dir'. Fix: output=/x, or output_root=/x"),
        ("train output_dir=/x", "unknown key 'output_dir'. Fix: output_root=/x"),
        ("train resume=true", "unknown key 'resume'. A command that is run again continues by itself and computes "
         "nothing twice. Fix: leave it out"),
        ("train model_name_or_path=Qwen/Qwen2.5-7B-Instruct", "unknown key 'model_name_or_path'. Fix: "
         "model=Qwen/Qwen2.5-7B-Instruct"),
        ("train bf16=true", "unknown key 'bf16'. By default the processor decides. Fix: model.dtype=bfloat16, or "
         "model.dtype=float32"),
        ("train load_in_4bit=true", "unknown key 'load_in_4bit'. Weights are not quantized; these need less memory. "
         "Fix: sft=lora, or trainer.activation_checkpointing=true"),
        ("train batch_size=8", "unknown key 'batch_size'. Fix: sft.tune.sequences_per_step=8 (students), or "
         "reference.tune.sequences_per_step=8 (reference model)"),
        ("train dataset=gsm8k", "unknown key 'dataset'. Fix: benchmark=gsm8k (problems), or data=self_written "
         "questions@data.questions=gsm8k (traces)"),
        ("compress train_file=/x/f.jsonl", "unknown key 'train_file'. Fix: data=jsonl data.path=/x/f.jsonl"),
        ("train dataset=nope", "unknown key 'dataset'. Here it is data. Allowed: hub, jsonl, planted, self_written."),
        ("evaluate checkpoint=/x", "unknown key 'checkpoint'. Fix: adapter=/x"),
        ("train adapter=/x", "unknown key 'adapter'. Fix: sft.start=/x"),
        ("train n=4", "unknown key 'n'. Fix: evaluation.samples=4"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("_hydra")
def test_further_wrong_names_and_values_are_answered_with_the_text_to_type(typed: str, message: str) -> None:
    """In this process, several times as fast as the commands of the tests above."""
    script, *arguments = shlex.split(typed)
    try:
        to_objects(compose(script, overrides=arguments))
    except ConfigError as error:
        answer: str | None = str(error)
    except Exception as error:
        answer = explain(error, script, CONF, arguments)
    assert answer == message


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.usefixtures("_hydra")
def test_settings_read_from_the_classes_are_those_of_the_composed_configuration(script: str) -> None:
    settings = settings_of(script, CONF).values()
    by_top: dict[str, list[str]] = {}
    for choice in dict.fromkeys(choice for setting in settings for choice in setting.choices):
        place = choice.partition("=")[0].rpartition("@")[2]
        by_top.setdefault(place.partition(".")[0], []).append(choice)
    # One choice of each part of the configuration at a time, as composing takes a sixth of a second.
    for row in [(), *zip_longest(*by_top.values())]:
        chosen = [choice for choice in row if choice is not None]
        config = compose(script, overrides=chosen)
        for setting in settings:
            if set(setting.choices).isdisjoint(chosen) if chosen else setting.choices:
                continue
            place, _, name = setting.key.rpartition(".")
            parent = OmegaConf.select(config, place) if place else config
            assert isinstance(parent, DictConfig), setting.key
            assert name in list(parent), setting.key  # `in` leaves out those without a value


def test_every_name_of_another_program_has_a_meaning_in_some_command() -> None:
    for name in MEANT:
        texts = [meant_by(name, VALUE, script, CONF) or meant_elsewhere(name, VALUE, script, CONF)
                 for script in SCRIPTS if name not in settings_of(script, CONF)]  # fmt: skip
        assert texts, name
        assert all("Fix: " in text or "does not have it, but " in text for text in texts), (name, texts)


def test_words_for_values_are_values_of_a_setting_of_this_name() -> None:
    settings = settings_of("train", CONF)
    for name, words in WORDS.items():
        assert any(key.endswith(f".{name}") for key in settings), name
        assert not set(words) & set(words.values())


def test_hub_id_as_a_model_is_one(command: Command, tmp_path: Path) -> None:
    done = command("train.py", "model=Qwen/Qwen2.5-7B-Instruct", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "path: Qwen/Qwen2.5-7B-Instruct" in done.stdout
