"""Exports of `compress.py`: every row of the data, or the reason why it is missing; one export per folder."""

import json
import logging
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard
from hydra import compose, initialize_config_dir

from cotpress.compression import export as exporting
from cotpress.compression.config import ExportFormat
from cotpress.config import CompressConfig, register_schemas, to_objects
from cotpress.errors import ConfigError
from cotpress.records import CompressedTrace, Trace
from cotpress.store.artifacts import fingerprint
from cotpress.store.sweeps import JobNote, JobState, write_note
from cotpress.store.tables import read_records
from cotpress.tasks import compress as task
from cotpress.tasks.checks import check
from cotpress.tasks.flow import Export
from cotpress.tasks.run_directory import artifact_store
from cotpress.tracking import Tracker
from support.commands import ROOT

NUM_ROWS = 20


def _row(i: int) -> dict[str, Any]:
    thinking = f"Okay. {i} + 1 = {i + 1}. Wait, 🙂 that is {i + 1}."
    return {"id": f"r{i}", "question": f"{i} + 1?", "thinking": thinking, "response": f"{i + 1}", "answer": f"{i + 1}"}


BAD = {
    "empty thinking": {"id": "blank", "question": "q", "thinking": " ", "response": "", "answer": ""},
    "missing field 'question'": {"id": "short"},
    "repeated row": _row(0),
}
MADE = "compressed.trl.jsonl"

Run = Callable[..., Path]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _config(folder: Path, *overrides: str) -> CompressConfig:
    register_schemas()
    given = [
        "model=tiny", "scorer=random", "reference=none", "ratio=0.5", "export=trl", "tracker=none", "data=jsonl",
        f"data.path={folder / 'rows.jsonl'}", f"output_root={folder / 'outputs'}", *overrides,
    ]  # fmt: skip
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = to_objects(compose("compress", overrides=given))
    assert isinstance(config, CompressConfig)
    return config


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Export `rows.jsonl` in the test's folder and return the folder of the export."""
    _write(tmp_path / "rows.jsonl", [_row(i) for i in range(NUM_ROWS)])

    def run(*overrides: str) -> Path:
        config = _config(tmp_path, *overrides)
        check(config)
        return task.compress(config, tmp_path)[1]

    return run


def _manifest(output: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def test_every_row_of_a_file_is_exported(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    output = run()
    lines = (output / MADE).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["prompt"][-1]["content"] for line in lines] == [f"{i} + 1?" for i in range(NUM_ROWS)]
    assert capsys.readouterr().out.startswith(f"{NUM_ROWS} of {NUM_ROWS} rows, asked ratio 0.5, actual 0.")
    assert _manifest(output)["dropped"] == {}


def test_a_missing_row_is_counted_with_its_reason_in_line_and_manifest(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [_row(i) for i in range(NUM_ROWS)]
    del rows[3]["response"]  # the scorer conditions on it
    rows[3]["response"] = ""
    _write(tmp_path / "rows.jsonl", [*rows, *BAD.values()])
    output = run("scorer=cts", "scorer.condition=answer")
    manifest, out = _manifest(output), capsys.readouterr().out
    refused = "no response to condition on"
    assert manifest["dropped"] == {**dict.fromkeys(BAD, 1), refused: 1}
    assert (manifest["num_rows"], manifest["num_input_rows"]) == (NUM_ROWS - 1, NUM_ROWS + len(BAD))
    assert f"{NUM_ROWS - 1} of {NUM_ROWS + len(BAD)} rows" in out
    assert all(f"1 {reason}" in out for reason in manifest["dropped"])


def test_models_learn_without_the_rows_that_are_held_out_and_score_all(tmp_path: Path) -> None:
    _write(tmp_path / "rows.jsonl", [_row(i) for i in range(NUM_ROWS)])
    with closing(Tracker(tmp_path)) as tracker:
        flow = Export(_config(tmp_path), tracker)
        exported, learnt = (read_records(a.file("traces.parquet"), Trace) for a in (flow.traces, flow.labelled_traces))
    assert [row.split for row in exported] == ["train"] * NUM_ROWS
    assert sorted(row.split for row in learnt) == ["train"] * 18 + ["validation"] * 2


def test_rows_with_empty_responses_are_announced(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path / "rows.jsonl", [_row(i) | ({"response": " "} if i < 3 else {}) for i in range(NUM_ROWS)])
    assert _manifest(run())["num_empty_responses"] == 3
    assert f"empty responses: 3 of {NUM_ROWS} rows" in capsys.readouterr().out


def test_texts_of_a_column_have_no_responses_to_announce(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    output = run("data.field=thinking", "export=parquet")
    assert _manifest(output)["num_empty_responses"] == 0
    assert "empty responses" not in capsys.readouterr().out


def test_mixed_ratios_are_shown_with_rows_and_actual_ratio_of_each(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    output = run("compression=mixed", "export=parquet")
    rows = read_records(output / "compressed.parquet", CompressedTrace)
    manifest, out = _manifest(output), capsys.readouterr().out
    assert "asked ratio" not in out
    assert manifest["ratio"] is None
    for part in manifest["ratios"]:
        members = [row for row in rows if row.target_ratio == part["asked"]]
        assert part["num_rows"] == len(members) > 0
        assert part["actual"] == sum(r.num_kept_tokens for r in members) / sum(r.num_tokens for r in members)
        assert f"ratio {part['asked']:g}: {len(members)} rows, actual {part['actual']:.3f}\n" in out
    assert sum(part["num_rows"] for part in manifest["ratios"]) == NUM_ROWS


def test_manifest_names_scorer_ratios_and_the_facts_of_the_scores(run: Run) -> None:
    output = run()
    manifest = _manifest(output)
    assert (manifest["scorer"], manifest["export"], manifest["ratio"], manifest["file"]) == ("random", "trl", 0.5, MADE)
    (part,) = manifest["ratios"]
    assert (part["asked"], part["num_rows"]) == (0.5, NUM_ROWS)
    assert part["actual"] == pytest.approx(0.5, abs=0.05)
    assert manifest["scores"]["facts"]["scorer"] == "random"
    assert manifest["files"].keys() == {MADE}


def test_exports_without_output_lie_below_output_root_each_in_a_folder_of_its_own(run: Run, tmp_path: Path) -> None:
    outputs = [run(), run("ratio=0.7"), run("export=openai")]
    assert len({*outputs}) == 3
    assert {output.parent for output in outputs} == {tmp_path / "outputs" / "compressed"}
    assert run() == outputs[0]
    assert {p.name for p in outputs[2].iterdir()} == {"README.md", "compressed.openai.jsonl", "manifest.json"}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ("ratio=0.7", r"ratio=0\.5 instead of 0\.7"),
        ("export=openai", "export=trl instead of openai"),
        ("scorer=head", ".*scorer.name=random instead of head.*"),
        ("compression=mixed", r"compression.mixed_ratios=\[\] instead of \[1\.0, .*"),
        ("seed=1", r".*\bseed=42 instead of 1.*"),
    ],
)
def test_another_export_into_the_same_folder_is_refused_before_any_work(
    run: Run, tmp_path: Path, other: str, told: str
) -> None:
    output = run(f"output={tmp_path / 'out'}")
    before = {path: path.read_bytes() for path in output.iterdir()}
    artifacts = sorted((tmp_path / "outputs" / "artifacts").rglob("*"))
    with pytest.raises(ConfigError, match=rf"output: .* holds the export of other settings: {told}\. Fix: output=DIR"):
        run(f"output={tmp_path / 'out'}", other)
    assert {path: path.read_bytes() for path in output.iterdir()} == before
    assert sorted((tmp_path / "outputs" / "artifacts").rglob("*")) == artifacts


def test_export_of_an_earlier_release_with_the_hash_of_its_settings_is_repeated(run: Run, tmp_path: Path) -> None:
    output = run(f"output={tmp_path / 'out'}")
    manifest = _manifest(output)
    earlier = {**manifest, "settings": fingerprint(manifest["settings"])}
    (output / "manifest.json").write_text(json.dumps(earlier))
    run(f"output={tmp_path / 'out'}")
    assert _manifest(output) == manifest
    (output / "manifest.json").write_text(json.dumps(earlier))
    with pytest.raises(ConfigError, match=r"holds the export of other settings\. Fix: output=DIR"):
        run(f"output={tmp_path / 'out'}", "ratio=0.7")


def test_the_same_export_is_repeated_in_its_folder(run: Run, tmp_path: Path) -> None:
    output = run(f"output={tmp_path / 'out'}")
    before = {path: path.read_bytes() for path in output.iterdir()}
    run(f"output={tmp_path / 'out'}", "trainer.tokens_per_batch=99")
    assert {path: path.read_bytes() for path in output.iterdir()} == before
    _write(tmp_path / "rows.jsonl", [_row(i) for i in range(5)])
    run(f"output={tmp_path / 'out'}")
    assert _manifest(output)["num_rows"] == len((output / MADE).read_text().splitlines()) == 5


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", "{broken", '{"settings": "other"}', "[" * 50_000],
    ids=["empty", "list", "broken", "other", "deep"],
)
def test_a_folder_with_the_manifest_of_something_else_is_refused(run: Run, tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ConfigError, match="holds the export of other settings"):
        run(f"output={tmp_path}")
    assert (tmp_path / "manifest.json").read_text() == content


@pytest.mark.parametrize("step", ["export", "write_manifest"])
def test_an_interrupted_export_is_no_export_and_the_next_command_makes_the_whole(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    output = run(f"output={tmp_path / 'out'}")
    whole = {path: path.read_bytes() for path in output.iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(task, step, stopped)
        with pytest.raises(KeyboardInterrupt):
            run(f"output={tmp_path / 'out'}")
    assert not (output / "manifest.json").exists()
    run(f"output={tmp_path / 'out'}")
    assert {path: path.read_bytes() for path in output.iterdir()} == whole


def test_a_file_of_an_unfinished_export_in_another_format_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "compressed.openai.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"compressed\.openai\.jsonl of another, unfinished export"):
        run(f"output={tmp_path}")


def test_temporary_files_of_killed_exports_are_removed_and_others_stay(run: Run, tmp_path: Path) -> None:
    killed = [
        f".{name}.{end}.tmp"
        for end in ("0123456789abcdef", "00ff00ff00ff00ff")
        for name in (*exporting.FILES.values(), "manifest.json", "dataset_info.json")
    ]
    own = ["mine.tmp", ".mine.json.4711.tmp", ".compressed.trl.jsonl.tmp", "notes.md"]
    output = tmp_path / "out"
    output.mkdir()
    for name in [*killed, *own]:
        (output / name).write_text("half")
    run(f"output={output}")
    assert {path.name for path in output.iterdir()} == {*own, MADE, "README.md", "manifest.json"}


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no system role') }}", "{{ messages[0].content.x.y }}"])
def test_an_export_whose_template_cannot_be_checked_is_written(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, template: str | None
) -> None:
    from cotpress.tasks import flow

    load = flow.load_tokenizer

    def loaded(*arguments: Any) -> Any:
        tokenizer = load(*arguments)
        tokenizer.chat_template = template
        return tokenizer

    monkeypatch.setattr(flow, "load_tokenizer", loaded)
    with caplog.at_level("INFO"):
        output = run()
    assert _manifest(output)["num_rows"] == NUM_ROWS
    assert "not checked whether the model's chat template keeps the thinking" in caplog.text


def test_rows_that_are_lost_are_told_once_by_a_command_and_once_by_its_repetition(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _write(tmp_path / "rows.jsonl", [*({**_row(i), "response": ""} for i in range(2)), *map(_row, range(2, 8)), {}])
    caplog.set_level(logging.INFO)
    lost = [
        "data=jsonl: 8 of 9 rows are used; 1 lost: 1 x missing field 'question' (first: line 9); "
        "data.strict=true stops at the first one; empty: 2 x response",
        "compress: only 6 of 8 traces are left (2 no response to condition on)",
    ]
    for _ in range(2):
        artifact_store.cache_clear()  # as in another process
        caplog.clear()
        run("scorer=cts")
        assert [caplog.messages.count(line) for line in lost] == [1, 1]


def test_rows_that_are_divided_in_two_ways_are_lost_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _write(tmp_path / "rows.jsonl", [*map(_row, range(NUM_ROWS)), *BAD.values()])
    caplog.set_level(logging.INFO)
    with closing(Tracker(tmp_path)) as tracker:
        flow = Export(_config(tmp_path), tracker)
        assert flow.traces.key != flow.data.key
    assert caplog.text.count("empty thinking") == 2, "at the end of the stage, and with its place"


@pytest.mark.parametrize("format_", [kind.value for kind in ExportFormat if kind is not ExportFormat.datasets])
def test_folder_of_an_export_is_read_by_its_card(run: Run, tmp_path: Path, format_: str) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra dev")
    output = run(f"export={format_}")
    rows = datasets.load_dataset(str(output), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == NUM_ROWS
    assert "num_rows" not in rows.column_names  # a key of the manifest


def test_saved_folder_is_read_by_datasets_and_again_as_data(run: Run, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra dev")
    output = run("export=datasets", f"output={tmp_path / 'saved'}", "license=cc-by-4.0")
    assert len(datasets.load_from_disk(str(output))) == NUM_ROWS
    assert 'rows = load_from_disk("FOLDER")' in (output / "README.md").read_text()
    again = run(
        "data=hub", f"data.path={output}", "data.columns.thinking=compressed_thinking", f"output={tmp_path / 'again'}",
        "export=parquet",
    )  # fmt: skip
    rows = read_records(again / "compressed.parquet", CompressedTrace)
    assert [row.id for row in rows] == [f"r{i}" for i in range(NUM_ROWS)]
    card = DatasetCard.load(again / "README.md")
    assert card.data.license == "cc-by-4.0", "the licence of the source is passed on"
    assert "| source | `saved` |" in card.text


def test_card_says_what_was_done_with_which_rows(run: Run, tmp_path: Path) -> None:
    _write(tmp_path / "rows.jsonl", [*map(_row, range(NUM_ROWS)), *BAD.values()])
    note = JobNote(
        overrides=("model=tiny", "data=jsonl", f"data.path={tmp_path}/rows.jsonl", "ratio=0.5", f"output={tmp_path}"),
        state=JobState.running,
    )  # fmt: skip
    write_note(tmp_path, note)
    output = run(f"output={tmp_path / 'short'}", "compression.granularity=step", "export=parquet")
    card = DatasetCard.load(output / "README.md")
    manifest = _manifest(output)
    (part,) = manifest["ratios"]
    kept = f"{part['num_kept_tokens']:,} of {part['num_tokens']:,} ({part['actual']:.3f})"
    for row in (
        "| source | `rows.jsonl` |", f"| rows | {NUM_ROWS} of {NUM_ROWS + len(BAD)} of the source |",
        "| scorer | `random` |", "| model of the scorer | none |",
        "| unit | step |", "| ratio asked for | 0.5 |", f"| tokens kept | {kept} |",
        "| counted in tokens of | `tiny` |", "1 empty thinking",
        "cotpress compress model=tiny data=jsonl data.path=rows.jsonl ratio=0.5\n",
        "Not known: nothing names the licence of the source.",
    ):  # fmt: skip
        assert row in card.text
    assert (card.data.size_categories, card.data.license) == ("n<1K", None)
    assert {"cotpress", "scorer:random"} <= set(card.data.tags)
    everything = b"".join(path.read_bytes() for path in output.iterdir())
    assert str(tmp_path).encode() not in everything


def test_exports_of_files_of_the_same_name_are_told_apart(run: Run, tmp_path: Path) -> None:
    output = run(f"output={tmp_path / 'out'}")
    (tmp_path / "other").mkdir()
    _write(tmp_path / "other" / "rows.jsonl", [_row(i) for i in range(NUM_ROWS)])
    with pytest.raises(ConfigError, match=r"holds the export of other settings\. Fix: output=DIR"):
        run(f"output={output}", f"data.path={tmp_path / 'other' / 'rows.jsonl'}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["output=hf://me"], "output: got 'hf://me', allowed: hf://OWNER/NAME"),
        (["output=hf://me/set", "export=datasets"], "Fix: export=parquet, which load_dataset reads"),
        (["private=false"], "private: got false, but no data set is uploaded. Fix: output=hf://OWNER/NAME"),
    ],
)
def test_settings_of_an_upload_that_contradict_each_other_are_refused(
    run: Run, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        run(*overrides)


def test_folder_with_a_description_of_other_data_is_not_taken_for_a_saved_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dataset_info.json").write_text('{"mine": {}}')
    with pytest.raises(ConfigError, match=r"holds a dataset_info\.json of something else"):
        run("export=datasets", f"output={tmp_path / 'mine'}")
