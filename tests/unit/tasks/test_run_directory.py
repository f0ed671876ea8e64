import importlib
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import validate_repo_id

from cotpress.config import CompressConfig, EvaluateConfig, TrainConfig
from cotpress.data.config import JsonlBenchmarkConfig, JsonlDataConfig
from cotpress.errors import ConfigError, UnreadableError
from cotpress.evaluation.config import EvaluationConfig, Instructions
from cotpress.generation.config import ServerGenerationConfig, TransformersGenerationConfig
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.report.results import RunResults, StageRecord, write_results
from cotpress.settings import input_paths
from cotpress.store import source
from cotpress.store.sweeps import Sweep, read_sweep, write_plan
from cotpress.tasks.evaluate import adapter_name, given_name
from cotpress.tasks.run_directory import (
    circumstances,
    find_finished,
    note_finished,
    own_output,
    row_settings,
    run_directory,
    run_name,
    run_path,
)
from cotpress.tracking.config import TrackerKind
from support.disks import as_user

TEXTS = Instructions(be_concise="a", only_numbers="b", abbre_words="c", lc_prompt="{percent}")


def _results(config: EvaluateConfig, *stages: StageRecord) -> RunResults:
    settings = row_settings(config)
    return RunResults(name="r", model="m", benchmark="b", seed=1, rows=(), stages=stages, settings=settings)


def _config(tmp_path: Path, *, name: str = "jsonl", model: str = "m", **server: object) -> EvaluateConfig:
    writer = ServerGenerationConfig(**{"base_url": "http://x/v1", "model": "served", **server})  # type: ignore[arg-type]
    return EvaluateConfig(
        model=ModelConfig(name=model, path="x"),
        benchmark=JsonlBenchmarkConfig(name=name, path="data/sums.jsonl", max_new_tokens=8),
        evaluation=EvaluationConfig(generation=writer, instructions=TEXTS),
        output_root=str(tmp_path),
    )


def test_address_of_a_server_is_not_part_of_the_fingerprint(tmp_path: Path) -> None:
    def directory(server_model: str, **more: object) -> Path:
        config = _config(tmp_path, **more)
        assert isinstance(config.evaluation.generation, ServerGenerationConfig)
        config.evaluation.generation.model = server_model
        return run_directory(config)

    expected = directory("served")
    assert expected == directory("served", base_url="http://y/v1", concurrency=2, api_key_env="KEY")
    assert expected != directory("other")


def test_benchmark_without_a_name_is_named_after_its_file(tmp_path: Path) -> None:
    assert _config(tmp_path).benchmark.title == "sums"
    assert _config(tmp_path, name="mine").benchmark.title == "mine"
    assert run_name(_config(tmp_path)) == "evaluate-m-sums-1"


def test_hub_id_becomes_one_part_of_a_path(tmp_path: Path) -> None:
    folder = run_path(_config(tmp_path, model="Qwen/Qwen2.5-7B"))
    assert folder.parent == tmp_path / "runs"
    assert folder.name.startswith("evaluate-Qwen-Qwen2.5-7B-sums-1-")


@pytest.mark.parametrize(
    ("adapter", "name"),
    [("runs/mine", "mine"), ("sft/0f3a/adapter", "0f3a"), ("owner/cts", "cts"), ("adapter", "adapter")],
)
def test_adapter_is_named_after_the_distinctive_part_of_its_path(adapter: str, name: str) -> None:
    assert adapter_name(adapter) == name


def test_served_adapter_is_not_named_base(tmp_path: Path) -> None:
    config = _config(tmp_path)
    assert given_name(config) == "served"
    config.model.path = "served"
    assert given_name(config) == "Base"
    config.adapter = "adapters/cts"
    assert given_name(config) == "cts"


def test_finished_run_is_reused_until_a_dependency_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "weights").write_text("1")
    manifest = tmp_path / "artifacts" / "answer" / "0a" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    config = _config(tmp_path)
    config.adapter = str(adapter)
    run_dir = run_directory(config)
    assert find_finished(config) is None
    stage = StageRecord(label="answer", artifact="answer/0a", seconds=1.0, fresh=True)
    write_results(run_dir, _results(config, stage))
    assert find_finished(config) is None  # killed before the end
    note_finished(run_dir, 0.5, circumstances(config))
    assert find_finished(config) == (0.5, run_dir)

    monkeypatch.setenv("WANDB_SWEEP_ID", "x")  # an agent needs the metrics
    assert find_finished(config) is None
    monkeypatch.delenv("WANDB_SWEEP_ID")
    config.tracker.kind = TrackerKind.wandb
    assert find_finished(config) is None
    config.tracker.kind = TrackerKind.csv
    manifest.rename(manifest.with_name("gone"))
    assert find_finished(config) is None
    manifest.with_name("gone").rename(manifest)
    assert find_finished(config) == (0.5, run_dir)
    monkeypatch.setattr("cotpress.tasks.run_directory.package_hash", lambda: "other code")
    assert find_finished(config) is None
    monkeypatch.undo()
    (adapter / "weights").write_text("22")
    assert find_finished(config) is None


def test_finished_run_is_not_reused_after_an_edit_of_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    config, plugin = _config(tmp_path), tmp_path / "plugin_of_a_run.py"
    config.plugins = ["plugin_of_a_run"]
    run_dir = run_directory(config)
    write_results(run_dir, _results(config))
    found = []
    for text in ("x = 1", "x = 1  # a comment", "x = 2"):
        plugin.write_text(text)
        importlib.invalidate_caches()
        importlib.import_module("plugin_of_a_run")
        monkeypatch.setattr(source, "_sources", source.Sources(source._sources.package))  # a new process
        found.append(find_finished(config) is not None)
        note_finished(run_dir, 0.5, circumstances(config))
    assert found == [False, True, False]


@pytest.mark.parametrize(("device", "bfloat16"), [("cuda", True), ("cuda", False), ("cpu", True)])
def test_run_of_another_processor_is_not_reused(
    device: str, bfloat16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on(kind: str, *, native: bool) -> None:
        monkeypatch.setattr("cotpress.devices.launch.pick_device", lambda _: torch.device(kind))
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: native)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})

    config = _config(tmp_path)
    config.evaluation.generation = TransformersGenerationConfig()
    run_dir = run_directory(config)
    write_results(run_dir, _results(config))
    on("cpu", native=False)
    note_finished(run_dir, 0.5, circumstances(config))
    assert find_finished(config) == (0.5, run_dir)
    on(device, native=bfloat16)
    assert find_finished(config) is None
    on("cpu", native=False)
    assert find_finished(config) == (0.5, run_dir)


def test_processor_is_none_for_a_missing_device_and_for_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = _config(tmp_path)
    config.trainer.accelerator = "gpu"
    assert circumstances(config)["processor"] is None
    config.evaluation.generation = TransformersGenerationConfig()
    assert circumstances(config)["processor"] is None
    config.trainer.accelerator = "cpu"
    assert circumstances(config)["processor"]["device"] == "cpu"


def _sweep(folder: Path, *jobs: list[str]) -> Sweep:
    write_plan(folder, "compress", jobs)
    return read_sweep(folder)


def test_jobs_of_a_multirun_have_separate_outputs(tmp_path: Path) -> None:
    jobs = [["scorer=cts", f"ratio={ratio}", "output=out"] for ratio in (0.5, 0.7)]
    sweep = _sweep(tmp_path, *jobs)
    assert [own_output("out", sweep, job) for job in jobs] == ["out/ratio=0.5", "out/ratio=0.7"]


@pytest.mark.parametrize(
    "jobs",
    [
        [["scorer=cts", "output=out"]],
        [["shard=1/2", "output=out"], ["shard=2/2", "output=out"]],
        [["ratio=0.5", "output=out"], ["ratio=0.7", "output=other"]],
        [["ratio=0.5", "output=out/${ratio}"], ["ratio=0.7", "output=out/${ratio}"]],
    ],
    ids=["single job", "shards of one result", "different outputs", "different outputs by a pattern"],
)
def test_output_is_unchanged_if_no_other_job_writes_to_it(tmp_path: Path, jobs: list[list[str]]) -> None:
    assert own_output("out", _sweep(tmp_path, *jobs), jobs[0]) == "out"


def test_output_of_a_job_stays_below_the_configured_one(tmp_path: Path) -> None:
    jobs = [["data.path=../../a"], ["data.path=" + "b" * 300]]
    sweep = _sweep(tmp_path, *jobs)
    assert own_output("out", sweep, jobs[0]) == "out/data.path=.._.._a-3f87b79e"
    assert len(own_output("out", sweep, jobs[1])) < 100


def test_job_of_a_sweep_without_a_plan_has_a_separate_output(tmp_path: Path) -> None:
    assert own_output("out", read_sweep(tmp_path), ["ratio=0.5"]) == "out/ratio=0.5"


REPLACED = [
    "compression.keep_strings=['*']", "compression.keep_strings=['/']", "compression.keep_strings=[*]",
    "data.path=x/1.jsonl", "data.path=x_1.jsonl", "data.path=x 1.jsonl", "data.path=x:1.jsonl",
    "data.path=x\\\\1.jsonl", "data.path=x\n1.jsonl", "model.name='a'", "model.name=\"a\"",
    "+name=a", "~name=a", "data.path=" + "b" * 99,
    "data.path=" + "b" * 100, "data.path=" + "b" * 98 + "c",
]  # fmt: skip


def test_jobs_whose_overrides_differ_only_in_replaced_characters_have_separate_outputs(tmp_path: Path) -> None:
    sweep = _sweep(tmp_path, *([text] for text in REPLACED))
    outputs = {own_output("out", sweep, [text]) for text in REPLACED}
    assert len(outputs) == len(REPLACED)
    assert all(Path(output).parent == Path("out") and len(Path(output).name) < 100 for output in outputs)


def test_jobs_that_upload_have_names_of_their_own_without_a_place_of_this_machine(tmp_path: Path) -> None:
    jobs = [[f"ratio={ratio}"] for ratio in (0.5, 0.7)]
    assert [own_output("hf://me/set", _sweep(tmp_path, *jobs), job) for job in jobs] == [
        "hf://me/set-ratio-0.5-ad3c1494", "hf://me/set-ratio-0.7-88c7f1b7",
    ]  # fmt: skip
    others = [*REPLACED, "data.path=/home/ann/x..csv", "data.path=/home/bob/x..csv"]
    sweep = _sweep(tmp_path, *([text] for text in others))
    outputs = [own_output("hf://me/set", sweep, [text]) for text in others]
    assert len({*outputs}) == len(others)
    for output in outputs:
        validate_repo_id(output.removeprefix("hf://"))
    assert outputs[-2].startswith("hf://me/set-data.path-x-csv-")


@pytest.mark.parametrize(("one", "other"), [("a b", "a-b"), ("a/b", "a-b"), ("a:b", "a/b"), ("x" * 300, "x" * 301)])
def test_runs_of_names_that_differ_only_in_replaced_characters_have_separate_folders(
    one: str, other: str, tmp_path: Path
) -> None:
    config = _config(tmp_path)
    folders = set()
    for config.name in (one, other):
        folders.add(run_directory(config))
        assert run_name(config) == config.name
    assert len(folders) == 2


def test_the_same_relative_path_from_two_working_directories_is_two_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, found = _config(tmp_path), set()
    for place in "ab":
        file = tmp_path / place / "data" / "sums.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text(place)
        os.utime(file, (1e9, 1e9))
        monkeypatch.chdir(tmp_path / place)
        assert list(circumstances(config)["inputs"]) == [str(file)]
        found.add(run_path(config))
    assert len(found) == 2
    config.benchmark.path = str(tmp_path / "b/data/sums.jsonl")  # type: ignore[attr-defined]
    assert run_path(config) not in found  # its text is another setting
    assert circumstances(config)["inputs"].keys() == {config.benchmark.path}  # type: ignore[attr-defined]


def test_only_declared_path_fields_are_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = _config(tmp_path)
    for text in ("jsonl", "m", "served", "reference", "{percent}", "{question}", "EMPTY", "outputs", "auto"):
        (tmp_path / text).mkdir()
    config.evaluation.instructions.be_concise = "/"
    config.name, config.model.revision, config.plugins = "/", "/", ["/"]
    assert circumstances(config)["inputs"] == {}
    config.model.path = "m"
    assert list(circumstances(config)["inputs"]) == [str(tmp_path / "m")]
    config.model.source = ModelSource.tiny  # the name of a built-in model
    assert circumstances(config)["inputs"] == {}
    config.model.source, config.adapter = ModelSource.hub, "~nobody-of-this-name/x"
    assert list(circumstances(config)["inputs"]) == [str(tmp_path / "m")]
    monkeypatch.setenv("HOME", str(tmp_path))
    config.adapter = "~/reference"
    assert str(tmp_path / "reference") in circumstances(config)["inputs"]


def test_every_path_of_a_configuration_is_declared() -> None:
    fields = {
        "data.path": CompressConfig,
        "adapter": EvaluateConfig,
        "benchmark.path": EvaluateConfig,
        "model.path": TrainConfig,
    }
    for key, schema in fields.items():
        config = schema()
        if key == "data.path":
            config.data = JsonlDataConfig(path="x", name="jsonl")
        elif key == "benchmark.path":
            config.benchmark = JsonlBenchmarkConfig(path="x", name="jsonl", max_new_tokens=8)
        elif key == "adapter":
            config.adapter = "x"
        else:
            config.model.path = "x"
        assert (key, "x") in {(place, text) for _, place, text in input_paths(config)}


def test_folder_of_an_input_is_one_short_line_and_every_change_in_it_counts(tmp_path: Path) -> None:
    config, model = _config(tmp_path), tmp_path / "model"
    config.model.path = str(model)
    states = set()
    model.mkdir()
    for change in (
        lambda: (model / "a.json").write_text("1"),
        lambda: (model / "a.json").write_text("2"),
        lambda: (model / "a.json").rename(model / "b.json"),
        lambda: (model / "below").mkdir() or (model / "below/c").write_text("x"),
        lambda: [(model / f"{n}.json").write_text("x") for n in range(300)],
        lambda: os.utime(model / "b.json", (1e9, 1e9)),
        lambda: (model / "b.json").write_text("3") and os.utime(model / "b.json", (1e9, 1e9)),  # as `cp -p` leaves it
    ):
        change()
        (state,) = circumstances(config)["inputs"].values()
        assert len(state) < 100
        states.add(state)
    assert len(states) == 7


def test_every_file_of_a_pattern_counts(tmp_path: Path) -> None:
    config, states = _config(tmp_path), []
    config.model.path = str(tmp_path / "part-*.jsonl")
    for name in ("part-1.jsonl", "part-2.jsonl", "other.jsonl"):
        (tmp_path / name).write_text("x")
        states += circumstances(config)["inputs"].values()
    assert states[0] != states[1] == states[2]


def test_input_that_is_the_whole_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cotpress.store.paths._MOST_FILES", 100)
    config = _config(tmp_path)
    config.model.path = "/"
    with pytest.raises(ConfigError, match=r"model\.path: '/' is a folder with more than 100 files"):
        circumstances(config)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", "[" * 100_000, '{"metric": "x", "circumstances": {}}', ""])
def test_record_of_a_finished_run_of_another_shape_is_not_used(text: str, tmp_path: Path) -> None:
    config = _config(tmp_path)
    run_dir = run_directory(config)
    write_results(run_dir, _results(config))
    (run_dir / "finished.json").write_text(text)
    assert find_finished(config) is None


def test_record_of_a_finished_run_that_cannot_be_read_is_told(public_folder: Path) -> None:
    config = _config(public_folder)
    run_dir = run_directory(config)
    path = write_results(run_dir, _results(config))
    note_finished(run_dir, 0.5, circumstances(config))
    for file in (path, run_dir / "finished.json"):
        file.chmod(0o600)
        with as_user(), pytest.raises(UnreadableError, match=rf"{file.name}' cannot be read: Permission denied"):
            find_finished(config)
        file.chmod(0o644)
    with as_user():
        assert find_finished(config) == (0.5, run_dir)
