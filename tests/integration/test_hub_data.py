"""`compress.py output=hf://...`: uploaded by the real client to a hub on this machine, and read from there again."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
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
import contextlib, io, json, os, sys
from pathlib import Path
from hydra import compose, initialize_config_dir
from cotpress.config import register_schemas, to_objects
from cotpress.errors import CotpressError
from cotpress.tasks.checks import check
from cotpress.tasks.compress import compress
register_schemas()
for line in sys.stdin:
    folder, token, overrides = json.loads(line)
    os.chdir(folder)
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({} if token is None else {"HF_TOKEN": token})
    out, message = io.StringIO(), ""
    try:
        with initialize_config_dir(sys.argv[1], version_base="1.3"), contextlib.redirect_stdout(out):
            config = to_objects(compose("compress", overrides=overrides))
            check(config)
            compress(config, Path("job"))
    except CotpressError as error:
        message = str(error)
    print(json.dumps([message, out.getvalue()]), flush=True)
"""
ROWS = [
    {"id": f"r{i}", "question": f"{i} + 1?", "thinking": f"Okay. {i} + 1 = {i + 1}. Wait, that is {i + 1}.",
     "response": f"It is {i + 1}.", "answer": f"{i + 1}"}
    for i in range(20)
]  # fmt: skip


class User:
    """Runs commands in one process, which has imported everything once, with the hub at one address.

    Attributes:
        port: Port of the hub.
        home: Folder of the client.
    """

    def __init__(self, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.home, self._log = home, home / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(ROOT / "conf")], text=True, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log,
                env=client_environment(Hub({}, url=f"http://127.0.0.1:{self.port}"), home),
            )  # fmt: skip

    def compress(self, folder: Path, *overrides: str, token: str | None = TOKEN) -> tuple[str, str]:
        """Run a command in a folder; returns its error and its output."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        usual = ["model=tiny", "scorer=random", "reference=none", "ratio=0.5", "tracker=none"]
        self._process.stdin.write(json.dumps([str(folder), token, [*usual, *overrides]]) + "\n")
        self._process.stdin.flush()
        line, said = self._process.stdout.readline(), self._log.read_text()
        assert line, said[-3000:]
        assert TOKEN not in line + said
        error, output = json.loads(line)
        return error, output

    def end(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    user = User(tmp_path_factory.mktemp("home"))
    yield user
    user.end()


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


def test_export_is_uploaded_with_its_card_and_read_again(tmp_path: Path, user: User) -> None:
    source: list[str] = ["data=hub", "data.path=hf://open/traces"]
    target = "output=hf://me/short"
    with hub_server(served(tmp_path), user.port) as hub:
        made = user.compress(tmp_path, *source, target)
        other = user.compress(tmp_path, *source, target, "ratio=0.7")
        foreign = user.compress(tmp_path, *source, "output=hf://you/short")
        photos = user.compress(tmp_path, *source, "output=hf://me/photos")
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
        again = user.compress(tmp_path, *source, target, "license=mit")
        compressed = ["data=hub", "data.path=me/short", "data.columns.thinking=compressed_thinking"]
        from_hub = user.compress(tmp_path, *compressed, "output=shorter")
        assert again[0] == ""
        assert "README.md was edited on the hub and stays" in again[1]
        assert hub.files("me/short")["README.md"] == edited
        assert from_hub[0] == ""
        manifest: dict[str, Any] = json.loads((tmp_path / "shorter" / "manifest.json").read_text())
        assert manifest["num_rows"] == len(ROWS)
        for folder in (tmp_path, user.home):
            assert TOKEN not in "".join(p.read_text("latin-1") for p in folder.rglob("*") if p.is_file())


def test_upload_without_a_token_or_a_network_stops_before_any_work(tmp_path: Path, user: User) -> None:
    rows = ["data=planted", "data.num_traces=8", "output=hf://me/short"]
    with hub_server(served(tmp_path), user.port) as hub:
        error, _ = user.compress(tmp_path, *rows, token=None)
    assert "there is no Hugging Face token. Fix: hf auth login, or HF_TOKEN in the environment; output=DIR" in error
    error, _ = user.compress(tmp_path, *rows)
    assert f"the hub {hub.url} cannot be reached" in error
    assert "output=DIR writes the folder without one" in error
    assert not [*tmp_path.glob("outputs/artifacts/score/*")]
