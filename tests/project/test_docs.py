"""README and docs are true: commands compose, links resolve, Python parses, numbers equal the data."""

import ast
import csv
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from cotpress.cli.arguments import quoted, with_added
from cotpress.cli.experiments import with_experiments
from cotpress.cli.help import GROUPS
from cotpress.cli.models import with_models
from cotpress.config import register_schemas, to_objects
from support.commands import ROOT, SMALL, Command

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCRIPT = re.compile(r"(?:python|cotpress) (train|compress|evaluate|fidelity|report)(?:\.py)?\b([^`]*)")
NOT_THERE = {"excess_surprise"}
"""Choices that exist only after the steps of a page; the test replaces them by another choice."""


def _commands() -> dict[tuple[str, tuple[str, ...]], str]:
    """Collect every command of an entry script, once, with its page."""
    commands: dict[tuple[str, tuple[str, ...]], str] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [line for _, block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
        lines += re.findall(r"`(python \w+\.py[^`]*|cotpress \w+ [^`]*)`", BLOCK.sub("", text))
        for line in lines:
            for script, arguments in SCRIPT.findall(line):
                words = shlex.split(arguments.partition(')"')[0], comments=True)
                commands.setdefault((script, tuple(with_added(words, script, ROOT / "conf"))), page.name)
    return commands


COMMANDS = _commands()


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def _first_job(words: tuple[str, ...]) -> list[str]:
    """Overrides of a command's first job; further values of swept groups must only exist."""
    overrides = []
    for override in OverridesParser.create().parse_overrides(quoted([w for w in words if "=" in w])):
        values = [*override.sweep_string_iterator()] if override.is_sweep_override() else []
        group = ROOT / "conf" / override.key_or_group.partition("@")[0]
        assert not group.is_dir() or not {v for v in values if not (group / f"{v}.yaml").exists()} - NOT_THERE
        text = str(override.input_line)
        overrides.append(f"{text.partition('=')[0]}={values[0]}" if values else text)
    return overrides


def test_pages_have_commands_of_every_script() -> None:
    assert len(COMMANDS) > 40
    assert {script for script, _ in COMMANDS} == {"train", "compress", "evaluate", "fidelity", "report"}


def _cases() -> list[object]:
    """The README's commands, and as slow tests those of the docs: each takes a third of a second."""
    return [
        pytest.param(*command, id=f"{page}-{command[0]}-{i}", marks=[] if page == "README.md" else pytest.mark.slow)
        for i, (command, page) in enumerate(COMMANDS.items())
    ]


@pytest.mark.parametrize(("script", "words"), _cases())
def test_every_command_composes(script: str, words: tuple[str, ...]) -> None:
    if "--help" in words:
        assert {word for word in words if "=" not in word} - {"--help"} <= set(GROUPS)
        return
    if "-sc" in words:
        assert words[words.index("-sc") + 1] in ("install=bash", "install=zsh", "install=fish")
        return
    if any(word.startswith("plugins=") for word in words):
        return  # carried out in test_docs_scorer.py
    swept = [w for w in words if re.fullmatch(r"[^=\[{'\"]+=[^\[{'\"]*,.*", w)]
    assert bool(swept) <= ("-m" in words), f"several values without -m: {swept}"
    known = [
        o.replace(name, "self_information") if (name := o.rpartition("=")[2]) in NOT_THERE else o
        for o in _first_job(words)
    ]
    to_objects(_composed(script, known))


def _composed(script: str, overrides: list[str]) -> DictConfig:
    with_models(overrides, ROOT / "conf")  # as the script does
    return compose(script, overrides=with_experiments(overrides, script, ROOT / "conf"))


def test_evaluate_commands_use_the_chat_format_of_the_training() -> None:
    here = [command for command, page in COMMANDS.items() if page == "reproducing.md"]
    evaluated = [words for script, words in here if script == "evaluate"]
    assert evaluated
    for words in evaluated:
        tokenskip = "experiment=tokenskip_gsm8k"
        known = {tokenskip} if tokenskip in words else {"model=qwen7b", "scorer=cts"}
        trained = next(other for script, other in here if script == "train" and known <= set(other))
        asked = _composed("evaluate", _first_job(words)).model.chat
        assert asked == _composed("train", _first_job(trained)).model.chat


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_files_resolve(page: Path) -> None:
    text = re.sub(r"<!--.*?-->", "", BLOCK.sub("", page.read_text(encoding="utf-8")))
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|srcset)=\"([^\"]+)\"", text)
    for target in targets:
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_readme_links_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [p.name for p in PAGES[1:] if f"(docs/{p.name})" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_pages_parses(page: Path) -> None:
    for kind, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            ast.parse(block)


def test_published_numbers_in_the_docs_equal_published_csv() -> None:
    with (ROOT / "src/cotpress/report/published.csv").open(encoding="utf-8", newline="") as handle:
        known = {(float(r["accuracy"]), float(r["tokens"])) for r in csv.DictReader(handle) if r["tokens"]}
    rows = [r for r in (ROOT / "docs/reproducing.md").read_text(encoding="utf-8").splitlines() if r.startswith("| ")]
    shown = [(float(a), float(t)) for row in rows for a, t in re.findall(r"([\d.]+)/([\d.]+)", row)]
    assert len(shown) > 100
    assert [pair for pair in shown if pair not in known] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("train.py", ["scorer=cts", "ratio=0.7"]),
        ("train.py", ["scorer=tokenskip", "compression=mixed", "ratio=0.5"]),
        ("train.py", ["scorer=cts", "ratio=0.5", "compression.granularity=token", "compression.alignment=next"]),
        ("train.py", ["scorer=cts", "ratio=0.5", "compression=llmlingua_compat"]),
    ],
)
def test_commands_of_the_pages_run_on_the_tiny_model(script: str, words: list[str], tmp_path: Path) -> None:
    assert (script.removesuffix(".py"), tuple(words)) in COMMANDS
    done = Command(tmp_path)(script, *words, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "run directory: " in done.stdout
