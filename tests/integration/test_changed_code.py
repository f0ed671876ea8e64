"""A whole run is repeated after an edit of the code, as whoever develops a scorer does."""

import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from cotpress.config import TrainConfig, register_schemas, to_objects
from cotpress.store import source
from cotpress.store.artifacts import ArtifactStore, Making
from cotpress.store.source import Identity
from cotpress.tasks.train import train
from support.commands import ROOT, SMALL, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_edited_scorer_is_scored_again_and_nothing_before_it(tmp_path: Path) -> None:
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", tmp_path)

    def computed() -> list[str]:
        """Stages that a run computes, with the reason that the log gives."""
        command = [sys.executable, "train.py", "scorer=cts", "ratio=0.5", *SMALL]
        variables = {**environment(), "PYTHONPATH": str(tmp_path / "src")}
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return re.findall(r"computing (\w+)/\w+(?:, as (\S+) changed)?", done.stderr)

    assert {stage for stage, _ in computed()} >= {"data", "reference", "read", "score", "sft", "answer"}
    assert computed() == []
    scorer = tmp_path / "src" / "cotpress" / "scoring" / "scorers" / "cts.py"
    text = scorer.read_text()
    scorer.write_text(text.replace('"""CTS,', '"""Another docstring. CTS,'))
    assert computed() == []
    scorer.write_text(text.replace("conditioned.logprob - unconditioned", "unconditioned.logprob - conditioned"))
    assert computed() == [
        ("score", "cotpress.scoring.scorers.cts"), ("compress", ""), ("lengths", ""), ("sft", ""), ("answer", ""),
        ("evaluate", ""),
    ]  # fmt: skip
    scorer.write_text(text)
    assert computed() == []


SETTINGS = {
    "cts": ["scorer=cts"],
    "classifier": ["scorer=tokenskip", "distill=overlap", "compression.granularity=word"],
    "decisions": ["scorer=cts", "compression.selection=llmlingua_compat", "compression.iterative_size=100"],
    "texts": [
        "scorer=tokenskip", "compression=llmlingua2_compat", "compression.word_weights=student",
        "compression.mixed_ratios=[0.5,1]", "compression.keep_strings=[so]",
    ],
    "mixed": ["scorer=mix", "compression=mixed", "compression.protection=digits"],
    "full": ["scorer=reference_walk", "sft=full"],
}  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_every_module_that_runs_in_a_stage_is_part_of_its_identity(settings: list[str], tmp_path: Path) -> None:
    """An edit of code that runs while an artifact is made can change it."""
    for name in source._sources.package:  # so that no statement of a module runs for the first time in a stage
        if not name.endswith("__main__"):
            importlib.import_module(name)
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        # Validation shows accuracy while a student is trained and changes no weight.
        overrides = [*SMALL, f"output_root={tmp_path}", "tracker=none", "sft.validation_problems=0", *settings]
        config = to_objects(compose("train", overrides=overrides))
    assert isinstance(config, TrainConfig)
    missed: dict[str, set[str]] = {}
    with watched(missed):
        train(config, tmp_path)
    assert missed.keys() >= {"data", "benchmark", "sft", "answer", "evaluate"}
    missed["answer"].discard("cotpress.modeling.packing")  # its attention passes single texts on unchanged
    assert {stage: modules for stage, modules in missed.items() if modules} == {}


@contextmanager
def watched(missed: dict[str, set[str]]) -> Iterator[None]:
    """Note by stage the modules of the package that run while an artifact is made and do not count for it."""
    running: list[set[str]] = []
    making = ArtifactStore.making

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and running:
            running[-1].add(frame.f_globals.get("__name__", ""))

    @contextmanager
    def noted(self: ArtifactStore, stage: str, identity: Identity) -> Iterator[Making]:
        with making(self, stage, identity) as made:
            running.append(set())
            sys.setprofile(note)
            try:
                yield made
            finally:
                ran = {name for name in running.pop() if name.startswith("cotpress.")}
                sys.setprofile(note if running else None)
                counted = {name for code in codes(identity) for name in code}
                missed.setdefault(stage, set()).update(ran - counted - {n for n in ran if not source.is_followed(n)})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArtifactStore, "making", noted)
        yield


def codes(identity: Any) -> Iterator[Mapping[str, str]]:
    """All hashes of code in an identity."""
    if isinstance(identity, Mapping):
        for key, value in identity.items():
            yield from [value] if key == source.CODE else codes(value)
    elif isinstance(identity, list | tuple):
        for value in identity:
            yield from codes(value)
