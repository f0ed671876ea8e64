"""`train.py plan=true` prints tables and does nothing else."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from cotpress.cli.errors import check_plan_of_one
from cotpress.config import TrainConfig, register_schemas, to_objects
from cotpress.errors import ConfigError, ModelError
from cotpress.jobs.job import run_in_sweep
from cotpress.planning import training
from cotpress.planning.measure import writing_pass
from cotpress.planning.workload import Work
from cotpress.store.sweeps import JobState, read_note
from cotpress.tasks import TRAIN
from cotpress.tasks import plan as plan_task
from cotpress.tasks.run_directory import run_path
from support.remembered import remembered

ROOT = Path(__file__).parents[3]
LONG = ["experiment=cts_long_cot", "data.path=x", "benchmark=gpqa_diamond"]


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@pytest.fixture(scope="module", autouse=True)
def _measured_once() -> Iterator[None]:
    """Share what is measured of equal models, seconds each time."""
    with pytest.MonkeyPatch.context() as patch:
        for place, names in ((training, ("training_pass", "training_flops")), (plan_task, ("writing_pass",))):
            for name in names:
                patch.setattr(place, name, remembered(getattr(place, name)))
        yield


def _config(*overrides: str) -> TrainConfig:
    config = to_objects(compose("train", overrides=["plan=true", *overrides]))
    assert isinstance(config, TrainConfig)
    return config


def _page(capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    plan_task.plan(_config(*overrides), Path())
    return capsys.readouterr().out


def _trainings(*overrides: str) -> list[str]:
    return [t.name for t in plan_task.trainings(_config(*overrides)) if t is not None]


def test_reference_model_and_student_are_planned_apart_unless_they_are_alike() -> None:
    reference, student = plan_task.trainings(_config(*LONG))
    assert reference is not None
    assert (reference.name, student.name) == ("reference model qwen7b", "student qwen14b")
    assert reference.trains_all
    assert student.trains_all
    both = plan_task.trainings(_config("model=qwen7b"))
    assert both[0] is both[1]
    assert both[1].name == "reference model and student qwen7b"
    assert _trainings("scorer=random") == _trainings("reference=none") == ["student smollm2"]


def test_page_states_memory_verdict_smallest_setting_files_and_hours(capsys: pytest.CaptureFixture[str]) -> None:
    page = _page(capsys, "model=tiny", "trainer=cpu")
    assert re.search(r"reference model and student tiny: 0.00 B parameters in float32, LoRA of rank 8 \(0.0 M\)", page)
    assert re.search(
        r"requested, one device: weights .*, gradients .*, optimizer .* GB, fits with \d+\.\d GB free", page
    )
    assert "smallest that fits: trainer=gpu trainer.tokens_per_batch=" in page
    assert re.search(r"on disk: 0.0\d+ GB when finished; 0.0\d+ GB for the checkpoint to resume from", page)
    for strategy, rows in (("one device", 2), ("ddp", 2), ("fsdp2", 2)):
        assert len(re.findall(rf"^{strategy} +(?:yes|no) ", page, re.MULTILINE)) == rows
    assert "score with tiny in float32" in page
    assert "write with tiny" in page
    for part in ("train reference model", "scores", "train student Original", "train student cts", "answers", "all"):
        assert re.search(rf"^{part} .* \d+\.\d\d *$", page, re.MULTILINE)
    assert "…" not in page


@pytest.mark.parametrize("width", [60, 80])
def test_tables_fit_a_narrow_terminal_and_keep_the_requested_number_of_devices(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", _page(capsys, "model=tiny", "trainer=cpu")).splitlines()
    assert max(map(len, lines)) <= width
    assert any(re.match(r"one device +no +> \S+ \(\+\S+\)", line) for line in lines)
    assert any(line.startswith("train student cts") for line in lines)
    assert any("not in 60 columns" in line for line in lines) == (width == 60)


@pytest.mark.parametrize(("scorer", "dtype"), [("cts", "float32"), ("self_information", "bfloat16")])
def test_memory_of_scoring_is_that_of_the_format_in_which_the_scorer_reads(
    scorer: str, dtype: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_task, "show_training", lambda *_: None)
    page = _page(capsys, "model=tiny", "model.dtype=auto", "trainer=cpu", f"scorer={scorer}", "reference=none")
    assert f"score with tiny in {dtype}" in page


def test_memory_over_the_card_is_no_fit(capsys: pytest.CaptureFixture[str]) -> None:
    page = _page(capsys, "model=tiny", "trainer=cpu", "planning.device_gb=4.0001")
    assert re.search(r"requested, one device: .* GB, does not fit: \S+ GB too much", page)
    assert "smallest that fits: nothing on up to 8 devices" in page
    assert re.search(r"write with tiny.* does not fit", page)
    assert "writing does not fit a device" in page
    assert "fits with" not in page


def test_parts_that_depend_on_the_data_or_the_text_are_named() -> None:
    lines = "\n".join(
        plan_task.not_counted(_config("scorer=greedy_nll", "reference=none", "benchmark=jsonl", "benchmark.path=x"))
    )
    assert "scorer=greedy_nll is not counted" in lines
    assert "answers are not counted" in lines
    assert "1000 traces, as only reading the data would tell" in "\n".join(plan_task.not_counted(_config(*LONG)))


def test_scoring_holds_no_weights_beside_the_merged_ones() -> None:
    def weights(*overrides: str) -> float:
        return next(usage for _, usage in plan_task.uses(_config("model=tiny", *overrides), None)).weights

    written = writing_pass(_config("model=tiny").model, 20, 30).weights
    assert weights("scorer=cts", "reference=lora") == weights("scorer=gogi", "reference=lora") == written


def test_parts_of_the_run_are_those_of_its_settings() -> None:
    def parts(*overrides: str) -> list[str]:
        config = _config("model=tiny", *overrides)
        writing = writing_pass(config.model, 20, 30)
        return [part.name for part in plan_task.work(config, *plan_task.trainings(config), writing)]

    written = ("data=self_written", "scorer=tokenskip_xlmr")
    trained = ["train student Original", "train student Random"]
    assert parts(*written) == ["write traces", *trained, "train student tokenskip_xlmr", "answers"]
    own = ("scorer=greedy_nll", "reference=none", "benchmark=jsonl", "benchmark.path=x")
    assert parts(*own) == [*trained, "train student greedy_nll"]


def test_a_plan_changes_no_run() -> None:
    config = _config()
    planned = run_path(config)
    config.plan, config.planning.device_gb = False, 40.0
    assert run_path(config) == planned


def _train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments], capture_output=True, text=True, timeout=120, cwd=cwd
    )


@pytest.mark.slow
def test_command_plans_a_7b_within_a_minute_and_writes_nothing(tmp_path: Path) -> None:
    started = time.monotonic()
    done = _train("model=qwen7b", "sft=full", "trainer=gpu", "plan=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 60
    assert "student qwen7b: 7.62 B parameters in bfloat16, all weights trained" in done.stdout
    assert not list(tmp_path.rglob("artifacts"))
    assert not list(tmp_path.rglob("runs"))


def test_model_that_cannot_be_built_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no_such_type"}')
    with pytest.raises(ModelError, match=r"plan=true: no model can be built from the config.json of"):
        plan_task.plan(_config("model=hub", f"model.path={tmp_path}", "scorer=random"), Path())


@pytest.mark.parametrize("several", ["-m", "sweep=scorers"])
def test_plan_of_several_jobs_is_refused(several: str, tmp_path: Path) -> None:
    done = _train(several, "plan=true", cwd=tmp_path)
    assert done.returncode == 2
    assert f"plan=true plans one job, but '{several}' asks for several. Fix:" in done.stderr


@pytest.mark.parametrize("plan", ["++plan=true", "+plan=true", "plan=y", "plan='true'", "plan=true,false", "plan=1"])
@pytest.mark.parametrize("several", ["-m", "sweep=scorers"])
def test_plan_of_several_jobs_is_refused_in_every_spelling(plan: str, several: str) -> None:
    with pytest.raises(ConfigError, match=f"plan=true plans one job, but '{several}' asks for several. Fix:"):
        check_plan_of_one([several, "model=tiny", plan])
    check_plan_of_one([plan])
    check_plan_of_one([several, "plan=false"])


@pytest.mark.parametrize("plan", ["plan=true", "++plan=true", "plan='true'", "plan=y"])
def test_job_of_a_multirun_trains_nothing_if_it_is_planned(plan: str, tmp_path: Path) -> None:
    config = compose("train", overrides=["model=tiny", f"output_root={tmp_path}", plan])
    launcher = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
    run_in_sweep(config, TRAIN, tmp_path / "sweep" / "0", [plan], launcher)
    note = read_note(tmp_path / "sweep" / "0")
    assert note is not None
    assert note.state is JobState.failed
    assert str(note.error).startswith("plan: got true in a multirun. Fix: leave out -m")
    assert not list(tmp_path.rglob("runs"))


def test_help_lists_the_plan(tmp_path: Path) -> None:
    assert "  plan=true          memory on 1 to 8 GPUs" in _train("--help", cwd=tmp_path).stdout


def test_a_plan_names_what_it_is_measuring(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(plan_task, "show_training", lambda *_: None)
    monkeypatch.setattr(plan_task, "writing_pass", lambda *_: 1 / 0)
    with caplog.at_level("INFO"), pytest.raises(ZeroDivisionError):
        plan_task.plan(_config("model=tiny"), tmp_path)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("plan: measuring the training of the reference model")
    assert lines[-1] == "plan: measuring scoring and writing with tiny"


def test_plan_counts_writer_start_and_shortest() -> None:
    names = ["evaluation=all", "data=self_written", "data.writer=original"]

    def parts(*overrides: str) -> list[str]:
        config = _config("model=tiny", "scorer=random", *names, *overrides)
        writing = writing_pass(config.model, 10, 10)
        return [part.name for part in plan_task.work(config, *plan_task.trainings(config), writing)]

    rest = ["train student Shortest", "train student random", "answers"]
    apart = [name for name in parts() if name != "scores"]
    assert apart == ["train writer", "write traces", "train student Original", "write answers of Shortest", *rest]
    together = [name for name in parts("sft.start=original") if name != "scores"]
    assert together == ["train student Original, the writer", "write traces", "write answers of Shortest", *rest]


def test_plan_counts_the_traces_cut_at_random() -> None:
    def work(*overrides: str) -> dict[str, Work]:
        config = _config("model=tiny", "scorer=head", "reference=none", *overrides)
        writing = writing_pass(config.model, 10, 10)
        return {part.name: part for part in plan_task.work(config, *plan_task.trainings(config), writing)}

    with_it, without = work("ratio=0.5"), work("ratio=0.5", "evaluation.baselines=[original,truncation]")
    assert with_it.keys() - without.keys() == {"train student Random"}
    assert with_it["train student Random"].hours == with_it["train student head"].hours
    assert with_it["answers"].hours > without["answers"].hours
    assert "train student Random" not in work("ratio=1")
