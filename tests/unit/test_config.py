"""Every YAML composes, the rules of the settings hold, and every wrong value is explained."""

import os
import re
import resource
import runpy
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from cotpress.cli.experiments import with_experiments
from cotpress.cli.help import defaults_of, groups_of, one_liner
from cotpress.config import (
    SCHEMAS,
    EvaluateConfig,
    ScoringPipelineConfig,
    TrainConfig,
    missing_keys,
    register_schemas,
    to_objects,
)
from cotpress.data.config import BenchmarkConfig, DataConfig, SelfWrittenDataConfig
from cotpress.errors import ConfigError
from cotpress.evaluation.config import TRAINED, Baseline
from cotpress.generation.config import ServerGenerationConfig
from cotpress.scoring.scorers.mix import MixConfig
from cotpress.scoring.scorers.random import RandomConfig

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
ENTRIES = ("train", "compress", "fidelity", "evaluate")
MORE = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def _groups() -> list[str]:
    """Every configuration group but Hydra's own and the sweeps, which tests/project/test_named_sweeps.py composes."""
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name not in ("hydra", "sweep"))


def _place(group: str) -> tuple[str, list[str], str]:
    """An entry script, the choices that a group needs to stand in it, and the key of the group there."""
    for entry in ENTRIES:
        if group in groups_of(entry, CONF):
            return entry, [], group
    for entry in ENTRIES:
        for name, place, _ in defaults_of(CONF / f"{entry}.yaml"):
            if name == group:
                return entry, [], f"{group}@{place}"
    for file in sorted(CONF.glob("*/*.yaml")):
        inner = re.search(rf"^ +- /{group}@([\w.]+):", file.read_text(), re.MULTILINE)
        if inner is not None:
            owner = file.parent.name
            return "train", [f"{owner}={file.stem}"], f"{group}@{owner}.{inner[1]}"
    raise AssertionError(f"the group {group} stands nowhere")


def _compose(entry: str, overrides: list[str]) -> DictConfig:
    """A composed configuration in which every value that a user has to give is an address."""
    composed = compose(entry, overrides=overrides)
    for key in [*missing_keys(composed)]:
        OmegaConf.update(composed, key, "http://x/v1")
    return composed


@pytest.mark.parametrize(
    ("group", "name"), [(group, file.stem) for group in _groups() for file in sorted((CONF / group).glob("*.yaml"))]
)
def test_every_choice_composes_and_opens_with_a_line_of_help(group: str, name: str) -> None:
    entry, needed, key = _place(group)
    assert one_liner(CONF / group / f"{name}.yaml")
    assert isinstance(to_objects(_compose(entry, [*needed, f"{key}={name}"])), SCHEMAS[f"{entry}_schema"])


@pytest.mark.parametrize("method", ["lora", "full"])
def test_reference_model_is_tuned_by_the_recipe_of_the_model_that_it_is_made_from(method: str) -> None:
    def rates(*overrides: str) -> tuple[float, float, int]:
        config = to_objects(compose("train", overrides=[f"sft={method}", f"reference={method}", *overrides]))
        assert isinstance(config, TrainConfig)
        tune = config.reference.tune
        return config.sft.tune.learning_rate, tune.learning_rate, tune.epochs

    large, small = {"lora": (5e-5, 1e-3), "full": (1e-5, 1e-4)}[method]
    assert rates("model=llama8b") == (large, large, 3)
    assert rates("model=llama8b", "model@reference.base=smollm2") == (large, small, 1)
    assert rates("model=smollm2", "model@reference.base=llama8b") == (small, large, 3)
    assert rates("model=llama8b", f"model.tuning.{method}.epochs=7") == (large, large, 7)
    base = ["model@reference.base=smollm2", f"reference.base.tuning.{method}.epochs=9"]
    assert rates("model=llama8b", *base) == (large, small, 9)
    assert rates("model=llama8b", *base, "reference.tune.epochs=5") == (large, small, 5)


@pytest.mark.parametrize("experiment", [file.stem for file in sorted((CONF / "experiment").glob("*.yaml"))])
def test_every_experiment_works_in_every_script_as_far_as_its_groups_exist(experiment: str) -> None:
    whole = to_objects(_compose("train", [f"experiment={experiment}"]))
    assert isinstance(whole, TrainConfig)
    for entry in ENTRIES:
        part = to_objects(_compose(entry, with_experiments([f"experiment={experiment}"], entry, CONF)))
        assert isinstance(part, ScoringPipelineConfig | EvaluateConfig)
        assert (part.model, part.trainer) == (whole.model, whole.trainer)
        if isinstance(part, ScoringPipelineConfig):
            assert (part.data, part.distill, part.reference, part.scorer) == (
                whole.data, whole.distill, whole.reference, whole.scorer,
            )  # fmt: skip


def test_command_line_goes_before_the_part_of_an_experiment() -> None:
    words = with_experiments(["experiment=cts_long_cot", "model=qwen7b", "distill.min_overlap=0.4"], "compress", CONF)
    config = _compose("compress", words)
    assert (config.model.name, config.reference.base.name, config.distill.min_overlap) == ("qwen7b", "qwen7b", 0.4)


def test_experiment_that_sets_nothing_of_a_script_is_refused(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "tuned.yaml").write_text("# @package _global_\ndefaults:\n  - override /sft: full\n")
    assert with_experiments(["experiment=tuned", "x=1"], "train", tmp_path) == ["experiment=tuned", "x=1"]
    with pytest.raises(ConfigError, match=r"'tuned', but cotpress compress has none .*: sft\. Fix: cotpress train"):
        with_experiments(["experiment=tuned"], "compress", tmp_path)


@pytest.mark.parametrize("form", ["[tokenskip_gsm8k]", "'tokenskip_gsm8k'", '["tokenskip_gsm8k"]'])
def test_experiment_works_in_brackets_and_in_quotes(form: str) -> None:
    config = to_objects(_compose("evaluate", with_experiments([f"experiment={form}"], "evaluate", CONF)))
    assert isinstance(config, EvaluateConfig)
    assert (config.model.name, config.benchmark.name) == ("qwen7b", "gsm8k")


def test_every_experiment_of_a_multirun_is_replaced_by_its_part() -> None:
    words = ["-m", "experiment=tokenskip_gsm8k,cts_long_cot", "seed=1"]
    parts = "experiment=compress/tokenskip_gsm8k,compress/cts_long_cot"
    assert with_experiments(words, "compress", CONF) == ["-m", parts, "seed=1"]
    assert with_experiments(["-m", "experiment=glob(*)"], "compress", CONF) == ["-m", "experiment=glob(*)"]


def test_an_experiment_inside_a_sweep_composes_with_other_data(tmp_path: Path) -> None:
    for group in ("experiment", "sweep"):
        (tmp_path / group).mkdir()
    start = "# @package _global_\ndefaults:\n"
    (tmp_path / "experiment" / "own.yaml").write_text(
        f"{start}  - override /data: jsonl\n  - override /scorer: random\ndata: {{path: x.jsonl}}\n"
    )
    (tmp_path / "sweep" / "base.yaml").write_text(f"{start}  - override /experiment: own\n")
    (tmp_path / "sweep" / "mine.yaml").write_text(f"{start}  - base\nhydra: {{sweeper: {{params: {{seed: '1,2'}}}}}}\n")
    search = f"hydra.searchpath=[file://{tmp_path}]"
    words = with_experiments([search, "sweep=mine", "data=planted"], "train", CONF)
    assert words == [search, "sweep=mine", "experiment=train/own", "data=planted"]
    config = to_objects(_compose("train", words))
    assert isinstance(config, TrainConfig)
    assert (config.data.name, config.scorer.name) == ("planted", "random")
    assert with_experiments([search, "sweep=mine"], "train", CONF) == [search, "sweep=mine"]
    assert with_experiments(["sweep=scorers"], "train", CONF) == ["sweep=scorers"]
    shown = with_experiments([search, "sweep=mine", "data=planted", "--cfg", "job"], "train", CONF)
    assert shown[-2:] == ["--cfg", "job"], "Hydra reads no setting after an option that follows settings"


@pytest.mark.parametrize("option", ["--config-dir={}", "hydra.searchpath=[file://{}]"])
def test_experiment_of_an_own_folder_gives_its_part_to_every_script(option: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    own = "# @package _global_\ndefaults:\n  - tokenskip_gsm8k\n  - override /scorer: random\nseed: 7\n"
    (tmp_path / "experiment" / "own.yaml").write_text(own)
    words = with_experiments([option.format(tmp_path), "experiment=own"], "evaluate", CONF)
    assert words[1] == "experiment=evaluate/own"
    config = to_objects(_compose("evaluate", words[1:]))
    assert isinstance(config, EvaluateConfig)
    assert (config.seed, config.benchmark.name) == (7, "gsm8k")


def test_settings_that_a_choice_of_an_own_folder_lacks_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "few.yaml").write_text("defaults:\n  - planted\n  - _self_\nnum_traces: 9\n")
    words = ["--config-dir", str(tmp_path), "experiment=tokenskip_gsm8k", "data=few"]
    assert with_experiments(words, "train", CONF)[2] == "experiment=train/tokenskip_gsm8k"


@pytest.mark.parametrize("entry", ["train", "compress", "fidelity"])
def test_settings_that_a_choice_on_the_command_line_lacks_are_dropped(entry: str) -> None:
    def data(*words: str) -> DataConfig:
        config = to_objects(_compose(entry, with_experiments(["experiment=tokenskip_gsm8k", *words], entry, CONF)))
        assert isinstance(config, ScoringPipelineConfig)
        assert config.model.chat.thinking_open == ""  # every model has this setting
        return config.data

    assert data("data=planted").name == "planted"
    kept = data("data=self_written", "model=llama8b")
    assert isinstance(kept, SelfWrittenDataConfig)
    assert (kept.questions.name, kept.max_thinking_tokens) == ("gsm8k", 500)


def test_misspelt_key_of_an_experiment_is_left_for_the_message_about_it(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "typo.yaml").write_text("# @package _global_\nseeed: 7\n")
    for entry in ENTRIES:
        words = ["--config-dir", str(tmp_path), "experiment=typo"]
        assert with_experiments(words, entry, CONF) == words


def test_mix_takes_any_scorer_as_a_part_under_its_own_name() -> None:
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
    assert list(mix.weighted) == ["reference_likelihood", "random", "inner"]
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
    """Run a script in a fork of this process, which has its imports already: several times as fast."""
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
        ("ratio=abc", "ratio: got 'abc', allowed: a number in [0, 1]"),
        ("ratio=0.5,0.7", "ratio: got several values, '0.5,0.7'. Fix: with -m each of them is a job"),
        ("scorer", "got 'scorer', allowed: KEY=VALUE or GROUP=CHOICE, without spaces around the '='"),
        ("name=[a", "'name=[a' cannot be read. Fix: 'name=[a]'"),
        ("--ratio=0.5", "got '--ratio=0.5', but settings are written without dashes. Fix: ratio=0.5"),
        ("evaluation.baselines=original", "evaluation.baselines: got a single value, allowed: a list"),
        ("model@foo=qwen7b", "no group 'model' stands at 'foo'. Allowed: model=CHOICE, model@distill.model=CHOICE"),
        ("questions=gsm8k", "does not stand by itself in train.py. Allowed: questions@data.questions=CHOICE"),
        ("output_root=/proc/none", "cannot use '/proc/none': No such file or directory. Fix: choose a place"),
        ("scorer=ctss", "scorer: unknown choice 'ctss'. Did you mean 'cts'?"),
        ("model=qwen", "model: unknown choice 'qwen'. Did you mean 'qwen7b'?"),
        ("scorer.conditon=x", "unknown key 'scorer.conditon'. Did you mean 'condition'?"),
        ("scorer.condition=x", "allowed: none, answer, question, question_answer"),
        ("data.num_traces=1.5", "data.num_traces: got '1.5', allowed: a whole number"),
        ("benchmark.extractor=digit", "allowed: math, number, integer, letter"),
        ("compression.granularity=sentence", "allowed: token, word, step, paragraph, segment"),
        ("compression.allocation=equal", "allowed: fixed, threshold, budget"),
        ("evaluation.baselines=[lc]", "allowed: base, original, random, ratio_one, be_concise"),
        ("trainer.head_loss=fused", "allowed: auto, chunked, plain, linear_cross_entropy, liger"),
        ("ratio=-0.1", "ratio: got -0.1, allowed: a number in [0, 1]"),
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
        ("ratio=1.2", "ratio: got 1.2, allowed: a number in [0, 1]"),
        ("+typo=1", "'typo'"),
        ("data=jsonl", "no value for data.path"),
        ("model=hub", "no value for model.path. Fix: give it on the command line, model.path=VALUE"),
        (
            "scorer.condition=none",
            "scorer.condition: got 'none', but the score is what a condition tells",
        ),
        ("compression.mixed_ratios=[0.5,2]", "compression.mixed_ratios: got 2.0"),
        (
            "compression.soft_weights=true",
            "compression.soft_weights has no effect with compression.mode=delete. Fix: compression.mode=mask_loss",
        ),
        ("compression.length=own", "compression.length: got 'own', but with compression.mode=delete it is ratio"),
        ("evaluation.ratios=[0.5]", "a student of a single ratio has no control marker"),
        (
            "compression.max_consecutive_deletions=0",
            "compression.max_consecutive_deletions: got 0, allowed: a whole number of at least 1, or null",
        ),
        ("compression.keep_strings=['a','']", "compression.keep_strings: got '', allowed: texts that are not empty"),
        (
            "compression.segment_starts=['Wait',' ']",
            "compression.segment_starts: got ' ', allowed: texts that are not blank",
        ),
        ("evaluation.confidence=95", "evaluation.confidence: got 95.0, allowed: a number in (0, 1)"),
        ("evaluation.samples=0", "evaluation.samples: got 0, allowed: a whole number of at least 1"),
        ("evaluation.top_p=0.9", "evaluation.top_p: got 0.9, but answers are greedy"),
        ("evaluation.generation.temperature=0.5", "got 0.5, but evaluation.temperature decides it"),
        ("evaluation.generation.top_p=0.5", "got 0.5, but evaluation.top_p decides it"),
        ("trainer.devices=0", "trainer.devices: got 0, allowed: a whole number of at least 1, or null"),
        ("trainer.offload=true", "trainer.offload: got true with trainer.strategy=ddp on one device, allowed: with"),
        ("trainer.rendezvous=a:1", "trainer.rendezvous: got 'a:1' with trainer.num_nodes=1"),
        ("evaluation.generation.seed=1", "evaluation.generation.seed: got 1, but seed decides it"),
        (
            "sft.start_adapter=merge",
            "sft.start_adapter: got merge with sft.start=base, whose weights are no adapter. Fix: sft.start=original",
        ),
        (
            "evaluation.budget_forcing.thinking_tokens=9",
            "evaluation.budget_forcing.thinking_tokens: got 9, but evaluation.baselines has no budget_forcing, the row "
            "that would use it. Fix: evaluation.baselines+=budget_forcing",
        ),
        (
            "evaluation.shortest.samples=4",
            "evaluation.shortest.samples: got 4, but evaluation.baselines has no shortest",
        ),
        (
            "evaluation.shortest.writer=base",
            "evaluation.shortest.writer: got base, but evaluation.baselines has no sho",
        ),
    ],
)
def test_wrong_value_is_refused_when_the_configuration_is_read(argument: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        to_objects(compose("train", overrides=[argument]))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["mode=first_solution", "ratio=0.7"], "ratio: got 0.7, but with compression.mode=first_solution every trace"),
        (["mode=first_solution", "length=ratio"], "compression.length: got 'ratio', but with compression.mode=first_"),
        (
            ["mode=first_solution", "granularity=step"],
            "compression.granularity has no effect with compression.mode=fir",
        ),
        (["mode=first_solution", "soft_weights=true"], "Fix: compression.mode=mask_loss, or leave compression.soft_we"),
        (["mode=mask_loss", "mixed_ratios=[0.5]"], "so that no control marker can announce its length"),
        (["mode=mask_loss", "selection=llmlingua2_compat"], "LLMLingua-2 gives texts, not tokens of the thinking"),
        (["mode=mask_loss", "selection=llmlingua_compat", "soft_weights=true"], "has no order of them"),
        (["mode=mask_loss", "statement=concluded"], "Fix: compression.mode=first_solution, or leave"),
        (["selection=llmlingua_compat", "ratio=0"], "ratio: got 0, but compression.selection=llmlingua_compat repeats"),
        (["mixed_ratios=[0.5]", "sft.question=false"], "the control marker stands in the turn with the question"),
        (["evaluation.budget_follows_ratio=true", "ratio=0"], "which would leave no token for an answer"),
    ],
)
def test_settings_that_a_mode_cannot_use_are_refused(overrides: list[str], expected: str) -> None:
    keys = [key if key.startswith(("ratio", "sft", "evaluation")) else f"compression.{key}" for key in overrides]
    for _ in range(2):  # the first check leaves no trace for the second
        with pytest.raises(ConfigError, match=re.escape(expected)):
            to_objects(compose("train", overrides=keys))


@pytest.mark.parametrize(
    ("overrides", "allowed"),
    [
        (["export=openai"], "parquet, trl, datasets"),
        (["export=llamafactory"], "parquet, trl, datasets"),
        (["export=trl", "compression.soft_weights=true"], "parquet, datasets"),
    ],
)
def test_export_that_cannot_hold_weights_is_refused(overrides: list[str], allowed: str) -> None:
    with pytest.raises(ConfigError, match=rf"mode=mask_loss, but .* Allowed: {allowed}\. Fix: export=parquet"):
        to_objects(compose("compress", overrides=["compression.mode=mask_loss", *overrides]))


def test_usual_ratio_is_one_where_traces_have_a_length_of_their_own() -> None:
    for overrides, ratio in (([], 0.7), (["compression.mode=first_solution"], 1.0), (["ratio=0"], 0.0)):
        for entry in ("train", "compress"):
            assert to_objects(compose(entry, overrides=overrides)).ratio == ratio  # type: ignore[union-attr]


def test_first_solutions_need_no_model_that_a_scorer_needs() -> None:
    config = to_objects(compose("train", overrides=["compression.mode=first_solution", "scorer=cts", "reference=none"]))
    assert isinstance(config, TrainConfig)
    needs = (config.uses_scorer, config.needs_labels, config.trains_reference, config.reads_with_model)
    assert needs == (False, False, False, False)
    assert config.selector == "first_solution"


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
        (
            "train.py",
            [*SERVER, "sft=full"],
            "which no server loads on request. Fix: generation@evaluation.generation=vllm",
        ),
        ("train.py", ["until=sfd"], "got 'sfd', allowed: data, distill, reference, score, compress, sft"),
        ("train.py", ["evaluation=papers", "evaluation.instructions.lc_prompt=short"], "a text with {percent} in it"),
        ("evaluate.py", ["evaluation=default"], "Fix: evaluation=checkpoint or evaluation=full_checkpoint"),
        ("evaluate.py", ["generation@evaluation.generation=server"], "no value for evaluation.generation.base_url"),
        ("fidelity.py", ["truth=plantd"], "truth: unknown choice 'plantd'. Did you mean 'planted'?"),
        ("fidelity.py", ["truth=prmbench"], "no value for truth.path"),
        ("fidelity.py", ["ratio=0.5"], "unknown key 'ratio'"),
        ("evaluate.py", ["scorer=cts"], "unknown key 'scorer'. evaluate.py does not have it, but train.py, "),
        ("evaluate.py", ["scorer=cts"], "fidelity.py. Allowed: adapter, benchmark, evaluation, experiment"),
        ("train.py", ["--scorer", "cts"], "got '--scorer', but settings are written without dashes. Fix: scorer=cts"),
        ("fidelity.py", ["confidence=95"], "confidence: got 95.0, allowed: a number in (0, 1)"),
        ("fidelity.py", ["num_resamples=0"], "num_resamples: got 0, allowed: a whole number of at least 1"),
    ],
)
def test_settings_that_a_script_cannot_use_are_refused_at_once(
    script: str, arguments: list[str], expected: str, tmp_path: Path
) -> None:
    result = _run(*arguments, script=script, cwd=tmp_path)
    assert result.returncode == 2
    assert expected in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def test_help_of_fidelity_lists_its_groups(tmp_path: Path) -> None:
    shown = _run("--help", script="fidelity.py", cwd=tmp_path).stdout
    for line in (
        "  truth       traces of known importance",
        "                *planted prmbench thought_anchors",
        "  scorer      importance of each",
    ):
        assert f"\n{line}" in shown
    assert "fidelity.py truth=thought_anchors truth.path=FILE" in shown


BENCHMARKS = sorted(file.stem for file in (CONF / "benchmark").glob("*.yaml"))


def _asked(*overrides: str) -> BenchmarkConfig:
    return to_objects(_compose("train", list(overrides))).benchmark  # type: ignore[union-attr]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_can_be_asked_as_in_either_paper(name: str) -> None:
    budgets = {"planted": (320, 320), "gsm8k": (32768, 512)}
    sampled, greedy = (_asked(f"benchmark={name}", f"benchmark.protocol={paper}") for paper in ("cts", "tokenskip"))
    assert (sampled.followed.temperature, sampled.followed.top_p) == (0.6, 0.95)
    assert (greedy.followed.temperature, greedy.followed.top_p) == (0.0, 1.0)
    assert (sampled.max_new_tokens, greedy.max_new_tokens) == budgets.get(name, (32768, 1024))
    assert (sampled.prompt, greedy.prompt) == (sampled.followed.prompt, greedy.followed.prompt)
    assert (sampled.prompt == greedy.prompt) == (name == "planted")


def test_training_of_the_experiments_has_prompts_and_lengths_of_the_releases() -> None:
    cts, tokenskip = (
        to_objects(_compose("train", words))
        for words in (
            ["experiment=cts_long_cot", "data.path=x.jsonl"], ["experiment=tokenskip_gsm8k", "model=llama8b"],
        )
    )  # fmt: skip
    assert isinstance(cts, TrainConfig)
    assert isinstance(tokenskip, TrainConfig)
    assert cts.reference.base is not None
    # LLaMA-Factory's template qwen, without a system text of its own: CTS/training_src/math_train_full.yaml
    assert (cts.model.chat.system, cts.reference.base.chat.system) == (None, None)
    assert (cts.sft.tune.max_tokens, cts.reference.tune.max_tokens) == (4096, 4096)
    assert tokenskip.sft.tune.max_tokens == 2048
    for words in (["model@reference.base=smollm2"], ["reference.base=null"], ["reference=none"]):
        to_objects(_compose("train", ["experiment=cts_long_cot", "data.path=x.jsonl", *words]))


def test_budget_and_prompt_can_be_given_beside_a_protocol() -> None:
    asked = _asked("benchmark=math500", "benchmark.max_new_tokens=4096", "benchmark.prompt='{question}!'")
    assert (asked.protocol, asked.max_new_tokens, asked.prompt) == ("cts", 4096, "{question}!")


def test_unknown_protocol_lists_the_choices(tmp_path: Path) -> None:
    result = _run("benchmark=math500", "benchmark.protocol=tokenskp", cwd=tmp_path)
    allowed = "Did you mean 'tokenskip'? Allowed: cts, tokenskip."
    assert (
        f"benchmark.max_new_tokens: taken from benchmark.protocols, which has no 'tokenskp'. {allowed}" in result.stderr
    )
    given = ["benchmark.protocol=mine", "benchmark.max_new_tokens=9", "benchmark.prompt='{question}'"]
    with pytest.raises(ConfigError, match=r"benchmark\.protocol: got 'mine', allowed: cts, tokenskip, '' \(greedy"):
        _asked(*given)


def test_top_p_is_allowed_where_the_protocol_draws_answers() -> None:
    words = ["benchmark=math500", "evaluation.top_p=0.9"]
    assert _asked(*words).protocol == "cts"
    with pytest.raises(ConfigError, match=r"evaluation\.top_p: got 0\.9, but answers are greedy"):
        _asked(*words, "evaluation.temperature=0")


@pytest.mark.parametrize(
    "script",
    ["train.py", "report.py", *(pytest.param(f"{s}.py", marks=MORE) for s in ("compress", "fidelity", "evaluate"))],
)
@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job"]])
def test_help_and_configuration_answer_at_once(script: str, flags: list[str], tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = _spawn(*flags, script=script, cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    assert result.stdout
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # tests may share their processor
    assert seconds < (1.5 if "--help" in flags else 3)


def test_cfg_job_prints_values_in_place_of_references(tmp_path: Path) -> None:
    words = ["model=llama8b", "model@reference.base=smollm2", "--cfg", "job"]
    printed = yaml.safe_load(_run(*words, cwd=tmp_path).stdout)
    assert (printed["reference"]["tune"]["learning_rate"], printed["sft"]["tune"]["learning_rate"]) == (1e-3, 5e-5)


def test_cfg_job_prints_an_incomplete_configuration(tmp_path: Path) -> None:
    printed = yaml.safe_load(_run("model=hub", "--cfg", "job", cwd=tmp_path).stdout)
    assert (printed["model"]["path"], printed["model"]["name"]) == ("???", "???")


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


def test_evaluation_students_compares_the_student_with_original_only() -> None:
    config = to_objects(compose("train", overrides=["evaluation=students"]))
    assert isinstance(config, TrainConfig)
    assert config.evaluation.baselines == [Baseline.original, Baseline.ratio_one]


def test_table_of_all_has_every_baseline_that_its_script_can_make() -> None:
    train = to_objects(compose("train", overrides=["evaluation=all"]))
    evaluate = to_objects(compose("evaluate", overrides=["evaluation=all_checkpoint"]))
    assert isinstance(train, TrainConfig)
    assert isinstance(evaluate, EvaluateConfig)
    assert set(train.evaluation.baselines) == set(Baseline)
    assert set(evaluate.evaluation.baselines) == set(Baseline) - TRAINED
