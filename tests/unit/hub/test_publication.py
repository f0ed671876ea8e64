import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from cotpress.errors import ArtifactError, ConfigError
from cotpress.hub.__main__ import HubConfig, publish
from cotpress.report.results import RunResults, write_results
from support.hub_server import Account, Hub, client_environment, hub_server
from support.published import BASE, SETTINGS, finished_run, result


@pytest.fixture
def finished(tmp_path: Path) -> Callable[..., Path]:
    """Function that creates the run directory of a finished run; all its runs have the same student."""
    return functools.partial(finished_run, tmp_path / "outputs")


def write(run_dir: Path, output: Path, **changes: Any) -> Path:
    return Path(publish(HubConfig(run=str(run_dir), repo="me/student", dry_run=True, output=str(output), **changes)))


def test_dry_run_writes_the_folder_with_weights_card_and_masked_settings(
    finished: Callable[..., Path], tmp_path: Path
) -> None:
    run_dir = finished()
    before = {p: p.read_bytes() for p in (tmp_path / "outputs").rglob("*") if p.is_file()}
    output = write(run_dir, tmp_path / "hub")
    assert sorted(p.name for p in output.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "training_config.json",
    ]  # fmt: skip
    assert (output / "adapter_model.safetensors").read_bytes() == b"weights"
    assert json.loads((output / "adapter_config.json").read_text()) == {"base_model_name_or_path": BASE}
    record = json.loads((output / "training_config.json").read_text())
    assert record == {"base_model": BASE, "run": {**SETTINGS, "distill": {"api_key": "***"}}}
    assert before == {p: p.read_bytes() for p in (tmp_path / "outputs").rglob("*") if p.is_file()}
    assert write(run_dir, output) == output  # an earlier export is overwritten


def test_card_has_metadata_and_results(finished: Callable[..., Path], tmp_path: Path) -> None:
    card = ModelCard.load(write(finished(), tmp_path / "hub") / "README.md")
    data = card.data
    assert (data.base_model, data.library_name, data.metrics, data.model_name) == (
        BASE,
        "peft",
        ["accuracy"],
        "student",
    )
    assert {"cotpress", "lora", "scorer:cts"} <= set(data.tags)
    assert {(r.dataset_type, r.metric_type, r.metric_value) for r in data.eval_results} == {
        ("gsm8k", "accuracy", 0.5), ("gsm8k", "mean_generated_tokens", 72.0),
    }  # fmt: skip
    assert "| gsm8k | cts | 0.7 | 50.0 [40.0, 60.0] (95%) | 84 | 72.0 [70.0, 75.0] | 10.0 |" in card.text
    assert "| gsm8k | Original | 1 | 80.0" in card.text
    assert f"| base model | {BASE} |" in card.text
    assert "| data | `traces.jsonl`, 4 chains of thought |" in card.text
    assert "| unit | step |" in card.text
    assert "| ratio | 0.7 |" in card.text
    assert "700 of 1,000 kept (0.700)" in card.text
    assert "Measured on `gsm8k` alone" in card.text
    assert "- This model: not stated; the licence of the base model applies" in card.text


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"name": "jsonl", "path": "/home/ann/secret/traces.jsonl"}, "`traces.jsonl`"),
        ({"name": "my traces", "path": "/home/ann/secret/traces.jsonl"}, "`my traces`"),
        ({"name": "jsonl", "path": "~"}, "`a folder`"),
        ({"name": "hub", "path": "open/set", "split": "train", "config": None},
         "[open/set](https://huggingface.co/datasets/open/set), split `train`"),
        ({"name": "planted", "num_traces": 9}, "the built-in word problems of cotpress (`planted`)"),
        ({"name": "self_written", "writer": "/home/ann/student", "questions": {"name": "jsonl", "path": "../q.csv"}},
         "right answers of `student` to the questions of `q.csv`"),
    ],
)  # fmt: skip
def test_card_names_the_data_without_their_place(
    data: dict[str, Any], named: str, finished: Callable[..., Path], tmp_path: Path
) -> None:
    card = ModelCard.load(write(finished(data=data), tmp_path / "hub") / "README.md")
    assert f"| data | {named}, 4 chains of thought |" in card.text
    assert card.data.datasets == (["open/set"] if "split" in data else None)


def test_card_has_the_licence_that_is_given(finished: Callable[..., Path], tmp_path: Path) -> None:
    card = ModelCard.load(write(finished(), tmp_path / "hub", license="mit") / "README.md")
    assert card.data.license == "mit"
    assert "- This model: mit\n" in card.text


def test_card_of_a_mixed_student_has_results_at_every_ratio_and_the_marker(
    finished: Callable[..., Path], tmp_path: Path
) -> None:
    mixed = {"compression": {"mixed_ratios": [0.5, 0.9]}}
    run_dir = finished("a", 0.9, 0.7, **mixed)
    finished("b", 0.5, 0.6, **mixed)
    (tmp_path / "outputs" / "runs" / "unfinished").mkdir()
    card = ModelCard.load(write(run_dir, tmp_path / "hub") / "README.md")
    assert sorted(r.metric_value for r in card.data.eval_results if r.metric_type == "accuracy") == [0.6, 0.7]
    assert card.text.count("| gsm8k | Original |") == 1
    assert '"QUESTION<|im_end|>0.5<|im_end|>"' in card.text
    compile(card.text.split("```python\n")[1].split("```")[0], "card", "exec")


def test_card_has_the_given_run_of_several_with_the_same_ratio(finished: Callable[..., Path], tmp_path: Path) -> None:
    finished("a", 0.7, 0.6)
    card = ModelCard.load(write(finished("b", 0.7, 0.5), tmp_path / "hub") / "README.md")
    assert [r.metric_value for r in card.data.eval_results if r.metric_type == "accuracy"] == [0.5]


def test_unknown_base_model_must_be_given(finished: Callable[..., Path], tmp_path: Path) -> None:
    model = {**SETTINGS["model"], "hub_id": None}
    with pytest.raises(ConfigError, match="base_model: the run's model 'smollm2' has no known hub id"):
        write(finished(model=model), tmp_path / "hub")
    folder = {**model, "name": "hub", "source": "hub", "path": str(tmp_path)}
    with pytest.raises(ConfigError, match=f"base_model: the run's model '{tmp_path}' has no known hub id"):
        write(finished(model=folder), tmp_path / "hub")
    given = write(finished(model=model), tmp_path / "hub", base_model="me/base")
    assert ModelCard.load(given / "README.md").data.base_model == "me/base"


def test_run_without_a_student_and_damaged_student_are_refused(finished: Callable[..., Path], tmp_path: Path) -> None:
    run_dir = finished()
    next((tmp_path / "outputs").rglob("adapter_model.safetensors")).write_bytes(b"other")
    with pytest.raises(ArtifactError, match=r"damaged: checksum of adapter/adapter_model\.safetensors differs"):
        write(run_dir, tmp_path / "hub")
    rows = (result("Base", 1.0, 0.1, {}),)
    write_results(run_dir, RunResults(name="x", model="smollm2", benchmark="gsm8k", seed=42, rows=rows))
    with pytest.raises(ArtifactError, match=r"trained no student\. Fix: give a run directory of cotpress train"):
        write(run_dir, tmp_path / "hub")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repo": "student"}, "repo: got 'student', allowed: OWNER/NAME"),
        ({"output": None}, "Fix: output=DIR"),
        ({"dry_run": False}, "output has no effect on a push"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    usual = {"run": str(tmp_path), "repo": "me/student", "dry_run": True, "output": str(tmp_path)}
    with pytest.raises(ConfigError, match=message):
        publish(HubConfig(**{**usual, **changes}))


def test_folder_with_other_content_is_not_overwritten(finished: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        write(finished(), tmp_path / "mine")


def test_folder_of_a_student_is_not_overwritten(finished: Callable[..., Path], tmp_path: Path) -> None:
    run_dir = finished()
    (weights,) = run_dir.parents[1].glob("artifacts/sft/*/adapter")
    (weights / "training_config.json").write_text("{}")  # as an earlier export has
    before = (weights / "adapter_config.json").read_bytes()
    (tmp_path / "student").symlink_to(weights)
    with pytest.raises(ConfigError, match=r"output: .* lies in .*Fix: another output=DIR"):
        write(run_dir, tmp_path / "student")
    assert (weights / "adapter_config.json").read_bytes() == before


TOKEN = "hf_write000000000000000"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub with an account, and with the card of the base model."""
    (tmp_path / "uploaded").mkdir()
    (tmp_path / "base").mkdir()
    card = "---\nlicense: other\nlicense_name: smol\nlicense_link: https://smol.org/licence\n---\n"
    (tmp_path / "base" / "README.md").write_text(card)
    served = Hub({}, accounts={TOKEN: Account("me")}, folder=tmp_path / "uploaded")
    served.models[BASE] = {"a" * 40: tmp_path / "base"}
    with hub_server(served):
        yield served


def push(
    hub: Hub, tmp_path: Path, run_dir: Path, *settings: str, token: str | None = TOKEN
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-m", "cotpress.hub", f"run={run_dir}", "repo=me/student", *settings], check=False, text=True,
        env=client_environment(hub, tmp_path / "home", token), capture_output=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert TOKEN not in done.stdout + done.stderr
    return done


def test_push_uploads_the_folder_of_the_dry_run(finished: Callable[..., Path], hub: Hub, tmp_path: Path) -> None:
    done = push(hub, tmp_path, finished())
    assert (done.returncode, done.stdout) == (0, f"{hub.url}/me/student\n"), done.stderr
    files = hub.files("me/student", is_model=True)
    assert hub.private == {"me/student"}
    assert files.pop(".gitattributes") == b""
    same = push(hub, tmp_path, finished(), "dry_run=true", f"output={tmp_path / 'hub'}", token=None)
    assert same.returncode == 0, same.stderr
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "hub").iterdir()}
    data = ModelCard(files["README.md"].decode()).data
    assert (data.license, data.license_name, data.license_link) == ("other", "smol", "https://smol.org/licence")
    assert "This model: other (smol, https://smol.org/licence)" in files["README.md"].decode()


def test_merged_and_adapter_do_not_lie_side_by_side_on_the_hub(
    finished: Callable[..., Path], hub: Hub, tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    for name in ("model.safetensors", "config.json", "training_config.json"):
        (tmp_path / "whole" / name).write_text("{}")
    hub.models["me/student"] = {"b" * 40: tmp_path / "whole"}
    assert push(hub, tmp_path, finished()).returncode == 0
    assert {*hub.files("me/student", is_model=True)} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "training_config.json",
    }  # fmt: skip


def test_repository_with_something_else_is_refused(finished: Callable[..., Path], hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.pdf").write_text("x")
    hub.models["me/student"] = {"b" * 40: tmp_path / "mine"}
    done = push(hub, tmp_path, finished())
    assert done.returncode == 2
    assert (
        "repo: 'me/student' is not empty and not of an earlier export. Fix: repo=OWNER/NAME with another" in done.stderr
    )
    assert {*hub.files("me/student", is_model=True)} == {"thesis.pdf"}


def test_push_without_a_token_is_an_error_with_a_fix(finished: Callable[..., Path], hub: Hub, tmp_path: Path) -> None:
    done = push(hub, tmp_path, finished(), token=None)
    assert done.returncode == 1
    assert "there is no Hugging Face token. Fix: hf auth login" in done.stderr
    assert "dry_run=true output=DIR writes the folder without one" in done.stderr
    assert "Traceback" not in done.stderr


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


ALIASES = [LAUGHS, "a: &a {b: *a}", "a: &a [*a]", "a: &a 1\nb: *a", "a: &a {x: 1}\nb:\n  <<: *a"]
OTHERS = ["[" * 5000, "3", "- 1", "", "a: 2001-99-99", "a: !!python/name:os.system", "a: \0", "a: [", "a: \x85\x01"]


@pytest.mark.parametrize(
    ("text", "message"),
    [*((text, "config.yaml.* YAML alias") for text in ALIASES), *((text, "config.yaml") for text in OTHERS)],
    ids=range(len(ALIASES) + len(OTHERS)),
)
def test_settings_of_a_stranger_are_bounded_and_one_message(
    text: str, message: str, finished: Callable[..., Path], tmp_path: Path
) -> None:
    run_dir = finished()
    (run_dir / "config.yaml").write_text(text)
    with pytest.raises(ArtifactError, match=message):
        write(run_dir, tmp_path / "hub")


def test_run_without_a_row_is_one_message(finished: Callable[..., Path], tmp_path: Path) -> None:
    run_dir = finished()
    write_results(run_dir, RunResults(name="r", model="m", benchmark="b", seed=1, rows=()))
    with pytest.raises(ArtifactError, match="trained no student"):
        write(run_dir, tmp_path / "hub")
