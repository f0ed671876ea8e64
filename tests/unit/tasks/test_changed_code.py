"""An edit of the code makes the artifacts of its stage and of later stages anew, and no others."""

import functools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from cotpress.compression.first_solution import first_solution
from cotpress.compression.stage import compress
from cotpress.config import TrainConfig, register_schemas, to_objects
from cotpress.data import conversion, hub, planted, published, rows, self_written
from cotpress.data.overlap import overlap
from cotpress.data.stage import problems, traces
from cotpress.data.truth import prmbench, thought_anchors, truth
from cotpress.distill import llm
from cotpress.distill.stage import distill, essential_spans, overlapping_steps
from cotpress.evaluation import stage
from cotpress.evaluation.judging import prediction
from cotpress.evaluation.protocol import Protocol
from cotpress.evaluation.stage import Candidate, evaluate
from cotpress.generation.hf import TransformersBackend
from cotpress.generation.server import ServerBackend
from cotpress.generation.vllm import VllmBackend
from cotpress.modeling import loading, sources, tiny
from cotpress.records import ORIGINAL
from cotpress.scoring.job import ChunkJob, DerivedJob
from cotpress.scoring.models import Models
from cotpress.scoring.reader import ConditionReading
from cotpress.scoring.scorers import classifier
from cotpress.scoring.scorers.llmlingua2_compat import Llmlingua2Compat
from cotpress.scoring.scorers.llmlingua_compat import LlmlinguaCompat
from cotpress.scoring.table import SCORERS
from cotpress.store import source
from cotpress.store.artifacts import Artifact, ArtifactStore
from cotpress.tasks.flow import Flow
from cotpress.tracking import Tracker
from cotpress.training.stage import saved_reference, train_reference, train_student
from support.commands import ROOT, SMALL

REAL = ("data", "benchmark", "overlap", "model")
"""Stages that cost nothing, and whose files are read to plan the others."""
FLOW = ("data", "distill", "reference", "read", "score", "compress", "sft", "answer", "evaluate")


class Planned(ArtifactStore):
    """A store in which every other stage is found done."""

    def __init__(self, output_root: Path) -> None:
        super().__init__(output_root)
        self.keys: dict[str, str] = {}

    def _undamaged(self, key: str, *, discard: bool = False) -> Artifact | None:
        stage, _, digest = key.partition("/")
        self.keys[stage] = key
        if stage in REAL:
            return super()._undamaged(key, discard=discard)
        manifest = {"identity": {}, "num_rows": 20, "dropped": {}, "facts": {}, "files": {}}
        return Artifact(stage=stage, fingerprint=digest, path=Path("nowhere"), manifest=manifest, seconds=0.0)

    def _open(self, key: str, *, verify: bool = True) -> Artifact | None:
        return super()._open(key, verify=verify) if key.startswith(REAL) else self._undamaged(key)


class Planner:
    """Plans whole runs with the code as it is or with an edit of it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._package = folder, source._sources
        self._unedited: dict[tuple[str, ...], dict[str, str]] = {}
        self._config = functools.cache(self._composed)

    def _composed(self, *overrides: str) -> TrainConfig:
        register_schemas()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            settings = [f"output_root={self._folder}", "tracker=none", *SMALL, *overrides]
            config = to_objects(compose("train", overrides=settings))
        assert isinstance(config, TrainConfig)
        return config

    def keys(self, *overrides: str) -> dict[str, str]:
        """Keys of all artifacts of a run, by stage."""
        config = self._config(*overrides)
        with closing(Tracker(self._folder)) as tracker:
            flow = Flow(config, tracker)
            flow.store = store = Planned(self._folder)
            student = flow.student(ORIGINAL, flow.compressed())
            for job in getattr(flow._scoring, "sources", ()):
                job.artifact()
            candidate = Candidate(
                system="s", ratio=0.5, student=student, protocol=Protocol(max_new_tokens=9, context_tokens=99)
            )
            evaluate(
                [candidate], model=config.model, problems=flow.problems, generation=config.evaluation.generation,
                trainer=config.trainer, store=store,
            )  # fmt: skip
            if config.reference.exists:
                flow.reference  # noqa: B018
        return store.keys

    @contextmanager
    def edited(self, module: str, before: str, after: str) -> Iterator[None]:
        """The code with one edit."""
        path, text = self._package.package[module]
        assert text.decode().count(before) >= 1, f"{module} does not contain {before!r}"
        changed = source.Sources(
            {**self._package.package, module: (path, text.decode().replace(before, after).encode())}
        )
        # All other modules are hashed once, as each edit would hash two hundred.
        edited, unedited = changed._module, self._package._module
        changed._module = functools.cache(lambda name: (edited if name == module else unedited)(name))
        source._sources = changed
        try:
            yield
        finally:
            source._sources = self._package

    def redone(self, module: str, before: str, after: str, *overrides: str) -> set[str]:
        """Stages that the edit makes anew."""
        if overrides not in self._unedited:
            self._unedited[overrides] = self.keys(*overrides)
        old = self._unedited[overrides]
        with self.edited(module, before, after):
            new = self.keys(*overrides)
        assert old.keys() == new.keys()
        return {stage for stage in old if old[stage] != new[stage]}


@pytest.fixture(scope="module")
def planner(tmp_path_factory: pytest.TempPathFactory) -> Planner:
    return Planner(tmp_path_factory.mktemp("planned"))


def after(stage: str) -> set[str]:
    return {*FLOW[FLOW.index(stage) :]}


BENCHMARK = {"benchmark", "overlap"}
ANSWERS = {"answer", "evaluate"}
NOTHING: set[str] = set()
DIGITS = "compression.protection=digits"
EDITS = [
    # the edits that once reused stale work
    ("scoring.scorers.cts", "conditioned.logprob - un", "un", after("score")),
    ("modeling.selection", "min(round(ratio * num_tokens)", "min(int(ratio * num_tokens)", after("compress")),
    ("compression.protection", "if c.isdigit()", "if c.isdecimal()", after("compress"), DIGITS),
    (
        "distill.stage",
        "len(distinct & known) >= min",
        "len(distinct & known) > min",
        after("distill"),
        "distill=overlap",
    ),
    ("training.module", "0.5 * (1 + math.cos(", "0.25 * (1 + math.cos(", after("reference")),
    ("scoring.scorers.random", "{seed}\\0{name}", "{name}\\0{seed}", after("score") | {"score"}, "scorer=random"),
    ("prompts", "self.text_ids(response), self.end_id]", "self.text_ids(response)]", after("reference")),
    # constants, defaults, patterns and tables of other modules
    ("data.planted", '"Checking: {inverse}."', '"Check: {inverse}."', after("data") | BENCHMARK),
    ("data.planted", "MAX_DRAWS = 3000", "MAX_DRAWS = 300", after("data") | BENCHMARK),
    ("data.stage", "round(validation_fraction * len", "int(validation_fraction * len", after("data") | BENCHMARK),
    ("distill.stage", "item not in _FUNCTION_WORDS and", "", after("distill"), "distill=overlap"),
    ("distill.llm", "6. Write only", "6. Write", NOTHING),
    (
        "training.batching",
        "chat.prompt_ids(row.question), completion",
        "chat.prompt_ids(''), completion",
        after("reference"),
    ),
    ("training.batching", "chat.prompt_ids(row.question, row.marker_ratio)", "chat.prompt_ids('')", after("reference")),
    ("training.adapters", '"all-linear"', '"q_proj"', after("reference")),
    ("training.stage", "[: config.limit]", "", after("reference")),
    ("scoring.reader", "{trace.question}\\n\\n{trace", "{trace.question}\\n{trace", after("read")),
    ("modeling.logprobs", "WINDOW_OVERLAP = ", "WINDOW_OVERLAP = 1 + ", after("read")),
    ("scoring.models", "merge_adapter=True", "merge_adapter=False", after("read")),
    ("scoring.scorers.gogi", "def ", "def a", NOTHING),
    ("scoring.scorers.position", "def ", "def a", NOTHING),
    ("compression.ranking", "granularity: Unit = Unit.token", "granularity: Unit = Unit.word", after("compress")),
    ("compression.allocation", "_LOW_BITS = 12", "_LOW_BITS = 11", after("compress")),
    ("modeling.selection", "def rank_many(", "def a(", after("compress")),
    ("generation.hf", "{seed}/{name}", "{name}/{seed}", ANSWERS),
    ("generation.row_cache", "class RowCache", "class Row", ANSWERS),
    ("generation.server", "_VLLM_FIELDS = {", "_VLLM_FIELDS = {'n': 1, ", NOTHING),
    ("evaluation.protocol", "if room > 0 else", "if room > 1 else", ANSWERS),
    ("evaluation.judging", "ended and verdict.correct", "verdict.correct", {"evaluate"}),
    ("answers.reading", "import re", "import re\nre.purge()", {"evaluate"}),
    ("modeling.tiny", "SEED = 1234", "SEED = 1235", after("reference") | {"model"}),
    # nothing that a stage makes; the values of settings are in the identities themselves
    (
        "training.config",
        'warmup_fraction: Annotated[float, interval("[0, 1]")] = 0.1',
        "warmup_fraction: float",
        NOTHING,
    ),
    ("errors", "class ", "class A", NOTHING),
    ("devices.memory", "def ", "def a", after("reference")),
    ("devices.lightning", "use_distributed_sampler=False", "use_distributed_sampler=True", after("reference")),
    ("devices.processes", "def ", "def a", NOTHING),
    ("report.table", "def ", "def a", NOTHING),
    ("statistics", "def ", "def a", NOTHING),
    ("tasks.flow", "def ", "def a", NOTHING),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: f"{edit[0]}: {edit[1]}"[:60])
def test_edit_makes_its_stage_and_what_follows_anew_and_nothing_else(edit: tuple[Any, ...], planner: Planner) -> None:
    module, before, changed, stages, *overrides = edit
    assert planner.redone(f"cotpress.{module}", before, changed, *overrides) == stages


@pytest.mark.parametrize(
    ("module", "before", "changed"),
    [
        ("scoring.scorers.cts", '"""Conditional Token Selection', '"""Another text'),
        ("scoring.scorers.cts", "        conditioned, unc", "\n        # a comment\n        conditioned, unc"),
        ("training.module", "# waits for the device, once", "# waits"),
        ("prompts", '    """System text; null', '    """Text'),
        ("records", "# gold answer; may be empty", "# gold"),
    ],
)
def test_edit_of_a_docstring_or_comment_makes_nothing_anew(
    module: str, before: str, changed: str, planner: Planner
) -> None:
    assert planner.redone(f"cotpress.{module}", before, changed) == set()


ROOTS = [
    planted.traces, planted.problems, rows, published.problems, thought_anchors, prmbench, traces, problems, truth,
    self_written.solve, self_written.write, distill, essential_spans, overlapping_steps, llm.aligned, llm.extract,
    train_reference, train_student, saved_reference, ChunkJob, DerivedJob, ConditionReading, Models, LlmlinguaCompat,
    Llmlingua2Compat, classifier, compress, first_solution, stage, prediction, conversion, hub, overlap, ServerBackend,
    TransformersBackend, VllmBackend, loading.load_model, loading.load_tokenizer, tiny, sources,
    *(entry.scorer for entry in SCORERS.values()),
]  # fmt: skip
OUTSIDE = {
    "cotpress.__main__": "command line",
    "cotpress.api": "results in memory, which are no artifacts",
    "cotpress.cli": "command line",
    "cotpress.compression.export": "files of compress.py, which are written by every run",
    "cotpress.config": "settings, which are part of identities",
    "cotpress.dashboard": "reads W&B",
    "cotpress.data.provenance": "cards of exports",
    "cotpress.data.recognition": "chooses a format and places, which are part of identities",
    "cotpress.evaluation.summary": "tables, which every run computes from predictions",
    "cotpress.fidelity": "tables, which every run computes from scores",
    "cotpress.hub": "uploads",
    "cotpress.jobs": "processes",
    "cotpress.modeling.upload": "uploads",
    "cotpress.planning": "counts",
    "cotpress.scoring.direct": "scores in memory, for the API",
    "cotpress.report": "tables and pages, which every run makes",
    "cotpress.store.grid": "tables",
    "cotpress.store.local_names": "names in published files",
    "cotpress.store.results": "files of run directories",
    "cotpress.store.sweeps": "files of sweeps",
    "cotpress.tasks": "calls of the stages",
}
"""Modules that no stage uses: whatever they compute is not kept in an artifact."""


def test_every_module_counts_for_a_stage_or_is_listed_with_a_reason() -> None:
    assert _forgotten(set(OUTSIDE)) == set()


def test_a_module_of_no_stage_has_to_be_listed() -> None:
    listed = {*OUTSIDE, "cotpress"} - {"cotpress.store.grid", "cotpress.hub"}
    assert _forgotten(listed) >= {"cotpress.store.grid", "cotpress.hub.card"}


def _forgotten(listed: set[str]) -> set[str]:
    """Modules that count for no root and are neither listed nor in a listed package; the whole package lists none."""
    counted = set(source.code_of(*ROOTS))
    package = source._sources.package
    empty = {name for name, (path, text) in package.items() if path.name == "__init__.py" and len(text.split()) < 80}
    left = {name for name in package if name not in counted | empty and source.is_followed(name)}
    return {name for name in left if ({name} | source._above(name) - {source.PACKAGE}).isdisjoint(listed)}
