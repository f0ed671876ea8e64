import json
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from cotpress.errors import ConfigError, ModelError
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.training_record import TRAINING_CONFIG, TrainingRecord, check_chat
from cotpress.prompts import ChatConfig

CHAT = ChatConfig(
    system='Say "it\'s" in \\boxed{}, ${x}.',
    user="first:\n{question}\n",
    template="{{- 'a\\n' }}\n\tb",
    thinking_close="\n\n",
)


def test_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    model = ModelConfig(name="m", path="me/model", chat=CHAT)
    record = TrainingRecord.of(model, marker_ratios=(0.5, 1.0), selection={"mixed": True}, names={"data": "gsm8k"})
    (tmp_path / TRAINING_CONFIG).write_text(record.text())
    read = TrainingRecord.beside(tmp_path, "m")
    assert read is not None
    assert (read.base_model, read.chat, read.marker_ratios) == ("me/model", CHAT, (0.5, 1.0))
    assert read.has_marker
    assert TrainingRecord.beside(tmp_path / "other", "m") is None


def test_record_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    local = ModelConfig(name="m", path=str(tmp_path))
    assert TrainingRecord.of(local).base_model is None
    packaged = ModelConfig(name="m", source=ModelSource.package, path="llm_m", hub_id="me/m")
    assert TrainingRecord.of(packaged).base_model == "me/m"
    assert str(tmp_path) not in TrainingRecord.of(local).text()


@pytest.mark.parametrize(
    "text", ["[", "3", "{}", '{"chat": 1, "marker_ratios": []}', '{"chat": {}, "marker_ratios": 1}']
)
def test_another_file_of_this_name_is_one_message(text: str, tmp_path: Path) -> None:
    (tmp_path / TRAINING_CONFIG).write_text(text)
    with pytest.raises(ModelError, match=r"'m': .* is no record of a training: .*Fix: fetch"):
        TrainingRecord.beside(tmp_path, "m")


def test_settings_in_the_message_give_the_prompt_of_the_training() -> None:
    record = TrainingRecord(base_model=None, chat=CHAT)
    with pytest.raises(ConfigError, match=r"^model\.chat: 'mine' was trained with another prompt") as raised:
        check_chat(record, ChatConfig(system="b", thinking_close="c"), "mine", "model.chat", marker=False)
    typed = str(raised.value).partition("Fix: ")[2]
    shell = f"printf '%s\\0' {typed}"
    settings = subprocess.run(["bash", "-c", shell], check=True, capture_output=True, text=True).stdout.split("\0")
    overrides = OverridesParser.create().parse_overrides(settings[:-1])
    given = {o.key_or_group: OmegaConf.create({"value": o.value()}).value for o in overrides}
    names = ("system", "user", "template", "thinking_close")
    assert given == {f"model.chat.{name}": getattr(CHAT, name) for name in names}
    nothing = TrainingRecord(base_model=None, chat=ChatConfig())
    with pytest.raises(ConfigError, match=r"Fix: model\.chat\.system=null$"):
        check_chat(nothing, ChatConfig(system="b"), "mine", "model.chat", marker=False)


def test_text_of_the_marker_counts_only_where_it_is_used() -> None:
    record = TrainingRecord(base_model=None, chat=ChatConfig(ratio_marker="a {ratio}"))
    check_chat(record, ChatConfig(), "mine", "model.chat", marker=False)
    with pytest.raises(ConfigError, match=r"Fix: 'model\.chat\.ratio_marker=\"a {ratio}\"'$"):
        check_chat(record, ChatConfig(), "mine", "model.chat", marker=True)
    assert json.loads(record.text())["chat"] == asdict(record.chat)


def test_trained_model_thinks_in_the_layout_of_its_training_alone():
    record = TrainingRecord(base_model=None, chat=ChatConfig(thinking_open="", thinking_close="\n\n"))
    assert record.thinks_as(ChatConfig(thinking_open="", thinking_close="\n\n", system="another"))
    assert not record.thinks_as(ChatConfig())
