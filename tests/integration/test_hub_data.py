"""`compress.py output=hf://...`: uploaded by the real client to a hub on this machine, and read from there again."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard

from cotpress.compression.export import is_own_card
from support.commands import ROOT
from support.hub_server import Account, Hub, client_environment, hub_server

pytest.importorskip("datasets", reason="needs the extra dev")
TOKEN = "hf_write000000000000000"
CHILD = """
import contextlib, io, json, sys
from pathlib import Path
from hydra import compose, initialize_config_dir
from cotpress.config import register_schemas, to_objects
from cotpress.errors import CotpressError
from cotpress.tasks.checks import check
from cotpress.tasks.compress import compress
register_schemas()
for overrides in json.loads(sys.argv[2]):
    out = io.StringIO()
    try:
        with initialize_config_dir(sys.argv[1], version_base="1.3"), contextlib.redirect_stdout(out):
            config = to_objects(compose("compress", overrides=overrides))
            check(config)
            compress(config, Path("job"))
        print(json.dumps(["", out.getvalue()]))
    except CotpressError as error:
        print(json.dumps([str(error), out.getvalue()]))
"""
ROWS = [
    {"id": f"r{i}", "question": f"{i} + 1?", "thinking": f"Okay. {i} + 1 = {i + 1}. Wait, that is {i + 1}.",
     "response": f"It is {i + 1}.", "answer": f"{i + 1}"}
    for i in range(20)
]  # fmt: skip


def compress(hub: Hub, folder: Path, *commands: list[str], token: str | None = TOKEN) -> list[tuple[str, str]]:
    """Run commands one after the other in one process; error and output of each."""
    usual = ["model=tiny", "scorer=random", "reference=none", "ratio=0.5", "tracker=none"]
    given = json.dumps([usual + command for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(ROOT / "conf"), given], check=False, text=True, capture_output=True,
        env=client_environment(hub, folder / "home", token), timeout=250, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert TOKEN not in done.stdout + done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def served(folder: Path) -> Hub:
    """A hub with an account and a data set that names its licence."""
    for name in ("uploaded", "source", "mine"):
        (folder / name).mkdir()
    (folder / "source" / "README.md").write_text("---\nlicense: cc-by-sa-4.0\n---\n# Source\n")
    (folder / "source" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "mine" / "photo.png").write_bytes(b"x")
    return Hub(
        {"open/traces": {"a" * 40: folder / "source"}, "me/photos": {"b" * 40: folder / "mine"}},
        accounts={TOKEN: Account("me")}, folder=folder / "uploaded",
    )  # fmt: skip


def test_export_is_uploaded_with_its_card_and_read_again(tmp_path: Path) -> None:
    source: list[str] = ["data=hub", "data.path=hf://open/traces"]
    target = "output=hf://me/short"
    with hub_server(served(tmp_path)) as hub:
        made, other, foreign, photos = compress(
            hub, tmp_path, [*source, target], [*source, target, "ratio=0.7"], [*source, "output=hf://you/short"],
            [*source, "output=hf://me/photos"],
        )  # fmt: skip
        assert made[0] == ""
        assert f"uploaded: {hub.url}/datasets/me/short\n" in made[1]
        told = "output: 'hf://me/short' holds the export of other settings: ratio=0.5 instead of 0.7. Fix: a name of"
        assert other[0].startswith(told)
        assert "the token is that of 'me', who cannot write to repositories of 'you'" in foreign[0]
        assert photos[0] == "output: 'hf://me/photos' holds other files: photo.png. Fix: a name of its own"
        files = hub.files("me/short")
        assert {*files} == {".gitattributes", "README.md", "compressed.parquet", "manifest.json"}
        assert hub.private == {"me/short"}
        assert {*hub.files("me/photos")} == {"photo.png"}
        card = DatasetCard(files["README.md"].decode())
        assert (card.data.license, card.data.source_datasets) == ("cc-by-sa-4.0", ["open/traces"])
        assert "| source | [open/traces](https://huggingface.co/datasets/open/traces), split `train` |" in card.text
        assert 'load_dataset("me/short", split="train")' in card.text
        assert is_own_card(files["README.md"])
        assert not [name for name, content in files.items() if str(tmp_path).encode() in content]

        # The same command again after somebody has edited the card, and the set as the source of another one.
        newest = [*hub.sets["me/short"].values()][-1]
        edited = (newest / "README.md").read_bytes() + b"Ours\n"
        (newest / "README.md").write_bytes(edited)
        again, from_hub = compress(
            hub, tmp_path, [*source, target, "license=mit"],
            ["data=hub", "data.path=me/short", "data.columns.thinking=compressed_thinking", "output=shorter"],
        )  # fmt: skip
        assert again[0] == ""
        assert "README.md was edited on the hub and stays" in again[1]
        assert hub.files("me/short")["README.md"] == edited
        assert from_hub[0] == ""
        manifest: dict[str, Any] = json.loads((tmp_path / "shorter" / "manifest.json").read_text())
        assert manifest["num_rows"] == len(ROWS)
        assert TOKEN not in "".join(p.read_text("latin-1") for p in tmp_path.rglob("*") if p.is_file())


def test_upload_without_a_token_or_a_network_stops_before_any_work(tmp_path: Path) -> None:
    rows = ["data=planted", "data.num_traces=8", "output=hf://me/short"]
    with hub_server(served(tmp_path)) as hub:
        ((error, _),) = compress(hub, tmp_path, rows, token=None)
    assert "there is no Hugging Face token. Fix: hf auth login, or HF_TOKEN in the environment; output=DIR" in error
    ((error, _),) = compress(hub, tmp_path, rows)
    assert f"the hub {hub.url} cannot be reached" in error
    assert "output=DIR writes the folder without one" in error
    assert not [*tmp_path.glob("outputs/artifacts/score/*")]
