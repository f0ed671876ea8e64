"""`train.py plan=true`: tables, and nothing else is done."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from cotpress.config import TrainConfig, register_schemas, to_objects
from cotpress.tasks import plan as plan_task
from cotpress.tasks.run_directory import run_path
from cotpress.training.config import Method

ROOT = Path(__file__).parents[3]
LONG = ["experiment=cts_long_cot", "data.path=x", "benchmark=gpqa_diamond"]


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def _config(*overrides: str) -> TrainConfig:
    config = to_objects(compose("train", overrides=["plan=true", *overrides]))
    assert isinstance(config, TrainConfig)
    return config


def _page(capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    plan_task.plan(_config(*overrides), Path())
    return capsys.readouterr().out


def test_reference_model_and_student_have_a_table_each_unless_they_are_alike() -> None:
    reference, student = plan_task.trainings(_config(*LONG))
    assert (reference.name, student.name) == ("reference model qwen7b", "student qwen14b")
    assert reference.setting.method is student.setting.method is Method.full
    assert [t.name for t in plan_task.trainings(_config("model=qwen7b"))] == ["reference model and student qwen7b"]
    assert [t.name for t in plan_task.trainings(_config("scorer=random"))] == ["student smollm2"]
    assert [t.name for t in plan_task.trainings(_config("reference=none"))] == ["student smollm2"]


def test_micro_batch_is_what_the_trainer_allows_and_the_step_has() -> None:
    (big,) = plan_task.trainings(_config("scorer=random", "model=qwen7b", "trainer=gpu"))
    assert big.setting.tokens == 16384
    (few,) = plan_task.trainings(
        _config("scorer=random", "model=qwen7b", "trainer=gpu", "sft.tune.sequences_per_step=2")
    )
    assert few.setting.tokens == 2 * 4096
    (longer,) = plan_task.trainings(_config("scorer=random", "model=qwen7b", "trainer=cpu"))
    assert longer.setting.tokens == 4096


def test_page_says_what_is_asked_whether_it_fits_and_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    page = _page(capsys, *LONG)
    assert "student qwen14b: 14.77 B parameters in bfloat16, all weights trained" in page
    assert re.search(r"asked, one device: weights 59.1, gradients 59.1, optimizer 118.2, .* does not fit", page)
    assert re.search(r"smallest that fits: trainer=fsdp2 trainer.devices=\d", page)
    for strategy in ("one device", "ddp", "fsdp2"):
        assert len(re.findall(rf"^ {strategy} +(?:yes|no) ", page, re.MULTILINE)) == 4
    assert "score with qwen7b" in page
    assert "write with qwen14b" in page
    assert "1000 traces, as only reading the data would tell" in page
    assert not re.search(r"…", page)


def test_parts_of_the_run_are_those_of_its_settings() -> None:
    assert [w.name for w in plan_task.work(_config())] == [
        "train reference model", "scores", "train student Original", "train student cts", "answers",
    ]  # fmt: skip
    written = ["experiment=tokenskip_gsm8k"]
    assert [w.name for w in plan_task.work(_config(*written))] == [
        "write traces", "train student Original", "train student tokenskip_xlmr", "answers",
    ]  # fmt: skip
    own = ["scorer=greedy_nll", "reference=none", "benchmark=jsonl", "benchmark.path=x"]
    assert [w.name for w in plan_task.work(_config(*own))] == ["train student Original", "train student greedy_nll"]
    said = "\n".join(plan_task.unknown(_config(*own)))
    assert "scorer=greedy_nll is not counted" in said
    assert "answers are not counted" in said


def test_a_plan_changes_no_run() -> None:
    config = _config()
    planned = run_path(config)
    config.plan, config.planning.device_gb = False, 40.0
    assert run_path(config) == planned


def _train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import runpy, sys; sys.argv = ['train.py', *sys.argv[1:]]\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
        "finally:\n"
        "    print('loaded', sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, cwd=cwd
    )


def test_command_loads_nothing_and_makes_nothing(tmp_path: Path) -> None:
    done = _train("model=qwen72b", "sft=full", "trainer=gpu", "plan=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "student qwen72b: 72.71 B parameters" in done.stdout
    assert "loaded []" in done.stdout
    assert not list(tmp_path.rglob("artifacts"))
    assert not list(tmp_path.rglob("runs"))


@pytest.mark.parametrize("several", ["-m", "sweep=scorers"])
def test_plan_of_several_jobs_is_refused(several: str, tmp_path: Path) -> None:
    done = _train(several, "plan=true", cwd=tmp_path)
    assert done.returncode == 2
    assert f"plan=true plans one job, but '{several}' asks for several. Fix:" in done.stderr


def test_help_lists_it(tmp_path: Path) -> None:
    assert "  plan=true          memory on 1 to 8 GPUs" in _train("--help", cwd=tmp_path).stdout
