"""Named sweeps and W&B sweeps are valid multiruns with the number of jobs that their first line gives."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hydra import compose, initialize_config_dir

from cotpress.cli.help import one_liner
from cotpress.config import TrainConfig, register_schemas, to_objects
from cotpress.evaluation.config import Baseline
from cotpress.evaluation.protocol import protocol
from cotpress.generation.backends import GREEDY
from cotpress.jobs.multirun import planned_jobs
from cotpress.records import Unit
from cotpress.tasks.run_directory import run_path
from cotpress.tasks.systems import context_tokens, usual_sampling

ROOT = Path(__file__).parents[2]
SWEEPS = sorted(f.stem for f in (ROOT / "sweeps").glob("*.yaml"))
WANDB = sorted((ROOT / "sweeps" / "wandb").glob("*.yaml"))
NEEDS_DATA = [name for name in SWEEPS if name.startswith("cts_")]
SMALL = {
    "cts_table6": "small_cts_table", "cts_table7": "small_cts_table", "tokenskip_mixed_ratios": "small_mixed_ratios",
    **{f"cts_{what}": f"small_{what}" for what in ("reference", "condition", "protection", "granularity", "alignment")},
    "cts_headline": "small_cts_headline",
}  # fmt: skip
"""The sweep on the embedded default for each sweep of a paper's scale."""


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def _overrides(name: str) -> list[str]:
    return [f"sweep={name}", *(["data.path=x"] if name in NEEDS_DATA else [])]


@functools.cache
def _jobs(name: str) -> list[list[str]]:
    found = compose("train", overrides=_overrides(name), return_hydra_config=True)
    assert found.hydra.mode.name == "MULTIRUN"
    jobs = planned_jobs(found)
    assert jobs is not None
    return jobs


@functools.cache
def _config(*words: str) -> TrainConfig:
    config = to_objects(compose("train", overrides=list(words)))
    assert isinstance(config, TrainConfig)
    return config


def _configs(jobs: list[list[str]]) -> list[TrainConfig]:
    return [_config(*job) for job in jobs]


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_has_as_many_jobs_as_it_says(name: str) -> None:
    said = re.search(r": (\d+) jobs$", one_liner(ROOT / "sweeps" / f"{name}.yaml"))
    assert said is not None, "the line of help ends with the number of jobs"
    assert len(_jobs(name)) == int(said[1])


@pytest.mark.parametrize("name", SWEEPS)
def test_first_and_last_job_of_every_sweep_are_valid_and_two_runs(name: str) -> None:
    jobs = _jobs(name)
    first, last = _configs([jobs[0], jobs[-1]])
    assert run_path(first) != run_path(last)
    if name.startswith("small_"):
        assert (first.model.name, last.benchmark.name) == ("smollm2", "planted")


def test_every_large_sweep_has_a_small_version_over_the_same_settings() -> None:
    assert set(SMALL) == set(SWEEPS) - set(SMALL.values()) - {"scorers"}
    for large, small in SMALL.items():
        extra = {"benchmark", "model"}  # the embedded default has one of each
        keys = [{o.partition("=")[0] for o in _jobs(n)[0]} - {"sweep", "data.path"} for n in (large, small)]
        assert keys[0] - extra - {"scorer"} == keys[1] - extra - {"scorer"}, large


def test_settings_of_the_cts_tables_are_the_papers() -> None:
    for name, model in (("cts_table6", "qwen7b"), ("cts_table7", "llama8b"), ("cts_headline", "qwen14b")):
        (job, *_) = _configs(_jobs(name)[:1])
        assert (job.model.name, job.sft.tune.method.value, job.sft.tune.learning_rate) == (model, "full", 1e-5)
        assert job.reference.base is not None
        assert (job.reference.base.name, job.reference.tune.epochs) == ("qwen7b", 3)
        assert job.ratio == 0.9
        assert job.compression.granularity is Unit.token
        assert Baseline.original in job.evaluation.baselines


def test_sweeps_delete_words_unless_they_are_about_tokens() -> None:
    about_tokens = {name for name in SWEEPS if name.startswith("cts_")} | {"small_alignment", "small_granularity"}
    for name in SWEEPS:
        (job,) = _configs(_jobs(name)[:1])
        assert job.compression.granularity is (Unit.token if name in about_tokens else Unit.word), name


class Asked(NamedTuple):
    """Protocol of one job."""

    budget: int
    context: int
    temperature: float
    top_p: float
    samples: int
    prompt: str
    tokenizer: str | None

    @classmethod
    def of(cls, job: TrainConfig) -> "Asked":
        asked = protocol(
            job.evaluation, max_new_tokens=job.benchmark.max_new_tokens, context_tokens=context_tokens(job),
            usual=usual_sampling(job),
        )  # fmt: skip
        drawn = asked.sampling or GREEDY
        return cls(
            asked.max_new_tokens, asked.context_tokens, drawn.temperature, drawn.top_p, asked.samples,
            job.benchmark.prompt.partition("{question}")[0][:25], job.evaluation.reference_tokenizer,
        )  # fmt: skip


QWEN = "Qwen/Qwen2.5-7B-Instruct"
OF_CTS = {
    name: Asked(32768, 32768, 0.6, 0.95, 1, opening, QWEN)
    for name, opening in {
        "math500": "Solve the following math ", "aime24": "Solve the following math ",
        "gpqa_diamond": "Answer the following mult",
    }.items()
}  # fmt: skip
"""arXiv 2505.17827, section 4.1, and its release, CTS/test_src/lighteval-llm."""
OF_TOKENSKIP = {"gsm8k": Asked(512, 32768, 0.0, 1.0, 1, "", None)}
"""arXiv 2502.12067, section 4.1, and its release, eval.sh; the context is the model's."""
PAPERS = [name for name in SWEEPS if name.startswith(("cts_", "tokenskip_"))]


@pytest.mark.parametrize("name", PAPERS)
def test_jobs_of_a_papers_sweep_follow_its_protocol_by_themselves(name: str) -> None:
    expected = OF_CTS if name.startswith("cts_") else OF_TOKENSKIP
    jobs: dict[str, list[str]] = {}
    for words in _jobs(name):
        benchmark = next((w.partition("=")[2] for w in words if w.startswith("benchmark=")), "")
        jobs.setdefault(benchmark, words)
    configs = _configs(list(jobs.values()))
    assert {c.benchmark.name: Asked.of(c) for c in configs} == {
        c.benchmark.name: expected[c.benchmark.name] for c in configs
    }
    assert not {w.partition("=")[0] for words in jobs.values() for w in words} & {
        "evaluation.temperature",
        "evaluation.top_p",
    }


@pytest.mark.parametrize("model", ["qwen7b", "qwen14b", "llama8b"])
@pytest.mark.parametrize(
    ("experiment", "benchmark", "needed"),
    [("cts_long_cot", "math500", ["data.path=x"]), ("tokenskip_gsm8k", "gsm8k", [])],
)
def test_experiments_follow_the_protocol_of_their_paper_for_every_model(
    experiment: str, benchmark: str, needed: list[str], model: str
) -> None:
    (job,) = _configs([[f"experiment={experiment}", f"model={model}", *needed]])
    longest = 40960 if (model, benchmark) == ("llama8b", "gsm8k") else 32768
    assert job.benchmark.name == benchmark
    assert Asked.of(job) == (OF_CTS | OF_TOKENSKIP)[benchmark]._replace(context=longest)


def test_tokens_that_tokenskip_keeps_follow_the_model() -> None:
    def kept(*words: str) -> tuple[str, list[str]]:
        (job,) = _configs([["experiment=tokenskip_gsm8k", *words]])
        return job.compression.protection.value, job.compression.keep_strings

    assert [kept(), kept("model=qwen14b"), kept("model=llama8b")] == [
        ("none", []),
        ("none", []),
        ("digits", ["Step", ":"]),
    ]
    assert kept("model=llama8b", "compression.protection=math", "compression.keep_strings=[]") == ("math", [])


def test_mixed_ratio_sweeps_train_one_student_for_all_ratios() -> None:
    for name in ("tokenskip_mixed_ratios", "small_mixed_ratios"):
        (job,) = _configs(_jobs(name)[-1:])
        assert (job.ratio, job.compression.mixed_ratios) == (0.5, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5])


def test_plain_llmlingua_has_no_condition() -> None:
    (job,) = _configs([j for j in _jobs("small_reference") if "scorer=llmlingua" in j][:1])
    assert (job.scorer.name, job.scorer.condition.value) == ("llmlingua", "none")  # type: ignore[attr-defined]


def _values(parameter: dict[str, Any]) -> list[Any]:
    """Every value, or both ends of a range."""
    return parameter.get("values") or [parameter["min"], parameter["max"]]


def _commands(sweep: dict[str, Any]) -> Iterator[list[str]]:
    """Commands of `wandb agent` for the first and for the last value of every parameter."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    for end in (0, -1):
        chosen = {name: {"value": _values(parameter)[end]} for name, parameter in sweep["parameters"].items()}
        parts = create_sweep_command_args({"args": chosen})
        parts |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep["program"]]}
        command: list[str] = []
        for word in create_sweep_command(list(sweep["command"])):
            command += parts[word[2:-1]] if word.startswith("${") else [word]
        yield command


@pytest.mark.parametrize("path", WANDB, ids=lambda p: p.stem)
def test_command_of_a_wandb_agent_is_a_valid_configuration(path: Path) -> None:
    pytest.importorskip("wandb")
    sweep = yaml.safe_load(path.read_text())
    assert sweep["method"] in ("grid", "bayes")
    for command in _commands(sweep):
        assert command[:5] == ["/usr/bin/env", "python", "-m", "cotpress", "train"]
        config = to_objects(compose("train", overrides=command[5:]))
        assert isinstance(config, TrainConfig)
        assert config.tracker.kind.value == "wandb"


def test_wandb_sweeps_search_grids_and_by_bayes() -> None:
    sweeps = [yaml.safe_load(p.read_text()) for p in WANDB]
    assert {sweep["method"] for sweep in sweeps} == {"grid", "bayes"}
    # that train.py logs it under this name: tests/integration/test_train.py
    assert {sweep["metric"]["name"] for sweep in sweeps} == {"evaluate/accuracy"}
