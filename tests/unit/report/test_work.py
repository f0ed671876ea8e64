"""Losses and times are those of the artifacts, each counted once."""

from dataclasses import replace
from pathlib import Path

import pytest

from cotpress.records import Trace
from cotpress.report.page import work_table
from cotpress.report.results import Sources, StageRecord, collect
from cotpress.report.work import curves, loss_picture, time_picture, work
from support.reported import World

TRACES = [Trace(id="t", question="q", thinking="First, 12 + 30 = 42 apples.", response="", answer="42")]


def test_shared_artifact_counts_once_and_as_computed_if_any_run_computed_it(tmp_path: Path) -> None:
    world = World(tmp_path, TRACES)
    for ratio in (0.5, 0.7):
        world.run("cts", ratio, world.compressed("cts", ratio))
    artifacts = work(collect(tmp_path / "runs").runs, Sources())
    assert [(s.title, s.stage, s.seconds, s.fresh) for s, *_ in artifacts] == [
        ("data", "data", 0.0, False), ("compress (cts 0.5)", "compress", 3.0, True),
        ("compress (cts 0.7)", "compress", 3.0, True), ("sft (cts 0.5)", "sft", 6.0, True),
        ("sft (cts 0.7)", "sft", 6.0, True),
    ]  # fmt: skip
    table = work_table(artifacts)
    assert table is not None
    assert table.grid.rows[3][1:5] == ("6 s", "9,000", "1,500", "computed")
    picture = time_picture(artifacts)
    assert picture is not None
    assert picture.description.startswith("18 s for 5 artifacts: data 0 s, compress 6 s, sft 12 s")


def test_page_names_the_rows_that_a_stage_left_out_with_their_reasons(tmp_path: Path) -> None:
    world = World(tmp_path, TRACES)
    world.run("cts", 0.5, world.compressed("cts", 0.5))
    data, *others = work(collect(tmp_path / "runs").runs, Sources())
    table = work_table([data._replace(dropped={"invalid JSON": 1, "empty thinking": 3}), *others])
    assert table is not None
    column = table.grid.headings.index("rows left out")
    assert [row[column] for row in table.grid.rows] == ["3 empty thinking, 1 invalid JSON", *["-"] * len(others)]


@pytest.mark.parametrize(
    ("system", "label"), [("tokenskip (mixed)", "sft (tokenskip (mixed))"), ("mix (a)", "sft (mix (a) 0.5)")]
)
def test_label_keeps_brackets_of_names_and_has_no_ratio_for_mixed_students(
    tmp_path: Path, system: str, label: str
) -> None:
    world = World(tmp_path, TRACES)
    world.run(system, 0.5, world.compressed("tokenskip", 0.5))
    assert label in [stage.title for stage, *_ in work(collect(tmp_path / "runs").runs, Sources())]


def test_losses_are_read_from_the_logs_and_smoothed(tmp_path: Path) -> None:
    world = World(tmp_path, TRACES)
    world.run("cts", 0.5, world.compressed("cts", 0.5))
    runs = collect(tmp_path / "runs").runs
    (curve,) = curves(runs, Sources())
    assert (curve.system.title, curve.steps[-1], curve.losses[0]) == ("cts 0.5", 30, 3.0)
    assert len(curve.smooth) == 30
    assert min(curve.losses) <= min(curve.smooth)
    assert curve.smooth[1] == sum(curve.losses[:4]) / 4
    assert loss_picture([]) is None


def test_damaged_log_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = World(tmp_path, TRACES)
    world.run("cts", 0.5, world.compressed("cts", 0.5))
    (path,) = tmp_path.rglob("train_log.csv")
    path.write_text(path.read_text().replace("3.0", "9.0", 1))
    with caplog.at_level("WARNING"):
        assert curves(collect(tmp_path / "runs").runs, Sources()) == []
    assert "checksum of train_log.csv differs" in caplog.text


def test_runs_without_artifacts_or_times_have_no_such_figures(tmp_path: Path) -> None:
    world = World(tmp_path, TRACES)
    stages = (StageRecord(label="data", artifact="data/gone", seconds=0.0, fresh=False),)
    world.run("cts", 0.5, world.compressed("cts", 0.5), stages=stages)
    runs = collect(tmp_path / "runs").runs
    assert curves(runs, Sources()) == []
    assert time_picture(work(runs, Sources())) is None


def test_inline_figure_has_the_colours_of_the_page_and_a_title(tmp_path: Path) -> None:
    world = World(tmp_path, TRACES)
    world.run("cts", 0.5, world.compressed("cts", 0.5))
    picture = loss_picture(curves(collect(tmp_path / "runs").runs, Sources()))
    assert picture is not None
    svg = replace(picture, title="a < b").inline_svg("f7")
    assert 'role="img" aria-labelledby="f7-title f7-desc"' in svg
    assert '<title id="f7-title">a &lt; b</title>' in svg
    assert "var(--c0)" in svg
    assert "#0072b2" not in svg.lower()
    assert 'id="figure_1"' not in svg
