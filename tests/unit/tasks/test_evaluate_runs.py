"""Runs that end after their students, whose answers come from another command, another place or a server."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from cotpress.cli.runs import with_benchmark_of_runs
from cotpress.config import Stage, register_schemas, to_objects
from cotpress.errors import ArtifactError, ConfigError, DataError
from cotpress.jobs.job import perform
from cotpress.modeling.sources import adapter_directory, model_directory, source_identity
from cotpress.modeling.weights import TrainedWeights
from cotpress.records import PREDICTIONS_FILE, Prediction, Trace
from cotpress.report.results import collect, read_results
from cotpress.report.stage import report_collection, report_sweep, show_collection
from cotpress.report.students import read_students
from cotpress.store.artifacts import content_checksum
from cotpress.store.sweeps import JobNote, JobState, Sweep, SweepJob
from cotpress.store.tables import read_records
from cotpress.tasks import BENCHMARK_OF_RUNS, EVALUATE, RUNS, TRAIN, RunsJob, run_directory
from cotpress.tasks.evaluate import given_name
from cotpress.tasks.evaluate_runs import find_runs, results_directory
from cotpress.tasks.run_directory import artifact_store, find_finished, run_path
from support.commands import FEW_PROBLEMS, ROOT
from support.openai_server import openai_server
from support.served_model import ServedModel

SMALL = [
    "model=tiny",
    "data.num_traces=24",
    *FEW_PROBLEMS,
    "scorer=random",
    "evaluation=students",
    "trainer=cpu",
    "model.dtype=float32",
]
SERVER = ["generation@evaluation.generation=server", "evaluation.generation.model=served"]
RATIOS = {"lora": "0.7", "full": "0.5"}
"""Ratio of the students by the way that they are tuned."""


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(run_directory, "report_run", lambda _: None)  # seconds for pages that no test here reads


def _train_config(root: Path, *more: str) -> Any:
    return to_objects(compose("train", overrides=[*SMALL, f"output_root={root}", *more]))


def _train(root: Path, *more: str) -> Path:
    metric, run_dir = TRAIN.load()(_train_config(root, *more), root / "logs")
    assert run_dir is not None
    assert (metric is None) == any(argument.startswith("until=") for argument in more)
    return run_dir


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with the students of two runs, adapters and whole models."""
    root = tmp_path_factory.mktemp("trained")
    for method, ratio in RATIOS.items():
        _train(root, f"sft={method}", f"ratio={ratio}", "until=sft")
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    """A copy of that folder, as from another machine."""
    shutil.copytree(trained, tmp_path / "copied", symlinks=True)
    return tmp_path / "copied"


def _run_dir(root: Path, method: str) -> Path:
    (directory,) = (root / "runs").glob(f"random-{RATIOS[method]}-tiny-*")
    return directory


def _ask(place: Path, *given: str) -> None:
    """`evaluate.py runs=PLACE ...`."""
    overrides = [f"runs={place}", *given]
    config = to_objects(compose("evaluate", overrides=[*overrides, "trainer=cpu", f"output_root={place}-logs"]))
    job = RunsJob(config=config, given=tuple(overrides))
    RUNS.check(job)
    RUNS.load()(job, place.parent / "logs")


def _shown(rows: Any) -> list[tuple[str, float, int | None]]:
    return [(row.system, row.target_ratio, row.num_training_rows) for row in rows]


def test_run_until_its_students_has_no_results_and_names_the_students(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = _train(trained, "ratio=0.7", "until=sft")
    assert not (run_dir / "results.json").exists()
    assert not (trained / "artifacts" / "answer").exists()
    shown = capsys.readouterr().out
    assert f"student Original: {trained}/students/original\n" in shown
    assert f"student random 0.7: {trained}/students/random-0.7\n" in shown
    assert f"cotpress evaluate runs={run_dir}\n" in shown
    unfinished = collect(trained / "runs").unfinished
    assert all("its students are trained, but have not answered" in run.reason for run in unfinished)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("data", ["data"]),
        ("distill", ["distill: this run needs none"]),
        ("compress", ["compress (random 0.7)", "compress (Original)"]),
    ],
)
def test_run_ends_after_an_earlier_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str, expected: list[str]
) -> None:
    run_dir = _train(tmp_path, f"until={stage}", "evaluation.baselines=[be_concise]")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": /")[0] for line in lines[:-2]] == expected
    assert all(Path(line.partition(": ")[2]).is_dir() for line in lines[:-2] if ": /" in line)
    assert lines[-2:] == ["go on: the same command without until", f"run directory: {run_dir}"]
    assert {path.name for path in (tmp_path / "artifacts").iterdir()}.isdisjoint({"sft", "reference", "distill"})


def test_stages_that_the_jobs_of_a_multirun_end_after_are_all_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The jobs share a run directory; each command shows what it made itself."""
    for stage, label in (("data", "data"), ("compress", "compress (random 0.7)")):
        run_dir = _train(tmp_path, f"until={stage}", "evaluation.baselines=[]")
        assert [line.partition(": /")[0] for line in capsys.readouterr().out.splitlines()[:-2]] == [label]
    note = JobNote(overrides=(), state=JobState.finished, run_dir=run_dir)
    job = SweepJob(number=0, folder=tmp_path, overrides=(), note=note)
    report_sweep(Sweep(folder=tmp_path, jobs=(job,), entry="train", planned=True))
    shown = capsys.readouterr().out.splitlines()
    assert [line.partition(": /")[0] for line in shown[:3]] == [
        "data", "compress (random 0.7)", "go on: the same command without until",
    ]  # fmt: skip


def test_run_directory_and_fingerprint_are_those_of_the_whole_run(tmp_path: Path) -> None:
    whole, part = _train_config(tmp_path), _train_config(tmp_path, "until=sft")
    assert run_path(part) == run_path(whole)
    assert find_finished(part) is None


def test_answers_of_a_copied_run_are_those_that_it_would_have_given_itself(root: Path, trained: Path) -> None:
    run_dir = _run_dir(root, "lora")
    before = set((root / "artifacts" / "sft").iterdir())
    _ask(root / "runs")
    assert set((root / "artifacts" / "sft").iterdir()) == before
    asked = [read_results(_run_dir(root, method)) for method in RATIOS]
    rows = [("Original", 1.0, 22), ("random", 0.7, 22)]
    assert _shown(asked[0].rows) == rows
    assert len(collect(root / "runs").runs) == 2
    assert (root / "runs" / "report.html").exists()
    _train(root, "ratio=0.7")
    own = read_results(run_dir)
    assert [row.artifacts for row in own.rows] == [row.artifacts for row in asked[0].rows]
    assert (own.settings, own.essentials, own.name) == (asked[0].settings, asked[0].essentials, asked[0].name)
    assert {s.title for s in own.stages} == {s.title for s in asked[0].stages}


def test_what_a_command_has_computed_is_marked_as_computed_in_its_results(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also what its checks, or the first of two passes, have computed."""
    caplog.set_level("INFO")
    artifact_store.cache_clear()  # as in another process
    _ask(_run_dir(root, "lora"), "benchmark.num_problems=5")
    (asked,) = [read_results(path.parent) for path in (root / "runs").glob("*/results.json")]
    fresh = {s.title: s.fresh for s in asked.stages if s.stage in ("benchmark", "evaluate")}
    assert fresh == {
        "benchmark": True, "evaluate (Original, ratio 1)": True, "evaluate (random, ratio 0.7)": True,
    }  # fmt: skip
    folder = tmp_path / "alone"
    config = to_objects(compose("evaluate", overrides=["model=tiny", *FEW_PROBLEMS, f"output_root={folder}"]))
    for number in range(2):
        artifact_store.cache_clear()
        _, run_dir = perform(EVALUATE, config, folder)
        assert run_dir is not None
        assert [stage.fresh for stage in read_results(run_dir).stages] == [number == 0] * 2


def test_another_benchmark_gets_a_directory_beside_the_run(root: Path) -> None:
    run_dir = _run_dir(root, "lora")
    _ask(run_dir, "benchmark.num_problems=4")
    assert not (run_dir / "results.json").exists()
    (other,) = (path.parent for path in (root / "runs").glob("*/results.json"))
    results = read_results(other)
    assert [row.accuracy.n for row in results.rows] == [4, 4]
    assert results.settings["benchmark"]["num_problems"] == 4
    assert not (other / "students.json").exists(), "its students are asked once"
    _ask(run_dir)
    assert [row.accuracy.n for row in read_results(run_dir).rows] == [6, 6]
    _ask(run_dir, "n=2")
    assert [row.num_samples for row in read_results(run_dir).rows] == [1, 1], "results of other settings are kept"
    assert len(list((root / "runs").glob("*/results.json"))) == 3


def _problems(path: Path, *answers: int) -> Path:
    rows = [{"id": str(n), "question": f"What is {n} + 0?", "answer": str(n)} for n in answers]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_benchmark_file_is_that_of_the_run_by_its_content(tmp_path: Path) -> None:
    """A file that only moved completes the run; another one of the same name, or changed, does not replace it."""
    path = _problems(tmp_path / "b.jsonl", 1, 2, 3)
    small = [setting for setting in SMALL if setting not in FEW_PROBLEMS]
    own = ["benchmark=jsonl", f"benchmark.path={path}", "benchmark.max_new_tokens=8", "evaluation.baselines=[]"]
    config = to_objects(compose("train", overrides=[*small, *own, f"output_root={tmp_path}"]))
    (tmp_path / "logs").mkdir()
    perform(TRAIN, replace(config, until=Stage.sft), tmp_path / "logs")
    run_dir = run_path(config)

    def asked_of(place: Path) -> list[tuple[bool, int]]:
        _ask(run_dir, "benchmark=jsonl", f"benchmark.path={place}", "benchmark.max_new_tokens=8")
        found = {path.parent: read_results(path.parent) for path in (tmp_path / "runs").glob("*/results.json")}
        return sorted((place == run_dir, results.rows[0].accuracy.n) for place, results in found.items())

    moved, other = _problems(tmp_path / "moved" / "b2.jsonl", 1, 2, 3), _problems(tmp_path / "other" / "b.jsonl", 7)
    assert asked_of(other) == [(False, 1)]
    assert asked_of(moved) == [(False, 1), (True, 3)]
    perform(TRAIN, config, tmp_path / "logs")
    assert find_finished(config) is not None
    assert asked_of(moved) == [(False, 1), (True, 3)]
    assert find_finished(config) is None, "its results name another file"
    _problems(other, 8, 9)
    assert asked_of(other) == [(False, 1), (False, 2), (True, 3)]


def test_base_model_is_that_of_the_training_by_its_content(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that only moved completes the run without a warning; other weights are refused."""
    (tiny,) = (root / "artifacts" / "model").iterdir()
    base = shutil.copytree(tiny, tmp_path / "base")
    small = [setting for setting in SMALL if setting != "model=tiny"]
    own = ["model=hub", f"model.path={base}", "evaluation.baselines=[]", "until=sft", f"output_root={tmp_path}"]
    config = to_objects(compose("train", overrides=[*small, *own]))
    _, run_dir = TRAIN.load()(config, tmp_path / "logs")
    assert run_dir is not None
    moved = base.rename(tmp_path / "moved")
    other = shutil.copytree(moved, tmp_path / "other" / "base")
    (other / "generation_config.json").write_text('{"max_new_tokens": 3}')
    refused = rf"model\.path: got '{other}', .* students of '{run_dir}' were trained on \('{base}'\)"
    with pytest.raises(ConfigError, match=refused):
        _ask(run_dir, f"model.path={other}")
    assert not (tmp_path / "artifacts" / "answer").exists()
    _ask(run_dir, f"model.path={moved}")
    assert read_results(run_dir).settings["model"]["path"] == str(moved)
    assert "base model" not in caplog.text


def test_students_that_have_answered_beside_their_runs_are_not_missing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _ask(_run_dir(root, "lora"), "benchmark.num_problems=4")
    capsys.readouterr()
    _ask(root / "runs", "benchmark.num_problems=4")
    assert "not in the table" not in capsys.readouterr().out
    _train(root, "ratio=0.6", "until=sft")
    show_collection(report_collection(root / "runs"), root / "runs")
    shown = capsys.readouterr().out
    assert "not in the table: 1\n" in shown
    assert f"({root}/runs/random-0.6" in shown


@pytest.mark.slow
def test_server_loads_the_adapters_of_a_run(root: Path) -> None:
    (base,) = (root / "artifacts" / "model").iterdir()
    run_dir = _run_dir(root, "lora")
    with openai_server(ServedModel(base)) as server:
        _ask(run_dir, *SERVER, f"evaluation.generation.base_url={server.base_url}")
    served = read_results(run_dir)
    assert _shown(served.rows) == [("Original", 1.0, 22), ("random", 0.7, 22)]
    assert served.settings["evaluation"]["generation"]["model"] == "served"
    _ask(run_dir)
    assert read_results(run_dir) == served, "answers of another backend do not replace those that are there"


@pytest.mark.slow
def test_whole_students_answer_from_one_server_each(
    root: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run_dir = _run_dir(root, "full")
    students = read_students(run_dir).students
    for number, student in enumerate(students):
        name = f"outputs/students/{student.name}"
        served = ServedModel(root / "students" / student.name, name)
        with openai_server(served, models=[{"id": name}]) as server:
            _ask(run_dir, *SERVER, f"evaluation.generation.base_url={server.base_url}")
            assert {call.body["model"] for call in server.calls} == {name}
        assert caplog.text.count("answers to be written") == number + 1, "one line for those that are written"
        assert (run_dir / "results.json").exists() == (number == 1)
    command = f"{students[1].name}: vllm serve {root}/students/{students[1].name} --served-model-name students/"
    assert command in capsys.readouterr().out
    own = _train(root, "ratio=0.5", "sft=full", "name=own")
    outputs = [[row.mean_tokens for row in read_results(directory).rows] for directory in (run_dir, own)]
    assert outputs[0] == outputs[1]


def test_student_that_was_not_copied_is_named_before_any_is_asked(root: Path) -> None:
    key = read_students(_run_dir(root, "full")).students[1].artifact
    shutil.rmtree(root / "artifacts" / key)
    with pytest.raises(ArtifactError, match=rf"random 0\.5.*is missing: there is no '{root}/artifacts/{key}'.*copy"):
        _ask(root / "runs")
    assert not (root / "artifacts" / "answer").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("ratio=0.5", r"runs: got 'ratio=0.5' with it"),
        ("adapter=x", r"runs: got 'adapter=x' with it"),
        ("model=tiny", r"runs: got 'model=tiny' with it.*model.path=DIR"),
        ("model.chat.system=hi", r"runs: got 'model.chat.system=hi' with it"),
        ("chat@model.chat=tokenskip", r"runs: got 'chat@model.chat=tokenskip' with it"),
        ("evaluation.ratios=[0.5]", r"evaluation\.ratios: got \[0\.5\], which only a control marker.*no student below"),
        ("evaluation.baselines=[base,original]", ""),
    ],
)
def test_settings_of_the_runs_are_refused(root: Path, given: str, expected: str) -> None:
    if expected:
        with pytest.raises(ConfigError, match=expected):
            _ask(_run_dir(root, "lora"), given)
    else:
        _ask(_run_dir(root, "lora"), given)
        (results,) = [read_results(path.parent) for path in (root / "runs").glob("*/results.json")]
        assert [row.system for row in results.rows] == ["Base", "Original", "random"]


def _settings_of(root: Path, *given: str) -> dict[str, Any]:
    """Settings by which `evaluate.py runs=DIR` asks the run of adapters; no student is asked."""
    overrides = [f"runs={_run_dir(root, 'lora')}", *given]
    job = RunsJob(config=to_objects(compose("evaluate", overrides=overrides)), given=tuple(overrides))
    (run,) = find_runs(job)
    settings: dict[str, Any] = dict(run.settings)
    return settings


def test_another_protocol_brings_its_budget_and_prompt(tmp_path: Path, trained: Path) -> None:
    (tmp_path / "few.jsonl").write_text('{"id": "1", "question": "1 + 1?", "answer": "2"}\n')
    own = ["benchmark=jsonl", f"benchmark.path={tmp_path / 'few.jsonl'}"]
    small = [setting for setting in SMALL if setting not in FEW_PROBLEMS]
    student = ["evaluation.baselines=[]", "until=sft"]
    config = to_objects(compose("train", overrides=[*small, *own, f"output_root={tmp_path}", *student]))
    TRAIN.load()(config, tmp_path / "logs")
    copied = tmp_path / "runs" / f"random-{RATIOS['lora']}-tiny-copied"
    next((tmp_path / "runs").iterdir()).rename(copied)
    whole = to_objects(compose("evaluate", overrides=[*own, "benchmark.protocol=cts"])).benchmark
    asked = _settings_of(tmp_path, "benchmark.protocol=cts")["benchmark"]
    assert (asked["prompt"], asked["max_new_tokens"]) == (whole.prompt, whole.max_new_tokens)
    assert (whole.max_new_tokens, "boxed" in whole.prompt) == (32768, True)
    given = _settings_of(tmp_path, "benchmark.protocol=cts", "benchmark.max_new_tokens=16")["benchmark"]
    assert (given["prompt"], given["max_new_tokens"]) == (whole.prompt, 16)
    kept = _settings_of(trained, "benchmark.protocol=cts")["benchmark"]
    assert kept["max_new_tokens"] == 24, "the run's own budget is not that of its protocol"


def test_keys_of_the_benchmark_of_the_runs_need_not_its_name(tmp_path: Path) -> None:
    path, other = _problems(tmp_path / "b.jsonl", 1, 2), _problems(tmp_path / "c.jsonl", 3, 4)
    small = [setting for setting in SMALL if setting not in FEW_PROBLEMS]
    own = ["benchmark=jsonl", f"benchmark.path={path}", "evaluation.baselines=[]", "until=sft"]
    _, run_dir = TRAIN.load()(
        to_objects(compose("train", overrides=[*small, *own, f"output_root={tmp_path}"])), tmp_path / "logs"
    )
    keys = [f"runs={run_dir}", f"benchmark.path={other}", "benchmark.limit=1"]
    completed = with_benchmark_of_runs(keys, "evaluate")
    assert [text for text in completed if text not in keys] == [BENCHMARK_OF_RUNS]
    config = to_objects(compose("evaluate", overrides=completed))
    (run,) = find_runs(RunsJob(config=config, given=tuple(keys)))
    assert run.settings["benchmark"] == {**run.trained.settings["benchmark"], "path": str(other), "limit": 1}
    for given in (["benchmark.num_problems=4"], ["benchmark=jsonl", "benchmark.limit=1"], ["n=2"]):
        assert with_benchmark_of_runs([keys[0], *given], "evaluate") == [keys[0], *given]


def test_problems_that_students_have_learnt_from_are_told(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = _run_dir(root, "lora")
    (stage,) = [s for s in read_students(run_dir).stages if s.label == "data"]
    data = root / "artifacts" / stage.artifact
    shown = next(t for t in read_records(data / "traces.parquet", Trace) if t.split == "train")
    problems = tmp_path / "few.jsonl"
    rows = [(shown.question, shown.answer), ("What is 1 + 1?", "2")]
    problems.write_text("".join(json.dumps({"id": a, "question": q, "answer": a}) + "\n" for q, a in rows))
    other = ["benchmark=jsonl", f"benchmark.path={problems}", "benchmark.max_new_tokens=8"]
    _ask(run_dir, *other)
    (line,) = [r.getMessage() for r in caplog.records if "overlap with" in r.getMessage()]
    assert line.startswith("data=planted: 1 of 24 traces overlap with the 2 problems of benchmark=few: exact 1 with 1")
    assert line.endswith(": kept")
    caplog.clear()
    _ask(run_dir)
    assert "overlap with" not in caplog.text, "those of the run's own benchmark were left out of its traces"
    shutil.rmtree(data)
    artifact_store.cache_clear()
    _ask(root / "runs", *other)
    (line,) = [r.getMessage() for r in caplog.records if "cannot be compared" in r.getMessage()]
    assert f"(data=planted), as '{data}' is not here. Fix: copy it as well" in line


def test_sampling_is_checked_with_the_benchmark_of_the_run(root: Path) -> None:
    sampled = ["benchmark=planted", "benchmark.protocol=cts", "evaluation.top_p=0.9"]
    assert _settings_of(root, *sampled)["evaluation"]["top_p"] == 0.9
    with pytest.raises(ConfigError, match=r"evaluation\.top_p: got 0\.9, but answers are greedy"):
        _settings_of(root, "evaluation.top_p=0.9")
    path = _run_dir(root, "lora") / "students.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    content["settings"]["benchmark"]["protocol"] = "cts"
    path.write_text(json.dumps({**content, "checksum": content_checksum(content)}))
    assert _settings_of(root, "evaluation.top_p=0.9")["benchmark"]["protocol"] == "cts"


def test_further_ratios_are_for_the_students_with_a_marker_alone(root: Path) -> None:
    _train(root, "compression=mixed", "ratio=0.6", "evaluation.baselines=[]", "until=sft")
    overrides = [f"runs={root / 'runs'}", "evaluation.ratios=[0.5]"]
    runs = find_runs(RunsJob(config=to_objects(compose("evaluate", overrides=overrides)), given=tuple(overrides)))
    ratios = {run.trained.name: run.config.evaluation.ratios for run in runs}
    assert ratios == {"random-0.6-mixed-tiny": [0.5], "random-0.7-tiny": [], "random-0.5-tiny": []}


def test_answers_to_a_published_set_without_a_local_copy_have_a_directory(root: Path) -> None:
    overrides = [f"runs={root / 'runs'}", "benchmark=gsm8k"]
    runs = find_runs(RunsJob(config=to_objects(compose("evaluate", overrides=overrides)), given=tuple(overrides)))
    assert [run.settings["benchmark"]["path"] for run in runs] == [None, None]
    places = [results_directory(run, "content") for run in runs]
    assert {place.parent for place in places} == {root / "runs"}
    assert [place.name.rpartition("-")[0] for place in places] == [f"{run.trained.name}-gsm8k" for run in runs]


def test_folder_without_trained_students_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(DataError, match=r"no run below .* has trained students"):
        _ask(tmp_path / "runs")
    with pytest.raises(DataError, match="is no folder"):
        _ask(tmp_path / "elsewhere")


def test_benchmark_of_an_unknown_kind_is_never_imported(root: Path) -> None:
    path = _run_dir(root, "lora") / "students.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    content["kinds"]["benchmark"] = "os.system"
    path.write_text(json.dumps({**content, "checksum": content_checksum(content)}))
    with pytest.raises(ConfigError, match=r"unknown kind os\.system"):
        _ask(path.parent)


def test_reference_in_the_settings_of_a_run_is_not_resolved(root: Path) -> None:
    path = _run_dir(root, "lora") / "students.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    content["settings"]["model"]["chat"]["user"] = "{question} ${oc.env:HOME}"
    path.write_text(json.dumps({**content, "checksum": content_checksum(content)}))
    with pytest.raises(ConfigError, match=r"hold '\$\{', which would be resolved here.*Fix"):
        _ask(path.parent)


def test_row_and_answers_of_a_student_do_not_depend_on_the_path_to_it(trained: Path) -> None:
    (adapter, *_) = sorted((trained / "artifacts" / "sft").glob("*/adapter"))
    (link,) = [path for path in (trained / "students").iterdir() if path.samefile(adapter)]
    config = to_objects(compose("evaluate", overrides=["model=tiny", f"adapter={adapter}"]))
    paths = [str(path) for path in (adapter, link, adapter.parent)]
    assert {given_name(replace(config, adapter=path)) for path in paths} == {link.name}
    assert [source_identity(path) for path in paths] == [source_identity(str(adapter))] * 3
    assert {adapter_directory(path).resolve() for path in paths} == {adapter.resolve()}
    served = [TrainedWeights.of(path).path for path in paths]
    assert all((Path(place) / "adapter_config.json").is_file() for place in served)


def test_artifact_of_a_whole_student_is_a_model(trained: Path) -> None:
    (folder, *_) = sorted((trained / "artifacts" / "sft").glob("*/model"))
    assert model_directory(str(folder.parent)) == folder
    assert source_identity(str(folder.parent)) == source_identity(str(folder))


@pytest.mark.parametrize("method", RATIOS)
def test_student_without_tags_has_the_same_thinking_tokens_alone_as_in_its_run(tmp_path: Path, method: str) -> None:
    chat = "chat@model.chat=tokenskip"
    run_dir = _train(tmp_path, "ratio=0.7", f"sft={method}", chat, "evaluation.baselines=[]", "until=sft")
    _ask(run_dir)
    name = {"lora": "random-0.7", "full": "random-0.7-sft-full"}[method]
    weights = tmp_path / "students" / name
    given = ["model=tiny", f"adapter={weights}"] if method == "lora" else ["model=hub", f"model.path={weights}"]
    overrides = [*given, chat, *FEW_PROBLEMS, "trainer=cpu", "model.dtype=float32", f"output_root={tmp_path}"]
    config = to_objects(compose("evaluate", overrides=overrides))
    EVALUATE.check(config)
    _, alone = EVALUATE.load()(config, tmp_path / "logs")
    of_run, given_alone = read_results(run_dir).rows[-1], read_results(alone).rows[-1]
    assert (of_run.system, given_alone.system) == ("random", name)
    assert of_run.mean_thinking_tokens > 0
    measures = ("mean_thinking_tokens", "mean_answer_tokens", "unclosed_rate", "accuracy", "mean_tokens")
    assert [getattr(given_alone, name) for name in measures] == [getattr(of_run, name) for name in measures]
    counts = [
        [p.num_thinking_tokens for p in read_records(directory / PREDICTIONS_FILE, Prediction) if p.system == system]
        for directory, system in ((run_dir, "random"), (alone, name))
    ]
    assert counts[0] == counts[1]
