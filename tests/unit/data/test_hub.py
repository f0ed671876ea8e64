"""Data sets of `datasets`: saved folders, folders of files, and a hub on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

datasets = pytest.importorskip("datasets")

from cotpress.data import hub as hub_module  # noqa: E402
from cotpress.data.config import HubDataConfig  # noqa: E402
from cotpress.data.files import Files  # noqa: E402
from cotpress.data.hub import find  # noqa: E402
from cotpress.data.stage import traces  # noqa: E402
from cotpress.errors import ConfigError, DataError, MissingExtraError  # noqa: E402
from cotpress.records import Trace  # noqa: E402
from cotpress.store.artifacts import ArtifactStore  # noqa: E402
from cotpress.store.tables import read_records  # noqa: E402
from support.hub_server import Hub, hub_server  # noqa: E402

OLD, NEW = "a" * 40, "b" * 40


def rows(num: int, tag: str = "t") -> list[dict[str, Any]]:
    return [{"id": i, "question": "q", "thinking": f"{tag}{i}", "response": None, "answer": i} for i in range(num)]


def hub(path: Path | str, **changes: Any) -> HubDataConfig:
    return HubDataConfig(name="hub", path=str(path), **changes)


def write(path: Path, content: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(content), path)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def read(config: HubDataConfig, store: ArtifactStore) -> dict[str, str]:
    return {t.id: t.thinking for t in read_records(traces(config, store).file("traces.parquet"), Trace)}


def test_saved_data_set_is_read_by_its_split(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "out")
    parts = {"train": datasets.Dataset.from_list(rows(3)), "test": datasets.Dataset.from_list(rows(2, "x"))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    parts["train"].save_to_disk(str(tmp_path / "one"))
    assert read(hub(tmp_path / "saved"), store) == {"0": "t0", "1": "t1", "2": "t2"}
    assert read(hub(tmp_path / "saved", split="test"), store) == {"0": "x0", "1": "x1"}
    assert traces(hub(tmp_path / "saved"), store).key == traces(hub(tmp_path / "one"), store).key
    assert traces(hub(tmp_path / "one"), store).key != traces(hub(tmp_path / "saved", split="test"), store).key
    with pytest.raises(ConfigError, match=r"data\.split: got 'tset'\. Did you mean 'test'\? Allowed: test, train\."):
        find(hub(tmp_path / "saved", split="tset"), "data")
    with pytest.raises(ConfigError, match=r"labelled\.revision: got 'v1', but .* is a folder"):
        find(hub(tmp_path / "one", revision="v1"), "labelled")
    with pytest.raises(ConfigError, match=r"data\.config: got 'x', but .* was saved without"):
        find(hub(tmp_path / "one", config="x"), "data")
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"x")
    with pytest.raises(DataError, match="cannot be read as a saved data set"):
        find(hub(tmp_path / "one"), "data")


def test_bad_row_of_a_saved_data_set_is_named(tmp_path: Path) -> None:
    datasets.Dataset.from_list([*rows(2), {**rows(1)[0], "thinking": ""}]).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=rf"'{tmp_path / 'saved'}', row 3, field 'thinking': empty thinking"):
        traces(hub(tmp_path / "saved", strict=True), ArtifactStore(tmp_path / "out"))


def test_folder_of_a_data_set_is_read_by_its_splits_and_configurations(tmp_path: Path) -> None:
    for name in ("one", "two"):
        for split in ("train", "test"):
            write(tmp_path / "set" / name / f"{split}.parquet", rows(2, f"{name} {split} "))
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {s}\n    path: {name}/{s}.parquet\n" for s in ("train", "test"))
        for name in ("one", "two")
    )
    (tmp_path / "set" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    found = find(hub(tmp_path / "set", config="two", split="test"), "data")
    assert isinstance(found, Files)
    assert [raw.content["thinking"] for raw in found.rows()] == ["two test 0", "two test 1"]
    with pytest.raises(ConfigError, match=r"data\.config: got null\. Allowed: one, two"):
        find(hub(tmp_path / "set"), "data")
    with pytest.raises(ConfigError, match=r"data\.split: got 'dev'\. Allowed: test, train"):
        find(hub(tmp_path / "set", config="one", split="dev"), "data")


def test_data_set_that_is_not_in_the_cache_says_what_to_do_offline(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path: 'o/n' is not in the cache .* Fix: run the command once with"):
        find(hub("o/n"), "data")


def test_saved_data_set_without_rows_is_one_message(tmp_path: Path) -> None:
    datasets.Dataset.from_list(rows(1)).select([]).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"data\.path: '.*saved' is a saved data set without rows"):
        find(hub(tmp_path / "saved"), "data")


def test_file_names_the_setting_that_reads_it(tmp_path: Path) -> None:
    write(tmp_path / "rows.parquet", rows(1))
    with pytest.raises(ConfigError, match=r"is a file, .*Fix: data@labelled=jsonl labelled\.path=.*rows\.parquet"):
        find(hub(tmp_path / "rows.parquet"), "labelled")


@pytest.mark.parametrize("path", ["name", "a/b/c", "/nowhere", "o/", "./name", "~/name"])
def test_path_that_is_no_hub_id_and_no_folder_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.path: got '{path}', allowed: the hub id of a data set, OWNER/NAME"):
        find(hub(path), "data")


@pytest.mark.parametrize("path", ["hf://o/n", "hf://datasets/o/n", "hf://o/n@v1"])
def test_address_is_read_as_its_hub_id(path: str) -> None:
    with pytest.raises(DataError, match=r"data\.path: 'o/n' is not in the cache"):
        find(hub(path), "data")


def test_address_and_setting_that_name_different_revisions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.revision: got 'v2', but data\.path names 'v1'\. Fix: only one"):
        find(hub("hf://o/n@v1", revision="v2"), "data")


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        MissingExtraError, match=r"data=hub needs .*'datasets'.*pip install 'datasets>=5' \(the extra hub"
    ):
        hub_module.find(hub("o/n"), "data")


CHILD = """
import itertools, json, sys
from cotpress.data.config import HubDataConfig
from cotpress.data.hub import find
from cotpress.errors import CotpressError
for limit, settings in json.loads(sys.argv[1]):
    try:
        rows = find(HubDataConfig(name="hub", **settings), "data")
        read = [raw.content["thinking"] for raw in itertools.islice(rows.rows(), limit)]
        print(json.dumps([rows.identity["commit"], read]))
    except CotpressError as error:
        print(json.dumps(str(error)))
"""


@pytest.mark.slow
def test_data_sets_of_a_hub_are_read_streamed_and_found_again_offline(tmp_path: Path) -> None:
    for commit in (OLD, NEW):
        for part in (0, 1):
            write(tmp_path / commit / "data" / f"train-0000{part}-of-00002.parquet", rows(2, f"{commit[0]}{part}"))
        (tmp_path / commit / "README.md").write_text("# made\n")
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("raise SystemExit('ran')")
    served = Hub(
        {"o/made": {OLD: tmp_path / OLD, NEW: tmp_path / NEW}, "o/script": {OLD: tmp_path / "script"},
         "o/gated": {OLD: tmp_path / OLD}}, gated={"o/gated"},
    )  # fmt: skip

    def child(*calls: tuple[int, dict[str, Any]], **variables: str) -> list[Any]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        ours = {"HF_ENDPOINT": served.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(
            [sys.executable, "-c", CHILD, json.dumps(calls)], env={**kept, **ours, **variables},
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return [json.loads(line) for line in done.stdout.splitlines()]

    with hub_server(served):
        streamed, old, unknown, gated, script = child(
            (2, {"path": "o/made", "streaming": True, "limit": 2}), (9, {"path": "o/made", "revision": OLD}),
            (1, {"path": "o/made", "revision": "v9"}), (1, {"path": "o/gated"}), (1, {"path": "o/script"}),
        )  # fmt: skip
        assert streamed == [NEW, ["b00", "b01"]]
        assert f"GET /datasets/o/made/resolve/{NEW}/data/train-00001-of-00002.parquet" not in served.requests
        assert old == [OLD, ["a00", "a01", "a10", "a11"]]
        assert "the hub has no such revision" in unknown
        assert "access is gated" in gated
        assert "no code of a data set is run" in script
        num_requests = len(served.requests)
        again, newest = child(
            (9, {"path": "o/made", "revision": OLD}), (1, {"path": "o/made", "revision": NEW}), HF_HUB_OFFLINE="1"
        )
        assert again == old
        assert f"that was made last is commit {OLD}" in newest
        assert len(served.requests) == num_requests
    (unreachable,) = child((1, {"path": "o/made"}))
    assert "the hub cannot be reached" in unreachable
