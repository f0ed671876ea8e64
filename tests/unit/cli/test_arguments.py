"""Messages for arguments that Hydra cannot read, and `~` at the beginning of paths."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from cotpress.cli.arguments import check_grammar, options_first, quoted, without_null
from cotpress.cli.errors import check_dashes, explain
from cotpress.config import register_schemas, to_objects
from cotpress.errors import ConfigError
from cotpress.jobs.multirun import written
from fuzz.cases import cases, odd_text
from support.commands import ROOT

CONF = ROOT / "conf"


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def message(arguments: list[str], script: str = "train") -> str:
    """The message of a refused command line."""
    try:
        arguments = without_null(quoted(arguments), script, CONF)
        check_dashes(arguments, script, CONF)
        check_grammar(arguments, script, CONF)
        to_objects(compose(script, overrides=arguments))
    except ConfigError as error:
        return str(error)
    except Exception as error:
        return explain(error, script, CONF, arguments) or repr(error)
    return ""


@pytest.mark.parametrize(
    ("arguments", "ordered"),
    [
        (["model=tiny", "-m", "seed=1,2"], ["-m", "model=tiny", "seed=1,2"]),
        (["a=1", "--cfg", "job", "b=2", "--resolve"], ["--cfg", "job", "--resolve", "a=1", "b=2"]),
        (["a=1", "a=1", "-cd", "a=1", "b=2", "-m"], ["-cd", "a=1", "-m", "a=1", "a=1", "b=2"]),
        (["a=1", "--cfg", "job"], ["a=1", "--cfg", "job"]),
        (["a=1", "--info"], ["a=1", "--info"]),
        (["a=1", "--multirum", "b=2"], ["a=1", "--multirum", "b=2"]),
    ],
)
def test_options_may_stand_between_settings(arguments: list[str], ordered: list[str]) -> None:
    assert options_first(arguments) == ordered


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["ratio=0.7,"], "ratio=0.7"),
        (["ratio=,0.7"], "ratio=0.7"),
        (["ratio==0.7"], "ratio=0.7"),
        (["ratio:0.7"], "ratio=0.7"),
        (["ratio", "0.7"], "ratio=0.7"),
        (["ratio", "=", "0.7"], "ratio=0.7"),
        (["ratio", "=0.7"], "ratio=0.7"),
        (["ratio\uff1d0.7"], "ratio=0.7"),
        (["-ratio=0.7"], "ratio=0.7"),
        (["--ratio", "0.7"], "ratio=0.7"),
        (["scorer = cts"], "scorer=cts"),
        ([" scorer=cts"], "scorer=cts"),
        (["/scorer=cts"], "scorer=cts"),
        (["override scorer=cts"], "scorer=cts"),
        (["+scorer=cts"], "scorer=cts"),
        (["+ratio=0.7"], "ratio=0.7"),
        (["ratio@x=0.7"], "ratio=VALUE"),
        (["~ratio=0.5"], "~ratio, without a value"),
        (["ratio=0.7 scorer=cts"], "ratio=0.7 scorer=cts"),
        (["evaluation.ratios=["], "'evaluation.ratios=[]'"),
        (["evaluation.ratios=[0.5"], "'evaluation.ratios=[0.5]'"),
        (["evaluation.ratios=[0.5,,0.7,]"], "'evaluation.ratios=[0.5,0.7]'"),
        (['name="abc'], "name=abc"),
        (["name='a b"], "'name='\"'\"'a b'\"'\"''"),
        (["name=}"], "'name=\"}\"'"),
        (["name=a(b"], "'name=\"a(b\"'"),
        (["name=foo(3)"], "'name=\"foo(3)\"'"),
        (["name=http://h/v1?a=b"], "'name=\"http://h/v1?a=b\"'"),
        (["name=${"], "'name=\"${\"'"),
        (["name=a\u202eb"], "leave it out"),
        (["labelled=planted"], "data@labelled=CHOICE"),
        (["data=[planted,jsonl]"], "leave out all but one"),
        (["name=choice(a,b)"], "cotpress train -m 'name=choice(a,b)'"),
    ],
)
def test_a_setting_that_cannot_be_read_is_answered_with_the_text_to_type(arguments: list[str], fix: str) -> None:
    answer = message(arguments)
    assert answer.endswith(f"Fix: {fix}")
    assert "\n" not in answer


@pytest.mark.parametrize(
    ("script", "setting", "expected"),
    [
        ("train", "++ratoi=0.7", r"^unknown key 'ratoi'\. Did you mean 'ratio'\? Allowed: benchmark, "),
        ("train", "RATIO=0.7", r"^unknown key 'RATIO'\. Fix: ratio=0\.7$"),
        ("train", "+scorer.nope=1", r"^unknown key 'scorer\.nope'\. Allowed: baseline, condition, "),
        ("train", "model.ratio=0.7", r"^unknown key 'model\.ratio'\. Fix: ratio=0\.7$"),
        (
            "train",
            "data.path=x",
            r"^unknown key 'data\.path'\. It is a setting of data=jsonl, data=hub\. Fix: data=jsonl data\.path=x$",
        ),
        (
            "report",
            "ratio=0.7",
            r"^unknown key 'ratio'\. cotpress report does not have it, but cotpress train, cotpress",
        ),
        ("train", "scorer=null", r"^scorer: got null\. Allowed: answer_attention, "),
        ("train", "ratio=null", r"^ratio: got null, allowed: a number"),
        ("train", "=0.7", r"has no key before the '='"),
        ("train", "==", r"cannot be read\. Fix: KEY=VALUE"),
        ("train", "name=[a]", r"^name: got a list, allowed: one text"),
        ("train", "benchmark.length=7", r"^benchmark\.length: got '?7'?, allowed: short, long, very_long"),
        ("compress", "data.length=tall", r"^data\.length: got 'tall', allowed: short, long, very_long"),
        ("train", "plan=maybe", r"^plan: got 'maybe', allowed: true or false"),
        ("train", "evaluation.baselines=[x]", r"^evaluation\.baselines\[0\]: got 'x', allowed: base, original, "),
    ],
)
def test_unknown_keys_and_values_name_where_they_belong(script: str, setting: str, expected: str) -> None:
    answer = message([setting], script)
    assert re.search(expected, answer)
    for key in re.findall(r"unknown key '(\w+)'", answer):
        assert f"Did you mean '{key}'" not in answer


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("reference.tune=${oc.decode:x}", r"^reference\.tune: got 'x', allowed: settings of TuneConfig, one by one"),
        ("reference.tune=${sft}", r"^reference\.tune: got .*SftConfig"),
        ("evaluation.ratios=${seed}", r"^evaluation\.ratios: got 42, allowed: a list"),
        ("evaluation.ratios=${name}", r"^evaluation\.ratios: got None, allowed: a list"),
        ("name=${oc.env:NO_SUCH_NAME}", r"^name: .*'NO_SUCH_NAME' not found.*Fix: set the variable, or .*,VALUE}$"),
        ("name=${name}", r"^name: the value cannot be resolved: Recursive interpolation detected"),
        ("name=${nope}", r"^name: the value cannot be resolved: Interpolation key 'nope' not found"),
        ("name=${nosuch:1}", r"^name: the value cannot be resolved: Unsupported interpolation type nosuch"),
        ('name=${oc.decode:"["}', r"^name: the value cannot be resolved: mismatched input '<EOF>'\. Fix"),
        ('name="${oc.create:{a:1}}"', r"^name: "),
        ("seed=${oc.select:a.b}", r"seed: the value cannot be resolved: .*'None' for field of type 'int'"),
        ("ratio=${oc.env:HOME}", r"^ratio: the value cannot be resolved: .*could not be converted to Float"),
    ],
)
def test_a_reference_that_cannot_be_resolved_names_its_key(setting: str, expected: str) -> None:
    assert re.search(expected, message([setting]))


def test_references_in_overrides_are_kept_as_they_were_written() -> None:
    config = compose("train", overrides=["name=${nope}"], return_hydra_config=True)
    assert written(config.hydra.overrides.task) == ["name=${nope}"]


def test_null_leaves_out_a_group_that_is_null_by_default() -> None:
    assert without_null(["experiment=null", "sweep=null", "ratio=0.5"], "train", CONF) == ["ratio=0.5"]
    assert without_null(["experiment=null", "experiment=cts_long_cot"], "train", CONF)[-1] == "experiment=cts_long_cot"
    assert without_null(["experiment=cts_long_cot", "experiment=null"], "train", CONF) == []
    assert message(["experiment=null"]) == ""


@pytest.mark.parametrize(
    ("script", "arguments", "place"),
    [
        ("compress", ["data=jsonl", "data.path=~/a.jsonl"], ("data", "path")),
        ("compress", ["output=~/a b"], ("output",)),
        ("train", ["output_root=~"], ("output_root",)),
        ("train", ["model.path=~/m"], ("model", "path")),
        ("train", ["model@reference.base=hub", "reference.base.path=~/m"], ("reference", "base", "path")),
        ("train", ["reference=saved", "reference.path='~/m'"], ("reference", "path")),
        ("train", ["evaluation.reference_tokenizer=~/t"], ("evaluation", "reference_tokenizer")),
        ("evaluate", ["adapter=~/a"], ("adapter",)),
        ("evaluate", ["benchmark=jsonl", "benchmark.path=~/b.jsonl"], ("benchmark", "path")),
        ("report", ["runs=~/runs"], ("runs",)),
        ("report", ["output_root=~/o"], ("runs",)),
        ("report", ["output=~/o"], ("output",)),
        ("train", ["scorer=tokenskip_xlmr", "scorer.path=~/s"], ("scorer", "path")),
    ],
)
def test_the_home_directory_is_inserted_in_every_path(
    script: str, arguments: list[str], place: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    value: Any = to_objects(compose(script, overrides=["model.path=x", *quoted(arguments)][script == "report" :]))
    for name in place:
        value = getattr(value, name)
    assert value.startswith("/home/me")
    assert "~" not in value


def test_a_tilde_that_is_no_path_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config: Any = to_objects(compose("train", overrides=quoted(["name=~/x", "compression.keep_strings=[~,a~b]"])))
    assert (config.name, config.compression.keep_strings) == ("~/x", ["~", "a~b"])


def test_the_logs_of_hydra_follow_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for setting, folders in (("output_root=~/x", "/home/me/x/"), ("hydra.run.dir=~/x", "/home/me/x")):
        config = compose("train", overrides=quoted([setting]), return_hydra_config=True)
        assert str(config.hydra.run.dir).startswith(folders)
    assert quoted(["--config-dir=~/conf"]) == ["--config-dir=/home/me/conf"]


@pytest.mark.parametrize(
    "text", ["/data/übung.jsonl", "数据/x", "a#b", "a;b", "a & b", "<a>", "~user/x", "it`s", "a^b!", "~/${seed}/x"]
)
def test_a_text_that_hydra_has_no_signs_for_is_read_as_it_is(text: str) -> None:
    config: Any = compose("train", overrides=quoted([f"name={text}"]))
    assert config.name == text.replace("${seed}", "42")


@pytest.mark.parametrize(
    "place", ["messages[-1].content", "conversations[from=gpt].value", "gens[0]|problem", "instruction+input", "a b[0]"]
)
def test_a_place_in_a_row_needs_no_quotes(place: str) -> None:
    given = quoted(["data=jsonl", "data.path=x", f"data.columns.response={place}"])
    config: Any = to_objects(compose("compress", overrides=given))
    assert config.data.columns.response == place
    assert quoted([f"data.columns.response='{place}'"]) == [f"data.columns.response='{place}'"]


def test_misspelt_column_is_answered_with_the_columns() -> None:
    text = message(["data=jsonl", "data.path=x", "data.columns.questoin=a"], "compress")
    assert "question" in text
    assert "thinking" in text


@pytest.mark.parametrize(
    "setting",
    ["ratio=0.5", "name='~'", 'name="a, ~b"', "evaluation.ratios=[0.5,0.7]", "a={b: 1}", "name=a\\,b", "name=${seed}",
     "ratio=0.5,0.7", "name=choice(a,b)", "~ratio"],
)  # fmt: skip
def test_what_hydra_can_read_is_left_alone(setting: str) -> None:
    assert quoted([setting]) == [setting]


@cases(60)
@given(key=st.sampled_from(["ratio", "name", "evaluation.ratios", "model"]), value=odd_text)
def test_every_value_is_read_or_its_fix_is(key: str, value: str) -> None:
    if "\0" in value:  # no argument of a process holds one
        return
    setting = quoted([f"{key}={value}"])
    try:
        check_grammar(setting, "train", CONF)
    except ConfigError as error:
        fix = str(error).partition("Fix: ")[2]
        if "leave it out" in fix or "KEY=VALUE" in fix or "Allowed" in str(error):
            return
        for argument in shlex.split(fix):
            OverridesParser.create().parse_override(argument)


def test_messages_for_paths_name_the_folder_that_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config: Any = to_objects(compose("compress", overrides=quoted(["data=jsonl", "data.path=~/none.jsonl"])))
    assert config.data.path == str(tmp_path / "none.jsonl")
