import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from cotpress import plugins
from cotpress.config import register_schemas, to_objects
from cotpress.errors import ConfigError
from cotpress.plugins import choice_lines, load_plugins, plugin_names, without_plus
from cotpress.scoring.table import SCORERS
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
    monkeypatch.setattr(plugins, "CHOICES", {})
    load_plugins([name])
    yield name
    SCORERS.pop(name, None)


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
    from cotpress.data.stage import problems, traces
    from cotpress.store.artifacts import ArtifactStore

    store, mine = ArtifactStore(tmp_path), sys.modules[module]
    few, more = (traces(mine.CountingConfig(name=module, upto=n), store) for n in (5, 6))
    assert [a.manifest["num_rows"] for a in (few, more)] == [5, 6]
    assert few.key != more.key
    assert problems(mine.SumsConfig(name=module), store).manifest["num_rows"] == 1


def test_a_name_or_settings_class_is_registered_once(module: str) -> None:
    from cotpress.data.registry import register_data
    from cotpress.scoring.scorers.cts import CtsConfig, CtsScorer
    from cotpress.scoring.table import register_scorer

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
