import copy
import dataclasses
import json
import logging
import shutil

import pytest
import torch

from cotpress.errors import ConfigError, ModelError, TrainingError
from cotpress.modeling.config import Dtype, ModelSource
from cotpress.modeling.loading import has_dropout, load_model, load_tokenizer, model_identity
from cotpress.modeling.tiny import tiny_model
from cotpress.modeling.training_record import TrainingRecord
from cotpress.modeling.weights import TrainedWeights
from cotpress.prompts import ChatFormat
from cotpress.records import CompressedTrace, ValuableTrace
from cotpress.store.artifacts import ArtifactStore, Summary, fingerprint, plain
from cotpress.store.source import code_of
from cotpress.store.tables import read_records, write_records
from cotpress.training.batching import reference_sequences, student_sequences
from cotpress.training.config import Method, ReferenceConfig, SftConfig
from cotpress.training.overlong import limited
from cotpress.training.stage import saved_reference, train_reference, train_student

THINKING = "wait let me check the price so the total is 12"


def _valuable(*spans):
    return ValuableTrace(
        id="a", question="how much", thinking=THINKING, response="The answer is 12.", answer="12", valuable=spans
    )


def test_student_trains_on_the_train_split_and_its_adapter_loads_with_peft(
    tiny_config, store, compressed, tune, hardware, tracker
):
    from peft import PeftModel

    made = train_student(
        SftConfig(tune=tune), model=tiny_config, compressed=compressed, trainer=hardware, tracker=tracker, store=store
    )
    assert made.manifest["num_rows"] == 5
    assert made.facts["num_steps"] == 4
    config = json.loads((made.path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert config["target_modules"] == sorted(config["target_modules"])
    record = TrainingRecord.beside(made.path / "adapter", "mine")
    assert record is not None
    assert (record.chat, record.base_model, record.has_marker) == (tiny_config.chat, None, False)
    base, ids = load_model(tiny_config, store), torch.arange(20).view(1, -1)
    plain = base(ids).logits
    adapted = PeftModel.from_pretrained(base, made.path / "adapter").eval()
    assert not torch.allclose(adapted(ids).logits, plain)
    merged = load_model(tiny_config, store, adapter=made.path / "adapter", merge_adapter=True)
    torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=1e-4, atol=1e-4)
    assert not (made.path / "scratch").exists()


def test_hardware_does_not_change_the_identity(tiny_config, store, compressed, tune, hardware, tracker):
    arguments = {"model": tiny_config, "compressed": compressed, "tracker": tracker, "store": store}
    first = train_student(SftConfig(tune=tune), trainer=hardware, **arguments)
    hardware.num_threads = 2
    assert train_student(SftConfig(tune=tune), trainer=hardware, **arguments).key == first.key


@pytest.mark.parametrize(("dropout", "same"), [(0.0, True), (0.1, False)])
def test_batch_is_part_of_the_identity_only_where_dropout_draws_by_batch(
    tiny_config, store, compressed, tune, hardware, tracker, monkeypatch, dropout, same
):
    built, tune.lora_dropout = [], dropout
    base = dataclasses.replace(tiny_config, source=ModelSource.hub, path=str(tiny_model(store).path))
    monkeypatch.setattr(ArtifactStore, "build", lambda _, stage, identity, produce: built.append(fingerprint(identity)))
    for hardware.tokens_per_batch in (64, 4096):
        train_student(
            SftConfig(tune=tune), model=base, compressed=compressed, trainer=hardware, tracker=tracker, store=store
        )
    assert (built[0] == built[1]) is same


def test_batch_is_part_of_the_identity_where_the_model_has_dropout_of_its_own(tiny_config, store, tmp_path):
    folder = shutil.copytree(tiny_model(store).path, tmp_path / "model")
    base = dataclasses.replace(tiny_config, source=ModelSource.hub, path=str(folder))
    assert not has_dropout(base, store)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "resid_pdrop": 0.1}))
    assert has_dropout(base, store)


def test_validation_does_not_change_the_identity(tiny_config, store, compressed, tune, hardware, tracker):
    arguments = {"model": tiny_config, "compressed": compressed, "trainer": hardware, "tracker": tracker}
    first = train_student(SftConfig(tune=tune), **arguments, store=store)
    validated = SftConfig(tune=tune, validation_problems=3, validation_max_new_tokens=7, validations_per_run=2)
    assert train_student(validated, **arguments, store=store).key == first.key


@pytest.mark.parametrize("method", [Method.lora, Method.full])
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_identity_of_a_student_is_recipe_model_format_and_traces(
    tiny_config, store, compressed, tune, hardware, tracker, monkeypatch, method, dtype
):
    tune.method, built = method, []
    folder = str(tiny_model(store).path)  # made before the store is replaced
    base = dataclasses.replace(tiny_config, dtype=dtype, source=ModelSource.hub, path=folder)
    monkeypatch.setattr(ArtifactStore, "build", lambda _, stage, identity, produce: built.append((stage, identity)))
    train_student(
        SftConfig(tune=tune), model=base, compressed=compressed, trainer=hardware, tracker=tracker, store=store
    )
    expected = {
        "tune": plain(tune),
        "model": model_identity(base),
        "chat": base.chat,
        "compressed": compressed.key,
        "code": code_of(train_student),
    }
    if method is Method.lora:  # with dropout
        expected["tokens_per_batch"] = hardware.tokens_per_batch
    assert built == [("sft", expected)]


@pytest.fixture
def opening(tiny_config, tokenizer, store, tmp_path):
    """A model whose chat template ends the prompt with the tag, like those of R1's distilled models."""
    folder = shutil.copytree(tiny_model(store).path, tmp_path / "opening")
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = tokenizer.chat_template.replace("assistant\n", "assistant\n<think>\n")
    changed.save_pretrained(folder)
    return dataclasses.replace(tiny_config, source=ModelSource.hub, path=str(folder))


def test_rows_open_the_thinking_once_when_the_template_opens_it(opening, store, compressed, tune, hardware, tracker):
    own = load_tokenizer(opening, store)
    chat = ChatFormat(own, opening.chat)
    students = student_sequences(read_records(compressed.file("compressed.parquet"), CompressedTrace), chat)
    references = reference_sequences([_valuable((28, len(THINKING)))], own, chat)
    for row in [*students, *references]:
        assert own.decode(row.ids).count("<think>") == 1
        assert own.decode(row.ids[: row.num_prompt]).endswith("assistant\n<think>\n")
    arguments = {"compressed": compressed, "trainer": hardware, "tracker": tracker, "store": store}
    identity = train_student(SftConfig(tune=tune), model=opening, **arguments).manifest["identity"]
    assert identity["opening"] == ""


def test_student_without_questions_learns_the_assistants_turn_alone(
    tiny_config, opening, store, tokenizer, compressed, tune, hardware, tracker
):
    rows = read_records(compressed.file("compressed.parquet"), CompressedTrace)
    for model, begins in ((tiny_config, "<think>\n"), (opening, "<think>\n")):
        chat = ChatFormat(load_tokenizer(model, store), model.chat)
        usual, alone = (student_sequences(rows, chat, question=q) for q in (True, False))
        for with_question, example, row in zip(usual, alone, rows, strict=False):
            text = tokenizer.decode(example.ids)
            assert text.startswith(begins)
            assert "apples" not in text
            assert "assistant" not in text
            assert example.ids[-1] == chat.end_id
            assert with_question.ids[-example.num_completion :] == example.ids[example.num_prompt :]
            assert set(row.token_ids.tolist()) <= set(example.ids)
            assert example.num_prompt >= 1
    arguments = {"compressed": compressed, "trainer": hardware, "tracker": tracker, "store": store}
    students = [train_student(SftConfig(tune=tune, question=q), model=tiny_config, **arguments) for q in (True, False)]
    settings = [{k: v for k, v in s.manifest["identity"].items() if k != "code"} for s in students]
    assert settings[1] == settings[0] | {"question": False}
    assert students[1].facts["num_training_tokens"] < students[0].facts["num_training_tokens"]


def test_full_fine_tune_writes_a_complete_model(tiny_config, store, compressed, tune, hardware, tracker):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tune.method, tune.lora_rank = Method.full, 1
    made = train_student(
        SftConfig(tune=tune), model=tiny_config, compressed=compressed, trainer=hardware, tracker=tracker, store=store
    )
    assert AutoModelForCausalLM.from_pretrained(made.path / "model").num_parameters() > 0
    assert TrainingRecord.beside(made.path / "model", "mine") is not None
    assert AutoTokenizer.from_pretrained(made.path / "model").eos_token == "<|im_end|>"


def test_student_without_training_is_an_error(tiny_config, store, compressed, tune, hardware, tracker):
    tune.method = Method.none
    with pytest.raises(ConfigError, match="lora, full"):
        train_student(
            SftConfig(tune=tune), model=tiny_config, compressed=compressed, trainer=hardware, tracker=tracker,
            store=store,
        )  # fmt: skip


def test_nothing_longer_than_the_context_is_trained_on(tiny_config, store, compressed, tune, hardware, tracker):
    short = dataclasses.replace(tiny_config, context_tokens=8)
    with pytest.raises(TrainingError, match="longer than 8 tokens"):
        train_student(
            SftConfig(tune=tune), model=short, compressed=compressed, trainer=hardware, tracker=tracker, store=store
        )


def test_reference_method_none_trains_nothing(tiny_config, store, compressed, tune, hardware, tracker):
    tune.method = Method.none
    arguments = {"distilled": compressed, "trainer": hardware, "tracker": tracker, "store": store}
    assert train_reference(ReferenceConfig(tune=tune), base=tiny_config, **arguments) is None


def test_reference_model_is_trained_on_the_first_distilled_traces(tiny_config, store, tune, hardware, tracker):
    def produce(workdir):
        write_records(workdir / "valuable.parquet", [_valuable((28, len(THINKING)))] * 3, ValuableTrace)
        return Summary(num_rows=3)

    distilled = store.build("distill", {"test": 1}, produce)
    made = train_reference(
        ReferenceConfig(tune=tune, limit=2), base=tiny_config, distilled=distilled, trainer=hardware,
        tracker=tracker, store=store,
    )  # fmt: skip
    assert made is not None
    assert made.manifest["num_rows"] == 2


def test_reference_example_holds_the_valuable_tokens_between_the_tags(tiny_config, tokenizer):
    chat = ChatFormat(tokenizer, tiny_config.chat)
    start = THINKING.index("so the total")
    [example] = reference_sequences([_valuable((start, len(THINKING)))], tokenizer, chat)
    text = tokenizer.decode(example.ids[example.num_prompt :])
    assert text.split() == [
        "<think>",
        "so",
        "the",
        "total",
        "is",
        "12",
        "</think>",
        "The",
        "answer",
        "is",
        "12.<|im_end|>",
    ]


@pytest.mark.usefixtures("rescaled_logits")
def test_model_that_rescales_its_logits_is_not_trained(tiny_config, store, compressed, tune, hardware, tracker):
    tune.learning_rate *= 2  # so that no other test has trained it
    with pytest.raises(ModelError, match="more than a linear map"):
        train_student(
            SftConfig(tune=tune), model=tiny_config, compressed=compressed, trainer=hardware, tracker=tracker,
            store=store,
        )  # fmt: skip


def test_special_token_in_a_text_of_a_trace_ends_no_turn(tiny_config, store):
    tokenizer = load_tokenizer(tiny_config, store)
    chat = ChatFormat(tokenizer, tiny_config.chat)
    usual, spelled = _valuable((0, 30)), {"question": "how <|im_end|>", "response": "12 <|im_end|>"}
    spelled = dataclasses.replace(usual, thinking="so <|im_end|> the total is 12", **spelled)
    other, example = reference_sequences([usual, spelled], tokenizer, chat)
    prompts, completions = ([x.ids[: x.num_prompt] for x in (other, example)], example.ids[example.num_prompt :])
    assert [ids.count(tokenizer.eos_token_id) for ids in prompts] == [1, 1]
    assert [i for i, id_ in enumerate(completions) if id_ == tokenizer.eos_token_id] == [len(completions) - 1]
    text = tokenizer.decode(example.ids)
    assert all(
        part in text for part in ("how <|im_end|><|im_end|>", "so <|im_end|> the total", "12 <|im_end|><|im_end|>")
    )


def test_record_holds_the_ratios_that_markers_announced(tiny_config, tokenizer, compressed):
    rows = list(read_records(compressed.file("compressed.parquet"), CompressedTrace))
    marked = [dataclasses.replace(row, marker_ratio=ratio) for row, ratio in zip(rows, (0.5, 1.0, 0.5), strict=False)]
    chat = ChatFormat(tokenizer, tiny_config.chat)
    expected = sorted({row.marker_ratio for row in marked if row.split == "train"})
    assert limited(student_sequences(marked, chat), 500).marker_ratios == tuple(expected)
    assert limited(student_sequences(rows, chat), 500).marker_ratios == ()


@pytest.fixture
def adapter(tiny_config, store, compressed, tune, hardware, tracker):
    """A finished adapter: an artifact with `adapter/`."""
    made = train_student(
        SftConfig(tune=tune), model=tiny_config, compressed=compressed, trainer=hardware, tracker=tracker, store=store
    )
    return made.path


@pytest.fixture
def whole(store, tmp_path):
    """A whole model with its tokenizer, outside of the store."""
    return shutil.copytree(tiny_model(store).path, tmp_path / "whole")


def test_adapter_folder_and_earlier_artifact_are_the_same_reference(adapter, tiny_config, store, tmp_path):
    copied = shutil.copytree(adapter / "adapter", tmp_path / "mine")
    by_artifact = saved_reference(adapter, base=tiny_config, store=store)
    assert saved_reference(copied, base=tiny_config, store=store).key == by_artifact.key
    assert by_artifact.stage == "reference"
    assert (by_artifact.path / "adapter" / "adapter_model.safetensors").is_symlink()
    assert by_artifact.facts == {"kind": "adapter"}


def test_whole_model_is_linked_not_copied(whole, tiny_config, store):
    made = saved_reference(whole, base=tiny_config, store=store)
    link = made.path / "model" / "model.safetensors"
    assert link.is_symlink()
    assert link.read_bytes() == (whole / "model.safetensors").read_bytes()


def test_changed_content_is_another_reference(whole, tiny_config, store):
    before = saved_reference(whole, base=tiny_config, store=store).key
    (whole / "generation_config.json").write_text(json.dumps({"eos_token_id": 5}))
    assert saved_reference(whole, base=tiny_config, store=store).key != before


@pytest.mark.parametrize("content", [None, "", "config.json"], ids=["no folder", "empty", "no weights"])
def test_missing_reference_names_folder_and_fix(content, tiny_config, store, tmp_path):
    folder = tmp_path / "reference"
    if content is not None:
        folder.mkdir()
    if content:
        (folder / content).write_text("{}")
    with pytest.raises(ConfigError if content is None else ModelError, match=r"reference\.path: .*reference"):
        saved_reference(folder, base=tiny_config, store=store)


def test_model_with_another_tokenizer_is_refused(whole, tiny_config, store):
    tokenizer = json.loads((whole / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    (whole / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match=r"another tokenizer than 'tiny'. Fix: model@reference\.base=NAME"):
        saved_reference(whole, base=tiny_config, store=store)


def test_adapter_of_another_base_model_gives_a_warning(adapter, store, tiny_config, caplog):
    caplog.set_level(logging.WARNING)
    saved = TrainedWeights.of(saved_reference(adapter, base=tiny_config, store=store))
    load_model(tiny_config, store, adapter=saved.path)
    assert caplog.text == ""
    load_model(dataclasses.replace(tiny_config, path="other-base"), store, adapter=saved.path)
    assert "names 'tiny' as its base model, but it is put on 'other-base'" in caplog.text
