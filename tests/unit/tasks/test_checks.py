"""Everything that a configuration needs is checked before a model is trained, and all problems are told at once."""

import json
import logging
import math
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from hydra import compose, initialize_config_dir
from transformers import BertConfig, BertForMaskedLM

from cotpress.config import register_schemas, to_objects
from cotpress.errors import ConfigError, CotpressError, DataError, GenerationError, ModelError
from cotpress.evaluation.config import Baseline
from cotpress.jobs.job import perform, run_in_sweep
from cotpress.modeling.loading import load_tokenizer, model_folder
from cotpress.modeling.training_record import TRAINING_CONFIG, TrainingRecord
from cotpress.prompts import ChatConfig
from cotpress.store.artifacts import ArtifactStore, Summary
from cotpress.store.sweeps import JobNote, JobState, read_note, read_sweep, write_note
from cotpress.tasks import COMPRESS, EVALUATE, FIDELITY, PLAN, TRAIN, checks
from cotpress.tasks.evaluate import examinees
from cotpress.tasks.run_directory import artifact_store
from support.commands import FEW_PROBLEMS, ROOT
from support.fake_vllm import commands, fake_vllm
from support.hybrid import build
from support.openai_server import Reply, openai_server

TASKS = {"train": TRAIN, "compress": COMPRESS, "fidelity": FIDELITY, "evaluate": EVALUATE}
Make = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One output folder, so that the tiny model is made once."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def made(root: Path) -> Make:
    def make(script: str, *overrides: str) -> Any:
        chosen = {o.partition("=")[0] for o in overrides}
        small = ["model=tiny", *(FEW_PROBLEMS if script == "train" and "benchmark" not in chosen else [])]
        small += ["data.num_traces=24"] * (script != "evaluate" and "data" not in chosen)
        return to_objects(compose(script, overrides=[*small, f"output_root={root}", *overrides]))

    return make


def refusal(config: Any) -> str:
    with pytest.raises(CotpressError) as raised:
        checks.check(config)
    return str(raised.value)


def rows(folder: Path, response: str = "so 5", name: str = "rows.jsonl") -> Path:
    path = folder / name
    made = [
        {"id": f"q{i}", "question": "2 + 3?", "thinking": "2 + 3 = 5", "response": response, "answer": "5"}
        for i in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def test_a_configuration_that_has_all_it_needs_passes(made: Make) -> None:
    for script in TASKS:
        checks.check(made(script))


def test_all_problems_are_told_in_one_message_with_exit_code_two(made: Make, tmp_path: Path) -> None:
    config = made(
        "train", "data=jsonl", f"data.path={tmp_path}/none.jsonl", "benchmark=jsonl", "benchmark.path=/no/b.jsonl",
        "trainer.accelerator=gpu", "model@reference.base=qwen7b", "evaluation.reference_tokenizer=some/tokenizer",
    )  # fmt: skip
    with pytest.raises(ConfigError) as raised:
        checks.check(config)
    lines = str(raised.value).splitlines()
    assert lines[0] == "6 problems:"
    for line, begin in zip(
        lines[1:],
        [
            "1. distill.extractor=labels", f"2. data.path: '{tmp_path}/none.jsonl' does not exist",
            "3. benchmark.path: '/no/b.jsonl' does not exist", "4. trainer.accelerator: got 'gpu'",
            "5. reference.base.path: 'Qwen/", "6. evaluation.reference_tokenizer",
        ],
        strict=True,
    ):  # fmt: skip
        assert line.startswith(begin), line
        assert "Fix" in line


@pytest.mark.parametrize(
    ("script", "overrides", "error", "message"),
    [
        ("train", ["data=jsonl", "data.path=ROWS"], DataError, r"distill\.extractor=labels: the data has no labels"),
        ("compress", ["data=jsonl", "data.path=ROWS"], DataError, r"distill\.extractor=labels: the data has no labels"),
        ("fidelity", ["data=jsonl", "data.path=ROWS"], DataError, r"distill\.extractor=labels: the data has no labels"),
        ("compress", ["data=self_written"], DataError, r"distill\.extractor=labels: the data has no labels"),
        ("compress", ["data@labelled=jsonl", "labelled.path=ROWS"], DataError, r"distill\.extractor=labels"),
        ("train", ["data=jsonl", "data.path=EMPTY", "distill=overlap"], DataError, "overlap: every response is empty"),
        ("compress", ["data=jsonl", "data.path=/none.parquet", "scorer=random"], ConfigError, r"data\.path: .*exist"),
        ("compress", ["data@labelled=jsonl", "labelled.path=/no.jsonl"], ConfigError, r"2 problems(.|\n)*labelled\.p"),
        ("fidelity", ["truth=prmbench", "truth.path=/no.jsonl"], ConfigError, r"truth\.path: '/no\.jsonl' does not"),
        ("evaluate", ["benchmark=jsonl", "benchmark.path=/no.jsonl"], ConfigError, r"benchmark\.path: '/no\.jsonl' d"),
        ("evaluate", ["benchmark=gsm8k", "benchmark.path=/no.jsonl"], ConfigError, r"benchmark\.path: '/no\.jsonl' d"),
        ("evaluate", ["adapter=./none"], ConfigError, r"adapter: the folder './none' does not exist"),
        ("evaluate", ["model=hub", "model.path=./none"], ConfigError, r"model\.path: the folder './none' does not ex"),
        ("compress", ["reference=saved", "reference.path=/none"], ConfigError, r"reference\.path: there is no folder"),
        ("compress", ["scorer=tokenskip_xlmr"], ModelError, r"^scorer\.path: 'microsoft/.*the hub cannot be reached"),
        ("train", ["scorer=tokenskip", "scorer.path=package:none"], ModelError, r"^scorer\.path: the Python package"),
        (
            "compress",
            ["scorer=mix", "+scorer@scorer.parts.b=tokenskip_xlmr", "+scorer.weights.b=1"],
            ModelError,
            r"^scorer\.parts\.b\.path: 'microsoft/",
        ),
        ("train", ["model@reference.base=qwen7b"], ModelError, r"^reference\.base\.path: 'Qwen/.*reference\.base\.pa"),
        ("compress", ["distill=llm", "model@distill.model=qwen7b"], ModelError, r"^distill\.model\.path: 'Qwen/"),
        ("evaluate", ["benchmark=math500"], DataError, r"^benchmark\.hub\.dataset: .*cannot be reached"),
        ("compress", ["data=jsonl", "data.path=FOLDER", "scorer=random"], ConfigError, r"data\.path: .* is a folder"),
        ("compress", ["data=jsonl", "data.path=BLANK", "scorer=random"], DataError, r"data\.path: .* is empty"),
        ("compress", ["data=jsonl", "data.path=TEXT", "scorer=random"], ConfigError, r"data\.path: got .* ends in"),
        ("train", ["data=self_written", "data.writer=./none", "distill=overlap"], ConfigError, r"data\.writer: the"),
        ("evaluate", ["adapter=some/adapter"], ModelError, r"^adapter: 'some/adapter': .*cannot be reached"),
        ("evaluate", ["adapter=FOLDER"], ModelError, r"^adapter: '.*' holds no adapter_config\.json"),
        ("evaluate", ["evaluation.reference_tokenizer=./none"], ConfigError, r"evaluation\.reference_tokenizer"),
        ("fidelity", ["truth=thought_anchors", "truth.path=/no.jsonl"], ConfigError, r"truth\.path: '/no\.jsonl'"),
        ("compress", ["reference=saved", "reference.path=FOLDER"], ModelError, r"reference\.path: .* holds no weights"),
        ("compress", ["model=hub", "model.path=TEXT"], ConfigError, r"model\.path: the folder '.*' is a file"),
        ("compress", ["output=TEXT"], CotpressError, r"output: '.*' cannot be written"),
        ("compress", ["reference=saved", "reference.path=/none", "output=TEXT"], CotpressError, r"output: '.*written"),
        ("train", ["trainer.accelerator=gpu"], ConfigError, r"trainer\.accelerator: got 'gpu', but torch sees no GPU"),
        ("train", ["model.attention=flash_attention_2"], CotpressError, r"model\.attention=flash_attention_2 needs"),
    ],
)  # fmt: skip
def test_what_a_configuration_needs_is_known_before_the_first_training(
    made: Make, tmp_path: Path, script: str, overrides: list[str], error: type[Exception], message: str
) -> None:
    files = {"ROWS": str(rows(tmp_path)), "EMPTY": str(rows(tmp_path, "", "empty.jsonl"))}
    files |= {"FOLDER": str(tmp_path / "folder"), "BLANK": str(tmp_path / "b.jsonl"), "TEXT": str(tmp_path / "t.txt")}
    (tmp_path / "folder").mkdir()
    for name in ("BLANK", "TEXT"):
        Path(files[name]).touch()
    for name, path in files.items():
        overrides = [o.replace(name, path) for o in overrides]
    with pytest.raises(error, match=message):
        checks.check(made(script, *overrides))


def test_what_is_not_used_is_not_needed(made: Make, tmp_path: Path) -> None:
    path = rows(tmp_path, "")
    checks.check(made("compress", "data=jsonl", f"data.path={path}", "scorer=random"))  # no labels are learned
    checks.check(made("compress", "scorer=random", "model@reference.base=qwen7b"))  # no model reads
    checks.check(made("compress", "distill=llm", "model@distill.model=qwen7b", "reference=none"))


@pytest.mark.parametrize("script", TASKS)
def test_every_task_checks_before_it_works(script: str, made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: object) -> tuple[None, None]:
        raise AssertionError("the work began")

    task = replace(TASKS[script], load=lambda: work)
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        perform(task, made(script, "trainer.accelerator=gpu"), Path())


def test_a_plan_is_made_without_gpu_and_data_but_not_without_labels(made: Make) -> None:
    away = ["plan=true", "data=jsonl", "data.path=/away.jsonl", "trainer.accelerator=gpu", "model=qwen7b"]
    checks.check(made("train", *away, "distill=overlap"))
    with pytest.raises(DataError, match="no labels"):
        perform(PLAN, made("train", *away), Path())


def test_a_reason_that_stops_the_first_two_jobs_of_a_multirun_is_told_once(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["model=tiny", f"output_root={root}", "trainer.accelerator=gpu", "benchmark=jsonl", "benchmark.path=/b"]
    launcher = {"_target_": "hydra_plugins.submitit.Launcher"}
    for number in range(5):
        config = compose("train", overrides=[*overrides, f"seed={number}"])
        assert math.isnan(run_in_sweep(config, TRAIN, tmp_path / str(number), overrides, launcher))
    notes = [read_note(tmp_path / str(number)) for number in range(5)]
    assert all(n is not None and str(n.error).startswith("2 problems:\n1. benchmark.path") for n in notes[:2])
    assert notes[2:] == [None] * 3
    assert capsys.readouterr().err.count("failed for the same reason: the others are not run") == 1


def test_jobs_go_on_after_other_reasons(tmp_path: Path) -> None:
    def hopeless(*notes: JobNote) -> bool:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for number, note in enumerate(notes):
            write_note(folder / str(number), note)
        return read_sweep(folder).hopeless

    failed = JobNote(overrides=(), state=JobState.failed, error="no GPU", for_user=True)
    done = JobNote(overrides=(), state=JobState.finished)
    assert hopeless(failed, failed)
    assert hopeless(failed, failed, replace(failed, error="another"))
    assert not hopeless()
    assert not hopeless(failed)
    assert not hopeless(failed, replace(failed, error="no memory"))
    assert not hopeless(failed, replace(failed, state=JobState.interrupted))
    assert not hopeless(replace(failed, for_user=False), replace(failed, for_user=False))  # killed, or a defect
    assert not hopeless(failed, done)
    assert not hopeless(failed, failed, done)
    assert not hopeless(done, failed, failed)


def test_values_out_of_range_are_told_together(made: Make) -> None:
    with pytest.raises(ConfigError) as raised:
        made("train", "ratio=1.5", "sft.tune.max_tokens=0", "evaluation.confidence=2")
    assert str(raised.value).startswith("3 problems:\n1. ")
    assert all(key in str(raised.value) for key in ("ratio: got 1.5", "max_tokens: got 0", "confidence: got 2"))


SERVED = {
    "data": ["data=self_written", "generation@data.generation=server", "distill=overlap"],
    "distill": ["distill=llm_server"],
    "evaluation": ["generation@evaluation.generation=server"],
}


def test_run_that_ends_early_needs_only_what_the_stages_up_to_it_need(
    made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = served("evaluation", "http://127.0.0.1:9/v1")
    checks.check(made("train", *address, "until=compress", "evaluation.reference_tokenizer=no/where"))
    unlabelled = ["data=self_written", "questions@data.questions=planted", "distill=labels", "scorer=cts"]
    assert not list(checks.labels(made("train", *unlabelled, "until=data")))
    assert list(checks.labels(made("train", *unlabelled, "until=distill")))
    elsewhere = ["reference=lora", "model@reference.base=hub", "reference.base.path=/no/folder"]
    assert "reference.base.path" not in checks.used_models(made("train", *elsewhere, "until=distill"))
    assert "reference.base.path" in checks.used_models(made("train", *elsewhere, "until=reference"))
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    with pytest.raises(ConfigError, match=r"until: got sft, but the agent of a W&B sweep needs the accuracy"):
        checks.check(made("train", "until=sft"))


def served(key: str, address: str, *more: str) -> list[str]:
    place = f"{key}.generation"
    settings = [f"{place}.base_url={address}", f"{place}.model=stub", f"{place}.max_retries=0"]
    return [*SERVED[key], *settings, *(f"{place}.{m}" for m in more)]


@pytest.mark.parametrize("key", SERVED)
def test_a_server_that_is_down_is_told_before_training(made: Make, key: str) -> None:
    with openai_server(lambda call, seen: Reply()) as server:
        checks.check(made("train", *served(key, server.base_url)))
        assert server.calls == [], "nothing is asked of it"
    with pytest.raises(
        GenerationError, match=rf"^{key}\.generation: generation server .*cannot be reached.*Fix: start"
    ):
        checks.check(made("train", *served(key, server.base_url)))


def test_a_server_that_refuses_or_has_no_room_is_told_before_training(
    made: Make, caplog: pytest.LogCaptureFixture
) -> None:
    models = [{"id": "stub", "max_model_len": 24}]
    config = made("train", *served("evaluation", "http://x/v1"))

    def checked(models: Any = None, status: int = 200) -> Any:
        with openai_server(lambda call, seen: Reply(), models, listing_status=status) as server:
            generation = replace(config.evaluation.generation, base_url=server.base_url)
            checks.check(replace(config, evaluation=replace(config.evaluation, generation=generation)))

    with pytest.raises(GenerationError, match=r"a limit of 24 tokens for prompt and answer, but max_new_tokens=24"):
        checked(models)
    room = "benchmark.protocols.tokenskip.context_tokens=24"  # which ends every answer
    config = made("train", *served("evaluation", "http://x/v1"), room)
    checked(models)
    for status in (401, 500, 502, 503):
        with pytest.raises(GenerationError, match=rf"evaluation\.generation: .*{status}"):
            checked(models, status)
    for status in (403, 404, 405, 429, 501):  # no list, but a server
        checked(models, status)
    for listed in ([], [{}], [{"id": 3}], [{"id": "stub", "max_model_len": "24"}], [{"id": "stub", "n_ctx": None}]):
        checked(listed)
    with caplog.at_level(logging.WARNING):
        checked([{"id": "other"}])
    assert "lists ['other'], not 'stub'" in caplog.text


VLLM = {
    "data": ["data=self_written", "generation@data.generation=vllm", "distill=overlap"],
    "distill": ["distill=llm", "generation@distill.generation=vllm"],
    "evaluation": ["generation@evaluation.generation=vllm"],
}


@pytest.mark.parametrize("key", VLLM)
def test_an_interpreter_without_vllm_is_told_before_training(made: Make, key: str, tmp_path: Path) -> None:
    program = fake_vllm(tmp_path / "none", error="ModuleNotFoundError: No module named 'vllm'")
    config = made("train", *VLLM[key], f"{key}.generation.python={program}")
    with pytest.raises(ConfigError, match=rf"^{key}\.generation\.python: '{program}' cannot import vllm"):
        checks.check(config)
    checks.check(made("train", *VLLM[key], f"{key}.generation.python={fake_vllm(tmp_path / 'there')}"))
    assert not commands(tmp_path / "there"), "it is not started"


def test_gpus_and_context_of_vllm_are_checked_before_training(made: Make, root: Path, tmp_path: Path) -> None:
    python = f"evaluation.generation.python={fake_vllm(tmp_path / 'two', platform='cuda', gpus=[10**9, 10**9])}"
    config = made("train", *VLLM["evaluation"], python, "evaluation.generation.tensor_parallel=3")
    assert "evaluation.generation.tensor_parallel: got 3, allowed: a divisor" in refusal(config)
    tiny = model_folder(made("evaluate").model, artifact_store(str(root)))
    shutil.copytree(tiny, tmp_path / "hub")
    short = json.loads((tmp_path / "hub/config.json").read_text()) | {"max_position_embeddings": 128}
    (tmp_path / "hub/config.json").write_text(json.dumps(short))
    model = ["model=hub", f"model.path={tmp_path}/hub", "model.context_tokens=129"]
    assert "has positions for 128 tokens" in refusal(made("evaluate", *VLLM["evaluation"], python, *model))


def test_full_students_may_answer_by_vllm(made: Make) -> None:
    assert made("train", *VLLM["evaluation"], "sft=full").evaluation.generation.python is None


def test_a_missing_key_names_its_setting(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    config = made("evaluate", *served("evaluation", "http://127.0.0.1:9/v1", "api_key_env=NO_SUCH_KEY"))
    with pytest.raises(ConfigError, match=r"^evaluation\.generation\.api_key_env: the environment variable"):
        checks.check(config)


def test_a_server_that_has_written_everything_may_be_gone(
    made: Make, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = made("compress", *served("distill", "http://127.0.0.1:9/v1"))
    for stage in ("distill", ""):  # with other filters the extractions are read again
        monkeypatch.setattr(checks, "_missing", lambda *_, stage=stage: stage)
        checks.check(config)
    monkeypatch.setattr(checks, "_missing", lambda *_: "extract")
    with pytest.raises(GenerationError):
        checks.check(config)
    trained = made("train", *served("evaluation", "http://127.0.0.1:9/v1"))
    monkeypatch.setattr(checks, "first_missing", lambda *_: "evaluate")
    checks.check(trained)
    monkeypatch.setattr(checks, "first_missing", lambda *_: "answer")
    with pytest.raises(GenerationError):
        checks.check(trained)


def test_first_missing_stage_is_found_without_making_it(made: Make, tmp_path: Path) -> None:
    root = [f"output_root={tmp_path}/out"]
    config = made("compress", *root, "scorer=random", "data.num_traces=12")
    assert checks.first_missing(config) == "data"
    checks.check(config)
    assert checks.first_missing(config) == "model"  # the tiny one, which no check has to make
    assert not (tmp_path / "out/artifacts/score").exists()
    perform(COMPRESS, made("compress", *root, "scorer=random", "data.num_traces=12", f"output={tmp_path}/c"), tmp_path)
    assert checks.first_missing(config) == ""


def test_store_that_finds_makes_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    finding = checks.FindingStore(store)
    for look in (
        lambda: finding.build("score", {"a": 1}, lambda _: pytest.fail("made")),
        lambda: finding.unfinished("score", [{"a": 1}]).__enter__(),
        lambda: finding.sharing("score", {"a": 1}, "1").__enter__(),
    ):
        with pytest.raises(checks.NotMadeError, match="score"):
            look()
    assert not list(tmp_path.iterdir())
    made = store.build("score", {"a": 1}, lambda _: Summary(num_rows=1))
    assert finding.build("score", {"a": 1}, lambda _: pytest.fail("made")).key == made.key


def test_room_for_checkpoints_is_printed_and_required(
    made: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = made("train", "reference=full", "sft=full")
    with caplog.at_level(logging.INFO):
        checks.check(config)
    weights = 24 * sum(p.numel() for p in checks.empty_model(config.model).parameters())
    assert f"sft.tune.method=full: needs {weights / 1e9:.1f} GB for checkpoints of tiny" in caplog.text
    usage = shutil._ntuple_diskusage(weights, 1, weights - 1)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = refusal(config)
    assert message.startswith("2 problems:\n1. reference.tune.method: got full, which needs")
    assert "twice while one replaces the other" in message


def test_traces_longer_than_the_budget_of_answers_are_warned_of(made: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        checks.check(made("train", "benchmark.max_new_tokens=2000"))
    assert "traces are longer" not in caplog.text
    with caplog.at_level(logging.WARNING):
        checks.check(made("train", "benchmark.max_new_tokens=30"))
    assert "benchmark.max_new_tokens=30, but 24 of 24 traces are longer (up to " in caplog.text


def test_output_that_cannot_be_written_is_told_with_what_is_known_without_it(made: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refusal(made("compress", f"output_root={tmp_path}/file/out", "trainer.accelerator=gpu"))
    assert message.startswith("2 problems:\n1. output_root: ")
    assert "2. trainer.accelerator" in message


@pytest.mark.parametrize("script", ["train", "compress", "fidelity"])
def test_offload_on_the_single_device_of_a_machine_is_refused(made: Make, script: str) -> None:
    trainer = ["trainer.accelerator=cpu", "trainer.offload=true", "trainer.strategy=fsdp2", "trainer.devices=null"]
    with pytest.raises(ConfigError, match=r"trainer\.offload: got true .* on one device, allowed: .* Fix:"):
        checks.check(made(script, *trainer))


def test_too_few_gpus_are_told(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = list(checks.devices(made("train", "trainer.accelerator=gpu", "trainer.devices=4")))
    assert [str(problem)[:40] for problem in found] == ["trainer.devices: got 4, but torch sees 2"]


def test_tokenizer_without_a_template_is_told_with_its_setting(made: Make, root: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(made("evaluate").model, artifact_store(str(root)))
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "bare")
    with openai_server(lambda call, seen: Reply()) as server:
        config = made("evaluate", *served("evaluation", server.base_url), "model=hub", f"model.path={tmp_path}/bare")
        message = refusal(config)
    assert message.startswith("model.path: the tokenizer of ")
    assert "chat template" in message


@pytest.fixture
def saved(made: Make, root: Path, tmp_path: Path) -> Callable[[Any], Path]:
    """Save a model with the tokenizer of the tiny one."""

    def save(model: Any) -> Path:
        model.save_pretrained(tmp_path / "saved")
        load_tokenizer(made("evaluate").model, artifact_store(str(root))).save_pretrained(tmp_path / "saved")
        return tmp_path / "saved"

    return save


def test_an_encoder_is_refused_before_the_reference_is_trained(made: Make, saved: Callable[[Any], Path]) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    folder = saved(BertForMaskedLM(BertConfig(vocab_size=640, **sizes)))
    message = refusal(made("train", "model=hub", f"model.path={folder}", "model@reference.base=tiny"))
    assert message.startswith(f"model.path: '{folder}' (bert) is an encoder")
    message = refusal(made("train", "model@reference.base=hub", f"reference.base.path={folder}"))
    assert message.startswith(f"reference.base.path: '{folder}' (bert) is an encoder")


def test_an_attention_that_the_model_lacks_is_told_at_once(made: Make, saved: Callable[[Any], Path]) -> None:
    base = ["model=hub", f"model.path={saved(build('GptOss'))}", "model@reference.base=tiny"]
    assert refusal(made("train", *base)).startswith("model.attention: got sdpa, which GptOssForCausalLM does not have")
    checks.check(made("train", *base, "model.attention=eager"))


@pytest.fixture
def student(tmp_path: Path) -> Callable[..., str]:
    """Function that writes an adapter with the record of its training, if marker ratios are given."""

    def write(*ratios: float, recorded: bool = True, **chat: Any) -> str:
        folder = tmp_path / "adapter"
        folder.mkdir(exist_ok=True)
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        (folder / "adapter_model.safetensors").touch()
        record = TrainingRecord(base_model=None, chat=ChatConfig(ratio_marker=" ratio {ratio}", **chat))
        if recorded:
            (folder / TRAINING_CONFIG).write_text(replace(record, marker_ratios=ratios).text())
        return str(folder)

    return write


def test_ratio_is_announced_only_to_a_student_of_a_marker(made: Make, student: Callable[..., str]) -> None:
    base = made("evaluate")
    full = replace(base.evaluation, baselines=[Baseline.lc_prompt])
    several = replace(base.evaluation, ratios=[0.5])

    def problem(**settings: Any) -> str:
        return " ".join(map(str, checks.prompts(replace(base, **settings))))

    foreign = student(recorded=False)
    unknown = r"ratio: got 0\.7, .* has no training_config\.json\. Fix: marker=true"
    assert re.match(unknown, problem(adapter=foreign, ratio=0.7))
    assert problem(evaluation=several).startswith("evaluation.ratios: got 0.5"), "a model without an adapter"
    assert not problem(adapter=foreign)
    assert not problem(adapter=foreign, ratio=0.7, marker=True)
    assert not problem(adapter=foreign, ratio=0.7, marker=False, evaluation=full)
    plain = student()
    for marker in (None, True):
        got = problem(adapter=plain, ratio=0.7, marker=marker)
        assert re.match(r"ratio: got 0\.7, .* was trained without one .*Fix: leave", got)
    assert "Fix: marker=false keeps it" in problem(adapter=plain, ratio=0.7, evaluation=full)
    assert not problem(adapter=plain)
    assert not problem(adapter=student(0.5, 0.7, 1.0), ratio=0.7, evaluation=several)


def test_ratio_that_no_training_trace_had_is_a_warning(
    made: Make, student: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    assert not list(checks.prompts(made("evaluate", f"adapter={student(0.5, 1.0)}", "evaluation.ratios=[0.6,0.5]")))
    assert "trained with the ratios 0.5, 1, so it has seen no marker that announces 0.6" in caplog.text


def test_trained_model_is_asked_and_read_with_the_prompt_of_its_training(
    made: Make, student: Callable[..., str]
) -> None:
    folder = student(system="be brief")
    given = made("evaluate", f"adapter={folder}")
    saved = made(
        "compress", "reference=saved", f"reference.path={folder}", "data=self_written", f"data.writer={folder}"
    )
    for config, times in ((given, 1), (saved, 2)):
        problems = list(map(str, checks.prompts(config)))
        assert len(problems) == times
        for problem in problems:
            assert "trained with another prompt" in problem
            assert shlex.split(problem.partition("Fix: ")[2]) == ['model.chat.system="be brief"']
        chat = replace(config.model.chat, system="be brief")
        assert not list(checks.prompts(replace(config, model=replace(config.model, chat=chat))))
    [_, problem] = map(str, checks.prompts(replace(saved, reference=replace(saved.reference, base=saved.model))))
    assert problem.endswith("Fix: 'reference.base.chat.system=\"be brief\"'")


@pytest.mark.parametrize("model", ["qwen7b", "llama8b"])
@pytest.mark.parametrize("place", ["adapter={}", "evaluation.generation.model={}"])
def test_published_adapters_of_tokenskip_are_asked_their_prompt(made: Make, model: str, place: str) -> None:
    server = ["generation@evaluation.generation=server", "evaluation.generation.base_url=http://127.0.0.1:9/v1"]
    name = "hemingkx/TokenSkip-Qwen2.5-7B-Instruct-GSM8K"
    asked = [*(server if "model=" in place else []), f"model={model}", place.format(name), "marker=true", "ratio=0.5"]
    for settings in ([], ["model.chat.thinking_open=''"], ["chat@model.chat=tokenskip", "model.chat.system=Be brief."]):
        assert re.search(
            rf"model\.chat: '{name}' was .*Fix: chat@model\.chat=tokenskip",
            refusal(made("evaluate", *asked, *settings)),
        )
    assert not list(checks.published(made("evaluate", *asked, "chat@model.chat=tokenskip")))
    assert not list(checks.published(made("evaluate", *asked[:-3], place.format("other/Qwen-GSM8K"))))


def test_ratio_without_a_marker_is_that_of_the_prompts_alone(made: Make) -> None:
    config = made("evaluate", "ratio=0.6", "marker=false", "evaluation=full_checkpoint")
    rows = {e.system.name: (e.system.ratio, e.marker_ratio) for e in examinees(config)}
    assert rows["Base"] == (1.0, 1.0)
    assert rows["LC-Prompt"] == rows["Truncation"] == (0.6, None)
    for wrong, message in {
        "ratio=0.6": "no row of the table",
        "evaluation.ratios=[0.5]": "only a control mark",
    }.items():
        with pytest.raises(ConfigError, match=message):
            made("evaluate", wrong, "marker=false")


def test_a_training_that_can_hold_no_trace_is_refused_before_any_model_is_trained(made: Make) -> None:
    message = refusal(made("train", "sft.tune.max_tokens=20"))
    assert message.startswith("sft.tune.max_tokens: got 20, but the shortest of 24 traces makes a sequence of ")
    found = re.search(r"leaves out longer ones\. Fix: (sft\.tune\.max_tokens=(\d+)) holds all traces;", message)
    assert found is not None
    checks.check(made("train", found[1]))
    checks.check(made("train", "sft.tune.max_tokens=20", "sft.overlong=cut"))
    checks.check(made("train", "sft.tune.max_tokens=20", "sft.overlong=drop", "evaluation.baselines=[base]"))
