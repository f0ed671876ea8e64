"""Shared state of the benchmark's parts: the model, texts, the release's environment, and the measurements."""

import logging
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cotpress.modeling.config import Dtype, ModelConfig
from cotpress.modeling.loading import load_tokenizer, resolve_dtype
from cotpress.store.artifacts import ArtifactStore
from experiments.speed.checkpoint import LONGEST_CONTEXT, write_checkpoint
from experiments.speed.environment import release_environment
from experiments.speed.figures import Figure
from experiments.speed.ours import compose
from experiments.speed.processes import System, alternate
from experiments.speed.settings import Settings
from experiments.speed.texts import Row, TraceMaker, write_rows
from experiments.speed.worker import Job, Measurement

log = logging.getLogger(__name__)

FLOAT32 = "float32"
PACKAGE = "experiments.speed"


@dataclass
class Bench:
    """One run of the benchmark.

    Attributes:
        figures: Measured figures, in order.
        measurements: Every repetition behind them, as JSON values.
        skipped: Parts that could not be measured, and why.
    """

    settings: Settings
    figures: list[Figure] = field(default_factory=list)
    measurements: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @cached_property
    def work(self) -> Path:
        """Scratch folder, removed by `close`."""
        return Path(tempfile.mkdtemp(prefix="cotpress-bench-"))

    def close(self) -> None:
        """Remove what only this run needed."""
        shutil.rmtree(self.work)

    def checkpoint(self, model: str) -> Path:
        """A model of the config group `model` as a folder that every side reads."""
        config: ModelConfig = compose([f"model={model}"]).model
        return write_checkpoint(config, ArtifactStore(self.settings.cache), self.settings.cache / "models" / model)

    @cached_property
    def texts(self) -> TraceMaker:
        """Texts in the tokens of the measured model."""
        return self.texts_for(self.settings.model)

    def texts_for(self, model: str) -> TraceMaker:
        """Texts in the tokens of another model."""
        config = ModelConfig(name=model, path=str(self.checkpoint(model)))
        return TraceMaker(load_tokenizer(config, ArtifactStore(self.settings.cache)), self.settings.traces)

    @property
    def best_dtype(self) -> str:
        """The number format of the best settings: bfloat16 where the processor computes in it."""
        return str(resolve_dtype(Dtype.auto, self.settings.device)).removeprefix("torch.")

    @property
    def tunes(self) -> bool:
        """True if the best settings differ from the plain ones in float32."""
        return self.best_dtype != FLOAT32 or bool(self.settings.best)

    def job(self, rows: list[Row], **more: Any) -> Job:
        """Make the input of a worker, with its texts on disk."""
        model = more.pop("model", self.settings.model)
        return {
            "checkpoint": str(self.checkpoint(model)),
            "traces": str(write_rows(self.work / f"traces-{len(list(self.work.iterdir()))}.jsonl", rows)),
            "device": self.settings.device,
            "threads": self.settings.threads,
            "context_tokens": LONGEST_CONTEXT,
            "dtype": FLOAT32,
            **more,
        }

    def ours(self, job: Job, *, best: bool = False) -> System:
        """cotpress, in float32 or with the best settings."""
        own: dict[str, Any] = {"work": tempfile.mkdtemp(dir=self.work)}
        if best:
            own |= {"dtype": self.best_dtype, "overrides": list(self.settings.best)}
        return System(module=f"{PACKAGE}.ours", job={**job, **own})

    def limit(self, job: Job, *, best: bool = False) -> System:
        """Bare forwards in the dtype of `ours`."""
        return System(module=f"{PACKAGE}.limit", job={**job, "dtype": self.best_dtype if best else FLOAT32})

    def naive(self, job: Job) -> System:
        """The naive scorer, always in float32."""
        return System(module=f"{PACKAGE}.naive", job=job)

    def release(self, job: Job) -> dict[str, System]:
        """The release, unless it was left out: float32 on a CPU, on a GPU the number format that models are used in."""
        if not self.settings.release:
            return {}
        dtype = FLOAT32 if self.settings.device == "cpu" else self.best_dtype
        python = release_environment(self.settings.cache)
        return {"release": System(module=f"{PACKAGE}.release_worker", job={**job, "dtype": dtype}, python=python)}

    def measure(
        self, group: str, case: str, systems: Mapping[str, System], repeats: int
    ) -> dict[str, list[Measurement]]:
        """Repetitions of all systems in turns, noted in the results."""
        log.info("%s, %s: %s", group, case, ", ".join(systems))
        measurements = alternate(systems, repeats, self.settings.output / "logs" / _name(f"{group} {case}"))
        for system, measured in measurements.items():
            for number, m in enumerate(measured):
                facts = {k: v for k, v in m.facts.items() if k not in ("scores", "texts", "token_ids")}
                row = {**asdict(m), "facts": facts}
                self.measurements.append({"group": group, "case": case, "system": system, "repeat": number, **row})
        return measurements

    def add(self, group: str, case: str, name: str, unit: str, values: tuple[float, ...]) -> None:
        """Note a figure."""
        self.figures.append(Figure(group=group, case=case, name=name, unit=unit, values=values))


def _name(text: str) -> str:
    """`text` as a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text)
