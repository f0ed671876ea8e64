"""Settings that distinguish rows of one scorer in a table over many jobs."""

from collections.abc import Iterator

import pytest
from hydra import compose, initialize_config_dir

from cotpress.config import FidelityConfig, register_schemas, to_objects
from cotpress.fidelity.results import FidelityResults, FidelityRow, merged_rows
from cotpress.records import Interval
from cotpress.tasks.fidelity import _settings
from support.commands import ROOT


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def configured(*overrides: str) -> FidelityConfig:
    config = to_objects(compose("fidelity", overrides=list(overrides)))
    assert isinstance(config, FidelityConfig)
    return config


def names(*jobs: tuple[str, ...]) -> list[str]:
    """Return the names of the rows of some jobs in their table, in the order of the jobs."""
    results = []
    for i, overrides in enumerate(jobs):
        config = configured(*overrides)
        value = Interval(value=1 - i / 100, low=0, high=1, n=10)
        row = FidelityRow(
            system=config.scorer.name, rule=False, metrics={"ROC AUC": value}, over_position=None,
            reference=config.reference.origin if config.scorer.needs_reference else "-", settings=_settings(config),
        )  # fmt: skip
        artifacts = {"score (s)": f"score/{i:08d}"}
        job = FidelityResults(
            truth="planted", truth_artifact="truth/1", model="tiny", tokenizer="t", confidence=0.95, num_resamples=1,
            rows=(row,), artifacts=artifacts,
        )  # fmt: skip
        results.append(job)
    return [row.system for row in merged_rows(results)]


def test_settings_of_the_reference_model_distinguish_rows() -> None:
    assert names((), ("distill=overlap",)) == ["cts distill=labels", "cts distill=overlap"]
    assert names(("reference.tune.epochs=1",), ("reference.tune.epochs=2",)) == [
        "cts reference.tune.epochs=1", "cts reference.tune.epochs=2",
    ]  # fmt: skip
    assert names(("reference.limit=9",), ()) == ["cts reference.limit=9", "cts reference.limit=None"]
    bases = [("reference=none", f"model@reference.base={base}") for base in ("tiny", "smollm2")]
    assert names(*bases) == ["cts reference.base=tiny", "cts reference.base=smollm2"]
    by_base = [("scorer=gogi", *base) for base in bases]
    assert names(*by_base) == ["gogi reference.base=tiny", "gogi reference.base=smollm2"]


def test_training_data_of_a_classifier_distinguishes_rows() -> None:
    jobs = [("scorer=tokenskip", "reference=none", f"distill={name}") for name in ("labels", "overlap")]
    assert names(*jobs) == ["tokenskip distill=labels", "tokenskip distill=overlap"]


def test_settings_without_effect_on_scores_do_not_distinguish_rows() -> None:
    jobs = [("scorer=gogi",), ("scorer=gogi", "distill=overlap", "reference.tune.epochs=9")]
    assert names(*jobs) == ["gogi #1", "gogi #2"]  # one artifact and so one row in a real table
    assert names((), ("reference=none", "distill=overlap")) == ["cts", "cts"]  # the reference model has its own column


def test_several_seeds_are_shown_once() -> None:
    assert names(("seed=1",), ("seed=2",)) == ["cts seed=1", "cts seed=2"]
    assert names(("scorer=random", "scorer.seed=1"), ("scorer=random", "scorer.seed=2")) == [
        "random seed=1", "random seed=2",
    ]  # fmt: skip


def test_names_of_the_published_tables() -> None:
    """The jobs are those of experiments/scorer_fidelity/run.sh."""
    walk = ("scorer=reference_walk",)
    assert names(walk, (*walk, "scorer.max_surprise=0.5"), (*walk, "scorer.unit=token"), (*walk, "reference=none")) == [
        "reference_walk unit=word max_surprise=2.0", "reference_walk unit=word max_surprise=0.5",
        "reference_walk unit=token max_surprise=2.0", "reference_walk",
    ]  # fmt: skip
    assert names((), ("scorer.pooling=step",), ("scorer.condition=question",), ("reference=none",)) == [
        "cts condition=answer pooling=token", "cts condition=answer pooling=step",
        "cts condition=question pooling=token", "cts",
    ]  # fmt: skip
