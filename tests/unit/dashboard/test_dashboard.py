"""Specification of the dashboard, without an account."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cotpress.dashboard.__main__ import DashboardConfig, main
from cotpress.errors import ConfigError, HubError, MissingExtraError
from cotpress.records import Interval, SystemResult
from cotpress.report.palette import INK, style
from cotpress.tracking import result_metrics

pytest.importorskip("wandb_workspaces", reason="needs the extra dashboard")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("dashboard") / "spec.json"
    main(DashboardConfig(sweep="scorers", scorers=["cts", "random"], dry_run=True, output=str(path)))
    return json.loads(path.read_text())


def sections(spec: Any) -> dict[str, list[Any]]:
    banks = spec["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in banks}


def grids(spec: Any) -> list[Any]:
    return [block["metadata"] for block in spec["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]


def axes(panels: list[Any]) -> list[tuple[str, str]]:
    return [(p["config"]["xAxis"], p["config"]["yAxis"]) for p in panels if p["viewType"] == "Scatter Plot"]


def texts(value: Any) -> Iterator[str]:
    match value:
        case dict():
            for inner in value.values():
                yield from texts(inner)
        case list():
            for inner in value:
                yield from texts(inner)
        case str():
            yield value


def test_workspace_shows_accuracy_against_tokens_ratio_control_and_a_bar_per_scorer(spec: Any) -> None:
    by_name = sections(spec)
    assert list(by_name) == [
        "Accuracy against tokens", "Ratio control", "Scorers and baselines", "Training", "Time", "Answers and tokens",
    ]  # fmt: skip
    assert axes(by_name["Accuracy against tokens"])[0] == (
        "summary:evaluate/mean_generated_tokens", "summary:evaluate/accuracy",
    )  # fmt: skip
    assert axes(by_name["Ratio control"])[0] == ("summary:evaluate/target_ratio", "summary:evaluate/actual_ratio")
    bars = [p["config"] for p in by_name["Scorers and baselines"]]
    assert bars[0]["metrics"] == ["evaluate/accuracy"]
    assert {bar["groupBy"] for bar in bars} == {"system.value"}


def test_report_has_the_same_panels_over_evaluated_systems_and_a_section_per_scorer(spec: Any) -> None:
    first, second, _, cts, random, *_ = grids(spec)
    assert axes(first["panelBankSectionConfig"]["panels"]) == axes(sections(spec)["Accuracy against tokens"])
    assert axes(second["panelBankSectionConfig"]["panels"]) == axes(sections(spec)["Ratio control"])
    for grid, scorer in ((cts, "cts"), (random, "random")):
        (runs,) = grid["runSets"]
        filters = {(f["key"]["section"], f["key"]["name"]): f["value"] for f in runs["filters"]["filters"]}
        assert filters == {
            ("run", "jobType"): ["system", "sweep"], ("run", "group"): "scorers", ("config", "system"): scorer,
        }  # fmt: skip


def test_bars_have_the_colours_of_the_figures(spec: Any) -> None:
    bars = grids(spec)[2]
    (runs,) = bars["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["system.value"]
    colours = {key.removeprefix(runs["id"]): colour for key, colour in bars["customRunColors"].items()}
    shown = {system: next(c for key, c in colours.items() if key.endswith(f":{system}")) for system in
             ("cts", "random", "Original", "Random", "Truncation")}  # fmt: skip
    assert shown == {
        "cts": style(0).colour, "random": style(1).colour, "Original": INK,
        "Random": "#e1004b", "Truncation": "#5a693c",
    }  # fmt: skip


def test_runs_table_shows_the_three_ratios(spec: Any) -> None:
    pinned = spec["workspace"]["spec"]["section"]["runSets"][0]
    ratios = [f"summary:evaluate/{name}_ratio" for name in ("target", "actual", "generated")]
    assert [name for name in texts(pinned) if name in ratios] == ratios


def test_seconds_panel_has_all_runs(spec: Any) -> None:
    (timed,) = [g for g in grids(spec) if "Seconds per stage" in set(texts(g))]
    (runs,) = timed["runSets"]
    assert [f["key"]["name"] for f in runs["filters"]["filters"]] == ["group"]


def test_all_views_are_limited_to_the_sweep(spec: Any) -> None:
    for runs in [*spec["workspace"]["spec"]["section"]["runSets"], *(r for g in grids(spec) for r in g["runSets"])]:
        values = {f["key"]["name"]: f["value"] for f in runs["filters"]["filters"]}
        assert values["group"] == "scorers"


def test_every_metric_of_the_dashboard_is_sent_by_the_tracker(spec: Any) -> None:
    interval = Interval(value=0.5, low=0.4, high=0.6, n=4)
    row = SystemResult(
        system="cts", target_ratio=0.7, actual_ratio=0.7, accuracy=interval, mean_tokens=interval, truncation_rate=0.0,
        seconds_per_sample=0.1, generated_ratio=0.8,
    )  # fmt: skip
    sent = {f"evaluate/{name}" for name in result_metrics(row)} | {"evaluate/predictions"}
    shown = {m for text in texts(spec) for m in re.findall(r"evaluate/[a-z_]+", text)}
    assert shown
    assert shown <= sent


def test_sending_without_an_entity_is_an_error() -> None:
    with pytest.raises(ConfigError, match="entity"):
        main(DashboardConfig())


def test_sent_views_equal_the_dry_run(
    spec: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    saved = []

    def save(view: Any) -> Any:
        saved.append(view)
        return view

    for kind in (ws.Workspace, wr.Report):
        monkeypatch.setattr(kind, "save", save)
        monkeypatch.setattr(kind, "url", "https://wandb.ai/x")
    main(DashboardConfig(entity="entity", sweep="scorers", scorers=["cts", "random"]))
    report, workspace = saved  # the report creates the project
    assert (report.title, len(report._to_model().spec.blocks)) == (
        spec["report"]["display_name"], len(spec["report"]["spec"]["blocks"]),
    )  # fmt: skip
    assert [s.name for s in workspace.sections] == list(sections(spec))
    assert capsys.readouterr().out.count("https://wandb.ai/x") == 2


def test_refusal_is_an_error_with_a_fix_and_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb_workspaces.reports.v2 as wr

    def refuse(_: Any) -> None:
        raise RuntimeError("permission denied for KEY12345678")

    monkeypatch.setenv("WANDB_API_KEY", "KEY12345678")
    monkeypatch.setattr(wr.Report, "save", refuse)
    with pytest.raises(HubError, match=r"permission denied for \*\*\*\. Fix: wandb login"):
        main(DashboardConfig(entity="team"))


def test_missing_package_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    for name in [n for n in sys.modules if n.startswith(("wandb_workspaces.", "cotpress.dashboard."))]:
        if not name.endswith("__main__"):
            monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=r"pip install 'wandb-workspaces>=0\.4' \(the extra dashboard"):
        main(DashboardConfig(dry_run=True, output=str(tmp_path / "x.json")))
