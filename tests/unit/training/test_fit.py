import ast
import csv
import errno
import json
import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.warnings import PossibleUserWarning

import cotpress
from cotpress.devices.config import TrainerConfig
from cotpress.errors import DataError, ModelError, Terminated, TrainingError, UnreadableError
from cotpress.modeling.config import Attention, Dtype, ModelConfig
from cotpress.modeling.loading import load_model
from cotpress.records import TRAIN_LOG_FILE, VALIDATION_FILE
from cotpress.store.artifacts import SCRATCH
from cotpress.training import checkpoints
from cotpress.training import fit as fitting
from cotpress.training.adapters import make_trainable
from cotpress.training.batching import Example, Examples, plan_steps
from cotpress.training.checkpoints import STATE, Checkpoints, resume_point
from cotpress.training.config import Method, TuneConfig
from cotpress.training.fit import fit
from cotpress.training.module import LossOfModel, SftModule
from cotpress.training.sharing import OneDevice
from support.disks import open_files
from support.hybrid import build, plain_logits
from support.training_jobs import checkpoint, checkpoint_folder, steps_saved, trained_weights


class _Killed(BaseException):
    pass


def _train(tiny_config, store, examples, tune, hardware, tracker, workdir, *, computed=None, **more):
    sharing = OneDevice(computed)
    model = sharing.load(torch.device("cpu"), lambda _: make_trainable(load_model(tiny_config, store), tune))
    more["sharing"] = sharing
    fit(model, SftModule, examples, tune, workdir=workdir, trainer=hardware, log_metrics=tracker.log, **more)
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def _losses(workdir):
    with (workdir / TRAIN_LOG_FILE).open() as handle:
        return [(row["step"], row["loss"], row["lr"]) for row in csv.DictReader(handle)]


@pytest.mark.parametrize(
    ("killed_after", "method", "computed"),
    [(1, Method.lora, None), (3, Method.lora, None), (7, Method.lora, None), (3, Method.full, torch.bfloat16)],
)
def test_killed_and_resumed_run_equals_the_undisturbed_one(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path, monkeypatch, killed_after, method, computed
):
    tune.method = method
    base = tiny_config if computed is None else replace(tiny_config, dtype=Dtype.bfloat16)
    arguments = (base, store, examples, tune, hardware, tracker)
    whole = _train(*arguments, tmp_path / "whole", computed=computed)

    class Killer(Checkpoints):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module, outputs, batch, batch_idx):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            if batch_idx + 1 == killed_after:
                raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(fitting, "Checkpoints", Killer)
        with pytest.raises(_Killed):
            _train(*arguments, tmp_path / "killed", computed=computed)
    assert not (tmp_path / "killed" / TRAIN_LOG_FILE).exists()
    resumed = _train(*arguments, tmp_path / "killed", computed=computed)
    assert _losses(tmp_path / "killed") == _losses(tmp_path / "whole")
    assert len(_losses(tmp_path / "whole")) == 10
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


@pytest.fixture
def interrupts():
    """Ctrl-C as at a terminal; a test in the background starts with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("at", ["between two steps", "between two micro-batches"])
@pytest.mark.parametrize(
    ("number", "raised", "by"), [(signal.SIGTERM, Terminated, "SIGTERM"), (signal.SIGINT, KeyboardInterrupt, "Ctrl-C")]
)
def test_signal_saves_what_is_done_before_the_next_micro_batch(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path, monkeypatch, caplog, at, number, raised, by
):
    arguments = (tiny_config, store, examples, tune, replace(hardware, tokens_per_batch=40))
    whole = _train(*arguments, tracker, tmp_path / "whole")
    hardware.checkpoint_every_s = 3600.0
    arguments = (tiny_config, store, examples, tune, replace(hardware, tokens_per_batch=40))
    forward, passes, handler = LossOfModel.forward, [], signal.getsignal(number)

    def counted(module, batch):
        passes.append(batch)
        if len(passes) == 7:  # in the third step
            os.kill(os.getpid(), number)
        return forward(module, batch)

    def interrupted(module, batch, index):
        if index == 2:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patched:
        if at == "between two steps":
            patched.setattr(SftModule, "on_train_batch_start", interrupted)
        else:
            patched.setattr(LossOfModel, "forward", counted)
        with pytest.raises(raised, match=rf"sft: stopped after step \d+ of 10 by {by}") as stopped:
            _train(*arguments, tracker, tmp_path / "stopped")
    assert stopped.type is raised
    assert f"by {by}; that is saved, and the same command goes on from there" in caplog.text
    assert len(passes) in (0, 7), "no pass after the signal"
    assert steps_saved(tmp_path / "stopped") >= 1
    assert signal.getsignal(number) == handler
    resumed = _train(*arguments, tracker, tmp_path / "stopped")
    assert _losses(tmp_path / "stopped") == _losses(tmp_path / "whole")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


@pytest.mark.usefixtures("interrupts")
def test_second_ctrl_c_ends_a_training_at_once(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path, monkeypatch
):
    hardware.checkpoint_every_s = 3600.0

    def interrupted(module, batch, index):
        if index == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the second one was noted only")

    monkeypatch.setattr(SftModule, "on_train_batch_start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _train(tiny_config, store, examples, tune, hardware, tracker, tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not list((tmp_path / SCRATCH).glob("checkpoint-*"))


def test_sigterm_after_the_last_micro_batch_saves_the_last_step(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path
):
    hardware.checkpoint_every_s = 3600.0
    arguments = (tiny_config, store, examples, tune, hardware, tracker)
    whole = _train(*arguments, tmp_path / "whole")

    def validate(model):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"val/accuracy": 0.5}

    with pytest.raises(Terminated, match="sft: stopped after step 10 of 10"):
        _train(*arguments, tmp_path / "stopped", validate=validate, validations=1)
    assert steps_saved(tmp_path / "stopped") == 10
    resumed = _train(*arguments, tmp_path / "stopped")
    assert _losses(tmp_path / "stopped") == _losses(tmp_path / "whole")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_each_step_is_saved_once(tiny_config, store, examples, tune, hardware, tracker, tmp_path, monkeypatch):
    """Its checkpoint would have no name while it is replaced."""
    writer, stop_at, saved = checkpoints._Writer, 2, []

    def noted(folder, state, tensors):
        saved.append(state["step"])
        return writer(folder, state, tensors)

    def interrupted(module, batch, index):
        if index == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(checkpoints, "_Writer", noted)
    monkeypatch.setattr(SftModule, "on_train_batch_start", interrupted)
    arguments = (tiny_config, store, examples, tune, hardware, tracker, tmp_path)
    with pytest.raises(Terminated, match="after step 2 of 10"):
        _train(*arguments)
    stop_at = 0
    with pytest.raises(Terminated, match="after step 2 of 10"):
        _train(*arguments)
    assert saved == [1, 2]


def test_weight_without_a_gradient_is_saved_and_read_again(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path, caplog
):
    caplog.set_level("INFO")
    for start in (1.0, 2.0):
        model = make_trainable(load_model(tiny_config, store), tune)
        model.register_parameter("unused", torch.nn.Parameter(torch.full((3,), start)))
        fit(model, SftModule, examples, tune, workdir=tmp_path, trainer=hardware, log_metrics=tracker.log)
        assert model.unused.tolist() == [1.0] * 3
    assert "going on from the last checkpoint, after step 10" in caplog.text
    saved = checkpoint(tmp_path)
    assert not any(saved[f"{m}.loss_sum.model.unused"].any() for m in ("exp_avg", "exp_avg_sq"))


def test_loss_falls(tiny_config, store, examples, tune, hardware, tracker, tmp_path):
    tune.epochs = 8
    _train(tiny_config, store, examples, tune, hardware, tracker, tmp_path)
    losses = [float(row[1]) for row in _losses(tmp_path)]
    assert losses[-1] < losses[0] - 0.2


def test_checkpoint_holds_the_adapter_only(tiny_config, store, examples, tune, hardware, tracker, tmp_path):
    _train(tiny_config, store, examples, tune, hardware, tracker, tmp_path)
    names = trained_weights(tmp_path)
    assert names
    assert all("lora_" in name for name in names)


def test_every_step_reaches_the_tracker(tiny_config, store, examples, tune, hardware, tracker, tmp_path):
    _train(tiny_config, store, examples, tune, hardware, tracker, tmp_path)
    assert {stage for stage, _, _ in tracker.rows} == {"sft"}
    assert [step for _, metrics, step in tracker.rows if "loss" in metrics] == list(range(1, 11))


def test_validation_is_spread_evenly_and_sees_the_model_in_eval_mode(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path
):
    modes = []

    def validate(model):
        modes.append(model.training)
        return {"val/accuracy": 0.5}

    _train(tiny_config, store, examples, tune, hardware, tracker, tmp_path, validate=validate, validations=2)
    assert modes == [False, False]
    assert [step for _, metrics, step in tracker.rows if "val/accuracy" in metrics] == [5, 10]


@pytest.mark.parametrize("killed_after", [4, 5, 6, None])
def test_validations_of_a_resumed_run_are_all_in_its_log(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path, killed_after
):
    """It is killed after a step, or during the first validation."""
    num_left = [killed_after or 99]

    def validate(model):
        if killed_after is None and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            raise _Killed
        return {"val/accuracy": 0.5, "val/tokens": 12}

    class Killed:
        def log(self, stage, metrics, step):
            num_left[0] -= "loss" in metrics
            if num_left[0] < 0:
                raise _Killed

    arguments = (tiny_config, store, examples, tune, hardware)
    with pytest.raises(_Killed):
        _train(*arguments, Killed(), tmp_path, validate=validate, validations=2)
    _train(*arguments, tracker, tmp_path, validate=validate, validations=2)
    assert (tmp_path / VALIDATION_FILE).read_text().splitlines() == [
        "step,name,value", "5,val/accuracy,0.5", "5,val/tokens,12.0", "10,val/accuracy,0.5", "10,val/tokens,12.0",
    ]  # fmt: skip


def test_training_without_validation_has_no_log_of_it(tiny_config, store, examples, tune, hardware, tracker, tmp_path):
    _train(tiny_config, store, examples, tune, hardware, tracker, tmp_path)
    assert not (tmp_path / VALIDATION_FILE).exists()


def test_nothing_of_lightning_is_left_in_the_working_directory(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    _train(tiny_config, store, examples, tune, hardware, tracker, tmp_path / "work")
    assert [p.name for p in tmp_path.iterdir()] == ["work"]


@pytest.mark.parametrize("damage", ["bit", "truncated"])
def test_damaged_checkpoint_is_not_resumed_from(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path, caplog, damage
):
    arguments = (tiny_config, store, examples, tune, hardware, tracker, tmp_path)
    whole = _train(*arguments)
    (file,) = checkpoint_folder(tmp_path).glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-100] ^= 1  # in the data of a tensor: its reader does not notice
    file.write_bytes(content if damage == "bit" else content[:-100])
    with caplog.at_level("WARNING"):
        again = _train(*arguments)
    assert "is damaged" in caplog.text
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_loss_that_is_not_finite_names_step_and_rows_and_keeps_the_earlier_checkpoint(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path, monkeypatch
):
    forward, steps = LossOfModel.forward, []

    def poisoned(module, batch):
        rows = [example.row for example in batch.examples]
        return forward(module, batch) * (float("nan") if "r7" in rows and len(steps) > 3 else 1.0)

    monkeypatch.setattr(SftModule, "on_train_batch_start", lambda self, batch, index: steps.append(index))
    monkeypatch.setattr(LossOfModel, "forward", poisoned)
    named = replace(examples, kept=[replace(e, row=f"r{i}") for i, e in enumerate(examples.kept)])
    with pytest.raises(TrainingError, match=r"sft: the loss of step \d+ is nan.*'r7'.*learning rate") as caught:
        _train(tiny_config, store, named, tune, hardware, tracker, tmp_path)
    step = int(str(caught.value).partition("step ")[2].partition(" ")[0])
    assert steps_saved(tmp_path) == step - 1
    assert all(torch.isfinite(w).all() for w in checkpoint(tmp_path).values())


def test_gradient_that_is_not_finite_ends_the_training_before_the_weights_change(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path
):
    model = make_trainable(load_model(tiny_config, store), tune)
    trained = next(p for p in model.parameters() if p.requires_grad)
    before = trained.detach().clone()
    trained.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match=r"step 1 is \d+\.\d+ and its gradient (nan|inf), not a finite number"):
        fit(model, SftModule, examples, tune, workdir=tmp_path, trainer=hardware, log_metrics=tracker.log)
    assert torch.equal(trained, before)


def test_weights_that_are_not_finite_reach_neither_checkpoint_nor_artifact(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path
):
    tune.learning_rate, tune.weight_decay = 1e38, 1.0
    with pytest.raises(TrainingError, match="not finite"):
        _train(tiny_config, store, examples, tune, hardware, tracker, tmp_path)
    assert not (tmp_path / TRAIN_LOG_FILE).exists()
    if list((tmp_path / SCRATCH).glob("checkpoint-*")):
        assert all(torch.isfinite(w).all() for w in checkpoint(tmp_path).values())


def test_training_where_srun_is_installed_gives_no_warning(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path, monkeypatch
):
    """Lightning's own behaviour is a warning if `srun` is on the path but did not start the process."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(srun.parent), prepend=os.pathsep)
    with pytest.warns(PossibleUserWarning, match="`srun` command is available"):
        pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    _train(tiny_config, store, examples, tune, hardware, tracker, tmp_path / "work")  # warnings are errors


def test_every_trainer_of_the_package_names_its_cluster_environment():
    calls = [
        (path.name, call)
        for path in Path(cotpress.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "pl.Trainer"
    ]
    assert {name for name, _ in calls} == {"lightning.py"}
    for name, call in calls:
        assert "plugins" in [keyword.arg for keyword in call.keywords], name


def _changed(path: Path, **values: object) -> None:
    state = json.loads((path / STATE).read_text())
    (path / STATE).write_text(json.dumps({**state, **values}))


def _rewritten(path: Path, change: Callable[[bytes], bytes]) -> None:
    (file,) = path.glob("*.safetensors")
    file.write_bytes(change(file.read_bytes()))


DAMAGES = {
    "no state": lambda p: (p / STATE).unlink(),
    "empty state": lambda p: (p / STATE).write_bytes(b""),
    "state that is no text": lambda p: (p / STATE).write_bytes(b"\xff\xfe"),
    "state that is a list": lambda p: (p / STATE).write_text("[1]"),
    "half a state": lambda p: (p / STATE).write_text((p / STATE).read_text()[:40]),
    "no step": lambda p: _changed(p, step=None),
    "step 0": lambda p: _changed(p, step=0),
    "further field": lambda p: _changed(p, other=1),
    "no files": lambda p: _changed(p, files={}),
    "file elsewhere": lambda p: _changed(p, files={"../other.safetensors": 1}),
    "file missing": lambda p: next(p.glob("*.safetensors")).unlink(),
    "file too many": lambda p: (p / "other.safetensors").write_bytes(b""),
    "empty file": lambda p: _rewritten(p, lambda content: b""),
    "truncated": lambda p: _rewritten(p, lambda content: content[:-100]),
    "zeros at the end": lambda p: _rewritten(p, lambda content: content[:-200] + bytes(200)),
    "zeros at the start": lambda p: _rewritten(p, lambda content: bytes(200) + content[200:]),
    "pickle": lambda p: _rewritten(p, lambda content: pickle.dumps(content)),
}


@pytest.fixture(scope="module")
def checkpointed(tmp_path_factory, tiny_config, store):
    """The folder of a whole checkpoint."""
    folder = tmp_path_factory.mktemp("checkpointed")
    rows = [Example(ids=(5, 6, 7, 8), num_prompt=1)] * 4
    tune = TuneConfig(method=Method.lora, epochs=1, sequences_per_step=2, lora_rank=2, seed=3, learning_rate=1e-3)
    trainer = TrainerConfig(accelerator="cpu", num_threads=1, tokens_per_batch=120, checkpoint_every_s=0.0)
    model = make_trainable(load_model(tiny_config, store), tune)
    examples = Examples(kept=rows, dropped={})
    fit(model, SftModule, examples, tune, workdir=folder, trainer=trainer, log_metrics=lambda *_: None)
    return checkpoint_folder(folder)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_checkpoint_is_set_aside(damage, checkpointed, tmp_path, caplog):
    path = tmp_path / checkpointed.name
    shutil.copytree(checkpointed, path)
    found = resume_point(tmp_path)
    assert found is not None
    assert (found.path, found.step) == (path, 2)
    damage(path)
    content = {p.name: p.read_bytes() for p in path.iterdir()}
    assert resume_point(tmp_path) is None
    assert resume_point(tmp_path) is None
    assert "is damaged" in caplog.text
    (aside,) = tmp_path.iterdir()
    assert aside.name == f"damaged-{path.name}"
    assert {p.name: p.read_bytes() for p in aside.iterdir()} == content


def test_checkpoint_that_cannot_be_read_is_not_damaged(checkpointed, tmp_path, monkeypatch):
    path = tmp_path / checkpointed.name
    shutil.copytree(checkpointed, path)
    with open_files(0), pytest.raises(UnreadableError, match=r"cannot be read: Too many open files"):
        resume_point(tmp_path)

    def fails(*_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(checkpoints, "_checksum", fails)
    with pytest.raises(UnreadableError, match="Stale file handle"):
        resume_point(tmp_path)
    monkeypatch.undo()
    found = resume_point(tmp_path)
    assert found is not None
    assert found.path == path


def test_checkpoint_of_other_weights_is_refused(
    checkpointed, tiny_config, store, examples, tune, hardware, tracker, tmp_path
):
    shutil.copytree(checkpointed, tmp_path / SCRATCH / checkpointed.name)
    with pytest.raises(TrainingError, match=r"sft: the checkpoint .* other weights than are trained\. Fix: remove"):
        _train(tiny_config, store, examples, tune, hardware, tracker, tmp_path)


@pytest.mark.parametrize("skew_s", [-600, 0, 600])
def test_older_checkpoint_is_used_where_the_newest_is_damaged(checkpointed, tmp_path, skew_s):
    """The newest is that of the most steps, whatever the clocks of the machines that wrote them said."""
    for name in ("checkpoint-00000001", checkpointed.name):
        shutil.copytree(checkpointed, tmp_path / name)
    os.utime(tmp_path / "checkpoint-00000001", (time.time() + skew_s,) * 2)
    found = resume_point(tmp_path)
    assert found is not None
    assert found.path.name == checkpointed.name == "checkpoint-00000002"
    (tmp_path / checkpointed.name / STATE).unlink()
    found = resume_point(tmp_path)
    assert found is not None
    assert found.path.name == "checkpoint-00000001"


def test_training_waits_for_checkpoints_a_fiftieth_of_its_time(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path, monkeypatch
):
    """Each save takes as long as two steps, so one is made every hundred, the first one after the shortest interval."""
    tune.epochs, hardware.checkpoint_every_s, clock, saves = 20, 3.5, [0.0], []

    def slow(self, module, optimizer):
        saves.append(module.steps_done)
        clock[0] += 2.0
        self._saved, self._waited, self._count = clock[0], self._waited + 2.0, self._count + 1

    monkeypatch.setattr(Checkpoints, "_save", slow)
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(SftModule, "on_train_batch_start", lambda *_: clock.__setitem__(0, clock[0] + 1.0))
    _train(tiny_config, store, examples, tune, hardware, tracker, tmp_path)
    assert saves == [4]
    assert len(_losses(tmp_path)) == 100


def test_training_goes_on_while_a_checkpoint_is_written(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path, monkeypatch
):
    """Where it is always time for another one, which waits for the one before."""
    hardware.checkpoint_every_s, go_on, in_time, finish = 1e-9, threading.Event(), [], checkpoints._Writer.finish

    def slow(self, metadata, results):
        in_time.append(go_on.wait(10))
        finish(self, metadata, results)

    monkeypatch.setattr(checkpoints, "MOST_TIME", 1e9)
    monkeypatch.setattr(checkpoints._Writer, "finish", slow)
    monkeypatch.setattr(SftModule, "on_train_batch_start", lambda self, batch, index: index < 5 or go_on.set())
    _train(tiny_config, store, examples, tune, hardware, tracker, tmp_path)
    assert in_time[0], "the training has come to the sixth step meanwhile"


@pytest.mark.parametrize("ends_by", ["its last step", "SIGTERM", "an error"])
def test_checkpoints_are_written_one_after_the_other_and_the_last_one_is_whole_at_the_end(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path, monkeypatch, ends_by
):
    """After each step here, each slower than a step. A name that stands for a whole one stays until the next has it."""
    finish, rmtree, written, kept = checkpoints._Writer.finish, shutil.rmtree, [], []

    def slow(self, metadata, results):
        written.append("begins")
        time.sleep(0.2)
        finish(self, metadata, results)
        written.append("ends")

    def noted(path, *more, **named):
        if Path(path).name.startswith("checkpoint-"):
            kept.append([p.name for p in Path(path).parent.glob("checkpoint-*") if p != path])
        rmtree(path, *more, **named)

    def interrupted(module, batch, index):
        if index == 3 and ends_by == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        if index == 3 and ends_by == "an error":
            raise DataError("at the fourth step")

    monkeypatch.setattr(checkpoints._Writer, "finish", slow)
    monkeypatch.setattr(checkpoints.shutil, "rmtree", noted)
    monkeypatch.setattr(SftModule, "on_train_batch_start", interrupted)
    tune.epochs, errors = 1, {"SIGTERM": Terminated, "an error": DataError}
    expected = pytest.raises(errors[ends_by]) if ends_by in errors else nullcontext()
    with expected:
        _train(tiny_config, store, examples, tune, hardware, tracker, tmp_path)
    assert steps_saved(tmp_path) == (3 if ends_by in errors else 5)
    assert written == ["begins", "ends"] * (len(written) // 2)
    assert kept
    assert all(kept)


def test_checkpoint_of_a_stopped_training_is_whole_when_the_training_ends(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path, monkeypatch
):
    hardware.checkpoint_every_s, finish = 3600.0, checkpoints._Writer.finish

    def slow(self, metadata, results):
        time.sleep(0.5)
        finish(self, metadata, results)

    def interrupted(module, batch, index):
        if index == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(checkpoints._Writer, "finish", slow)
    monkeypatch.setattr(SftModule, "on_train_batch_start", interrupted)
    with pytest.raises(Terminated, match="after step 3 of 10"):
        _train(tiny_config, store, examples, tune, hardware, tracker, tmp_path)
    assert steps_saved(tmp_path) == 3


def test_checkpoint_is_made_only_when_it_is_time_on_all_workers(tiny_config, store, tune, hardware, tmp_path):
    """Their clocks have nothing in common, and a checkpoint needs all of them."""
    asked, others_are_due, saved = [], [False, True], []

    class Workers:
        def reduce_boolean_decision(self, decision, all):  # noqa: A002 (Lightning's name)
            asked.append((decision, all))
            return decision and others_are_due[len(asked) - 1]

    class Trainer:
        strategy, optimizers = Workers(), (None,)

    callback = Checkpoints(tmp_path, 1e-9, None, dict)
    callback._save = lambda *_: saved.append(len(asked))
    module = SftModule(torch.nn.Linear(1, 1), tune, 1, None, OneDevice())
    for _ in range(2):
        callback.on_train_batch_end(Trainer(), module, None, None, 0)
    assert asked == [(True, True)] * 2
    assert saved == [2]


def test_half_written_checkpoint_of_a_killed_training_is_removed(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path
):
    left = tmp_path / SCRATCH / ".checkpoint-00000099"
    left.mkdir(parents=True)
    (left / "shard.safetensors").write_bytes(b"half")
    assert resume_point(tmp_path / SCRATCH) is None
    _train(tiny_config, store, examples, tune, hardware, tracker, tmp_path)
    assert [path.name for path in (tmp_path / SCRATCH).glob("*checkpoint-*")] == ["checkpoint-00000010"]


def test_every_file_of_a_large_checkpoint_is_checked(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoints, "FILE_BYTES", 20_000)
    tune.epochs = 1
    arguments = (tiny_config, store, examples, tune, hardware, tracker)
    whole = _train(*arguments, tmp_path / "whole")
    again = _train(*arguments, tmp_path / "whole")  # from the checkpoint after the last step
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    path = checkpoint_folder(tmp_path / "whole")
    files = sorted(path.glob("*.safetensors"))
    assert len(files) > 3
    for number, file in enumerate(files):
        folder = tmp_path / str(number)
        shutil.copytree(path, folder / path.name)
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        (folder / path.name / file.name).write_bytes(content)
        assert resume_point(folder) is None, file.name


@pytest.mark.parametrize("name", ["Lfm2", "Mamba2", "Qwen3Next"])
def test_model_with_states_trains_on_every_text_as_if_alone(
    store, tokenizer, examples, tune, hardware, tracker, tmp_path, name, caplog
):
    """Packed, the state of one text would go into the next."""
    build(name).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    base = ModelConfig(name=name, path=str(tmp_path / "base"), dtype=Dtype.float32, attention=Attention.eager)
    tune.epochs, tune.lora_dropout, tune.method = 1, 0.0, Method.full
    caplog.set_level("INFO")
    losses = []
    for tokens in (1, 4096):
        trainer = replace(hardware, tokens_per_batch=tokens)
        _train(base, store, examples, tune, trainer, tracker, tmp_path / str(tokens))
        losses.append([float(loss) for _, loss, _ in _losses(tmp_path / str(tokens))])
    assert losses[0] == losses[1]
    assert "every text is a row of its own" in caplog.text
    model = build(name)
    first = plan_steps([len(e.ids) for e in examples.kept], tune, 1)[0]
    members = [examples.kept[i] for batch in first for i in batch]
    summed = 0.0
    for e in members:
        logits, targets = plain_logits(model, list(e.ids))[e.num_prompt - 1 : -1], torch.tensor(e.ids[e.num_prompt :])
        summed += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    assert losses[0][0] == pytest.approx(summed / sum(e.num_targets for e in members), rel=1e-4)


def test_training_sequence_with_a_token_beyond_the_embedding_is_an_error_before_training(
    tiny_config, store, examples, tune, hardware, tracker, tmp_path
):
    wrong = replace(examples, kept=[*examples.kept, Example(ids=(5, 640, 7), num_prompt=1)])
    with pytest.raises(ModelError, match=r"sft: a training sequence: the token id 640 has no embedding; .*Fix"):
        _train(tiny_config, store, wrong, tune, hardware, tracker, tmp_path)
