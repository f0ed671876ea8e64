"""Uploads by the real client of the hub to a stand-in of it on this machine."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.hub_server import Account, Hub, client_environment, hub_server

WRITER, READER, UNKNOWN = "hf_write000000000000000", "hf_read0000000000000000", "hf_unknown0000000000000"
CHILD = """
import json, sys
from pathlib import Path
from cotpress.errors import CotpressError
from cotpress.modeling.upload import Repository
for name, is_dataset, settings in json.loads(sys.argv[2]):
    repository = Repository(name=name, is_dataset=is_dataset, setting="output=hf://", without_hub="output=DIR")
    try:
        repository.check_name()
        repository.check_account()
        address = repository.upload(Path(sys.argv[1]), **{"private": True, "message": "made", **settings})
        print(json.dumps([address, repository.files(), repository.read("README.md").decode()]))
    except CotpressError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub with the accounts of `me`, who writes or reads."""
    (tmp_path / "uploaded").mkdir()
    accounts = {WRITER: Account("me", ["team"]), READER: Account("me", role="read")}
    with hub_server(Hub({}, accounts=accounts, folder=tmp_path / "uploaded")) as served:
        yield served


def folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    (path / "README.md").write_text("# Made\n")
    (path / "rows.parquet").write_bytes(b"PAR1")
    return path


def upload(hub: Hub, path: Path, *calls: tuple[str, bool, dict[str, Any]], **variables: str) -> list[Any]:
    token = variables.pop("token", None)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder(path / "made")), json.dumps(calls)], check=False, text=True,
        env=client_environment(hub, path / "home", token, **variables), capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert token is None or token not in done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_folder_is_uploaded_as_a_data_set_or_a_model_of_the_account_or_its_team(hub: Hub, tmp_path: Path) -> None:
    made = upload(
        hub, tmp_path, ("me/set", True, {}), ("team/model", False, {"private": False}),
        ("me/set", True, {"leave_out": ["README.md"], "message": "again"}), token=WRITER,
    )  # fmt: skip
    files = [".gitattributes", "README.md", "rows.parquet"]
    assert [names for _, names, _ in made] == [files, files, files]
    assert [made[0][0], made[1][0]] == [f"{hub.url}/datasets/me/set", f"{hub.url}/team/model"]
    assert hub.files("me/set")["rows.parquet"] == b"PAR1"
    assert hub.files("team/model", is_model=True)["README.md"] == b"# Made\n"
    assert hub.private == {"me/set"}
    assert WRITER not in "".join(path.read_text() for path in (tmp_path / "home").rglob("*") if path.is_file())


def test_outdated_files_of_the_repository_are_removed(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for name in ("model.safetensors", "notes.txt"):
        (tmp_path / "old" / name).write_text("old")
    hub.models["me/model"] = {"a" * 40: tmp_path / "old"}
    ((_, files, _),) = upload(hub, tmp_path, ("me/model", False, {"outdated": ["*.safetensors"]}), token=WRITER)
    assert files == ["README.md", "notes.txt", "rows.parquet"]


@pytest.mark.parametrize(
    ("name", "variables", "message"),
    [
        ("me/set", {}, "there is no Hugging Face token. Fix: hf auth login, or HF_TOKEN in the environment; output="),
        ("me/set", {"token": UNKNOWN}, "the hub does not accept the token. Fix: a new one with write access from"),
        ("me/set", {"token": READER}, "the token of 'me' may only read. Fix: one that may write"),
        ("you/set", {"token": WRITER}, "the token is that of 'me', who cannot write to repositories of 'you'; your "
         "organizations are team. Fix: output=hf://me/set, or a token of 'you'"),
        ("me/set", {"token": WRITER, "HF_HUB_OFFLINE": "1"}, "failed: HF_HUB_OFFLINE is set. Fix: unset it"),
        ("me/set", {"token": WRITER, "HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub http://127.0.0.1:9 cannot be "
         "reached: [Errno 111] Connection refused. Fix: try again with a network; output=DIR"),
        ("a b/set", {}, "output: got 'hf://a b/set', allowed: hf://OWNER/NAME, with letters"),
        ("set", {}, "output: got 'hf://set', allowed: hf://OWNER/NAME"),
    ],
)  # fmt: skip
def test_refusal_is_one_message_that_says_what_to_do(
    hub: Hub, tmp_path: Path, name: str, variables: dict[str, str], message: str
) -> None:
    (told,) = upload(hub, tmp_path, (name, True, {}), **variables)
    assert message in told
    assert hub.sets == {}


def test_right_that_the_account_lost_is_named_with_the_words_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    hub.accounts[WRITER] = Account("me", role="fineGrained", may_create=False)
    (told,) = upload(hub, tmp_path, ("me/set", True, {}), token=WRITER)
    assert told.startswith("push to 'me/set' failed: ")
    assert "You don't have the rights" in told
    assert "Fix: a token that may write to 'me/set', or output=hf://OWNER/NAME" in told
