"""Any override of any key gives a configuration or one error message."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

from cotpress.cli.errors import check_dashes, check_options, explain
from cotpress.config import EvaluateConfig, TrainConfig, register_schemas, to_objects
from cotpress.errors import CotpressError
from cotpress.store.artifacts import plain
from cotpress.store.redaction import check_readable, refuse_secret_arguments
from cotpress.tasks.run_directory import run_path, write_config
from fuzz.cases import any_text, assert_is_message, cases, odd_text
from support.commands import ROOT

CONF = ROOT / "conf"
SCRIPTS = ("train", "compress", "evaluate", "report", "fidelity")


def keys_of(script: str) -> list[str]:
    """Every key of a script, and every group with some of its choices."""
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose(script)
    leaves = list(_leaves(composed, ""))
    choices = [
        f"{group.relative_to(CONF)}={file.stem}"
        for group in CONF.iterdir()
        if group.is_dir() and group.name != "hydra"
        for file in group.glob("*.yaml")
    ]
    return [*leaves, *choices]


def _leaves(node: DictConfig, prefix: str) -> Iterator[str]:
    for name in node:
        value = node._get_node(name)
        yield f"{prefix}{name}"
        if isinstance(value, DictConfig) and not value._is_none() and not value._is_missing():
            yield from _leaves(value, f"{prefix}{name}.")


KEYS = {script: keys_of(script) for script in SCRIPTS}
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([0, -1, 1, 2**63, 2**64, 0.5, 1.0, 1e308])).map(str)
words = st.sampled_from(
    [
        "null",
        "true",
        "[]",
        "{}",
        "[1,2]",
        "{a:1}",
        "???",
        "''",
        "1,2",
        "${seed}",
        "${oc.env:HOME}",
        "${a",
        "\\",
        "tiny",
        "jsonl",
        "server",
        "saved",
        "none",
        "full",
        "nope",
        "choice(1,2)",
        "range(1,3)",
        "[[1]]",
        "nan",
        "inf",
        "-inf",
    ]
)
texts = st.one_of(numbers, words, odd_text, any_text)


@st.composite
def commands(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A script and a few arguments, most of them about keys that exist."""
    script = draw(st.sampled_from(SCRIPTS))
    arguments = []
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.one_of(st.sampled_from(KEYS[script]), st.sampled_from(KEYS[script]), odd_text))
        kind = draw(st.integers(0, 9))
        if kind == 0:
            key = f"{key}{draw(st.sampled_from(['x', '.x', '@x', '/', '-', '.0']))}"
        prefix = draw(st.sampled_from(["", "", "", "", "+", "++", "~", "--"]))
        arguments.append(f"{prefix}{key}" if "=" in key or kind == 1 else f"{prefix}{key}={draw(texts)}")
    return script, arguments


@pytest.fixture(scope="module", autouse=True)
def composing() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@cases(40)
@given(command=commands())
def test_any_override_is_a_configuration_or_one_message(
    command: tuple[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    script, arguments = command
    try:
        check_readable(arguments)
        refuse_secret_arguments(arguments)
        check_dashes(arguments, script, CONF)
        config = to_objects(compose(script, overrides=arguments))
    except CotpressError as error:
        assert_is_message(str(error))
        return
    except Exception as error:
        assert_is_message(explain(error, script, CONF) or "")
        return
    values = plain(config)
    place = tmp_path_factory.getbasetemp() / "config"
    write_config(place, values)
    assert yaml.safe_load((place / "config.yaml").read_text(encoding="utf-8")) is not None
    if isinstance(config, TrainConfig | EvaluateConfig):
        assert run_path(config).parent == Path(config.output_root) / "runs"


@cases(20)
@given(
    st.lists(
        st.one_of(st.sampled_from(["--cfg", "-c", "job", "-m", "--multirun", "--package", "-cn", "x=1"]), odd_text)
    )
)
def test_any_option_is_accepted_or_refused_with_one_message(arguments: list[str]) -> None:
    ends_at_once = {"--version", "-h", "--help", "--hydra-help"}
    if any(a.startswith(("--v", "--h", "-h")) for a in arguments) or ends_at_once & set(arguments):
        return  # they print and end
    try:
        check_options(arguments, "train")
    except CotpressError as error:
        assert_is_message(str(error))
