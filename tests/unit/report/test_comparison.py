"""Rows of different settings are different systems, for every setting and seed."""

import functools
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from cotpress.config import TrainConfig, register_schemas, to_objects
from cotpress.records import RANDOM, Interval, Origin, Prediction, System, SystemResult
from cotpress.report.comparison import Answers, Comparison, answers_of, compare
from cotpress.report.differences import compared, over_seeds
from cotpress.report.results import RunResults, collect, write_results
from cotpress.report.table import notes
from cotpress.store.tables import write_records
from cotpress.tasks.run_directory import row_settings
from support.commands import ROOT
from support.judged import answer

NUMBER = Interval(value=0.5, low=0.4, high=0.6, n=4)


CONTROL = System(name=RANDOM, origin=Origin.random, ratio=0.5)


def run(
    path: Path, *systems: str, seed: int = 1, ratio: float = 0.5, shared: tuple[str, ...] = (), **results: Any
) -> None:
    """Write a finished run whose rows have their own artifacts, except for those that it shares with other runs."""
    rows = tuple(
        SystemResult(
            system=s, target_ratio=ratio, actual_ratio=ratio, accuracy=NUMBER, mean_tokens=NUMBER, truncation_rate=0,
            seconds_per_sample=0, artifacts={"evaluate": f"evaluate/{s if s in shared else path.name}"},
            identity=CONTROL if s == CONTROL.name else None,
        )
        for s in systems
    )  # fmt: skip
    write_results(path, RunResults(name="r", model="m", benchmark="b", seed=seed, rows=rows, **results))
    written = [replace(answer(i, True), system=s, ratio=ratio) for s in systems for i in range(3)]
    write_records(path / "predictions.parquet", written, Prediction)


def compared_systems(folder: Path) -> tuple[Comparison, Answers]:
    (comparison,) = compare(collect(folder).runs)
    return comparison, answers_of(comparison)


def seeds_of(folder: Path) -> dict[str, list[int]]:
    """Return the seeds of each system, whose students answer three questions once each."""
    _, answers = compared_systems(folder)
    assert all(len(given) == 3 for by_seed in answers.values() for given in by_seed.values())
    return {system.label: sorted(by_seed) for system, by_seed in answers.items()}


def test_setting_outside_the_essentials_distinguishes_two_systems(tmp_path: Path) -> None:
    for num in (60, 120):
        run(tmp_path / str(num), "cts", essentials={"data": "planted"}, settings={"data": {"num_traces": num}})
    comparison, answers = compared_systems(tmp_path)
    assert {row.system for row in comparison.rows} == {"cts data.num_traces=60", "cts data.num_traces=120"}
    (pair,) = compared(comparison, answers)
    assert {pair.system, pair.minus} == {row.system for row in comparison.rows}
    assert seeds_of(tmp_path) == {"cts data.num_traces=120": [1], "cts data.num_traces=60": [1]}


def test_essentials_have_short_names_and_suffice_if_they_differ(tmp_path: Path) -> None:
    for condition, limit in (("answer", 5), ("question", 6)):
        essentials = {"scorer": {"condition": condition}}
        run(tmp_path / condition, "cts", essentials=essentials, settings={**essentials, "data": {"limit": limit}})
    assert seeds_of(tmp_path) == {"cts condition=answer": [1], "cts condition=question": [1]}


def test_name_contains_only_settings_that_distinguish_similar_rows(tmp_path: Path) -> None:
    for name, reference, limit in (("a", "lora", 5), ("b", "none", 5), ("c", "none", 6)):
        settings = {"reference": {"limit": limit}, "sft": {"rank": 8}}
        run(tmp_path / name, "cts", essentials={"reference": reference}, settings=settings)
    assert seeds_of(tmp_path) == {
        "cts reference=lora": [1], "cts reference=none reference.limit=5": [1],
        "cts reference=none reference.limit=6": [1],
    }  # fmt: skip


def test_name_of_a_group_replaces_its_settings_if_it_suffices(tmp_path: Path) -> None:
    for i, labelled in enumerate(
        [None, {"name": "planted", "n": 9}, {"name": "jsonl", "path": "x"}, {"name": "jsonl", "path": "y"}]
    ):
        run(tmp_path / str(i), "cts", settings={"labelled": labelled})
    assert list(seeds_of(tmp_path)) == [
        "cts labelled=None", "cts labelled=planted", "cts labelled=jsonl labelled.path=x",
        "cts labelled=jsonl labelled.path=y",
    ]  # fmt: skip


def test_settings_that_follow_seed_or_ratio_distinguish_nothing(tmp_path: Path) -> None:
    for num in (60, 120):
        for seed in (1, 2):
            for ratio in (0.5, 0.7):
                tune = {"seed": seed, "marker": {"ratio": ratio}}
                run(
                    tmp_path / f"{num}-{seed}-{ratio}", "cts", seed=seed, ratio=ratio, essentials={"sft": tune},
                    settings={"sft": tune, "data": {"num_traces": num, "seed": seed}},
                )  # fmt: skip
    comparison, answers = compared_systems(tmp_path)
    assert {(system.label, system.ratio): sorted(by_seed) for system, by_seed in answers.items()} == {
        (f"cts data.num_traces={num}", ratio): [1, 2] for num in (60, 120) for ratio in (0.5, 0.7)
    }
    assert len(over_seeds(comparison, answers)) == 4


@pytest.mark.parametrize("data_seeds", [[1, 2, 3], [1, 1, 1]], ids=["follows", "fixed"])
def test_seed_of_the_data_that_follows_or_is_fixed_distinguishes_nothing(data_seeds: list[int], tmp_path: Path) -> None:
    for seed, data_seed in zip((1, 2, 3), data_seeds, strict=True):
        run(tmp_path / str(seed), "cts", seed=seed, settings={"data": {"seed": data_seed}})
    assert seeds_of(tmp_path) == {"cts": [1, 2, 3]}


def test_different_fixed_seeds_of_the_data_are_different_data(tmp_path: Path) -> None:
    for data_seed in (7, 8):
        for seed in (1, 2):
            run(tmp_path / f"{data_seed}-{seed}", "cts", seed=seed, settings={"data": {"seed": data_seed}})
    assert seeds_of(tmp_path) == {"cts data.seed=7": [1, 2], "cts data.seed=8": [1, 2]}


def test_name_stays_in_one_line(tmp_path: Path) -> None:
    for text in ("a\nb", "ab"):
        run(tmp_path / text.strip("\n").replace("\n", "-"), "cts", settings={"chat": {"open": text}})
    assert set(seeds_of(tmp_path)) == {"cts chat.open=a\\nb", "cts chat.open=ab"}


def test_seeds_of_different_settings_belong_to_different_systems(tmp_path: Path) -> None:
    for seed, num in ((1, 60), (2, 60), (3, 120)):
        run(tmp_path / str(seed), "cts", seed=seed, settings={"data": {"num_traces": num, "seed": seed}})
    assert seeds_of(tmp_path) == {"cts data.num_traces=60": [1, 2], "cts data.num_traces=120": [3]}


def test_every_seed_may_have_its_own_file(tmp_path: Path) -> None:
    for seed in (1, 2):
        run(tmp_path / str(seed), "mine", seed=seed, settings={"adapter": f"a{seed}", "data": {"path": f"d{seed}"}})
    assert seeds_of(tmp_path) == {"mine": [1, 2]}


def test_baseline_is_distinguished_by_settings_that_affect_it(tmp_path: Path) -> None:
    for num, scorer in ((60, "cts"), (120, "random")):
        settings = {"scorer": {"name": scorer}, "data": {"num_traces": num}}
        essentials = {"scorer": {"name": scorer}, "evaluation": {"baselines": [scorer]}}
        run(tmp_path / str(num), "Original", "Base", scorer, shared=("Base",), essentials=essentials, settings=settings)
    assert set(seeds_of(tmp_path)) == {
        "Original data.num_traces=60", "Original data.num_traces=120", "Base", "cts", "random",
    }  # fmt: skip


def test_baseline_of_several_seeds_is_one_system_for_all_scorers(tmp_path: Path) -> None:
    for seed, scorer in ((1, "cts"), (2, "random")):
        run(tmp_path / scorer, "Original", scorer, seed=seed, settings={"scorer": {"name": scorer}})
    assert seeds_of(tmp_path)["Original"] == [1, 2]


def test_random_is_distinguished_by_its_cut_but_not_by_the_scorer_beside_it(tmp_path: Path) -> None:
    for unit in ("word", "step"):
        for seed, scorer in ((1, "cts"), (2, "position")):
            settings = {"scorer": {"name": scorer}, "reference": {"for": scorer}, "compression": {"granularity": unit}}
            run(tmp_path / f"{unit}-{scorer}", "Random", seed=seed, settings=settings)
    assert seeds_of(tmp_path) == {
        "Random compression.granularity=word": [1, 2], "Random compression.granularity=step": [1, 2],
    }  # fmt: skip


def test_row_that_runs_share_has_their_common_settings(tmp_path: Path) -> None:
    for name, reference, limit in (("a", "lora", 5), ("b", "none", 5)):
        settings = {"reference": {"method": reference}, "data": {"limit": limit}}
        run(tmp_path / name, "random", shared=("random",), settings=settings)
    run(tmp_path / "c", "random", settings={"reference": {"method": "none"}, "data": {"limit": 6}})
    assert seeds_of(tmp_path) == {"random data.limit=5": [1], "random data.limit=6": [1]}


def test_rows_of_equal_settings_are_numbered_and_their_runs_named(tmp_path: Path) -> None:
    for name, ratio in itertools.product(("0123456789abcdef", "fedcba9876543210"), (0.5, 0.7)):
        run(tmp_path / f"{name}-{ratio}", "cts", ratio=ratio, settings={"data": {"limit": 5}})
    comparison, _ = compared_systems(tmp_path)
    assert comparison.numbered == {
        "cts #1 0.5": tmp_path / "0123456789abcdef-0.5", "cts #1 0.7": tmp_path / "0123456789abcdef-0.7",
        "cts #2 0.5": tmp_path / "fedcba9876543210-0.5", "cts #2 0.7": tmp_path / "fedcba9876543210-0.7",
    }  # fmt: skip
    assert sorted(r.system for r in comparison.rows) == ["cts #1", "cts #1", "cts #2", "cts #2"]
    assert f"cts #2 0.7 is of {tmp_path / 'fedcba9876543210-0.7'}" in notes(comparison)[-1]


def test_results_of_an_earlier_release_are_read_and_never_pooled(tmp_path: Path) -> None:
    for name in ("old1", "old2"):
        run(tmp_path / name, "cts", essentials={"data": "planted"})
        path = tmp_path / name / "results.json"
        content = json.loads(path.read_text()) | {"schema_version": 2}
        del content["settings"], content["checksum"]
        path.write_text(json.dumps(content))
    run(tmp_path / "new1", "cts", essentials={"data": "planted"}, settings={"data": {"limit": 5}})
    run(tmp_path / "new2", "cts", essentials={"data": "planted"}, settings={"data": {"limit": 6}})
    assert set(seeds_of(tmp_path)) == {"cts #1", "cts #2", "cts data.limit=5", "cts data.limit=6"}


def test_rows_without_artifacts_are_equal_if_their_numbers_are(tmp_path: Path) -> None:
    for name, accuracy in (("a", 0.5), ("b", 0.5), ("c", 0.6)):
        run(tmp_path / name, "cts")
        rows = [replace(r, artifacts={}, accuracy=replace(NUMBER, value=accuracy)) for r in _rows(tmp_path / name)]
        write_results(tmp_path / name, RunResults(name="r", model="m", benchmark="b", seed=1, rows=tuple(rows)))
    names = seeds_of(tmp_path)
    assert len(names) == 2
    assert all(name.startswith("cts ") for name in names)


def _rows(path: Path) -> tuple[SystemResult, ...]:
    (only,) = collect(path).runs
    return only.results.rows


@functools.cache
def _settings(*overrides: str) -> dict[str, Any]:
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = to_objects(compose("train", overrides=list(overrides)))
    assert isinstance(config, TrainConfig)
    return row_settings(config)


@pytest.mark.parametrize(
    ("override", "label"),
    [
        ("data.num_traces=60", "data.num_traces=60"),
        ("data.limit=9", "data.limit=9"),
        ("data@labelled=planted", "labelled=planted"),
        ("distill=overlap", "distill.extractor=overlap"),
        ("reference.tune.learning_rate=0.5", "reference.tune.learning_rate=0.5"),
        ("model@reference.base=tiny", "reference.base=tiny"),
        ("reference.limit=3", "reference.limit=3"),
        ("benchmark.num_problems=7", "benchmark.num_problems=7"),
        ("benchmark.prompt='{question}!'", "benchmark.prompt={question}!"),
        ("benchmark.protocol=cts", "benchmark.protocol=cts"),
        ("model.path=elsewhere", "model.path=elsewhere"),
        ("model.chat.system=short", "model.chat.system=short"),
    ],
)
def test_every_kind_of_setting_distinguishes_rows(override: str, label: str, tmp_path: Path) -> None:
    run(tmp_path / "usual", "cts", settings=_settings())
    run(tmp_path / "other", "cts", settings=_settings(override))
    names = list(seeds_of(tmp_path))
    assert f"cts {label}" in names
    assert len(names) == 2


def test_protocol_stands_for_its_prompt_and_budget_in_a_name(tmp_path: Path) -> None:
    for protocol in ("cts", "tokenskip"):
        words = ("benchmark=math500", f"benchmark.protocol={protocol}")
        run(tmp_path / protocol, "cts", settings=_settings(*words))
    assert set(seeds_of(tmp_path)) == {"cts benchmark.protocol=cts", "cts benchmark.protocol=tokenskip"}


def test_published_numbers_are_those_of_the_protocol_of_the_runs(tmp_path: Path) -> None:
    for protocol in ("cts", "tokenskip", None):
        settings = {} if protocol is None else {"benchmark": {"protocol": protocol}}
        run(tmp_path / str(protocol), "cts", "Truncation", ratio=0.7, settings=settings)

    def cells(*protocols: str | None) -> list[str]:
        runs = [r for protocol in protocols for r in collect(tmp_path / str(protocol)).runs]
        runs = [replace(r, results=replace(r.results, model="llama8b", benchmark="math500")) for r in runs]
        (comparison,) = compare(runs)
        return [p.cell for row in comparison.rows if (p := comparison.published(row))]

    assert (cells("cts"), cells("tokenskip"), cells(None)) == (["55.0@9987"], ["45.0@387"], ["45.0@387", "55.0@9987"])
    assert cells("cts", "tokenskip") == ["45.0@387", "55.0@9987"]


def test_paths_and_devices_are_no_settings_of_a_row() -> None:
    moved = ["trainer=cpu", "tracker=none", "output_root=x", "name=mine", "ratio=0.3"]
    assert _settings(*moved) == _settings()
    server = ["generation@evaluation.generation=server", "evaluation.generation.model=m"]
    first, second = (_settings(*server, f"evaluation.generation.base_url=http://{host}/v1") for host in ("a", "b"))
    assert first == second
