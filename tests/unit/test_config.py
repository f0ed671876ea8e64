"""Every YAML composes, every field is read by code, every wrong value is explained."""

import dataclasses
import os
import re
import resource
import runpy
import subprocess
import sys
import traceback
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from cotpress.cli.help import one_liner
from cotpress.config import SCHEMAS, EvaluateConfig, TrainConfig, register_schemas, to_objects
from cotpress.errors import ConfigError
from cotpress.evaluation.config import Baseline
from cotpress.generation.config import ServerGenerationConfig
from cotpress.scoring.scorers.mix import MixConfig
from cotpress.scoring.scorers.random import RandomConfig

ROOT = Path(__file__).parents[2]
GROUPS = {
    "benchmark": 7, "experiment": 2, "compression": 3, "data": 3, "distill": 4, "evaluation": 4, "model": 8,
    "reference": 4, "scorer": 21, "sft": 2, "tracker": 3, "trainer": 5, "truth": 3,
}  # fmt: skip
ENTRY = {"truth": "fidelity"}
"""Groups that the main entry script does not have, and the one that does."""
REQUIRED = {
    "distill=llm_server": ["distill.generation.base_url=http://x/v1", "distill.generation.model=x"],
    "reference=saved": ["reference.path=x"],
    "model=hub": ["model.path=x"],
    "truth=thought_anchors": ["truth.path=x"],
    "truth=prmbench": ["truth.path=x"],
    "experiment=cts_long_cot": ["data.path=x"],
    "data=jsonl": ["data.path=x"],
    "benchmark=jsonl": ["benchmark.path=x"],
}


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def _choices() -> list[str]:
    return [f"{group}={f.stem}" for group in GROUPS for f in sorted((ROOT / "conf" / group).glob("*.yaml"))]


def test_number_of_choices_is_the_one_tested() -> None:
    assert {g: len(list((ROOT / "conf" / g).glob("*.yaml"))) for g in GROUPS} == GROUPS


@pytest.mark.parametrize("choice", _choices())
def test_every_choice_composes_and_opens_with_a_line_of_help(choice: str) -> None:
    group, _, name = choice.partition("=")
    entry = ENTRY.get(group, "train")
    composed = compose(entry, overrides=[choice, *REQUIRED.get(choice, [])])
    config = to_objects(composed)
    assert isinstance(config, SCHEMAS[f"{entry}_schema"])
    assert one_liner(ROOT / "conf" / group / f"{name}.yaml")


def test_every_config_field_is_read_by_code() -> None:
    code = "\n".join(p.read_text() for p in (ROOT / "src").rglob("*.py") if not p.name.endswith("config.py"))
    code += (ROOT / "src/cotpress/config.py").read_text()
    interpolations = "".join(
        re.findall(r"\$\{[^}]*\}", "".join(f.read_text() for f in (ROOT / "conf").rglob("*.yaml")))
    )
    unread = []
    seen: set[type] = set()
    queue: list[type] = [*SCHEMAS.values()]
    while queue:
        schema = queue.pop()
        if schema in seen:
            continue
        seen.add(schema)
        for name, hint in typing.get_type_hints(schema).items():
            for kind in (hint, *typing.get_args(hint)):
                if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                    queue.append(kind)
            if not re.search(rf"\.{name}\b", code + interpolations):
                unread.append(f"{schema.__name__}.{name}")
    assert unread == []


def test_a_mix_takes_any_scorer_as_another_part_and_parts_keep_their_names() -> None:
    parts = ["+scorer@scorer.parts.random=random", "+scorer@scorer.parts.inner=mix", "scorer.weights.cts=0"]
    config = to_objects(
        compose("train", overrides=["scorer=mix", *parts, "+scorer.weights.random=0.5", "+scorer.weights.inner=2"])
    )
    assert isinstance(config, TrainConfig)
    mix = config.scorer
    assert isinstance(mix, MixConfig)
    assert {name: part.name for name, part in mix.parts.items()} == {
        "cts": "cts", "reference_likelihood": "reference_likelihood", "random": "random", "inner": "mix",
    }  # fmt: skip
    assert mix.weights == {"cts": 0.0, "reference_likelihood": 1.0, "random": 0.5, "inner": 2.0}
    assert mix.weighted == ["reference_likelihood", "random", "inner"]
    assert isinstance(mix.parts["random"], RandomConfig)
    assert mix.parts["random"].seed == config.seed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["scorer=mix", "+scorer.weights.random=1"],
            r"'random', which is no part\. Allowed: cts, reference_likelihood",
        ),
        (
            ["scorer=mix", "+scorer@scorer.parts.random=random"],
            r"part 'random' has none\. Fix: \+scorer\.weights\.random",
        ),
        (["scorer=rho1_excess", "reference=none"], r"scorer=rho1_excess compares .* Fix: reference=lora"),
        (["scorer=reference_gain", "scorer.read_by=base"], r"scorer\.read_by: got 'base'"),
    ],
)
def test_scorer_settings_that_contradict_each_other_are_refused_before_any_work(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        to_objects(compose("train", overrides=overrides))


def _spawn(*arguments: str, script: str = "train.py", cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments], capture_output=True, text=True, timeout=120, cwd=cwd
    )


def _run(*arguments: str, script: str = "train.py", cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same in a fork of this process, which has imported everything already: several times as fast."""
    out, err = cwd / "stdout.txt", cwd / "stderr.txt"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(cwd)
            for number, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            sys.argv = [script, *arguments]
            GlobalHydra.instance().clear()
            runpy.run_path(str(ROOT / script), run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return subprocess.CompletedProcess(
        [script, *arguments], os.waitstatus_to_exitcode(status), out.read_text(), err.read_text()
    )


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("ratoi=0.5", "unknown key 'ratoi'. Did you mean 'ratio'?"),
        ("ratio=abc", "ratio: got 'abc', allowed: a number in (0, 1]"),
        ("ratio=0.5,0.7", "ratio: got several values, '0.5,0.7'. Fix: with -m each of them is a job"),
        ("scorer", "got 'scorer', allowed: KEY=VALUE or GROUP=CHOICE, without spaces around the '='"),
        ("name=[a", "the command line cannot be read: no viable alternative at input '[a'. Fix: put a value"),
        ("--ratio=0.5", "got '--ratio=0.5', but settings are written without dashes. Fix: ratio=0.5"),
        ("evaluation.baselines=original", "evaluation.baselines: got a single value, allowed: a list"),
        ("model@foo=qwen7b", "no group 'model' stands at 'foo'. Allowed: model=CHOICE, model@distill.model=CHOICE"),
        ("questions=gsm8k", "does not stand by itself in train.py. Allowed: questions@data.questions=CHOICE"),
        ("output_root=/proc/none", "cannot use '/proc/none': No such file or directory. Fix: choose a place"),
        ("scorer=ctss", "scorer: unknown choice 'ctss'. Did you mean 'cts'?"),
        ("model=qwen", "model: unknown choice 'qwen'. Did you mean 'qwen7b'?"),
        ("scorer.conditon=x", "unknown key 'scorer.conditon'. Did you mean 'condition'?"),
        ("scorer.condition=x", "expected one of [none, answer, question, question_answer]"),
        ("data.num_traces=1.5", "data.num_traces: got '1.5', allowed: a whole number"),
        ("benchmark.extractor=digit", "expected one of [math, number, integer, letter]"),
        ("compression.granularity=sentence", "expected one of [token, word, step]"),
        ("evaluation.baselines=[lc]", "expected one of [base, original, ratio_one, be_concise"),
        ("trainer.head_loss=fused", "expected one of [auto, chunked, plain, linear_cross_entropy, liger]"),
        ("ratio=0", "ratio: got 0.0, allowed: a number in (0, 1]"),
    ],
)
def test_wrong_argument_gives_one_clear_message(argument: str, expected: str, tmp_path: Path) -> None:
    result = _run(argument, cwd=tmp_path)
    assert result.returncode == (1 if "output_root" in argument else 2)
    assert expected in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("ratio=1.2", "ratio: got 1.2, allowed: a number in (0, 1]"),
        ("+typo=1", "'typo'"),
        ("data=jsonl", "no value for data.path"),
        (
            "scorer.condition=none",
            "scorer.condition: got 'none', but the score is what a condition tells",
        ),
        ("compression.mixed_ratios=[0.5,2]", "compression.mixed_ratios: got 2.0"),
        ("evaluation.ratios=[0.5]", "a student of a single ratio has no control marker"),
        ("compression.max_consecutive_deletions=0", "compression.max_consecutive_deletions: got 0, allowed: 1 or more"),
        ("compression.keep_strings=['a','']", "compression.keep_strings: got '', allowed: texts that are not empty"),
        ("evaluation.confidence=95", "evaluation.confidence: got 95.0, allowed: a number in (0, 1)"),
        ("evaluation.samples=0", "evaluation.samples: got 0, allowed: a whole number of at least 1"),
        ("evaluation.top_p=0.9", "evaluation.top_p: got 0.9, but answers are greedy"),
        ("evaluation.generation.temperature=0.5", "got 0.5, but evaluation.temperature decides it"),
        ("evaluation.generation.top_p=0.5", "got 0.5, but evaluation.top_p decides it"),
        ("trainer.devices=0", "trainer.devices: got 0, allowed: a whole number of at least 1, or null for all GPUs"),
        ("trainer.offload=true", "trainer.offload: got true with trainer.strategy=ddp on one device, allowed: with"),
        ("trainer.num_nodes=2", "trainer.num_nodes: got 2, allowed: 1. One training shares the devices of one machine"),
        ("evaluation.generation.seed=1", "evaluation.generation.seed: got 1, but seed decides it"),
    ],
)
def test_wrong_value_is_refused_when_the_configuration_is_read(argument: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        to_objects(compose("train", overrides=[argument]))


SERVER = [
    "generation@evaluation.generation=server", "evaluation.generation.base_url=http://x/v1",
    "evaluation.generation.model=m",
]  # fmt: skip
TEXT = ["data=jsonl", "data.path=x", "data.field=context"]


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("train.py", TEXT, "data.field: got 'context', but the texts of a column are no traces"),
        ("fidelity.py", TEXT, "data.field: got 'context', but the texts of a column are no traces"),
        ("compress.py", [*TEXT, "export=trl"], "export=trl, but texts are no conversations. Allowed: parquet"),
        ("compress.py", [*TEXT, "export=openai"], "export=openai, but texts are no conversations"),
        ("train.py", [*SERVER, "sft=full"], "trains whole models, which no server loads on request. Fix: sft=lora"),
        ("train.py", ["evaluation.instructions.lc_prompt=short"], "a text with {percent} in it"),
        ("evaluate.py", ["evaluation=default"], "Fix: evaluation=checkpoint or evaluation=full_checkpoint"),
        ("evaluate.py", ["generation@evaluation.generation=server"], "no value for evaluation.generation.base_url"),
        ("fidelity.py", ["truth=plantd"], "truth: unknown choice 'plantd'. Did you mean 'planted'?"),
        ("fidelity.py", ["truth=prmbench"], "no value for truth.path"),
        ("fidelity.py", ["ratio=0.5"], "unknown key 'ratio'"),
        ("evaluate.py", ["scorer=cts"], "unknown key 'scorer'. Allowed: adapter, benchmark, evaluation, model"),
        ("train.py", ["--scorer", "cts"], "got '--scorer', but settings are written without dashes. Fix: scorer=cts"),
        ("fidelity.py", ["confidence=95"], "confidence: got 95.0, allowed: a number in (0, 1)"),
        ("fidelity.py", ["num_resamples=0"], "num_resamples: got 0, allowed: a whole number of at least 1"),
    ],
)
def test_what_a_script_cannot_do_is_said_at_once(
    script: str, arguments: list[str], expected: str, tmp_path: Path
) -> None:
    result = _run(*arguments, script=script, cwd=tmp_path)
    assert result.returncode == 2
    assert expected in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def test_help_of_fidelity_lists_its_groups(tmp_path: Path) -> None:
    shown = _run("--help", script="fidelity.py", cwd=tmp_path).stdout
    for line in ("  truth      what", "               *planted prmbench thought_anchors", "  scorer     how"):
        assert f"\n{line}" in shown
    assert "fidelity.py truth=thought_anchors truth.path=FILE" in shown


def test_token_budget_of_a_benchmark_follows_the_protocol_and_a_wrong_one_is_explained(tmp_path: Path) -> None:
    for protocol, budget in (("cts", 32768), ("tokenskip", 1024)):
        config = to_objects(compose("train", overrides=["benchmark=math500", f"benchmark.protocol={protocol}"]))
        assert isinstance(config, TrainConfig)
        assert config.benchmark.max_new_tokens == budget
    result = _run("benchmark=math500", "benchmark.protocol=tokenskp", cwd=tmp_path)
    assert "benchmark.budgets, which has no 'tokenskp'. Did you mean 'tokenskip'?" in result.stderr


@pytest.mark.parametrize("script", ["train.py", "compress.py", "fidelity.py", "evaluate.py", "report.py"])
@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job"]])
def test_help_and_configuration_answer_at_once(script: str, flags: list[str], tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = _spawn(*flags, script=script, cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    assert result.stdout
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # tests may share their processor
    assert seconds < (1.5 if "--help" in flags else 3)


def test_configuration_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys, runpy; sys.argv = ['train.py', '--cfg', 'job'];"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__');"
        "assert not {'torch', 'pyarrow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_greedy_samples_are_refused_before_anything_runs(tmp_path: Path) -> None:
    result = _run("evaluation.samples=4", "evaluation.temperature=0", cwd=tmp_path)
    assert result.returncode == 2
    assert "evaluation.samples: got 4 at temperature 0" in result.stderr


def test_evaluate_trains_no_original(tmp_path: Path) -> None:
    result = _run("evaluation.baselines=[original]", script="evaluate.py", cwd=tmp_path)
    assert result.returncode == 2
    assert "evaluation.baselines: got original" in result.stderr


def test_n_is_short_for_samples() -> None:
    config = to_objects(compose("evaluate", overrides=["n=4"]))
    assert isinstance(config, EvaluateConfig)
    assert config.evaluation.samples == 4


def test_server_writes_for_training_and_for_checkpoints() -> None:
    for entry in ("train", "evaluate"):
        config = to_objects(compose(entry, overrides=SERVER))
        assert isinstance(config, TrainConfig | EvaluateConfig)
        assert isinstance(config.evaluation.generation, ServerGenerationConfig)


def test_first_run_asks_nobody_but_original_and_the_student() -> None:
    config = to_objects(compose("train", overrides=["evaluation=students"]))
    assert isinstance(config, TrainConfig)
    assert config.evaluation.baselines == [Baseline.original, Baseline.ratio_one]


def test_every_baseline_is_in_the_table_unless_told() -> None:
    config = to_objects(compose("train"))
    assert isinstance(config, TrainConfig)
    assert set(config.evaluation.baselines) == set(Baseline)
