"""Code beside weights runs only for a trusted model, and code in settings or data never runs."""

import ast
import shutil
from pathlib import Path

import pytest

from cotpress.answers.verifier import _equal
from cotpress.errors import ArtifactError, ModelError
from cotpress.hub.publication import read_publication
from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_model, load_tokenizer
from cotpress.scoring.scorers.classifier import load_classifier
from cotpress.scoring.scorers.tokenskip import TokenskipConfig
from cotpress.store.artifacts import ArtifactStore
from cotpress.training.stage import saved_reference
from security.conftest import edit
from support.commands import ROOT

CODE = """
import pathlib
pathlib.Path({ran!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM
class Settings(LlamaConfig):
    model_type = "given"
class Model(LlamaForCausalLM):
    config_class = Settings
"""
CLASSES = {"AutoConfig": "code.Settings", "AutoModelForCausalLM": "code.Model"}


@pytest.fixture
def with_code(model_folder: Path, ran: Path) -> Path:
    """A model of a type that transformers does not know, with its code."""
    edit(model_folder / "config.json", model_type="given", auto_map=CLASSES)
    (model_folder / "code.py").write_text(CODE.format(ran=str(ran)))
    return model_folder


def test_code_beside_the_weights_runs_only_for_a_trusted_model(
    with_code: Path, store: ArtifactStore, ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(ran.parent / "modules"))
    with pytest.raises(ModelError, match=r"Python code of its own.*model\.trust_remote_code=true"):
        load_model(ModelConfig(name="given", path=str(with_code)), store)
    assert not ran.exists()
    load_model(ModelConfig(name="given", path=str(with_code), trust_remote_code=True), store)
    assert ran.exists()


def test_code_of_a_tokenizer_or_of_a_known_architecture_does_not_run(
    model_folder: Path, store: ArtifactStore, ran: Path
) -> None:
    (model_folder / "code.py").write_text(CODE.format(ran=str(ran)))
    edit(model_folder / "config.json", auto_map=CLASSES)  # transformers has its own Llama
    config = ModelConfig(name="given", path=str(model_folder))
    load_model(config, store)
    edit(
        model_folder / "tokenizer_config.json",
        tokenizer_class="Given",
        auto_map={"AutoTokenizer": ["code.Settings", "code.Settings"]},
    )
    with pytest.raises(ModelError, match=r"Python code of its own"):
        load_tokenizer(config, store)
    assert not ran.exists()


def test_classifier_with_code_is_refused_without_a_prompt_on_the_terminal(with_code: Path, ran: Path) -> None:
    import torch

    with pytest.raises(ModelError, match="cannot be loaded as a token classifier"):
        load_classifier(
            with_code, TokenskipConfig(name="t", path=str(with_code)), new_head=True, device=torch.device("cpu")
        )
    assert not ran.exists()


def test_trust_in_a_model_does_not_cover_other_folders_and_repositories(
    with_code: Path, store: ArtifactStore, ran: Path
) -> None:
    base = ModelConfig(name="tiny", source=ModelSource.tiny, path="llama", trust_remote_code=True)
    made = saved_reference(with_code, base=base, store=store)
    with pytest.raises(ModelError):
        load_model(ModelConfig(name="given", path=str(made.path / "model"), trust_remote_code=True), store)
    edit(with_code / "config.json", auto_map={name: f"other/place--{where}" for name, where in CLASSES.items()})
    with pytest.raises(ModelError, match=r"another repository, 'other/place'"):
        load_model(ModelConfig(name="given", path=str(with_code), trust_remote_code=True), store)
    assert not ran.exists()


def test_kernel_from_the_hub_is_refused(model_folder: Path, store: ArtifactStore) -> None:
    edit(model_folder / "config.json", attn_implementation="somebody/kernel")
    with pytest.raises(ModelError, match="names the kernel 'somebody/kernel'"):
        load_model(ModelConfig(name="given", path=str(model_folder)), store)


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:pathlib.Path.touch [{ran}]",
        "model: {{path: x, source: hub, _target_: pathlib.Path.touch, _args_: [{ran}]}}",
        "model: {{path: '${{oc.env:SOME_API_KEY}}', source: hub, hub_id: null}}",
    ],
    ids=["yaml tag", "_target_", "interpolation"],
)
def test_settings_of_a_foreign_run_are_read_as_plain_text(
    text: str, finished_run: Path, ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "very-secret-value")
    (finished_run / "config.yaml").write_text(text.format(ran=ran))
    try:
        text = read_publication(finished_run, None).base_model
    except ArtifactError as error:
        text = str(error)
    assert "very-secret-value" not in text
    assert not ran.exists()


def test_answers_are_compared_without_evaluating_them(ran: Path) -> None:
    payload = f"__import__('pathlib').Path('{ran}').touch()"
    for text in (payload, f"1+{payload}", rf"\text{{{payload}}}", f"${payload}$", f"1/({payload})", f"2^{{{payload}}}"):
        assert not _equal("2", text)
    assert not ran.exists()


FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "dill.load", "dill.loads",
    "cloudpickle.load", "cloudpickle.loads", "joblib.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "numpy.load", "np.load", "pd.read_pickle", "marshal.loads", "shelve.open", "hydra.utils.instantiate", "instantiate",
    "hydra.utils.call", "hydra.utils.get_class", "hydra.utils.get_method", "os.system", "os.popen",
}  # fmt: skip


def test_source_has_no_call_that_unpickles_evaluates_or_instantiates() -> None:
    calls = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            arguments = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name == "torch.load" and arguments.get("weights_only") == "True":
                continue
            if name.endswith(".from_pretrained") and "Auto" in name and "trust_remote_code" not in arguments:
                # Without the argument transformers asks on the terminal.
                calls.append(f"{path.name}:{node.lineno}: {name} without trust_remote_code")
            if name in FORBIDDEN or name == "torch.load" or arguments.get("shell") == "True":
                calls.append(f"{path.name}:{node.lineno}: {name}")
    assert calls == []


def test_saved_reference_does_not_contain_the_code_of_its_model(with_code: Path, store: ArtifactStore) -> None:
    copied = shutil.copytree(with_code, with_code.parent / "copy")
    base = ModelConfig(name="tiny", source=ModelSource.tiny, path="llama")
    made = saved_reference(copied, base=base, store=store)
    assert not list(made.path.rglob("*.py"))
