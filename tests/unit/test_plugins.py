import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException

from cotpress import plugins
from cotpress.answers.extraction import Extractor
from cotpress.cli import app
from cotpress.cli.errors import explain
from cotpress.config import register_schemas, to_objects
from cotpress.data import registry, stage
from cotpress.data.config import (
    BenchmarkConfig,
    DataConfig,
    JsonlBenchmarkConfig,
    JsonlDataConfig,
    PlantedDataConfig,
    PublishedBenchmarkConfig,
    SelfWrittenDataConfig,
)
from cotpress.data.registry import register_benchmark, register_data
from cotpress.data.stage import problems, traces
from cotpress.errors import ConfigError, DataError, ModelError
from cotpress.jobs import job
from cotpress.plugins import check_names, choice_lines, load_plugins, plugin_names, without_plus
from cotpress.records import Problem, ReadTrace, Trace
from cotpress.scoring.base import ReadingScorer, TokenScorer
from cotpress.scoring.config import ScorerConfig
from cotpress.scoring.scorers.cts import CtsConfig, CtsScorer
from cotpress.scoring.table import SCORERS, register_scorer
from cotpress.store.artifacts import ArtifactStore
from cotpress.store.sweeps import JobNote, JobState
from cotpress.tasks import COMPRESS, TRAIN
from support.commands import ROOT

MODULE = '''
from dataclasses import dataclass

from cotpress.data.config import BenchmarkConfig, DataConfig
from cotpress.data.registry import register_benchmark, register_data
from cotpress.records import Problem, Trace
from cotpress.scoring.base import ReadingScorer
from cotpress.scoring.config import TokenReadingConfig
from cotpress.scoring.table import register_scorer


@dataclass(kw_only=True, slots=True)
class RankConfig(TokenReadingConfig):
    """Tokens that the model ranks low."""

    power: float = 1.0


@register_scorer("{name}", RankConfig)
class RankScorer(ReadingScorer[RankConfig]):
    def score(self, trace, *readings):
        return readings[0].rank**self.config.power


@dataclass(kw_only=True, slots=True)
class CountingConfig(DataConfig):
    """Traces that count."""

    upto: int = 5


@register_data("{name}", CountingConfig)
def counting(config):
    for i in range(config.upto):
        thinking = " ".join(map(str, range(20 + i)))
        yield Trace(id=f"c{{i}}", question="count", thinking=thinking, response=str(i), answer=str(i))


@dataclass(kw_only=True, slots=True)
class SumsConfig(BenchmarkConfig):
    """Small sums."""

    max_new_tokens: int = 8


@register_benchmark("{name}", SumsConfig)
def sums(config):
    yield Problem(id="p0", question="1 + 1", answer="2", extractor="math")
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A registered module of its own name beside the working directory."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(name=name), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    load_plugins([name])
    yield name
    SCORERS.pop(name, None)


@pytest.fixture(autouse=True)
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Registries of this test alone, Hydra's store of choices among them."""
    monkeypatch.setattr(plugins, "CHOICES", {})
    monkeypatch.setattr(registry, "SOURCES", {})
    monkeypatch.setattr(stage, "SOURCES", registry.SOURCES)
    register_schemas()
    groups = {name: files for name, files in ConfigStore.instance().repo.items() if name != "hydra"}
    before = {name: set(files) for name, files in groups.items() if isinstance(files, dict)}
    yield
    for name, known in before.items():
        for added in set(groups[name]) - known:
            del groups[name][added]


def _settings(base: type, **fields: Any) -> type:
    """A settings class of its own, with fields of the given type and default."""
    body = {"__annotations__": {name: kind for name, (kind, _) in fields.items()}, "__doc__": "Settings."}
    return dataclass(kw_only=True)(type("Mine", (base,), body | {name: d for name, (_, d) in fields.items()}))


def _trace(number: int, **changes: Any) -> Trace:
    return Trace(**{"id": f"t{number}", "question": "q", "thinking": "so", "response": "r", "answer": "1", **changes})


def _problem(number: int, **changes: Any) -> Problem:
    return Problem(**{"id": f"p{number}", "question": "q", "answer": "B", **changes})


def _plugin(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    name = f"plugin_{folder.name.replace('-', '_')}"
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_plugins_are_found_on_a_command_line() -> None:
    assert plugin_names(["scorer=cts", "plugins=[a,b.c]", "+plugins=[d]", "ratio=0.5"]) == ["a", "b.c", "d"]
    assert plugin_names(["plugins=[]", "data.path=plugins=x"]) == []
    assert without_plus(["+plugins=[a]", "+scorer.x=1"]) == ["plugins=[a]", "+scorer.x=1"]


def test_missing_and_broken_modules_are_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken_plugin.py").write_text("1 / 0", encoding="utf-8")
    with pytest.raises(ConfigError, match="module 'no_such_plugin' cannot be imported: ModuleNotFoundError"):
        load_plugins(["no_such_plugin"])
    with pytest.raises(ConfigError, match="module 'broken_plugin' cannot be imported: ZeroDivisionError"):
        load_plugins(["broken_plugin"])


def test_a_named_module_that_registers_nothing_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty_plugin.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (warning, *_) = plugins.load_plugins(["empty_plugin"])
    assert warning.startswith("plugins: module 'empty_plugin' registers nothing. Fix: @register_scorer(NAME, SETTINGS)")


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("own_scorers.py", "plugins=[own_scorers]"),
        ("below/other_scorers.py", "PYTHONPATH=below before the command, and plugins=[other_scorers]"),
        ("own_scorer", "plugins=[NAME]. Did you mean 'own_scorers'?"),
        ("something", "the name of a module in the working directory or of an installed package, plugins=[NAME]"),
    ],
)
def test_a_module_that_does_not_exist_is_answered_with_the_one_that_is_meant(
    name: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    for file in ("own_scorers.py", "below/other_scorers.py"):
        (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as caught:
        plugins.load_plugins([name])
    assert str(caught.value).endswith(fix)


def test_registered_choices_compose_without_a_yaml_and_have_help(module: str, tmp_path: Path) -> None:
    assert choice_lines("scorer") == {module: "Tokens that the model ranks low."}
    assert choice_lines("benchmark") == choice_lines("questions") == {module: "Small sums."}
    register_schemas()
    choices = [f"scorer={module}", f"data={module}", f"benchmark={module}", "scorer.power=2", f"output_root={tmp_path}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = to_objects(compose("train", overrides=choices))
    assert (config.scorer.name, config.scorer.power) == (module, 2.0)  # type: ignore[union-attr]
    assert (config.data.upto, config.benchmark.max_new_tokens) == (5, 8)  # type: ignore[union-attr]


def test_registered_sources_give_artifacts_that_depend_on_their_settings(module: str, tmp_path: Path) -> None:
    store, mine = ArtifactStore(tmp_path), sys.modules[module]
    few, more = (traces(mine.CountingConfig(name=module, upto=n), store) for n in (5, 6))
    assert [a.manifest["num_rows"] for a in (few, more)] == [5, 6]
    assert few.key != more.key
    assert problems(mine.SumsConfig(name=module), store).manifest["num_rows"] == 1


def test_a_name_or_settings_class_is_registered_once(module: str) -> None:
    for name, settings in ((module, type("Other", (CtsConfig,), {})), ("other", CtsConfig)):
        with pytest.raises(ConfigError, match="has this name or these settings"):
            register_scorer(name, settings)(CtsScorer)
    with pytest.raises(ConfigError, match="belong to another source"):
        register_data("other", sys.modules[module].CountingConfig)(lambda config: [])


def test_installed_packages_name_their_modules_as_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata
    from importlib.metadata import EntryPoint, EntryPoints

    loaded: list[str] = []
    monkeypatch.setattr(EntryPoint, "load", lambda self: loaded.append(self.name))
    points = [EntryPoint(name=n, value="m", group=g) for n, g in (("a", "cotpress.scorers"), ("b", "other.group"))]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda: EntryPoints(points))
    load_plugins([])
    assert loaded == ["a"]


@pytest.mark.parametrize("base", [DataConfig, JsonlDataConfig, PlantedDataConfig, SelfWrittenDataConfig])
def test_traces_of_settings_that_derive_from_a_built_in_source_are_the_plugins(base: type, tmp_path: Path) -> None:
    settings = _settings(base)
    register_data("mine", settings)(lambda config: [_trace(0), _trace(1)])
    assert traces(settings(name="mine"), ArtifactStore(tmp_path)).manifest["num_rows"] == 2


@pytest.mark.parametrize("base", [BenchmarkConfig, JsonlBenchmarkConfig, PublishedBenchmarkConfig])
def test_problems_of_settings_that_derive_from_a_built_in_source_are_the_plugins(base: type, tmp_path: Path) -> None:
    settings = _settings(base)
    register_benchmark("mine", settings)(lambda config: [_problem(0)])
    assert problems(settings(name="mine", max_new_tokens=8), ArtifactStore(tmp_path)).manifest["num_rows"] == 1


def test_settings_of_a_built_in_source_cannot_be_registered() -> None:
    for settings in (DataConfig, JsonlDataConfig):
        with pytest.raises(ConfigError, match="belong to another source"):
            register_data("mine", settings)(lambda config: [])


@pytest.mark.parametrize(("register", "base"), [(register_data, DataConfig), (register_benchmark, BenchmarkConfig)])
def test_two_sources_of_one_name_are_refused(register: Callable[..., Any], base: type) -> None:
    register("mine", _settings(base))(lambda config: [])
    with pytest.raises(ConfigError, match="=mine: two plugins register this name"):
        register("mine", _settings(base))(lambda config: [])


@pytest.mark.parametrize("name", ["", "a b", "a/b", "null", "cts_schema"])
def test_names_that_cannot_be_choices_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="Fix: another name"):
        register_scorer(name, _settings(ScorerConfig))(CtsScorer)
    assert name not in SCORERS


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"id": "t0"}], r"source 'mine', record 1: got a dict. Fix: yield Trace\(id=..., question=..., thinking="),
        ([_trace(0), _problem(1)], "record 2: got a Problem"),
        ([_trace(0), _trace(1), _trace(0)], "record 3: the id 't0' is that of an earlier record"),
        ([_trace(0, id=0)], "record 1: id is of type int, allowed: str"),
        ([], "source 'mine' gives no records"),
        (None, "source 'mine' gives no records"),
    ],
)
def test_unusable_records_of_a_source_are_one_message(
    records: Iterable[Any] | None, message: str, tmp_path: Path
) -> None:
    settings = _settings(DataConfig)
    register_data("mine", settings)(lambda config: records)  # type: ignore[arg-type,return-value]
    with pytest.raises(DataError, match=message):
        traces(settings(name="mine"), ArtifactStore(tmp_path))


def test_a_benchmark_without_problems_is_refused(tmp_path: Path) -> None:
    settings = _settings(BenchmarkConfig)
    register_benchmark("mine", settings)(lambda config: [])
    with pytest.raises(DataError, match="source 'mine' gives no records"):
        problems(settings(name="mine"), ArtifactStore(tmp_path))


def test_problems_keep_their_extractor_or_are_refused(tmp_path: Path) -> None:
    letters = [_problem(0, extractor="letter")]
    plain, lettered = _settings(BenchmarkConfig), _settings(BenchmarkConfig, extractor=(Extractor, Extractor.letter))
    for name, settings in (("plain", plain), ("lettered", lettered)):
        register_benchmark(name, settings)(lambda config: letters)
    with pytest.raises(DataError, match=r"got extractor='letter'.*'math'. Fix: the field `extractor: Extractor = "):
        problems(plain(name="plain"), ArtifactStore(tmp_path))
    assert problems(lettered(name="lettered"), ArtifactStore(tmp_path)).manifest["num_rows"] == 1


@pytest.mark.parametrize(
    ("name", "kind", "part_of_the_key"),
    [("path", str, True), ("source", Path, True), ("source", Path | None, True), ("note", str, False)],
)
def test_the_content_of_files_in_path_fields_is_part_of_the_identity(
    name: str, kind: Any, part_of_the_key: bool, tmp_path: Path
) -> None:
    settings = _settings(DataConfig, **{name: (kind, "")})
    register_data("mine", settings)(lambda config: [_trace(0)])
    file = tmp_path / "rows.txt"
    config = settings(name="mine", **{name: file if kind is not str else str(file)})
    keys = []
    for text in ("one", "two", "two"):
        file.write_text(text, encoding="utf-8")
        keys.append(traces(config, ArtifactStore(tmp_path / "store")).key)
    assert keys[1] == keys[2]
    assert (keys[0] != keys[1]) == part_of_the_key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "test"}, r"record 1: got split='test', allowed: train or validation"),
        ({"thinking": "a\ud800"}, r"record 1: lone surrogate in thinking"),
        ({"response": "a\0"}, r"record 1: NUL character in response"),
        ({"question": "a" * 1_000_001}, r"record 1: text over 1,000,000 bytes in question"),
    ],
)
def test_unusable_record_of_a_source_is_one_message(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    settings = _settings(DataConfig)
    register_data("odd", settings)(lambda _: [_trace(0, **changes)])
    with pytest.raises(DataError, match=message):
        traces(settings(name="odd"), ArtifactStore(tmp_path))


def test_split_of_a_source_is_respected(tmp_path: Path) -> None:
    settings = _settings(DataConfig)
    splits = ["train", "validation", "train", "train"]
    register_data("parted", settings)(lambda _: [_trace(i, split=split) for i, split in enumerate(splits)])
    artifact = traces(settings(name="parted", validation_fraction=0.5), ArtifactStore(tmp_path))
    assert (artifact.facts["train"], artifact.facts["validation"]) == (3, 1)


def test_strict_is_part_of_the_identity_of_a_source(tmp_path: Path) -> None:
    settings = _settings(DataConfig)
    register_data("mine", settings)(lambda config: [_trace(0)])
    strict, lax = (traces(settings(name="mine", strict=s), ArtifactStore(tmp_path)).key for s in (True, False))
    assert strict != lax


@pytest.mark.parametrize(("group", "name"), [("scorer", "head"), ("scorer", "llmlingua"), ("data", "planted")])
def test_names_of_existing_choices_are_refused(group: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = ScorerConfig if group == "scorer" else DataConfig
    plugins.add_choice([group], "new", _settings(base), base)
    check_names(ROOT / "conf")
    plugins.add_choice([group], name, _settings(base), base)
    with pytest.raises(ConfigError, match=f"{group}={name}: the plugin .* registers a name that cotpress has already"):
        check_names(ROOT / "conf")


@dataclass(kw_only=True)
class _WithoutDefaultConfig(DataConfig):
    upto: int


class _UndecoratedConfig(DataConfig):
    upto: int = 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (_WithoutDefaultConfig, "data=mine: the settings _WithoutDefaultConfig cannot be used.*'upto'"),
        (_settings(DataConfig, a=(int, "text")), "data=mine: the settings Mine cannot be used, field 'a'"),
        (_settings(DataConfig, a=(set[int], field(default_factory=set))), "cannot be used, field 'a'"),
        (_UndecoratedConfig, "_UndecoratedConfig are no dataclass that derives from DataConfig. Fix: @dataclass"),
        (type("Plain", (), {}), "Plain are no dataclass that derives from DataConfig"),
        (_settings(ScorerConfig), "Mine are no dataclass that derives from DataConfig"),
        (3, "the settings 3 are no dataclass"),
    ],
)
def test_unusable_settings_are_refused_when_they_are_registered(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        register_data("mine", settings)(lambda config: [])
    assert choice_lines("data") == {}
    assert not registry.SOURCES


def test_an_undecorated_settings_class_of_a_scorer_is_refused() -> None:
    with pytest.raises(ConfigError, match="are no dataclass that derives from ScorerConfig"):
        register_scorer("mine", type("Undecorated", (CtsConfig,), {"extra": 1}))(CtsScorer)
    assert "mine" not in SCORERS


def test_errors_of_a_registration_name_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from cotpress.data.registry import register_data\nregister_data('mine', int)(print)\n"
    name = _plugin(tmp_path, monkeypatch, text)
    with pytest.raises(ConfigError, match=f"module '{name}': data=mine: the settings int are no dataclass"):
        load_plugins([name])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_package.part", "Fix: install the package that provides 'no_such_package'"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3. Fix: correct the module"),
        ("from os import no_such_name", "cannot be imported: ImportError.*Fix: correct the module"),
    ],
)
def test_a_module_that_fails_is_named_with_its_own_fix(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = _plugin(tmp_path, monkeypatch, text)
    with pytest.raises(ConfigError, match=f"plugins: module '{name}'.*{message}"):
        load_plugins([name])
    for missing in ("no_such_plugin", "no_such_plugin.part"):
        with pytest.raises(ConfigError, match="Fix: the name of a module in the working directory"):
            load_plugins([missing])


def test_null_is_no_list_of_plugins() -> None:
    assert plugin_names(["plugins=null"]) == []
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"), pytest.raises(HydraException) as raised:
        compose("train", overrides=["plugins=null"])
    assert explain(raised.value, "train", ROOT / "conf") == (
        "plugins: got null, allowed: a value of its type; a list without elements is []"
    )


def test_help_of_a_group_may_be_followed_by_plugins(module: str) -> None:
    shown = app._help("train", ROOT / "conf", ["--help", "scorer", f"plugins=[{module}]"])
    assert shown is not None
    assert f"{module} " in shown


def test_plugins_of_a_yaml_are_refused_unless_the_command_line_names_them(module: str, tmp_path: Path) -> None:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides=[f"output_root={tmp_path}"])
        config.plugins = [module]
        assert to_objects(config).plugins == [module]
        config.plugins = [module, "elsewhere"]
        with pytest.raises(ConfigError, match=rf"got 'elsewhere' from a YAML.*plugins=\[{module},elsewhere\]"):
            to_objects(config)


def test_the_worker_of_a_launcher_loads_the_plugins_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argument = f"plugins=[{_plugin(tmp_path, monkeypatch, '')}]"
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides=[argument, f"output_root={tmp_path}"])
    monkeypatch.setattr(job, "find_finished", lambda checked: (0.5, tmp_path))
    note = JobNote(overrides=(argument,), state=JobState.running, started_at=0.0)
    assert job._performed(note, config, TRAIN, tmp_path, {}).state is JobState.found


def test_a_command_ends_with_one_message_if_a_plugin_has_the_name_of_a_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = _plugin(tmp_path, monkeypatch, MODULE.format(name="jsonl"))
    monkeypatch.setattr(sys, "argv", ["compress.py", f"plugins=[{name}]", "data=jsonl"])
    with pytest.raises(SystemExit) as ended:
        app.main(COMPRESS, ROOT / "conf")
    SCORERS.pop("jsonl")
    assert ended.value.code == 2
    assert f"data=jsonl: the plugin {name} registers a name that cotpress has already" in capsys.readouterr().err


def test_a_folder_in_a_path_field_is_checksummed(tmp_path: Path) -> None:
    settings = _settings(DataConfig, path=(str, ""), others=(list[Path], field(default_factory=list)))
    register_data("mine", settings)(lambda config: [_trace(0)])
    for name in ("rows", "more"):
        (tmp_path / name / "below").mkdir(parents=True)
    config = settings(name="mine", path=str(tmp_path / "rows"), others=[tmp_path / "more"])
    keys = []
    for name, text in [("rows/a", "1"), ("rows/a", "2"), ("rows/below/b", "2"), ("more/c", "1"), ("more/c", "1")]:
        (tmp_path / name).write_text(text)
        keys.append(traces(config, ArtifactStore(tmp_path / "store")).key)
    assert len(set(keys)) == 4
    assert keys[3] == keys[4]


def test_an_installed_plugin_that_cannot_be_used_is_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.metadata
    from importlib.metadata import EntryPoint, EntryPoints

    taken = _plugin(tmp_path, monkeypatch, MODULE.format(name="jsonl"))
    points = [
        EntryPoint(name=name, value=value, group="cotpress.data")
        for name, value in (("one", taken), ("two", "no_such_package"))
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda: EntryPoints(points))
    monkeypatch.setattr(sys, "argv", ["compress.py", "--help", "data"])
    app.main(COMPRESS, ROOT / "conf")
    SCORERS.pop("jsonl", None)
    shown = capsys.readouterr()
    assert "\n    jsonl " in shown.out
    assert f"warning: entry point 'one' of group 'cotpress.data' ({taken}) is left out: " in shown.err
    assert "warning: entry point 'two' of group 'cotpress.data' (no_such_package) is left out: " in shown.err
    assert "jsonl" not in choice_lines("data")


@pytest.mark.parametrize("scorer", [lambda config: None, type("Plain", (), {}), CtsConfig, 3])
def test_a_scorer_that_is_no_class_of_scorers_is_refused(scorer: Any) -> None:
    with pytest.raises(ConfigError, match=r"register_scorer\('mine'\): got .*allowed: a class that derives from"):
        register_scorer("mine", _settings(ScorerConfig))(scorer)
    assert "mine" not in SCORERS


def test_a_scorer_without_its_formula_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"register_scorer\('mine'\): Bare lacks score\. Fix"):
        register_scorer("mine", _settings(ScorerConfig))(type("Bare", (ReadingScorer,), {}))
    assert "mine" not in SCORERS


def test_a_scorer_with_too_few_scores_is_one_message(readings: tuple[Trace, ReadTrace]) -> None:
    trace, reading = readings
    scorer = type("Short", (CtsScorer,), {"score": lambda self, trace, *rows: rows[0].logprob[:-1]})
    config = CtsConfig(name="short")
    with pytest.raises(ModelError, match=r"scorer=short: its `score` gave \(2,\) scores for the 3 tokens of trace 't'"):
        scorer(config).combine(trace, [reading] * len(scorer(config).readings()))


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (
            lambda self, trace, *rows: {}["x"],
            r"KeyError: 'x' \(line \d+ of .*test_plugins.py\)\. Fix: correct the plugin",
        ),
        (lambda self, trace, *rows: None, "got NoneType. Allowed: 3 numbers, one for each thinking token"),
        (lambda self, trace, *rows: ["a"] * 3, "got list. Allowed: 3 numbers"),
        (lambda self, trace, *rows: (1.0 for _ in range(3)), "got generator. Allowed: 3 numbers"),
        (lambda self, trace, *rows: np.ones((3, 2)), r"got numbers of shape \(3, 2\). Allowed: 3 numbers"),
        (lambda self, trace, *rows: np.ones(2), r"got numbers of shape \(2,\). Allowed: 3 numbers"),
        (lambda self, trace, *rows: [1.0, np.nan, np.inf], "2 of 3 scores are not finite, first nan at token 1"),
    ],
)
@pytest.mark.parametrize("base", [ReadingScorer, TokenScorer])
def test_a_wrong_formula_of_a_plugin_is_one_message(
    base: Any, formula: Any, message: str, readings: tuple[Trace, ReadTrace]
) -> None:
    trace, reading = readings
    method = "score" if base is ReadingScorer else "token_values"
    own = {method: formula, "num_tokens": lambda self, trace: 3}
    scorer = register_scorer("mine", _settings(ScorerConfig))(type("Mine", (base,), own))
    del SCORERS["mine"]
    with pytest.raises(ModelError, match=rf"^scorer=mine: its `{method}`, trace 't': {message}"):
        getattr(scorer.__new__(scorer), method)(trace, *[reading] * (base is ReadingScorer))


def test_a_list_of_numbers_is_a_score(readings: tuple[Trace, ReadTrace]) -> None:
    trace, reading = readings
    own = {"score": lambda self, trace, *rows: [3, 1, 2]}
    scorer = register_scorer("mine", _settings(ScorerConfig))(type("Mine", (ReadingScorer,), own))
    del SCORERS["mine"]
    assert scorer.__new__(scorer).score(trace, reading).tolist() == [3.0, 1.0, 2.0]


def test_a_token_scorer_without_its_formula_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"register_scorer\('mine'\): Bare lacks token_values\. Fix: def token_values"
    ):
        register_scorer("mine", _settings(ScorerConfig))(type("Bare", (TokenScorer,), {}))
    assert "mine" not in SCORERS


@pytest.fixture
def readings() -> tuple[Trace, ReadTrace]:
    """A trace of three tokens and one reading of it."""
    trace = Trace(id="t", question="q", thinking="abc", response="r", answer="a")
    offsets = np.array([[0, 1], [1, 2], [2, 3]], dtype=np.int32)
    ids, values = np.arange(3, dtype=np.int32), np.zeros(3, dtype=np.float32)
    return trace, ReadTrace(
        id="t", token_ids=ids, offsets=offsets, logprob=values, entropy=values, rank=ids, in_windows=False, refusal="",
        tokenizer="x",
    )  # fmt: skip
