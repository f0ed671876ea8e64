"""The merged model of a LoRA student on the tiny model: weights, prompt, card, refusals, interruptions."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from cotpress.config import EvaluateConfig
from cotpress.errors import ArtifactError, ConfigError, ModelError
from cotpress.hub import folder as hub_folder
from cotpress.hub import merging
from cotpress.hub.__main__ import HubConfig, publish
from cotpress.modeling.config import Dtype, ModelConfig, ModelSource
from cotpress.modeling.loading import load_model, load_tokenizer, model_identity
from cotpress.modeling.tiny import tiny_model
from cotpress.modeling.training_record import TRAINING_CONFIG, TrainingRecord
from cotpress.prompts import ChatConfig, ChatFormat, messages
from cotpress.store.artifacts import ArtifactStore
from cotpress.tasks.evaluate import given_name
from support.published import BASE, SETTINGS, finished_run

CHAT = ChatConfig(system="Think.", thinking_open="<think>\n")
NAMES = {**SETTINGS["model"], "name": "tiny", "source": "tiny", "path": "tiny", "revision": None}
IDS = torch.arange(20).view(1, -1)


class Trained(NamedTuple):
    """Finished runs with one LoRA student of the tiny model, and its adapter."""

    run: Callable[..., Path]
    adapter: Path
    base: ModelConfig
    store: ArtifactStore


@pytest.fixture(scope="module")
def adapter(store: ArtifactStore, tiny_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    settings = LoraConfig(target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    wrapped = get_peft_model(load_model(tiny_config, store), settings)
    wrapped.peft_config["default"].base_model_name_or_path = "tiny"
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink()
    (folder / TRAINING_CONFIG).write_text(TrainingRecord(base_model=BASE, chat=CHAT, marker_ratios=(0.5, 1.0)).text())
    return folder


@pytest.fixture
def trained(adapter: Path, store: ArtifactStore, tiny_config: ModelConfig, tmp_path: Path) -> Trained:
    run = functools.partial(
        finished_run,
        tmp_path / "outputs",
        student=lambda folder: shutil.copytree(adapter, folder / "adapter"),
        base=model_identity(tiny_config),
        model=NAMES,
    )
    return Trained(run, adapter, tiny_config, store)


def merge(run_dir: Path, output: Path, **changes: Any) -> Path:
    settings = {"repo": "me/student", "dry_run": True, "output": str(output), "merge": True, **changes}
    return Path(publish(HubConfig(run=str(run_dir), **settings)))


def based_on(folder: Path, trained: Trained, **changes: Any) -> Path:
    """A copy of the tiny model with changed settings."""
    shutil.copytree(tiny_model(trained.store).path, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def of_folder(folder: Path, dtype: Dtype = Dtype.float32) -> ModelConfig:
    return ModelConfig(name="given", source=ModelSource.hub, path=str(folder), dtype=dtype)


def test_merged_model_loads_anywhere_and_gives_the_logits_of_the_adapter(trained: Trained, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    output = merge(trained.run(), tmp_path / "hub")
    assert sorted(path.name for path in output.iterdir()) == [
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json", "training_config.json",
    ]  # fmt: skip
    whole = AutoModelForCausalLM.from_pretrained(output).eval()
    adapted = load_model(trained.base, trained.store, adapter=trained.adapter)
    with torch.no_grad():
        torch.testing.assert_close(whole(IDS).logits, adapted(IDS).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(whole(IDS).logits, load_model(trained.base, trained.store)(IDS).logits)
    assert not hasattr(whole, "peft_config")


def test_weights_of_a_bfloat16_base_are_rounded_once(trained: Trained, tmp_path: Path) -> None:
    half = load_model(trained.base, trained.store).to(torch.bfloat16)
    half.save_pretrained(tmp_path / "base")
    load_tokenizer(trained.base, trained.store).save_pretrained(tmp_path / "base")
    output = merge(trained.run(), tmp_path / "hub", base_path=str(tmp_path / "base"), unchecked=True)
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    exact = load_model(of_folder(tmp_path / "base"), trained.store, adapter=trained.adapter, merge_adapter=True)
    for name, weight in load_model(of_folder(output, Dtype.bfloat16), trained.store).named_parameters():
        assert torch.equal(weight, exact.get_parameter(name).to(torch.bfloat16)), name
    asked = load_model(  # by evaluate.py adapter=... on the same base
        of_folder(tmp_path / "base", Dtype.bfloat16), trained.store, adapter=trained.adapter, merge_adapter=True
    )
    merged = load_model(of_folder(output, Dtype.bfloat16), trained.store)
    assert all(torch.equal(weight, merged.get_parameter(name)) for name, weight in asked.named_parameters())


def test_weights_of_a_float16_base_are_float16(trained: Trained, tmp_path: Path) -> None:
    load_model(trained.base, trained.store).to(torch.float16).save_pretrained(tmp_path / "base")
    load_tokenizer(trained.base, trained.store).save_pretrained(tmp_path / "base")
    output = merge(trained.run(), tmp_path / "hub", base_path=str(tmp_path / "base"), unchecked=True)
    assert json.loads((output / "config.json").read_text())["dtype"] == "float16"
    exact = load_model(of_folder(tmp_path / "base"), trained.store, adapter=trained.adapter, merge_adapter=True)
    saved = load_file(output / "model.safetensors")
    assert len(saved) > 10
    for name, weight in saved.items():
        assert torch.equal(weight, exact.get_parameter(name).to(torch.float16)), name


def test_user_turn_alone_gives_the_prompt_of_the_training(trained: Trained, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    output = merge(trained.run(), tmp_path / "hub")
    tokenizer = AutoTokenizer.from_pretrained(output)
    expected = ChatFormat(load_tokenizer(trained.base, trained.store), CHAT).prompt_ids("How many?")
    for turns in (messages(CHAT, "How many?"), messages(CHAT, "How many?")[1:]):
        assert tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"] == expected
    assert ChatFormat(load_tokenizer(of_folder(output), trained.store), CHAT).prompt_ids("How many?") == expected
    ends = json.loads((output / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.eos_token_id in (ends if isinstance(ends, list) else [ends])


def test_merged_model_is_known_as_a_student(trained: Trained, tmp_path: Path) -> None:
    output = merge(trained.run(), tmp_path / "hub")
    record = TrainingRecord.beside(output, "merged")
    assert record is not None
    assert (record.chat, record.has_marker, record.base_model) == (CHAT, True, BASE)
    assert given_name(EvaluateConfig(model=of_folder(output))) == "hub"
    assert given_name(EvaluateConfig(model=of_folder(tiny_model(trained.store).path))) == "Base"


def test_card_says_that_and_from_what_it_is_merged(trained: Trained, tmp_path: Path) -> None:
    card = ModelCard.load(merge(trained.run(), tmp_path / "hub") / "README.md")
    assert (card.data.base_model, card.data.library_name) == (BASE, "transformers")
    assert "lora" not in card.data.tags
    assert f"The LoRA adapter that was trained on {BASE} is merged into these weights" in card.text
    code = card.text.split("```python\n")[1].split("```")[0]
    assert 'AutoTokenizer.from_pretrained("me/student")' in code
    assert "peft" not in code


def test_full_student_has_nothing_to_merge(tmp_path: Path) -> None:
    def whole(folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "model.safetensors").write_bytes(b"weights")
        (folder / "model" / "config.json").write_text("{}")

    run_dir = finished_run(tmp_path / "outputs", student=whole)
    with pytest.raises(ConfigError, match=r"a whole model already\. Fix: leave merge out"):
        merge(run_dir, tmp_path / "hub")
    assert "adapter" not in ModelCard.load(merge(run_dir, tmp_path / "hub", merge=False) / "README.md").text


def test_quantized_base_is_refused_before_it_is_loaded(trained: Trained, tmp_path: Path) -> None:
    base = based_on(tmp_path / "base", trained, quantization_config={"quant_method": "mxfp4"})
    with pytest.raises(ModelError, match=r"is quantized \(mxfp4\).* Fix: leave merge out"):
        merge(trained.run(), tmp_path / "hub", base_path=str(base))
    assert list((tmp_path / "hub").iterdir()) == []


def test_base_with_code_of_its_own_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="runs Python code of its own"):
        merge(trained.run(model={**NAMES, "trust_remote_code": True}), tmp_path / "hub")


def test_base_that_is_not_here_is_one_message(trained: Trained, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    elsewhere = {**NAMES, "source": "hub", "path": "nobody/nothing"}
    with pytest.raises(ModelError, match=r"^base_path: 'nobody/nothing'.* give base_path=DIR"):
        merge(trained.run(model=elsewhere), tmp_path / "hub")
    with pytest.raises(ConfigError, match=r"base_path: 'gone' is no folder"):
        merge(trained.run(), tmp_path / "hub", base_path="gone")
    with pytest.raises(ConfigError, match=r"base_path has no effect without a merge"):
        merge(trained.run(), tmp_path / "hub", base_path="gone", merge=False)


def test_other_base_than_that_of_the_training_is_refused(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = based_on(tmp_path / "base", trained)
    run_dir = trained.run(base={"directory": "0" * 64})
    with pytest.raises(ModelError, match=r"is not the model that the student was trained on"):
        merge(run_dir, tmp_path / "hub", base_path=str(base))
    by_name = trained.run("other")  # trained on tiny, by name
    with pytest.raises(ModelError, match=r"it is not known whether .* is the model of the training.*unchecked=true"):
        merge(by_name, tmp_path / "hub", base_path=str(base))
    assert merge(by_name, tmp_path / "hub", base_path=str(base), unchecked=True)
    assert "not checked whether" in caplog.text
    with pytest.raises(ConfigError, match="unchecked has no effect without base_path"):
        merge(by_name, tmp_path / "hub", unchecked=True)


def test_base_of_the_hub_is_that_of_the_commit_of_the_training(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(base: ModelConfig, store: ArtifactStore, *, key: str) -> Any:
        raise ModelError(f"{base.path} at {base.revision}")

    monkeypatch.setattr(merging, "architecture_of", read)
    settings = {**NAMES, "source": "hub", "path": "them/base", "revision": "main"}
    run_dir = trained.run(model=settings, base={"hub": "them/base", "commit": "abc123"})
    with pytest.raises(ModelError, match=r"^them/base at abc123$"):
        merge(run_dir, tmp_path / "hub")


def test_snapshot_of_the_commit_of_the_training_is_its_base(trained: Trained, tmp_path: Path) -> None:
    run_dir = trained.run(base={"hub": "them/base", "commit": "abc123"})
    merge(run_dir, tmp_path / "hub", base_path=str(based_on(tmp_path / "snapshots" / "abc123", trained)))
    with pytest.raises(ModelError, match="it is not known whether"):
        merge(run_dir, tmp_path / "hub", base_path=str(based_on(tmp_path / "snapshots" / "abc124", trained)))


@pytest.mark.parametrize("change", [{"path": None}, {"path": 3}, {"revision": [1]}, {"source": "elsewhere"}])
def test_settings_that_describe_no_model_are_one_message(
    trained: Trained, tmp_path: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(ArtifactError, match=r"the settings of the run describe no model: .* Fix: run it again"):
        merge(trained.run(model={**NAMES, **change}), tmp_path / "hub")


def test_disk_without_room_is_one_message(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(ArtifactError, match=r"the merged model needs 0\.0 GB .* Fix: dry_run=true output=DIR"):
        merge(trained.run(), tmp_path / "hub")
    assert list((tmp_path / "hub").iterdir()) == []


def test_interrupted_merge_leaves_the_earlier_export_or_nothing(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = trained.run()
    before = merge(run_dir, tmp_path / "adapter", merge=False)
    kept = {path.name: path.read_bytes() for path in before.iterdir()}

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hub_folder, "_describe", interrupted)
    for output in (before, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            merge(run_dir, output)
    assert {path.name: path.read_bytes() for path in before.iterdir()} == kept
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("num_moved", range(8))
def test_killed_export_is_no_model_and_the_same_command_goes_on(
    num_moved: int, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, output, moved = trained.run(), tmp_path / "hub", []

    def killed(path: Path, target: Path) -> None:
        if target.parent == output:
            if len(moved) == num_moved:
                raise KeyboardInterrupt
            moved.append(path.name)
        shutil.move(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            merge(run_dir, output)
    assert not (output / "config.json").exists()
    assert (merge(run_dir, output) / "config.json").exists()


def test_export_of_another_kind_leaves_no_weights_of_the_earlier_one(trained: Trained, tmp_path: Path) -> None:
    run_dir, output = trained.run(), tmp_path / "hub"
    merge(run_dir, output, merge=False)
    (output / ".partial").mkdir()  # of a killed command
    merge(run_dir, output)
    assert not [path.name for path in output.iterdir() if "adapter" in path.name or path.name == ".partial"]
    merge(run_dir, output, merge=False)
    assert [path.name for path in output.glob("*.safetensors")] == ["adapter_model.safetensors"]
    assert not (output / "config.json").exists()
