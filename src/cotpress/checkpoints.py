"""The systems of `evaluate.py`: a model or adapter that was given, and what stands beside it."""

from pathlib import Path

from cotpress.artifacts import Artifact, ArtifactStore
from cotpress.config import EvaluateConfig
from cotpress.data.stage import problems
from cotpress.evaluation.baselines import Shortening, shortening
from cotpress.evaluation.config import Baseline, Prompted
from cotpress.evaluation.protocol import protocol
from cotpress.evaluation.stage import evaluate
from cotpress.generation_config import ServerGenerationConfig
from cotpress.systems import BASE, System, with_ratio_one


class Checkpoint:
    """A model or adapter and its baselines.

    Attributes:
        name: Row of the given model or adapter.
        artifacts: Everything that was made or found, by label.
    """

    def __init__(self, config: EvaluateConfig) -> None:
        self._config, self._store = config, ArtifactStore(Path(config.output_root))
        self._problems = problems(config.benchmark, self._store)
        self.name = config.name or given_name(config)
        self.artifacts: dict[str, Artifact] = {"benchmark": self._problems}

    def systems(self) -> list[System]:
        """The baselines, then the given model or adapter, at ratio 1 before the asked ratio."""
        config, wanted = self._config, self._config.evaluation.baselines
        found = []
        if Baseline.base in wanted and config.adapter:  # without an adapter, it is the base model that is evaluated
            base = self._answers(BASE, None)
            found.append(System(name=BASE, ratio=1.0, actual_ratio=1.0, answers=base))
        one = self._answers(self.name, config.adapter) if Baseline.ratio_one in wanted else None
        found += [self._shortened(s, one) for b in wanted if (s := self._shortening(b)) is not None]
        answers = self._answers(self.name, config.adapter, ratio=config.ratio)
        given = System(name=self.name, ratio=config.ratio, actual_ratio=None, answers=answers, ratio_one=one)
        return [*found, *with_ratio_one(given)]

    def _shortening(self, kind: Baseline) -> Shortening | None:
        return shortening(kind, self._config.ratio, self._config.evaluation.instructions)

    def _shortened(self, how: Shortening, one: Artifact | None) -> System:
        """A baseline without training; its ActRatio is relative to the same model, asked as it is."""
        of_base = self._config.evaluation.prompted is Prompted.base and self._config.adapter is not None
        adapter = None if of_base else self._config.adapter
        name = f"{how.name} ({BASE})" if of_base else how.name
        answers = self._answers(name, adapter, ratio=how.ratio, how=how)
        return System(
            name=name, ratio=how.ratio, actual_ratio=None, answers=answers, ratio_one=None if of_base else one
        )

    def _answers(
        self, system: str, adapter: str | None, *, ratio: float = 1.0, how: Shortening | None = None
    ) -> Artifact:
        config = self._config
        made = evaluate(
            system=system,
            ratio=ratio,
            model=config.model,
            student=adapter,
            problems=self._problems,
            protocol=protocol(
                config.evaluation,
                max_new_tokens=config.benchmark.max_new_tokens,
                context_tokens=config.model.context_tokens,
                seed=config.seed,
                ratio=ratio,
                marker_ratio=ratio if how is None else None,
                shortening=how,
            ),
            generation=config.evaluation.generation,
            trainer=config.trainer,
            store=self._store,
        )
        return self.artifacts.setdefault(f"evaluate ({system}, ratio {ratio:g})", made)


def given_name(config: EvaluateConfig) -> str:
    """Name of what is evaluated: the adapter's, or the server's name for what is not the model itself, or Base."""
    writer = config.evaluation.generation
    if config.adapter:
        return adapter_name(config.adapter)
    if isinstance(writer, ServerGenerationConfig) and writer.model != config.model.path:
        return adapter_name(writer.model)
    return BASE


def adapter_name(adapter: str) -> str:
    """Name of an adapter's row: its last part, or the folder around it where that is just `adapter`."""
    path = Path(adapter)
    return path.parent.name if path.name == "adapter" and path.parent.name else path.name
