"""A hub on a local port: the requests of huggingface_hub and `datasets`, answered from folders.

It serves data sets, and takes uploads of models and data sets by the accounts that it knows. Large files come by LFS:
a client of these tests has HF_HUB_DISABLE_XET=1, as the protocol of Xet has no stand-in.
"""

import base64
import hashlib
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Account:
    """A user of the hub: the owner of what begins with the name or with one of the organizations.

    Attributes:
        role: Role of the token: read, write or fineGrained.
        may_create: False for a token without the right to write here.
    """

    name: str
    orgs: Sequence[str] = ()
    role: str = "write"
    may_create: bool = True

    def owns(self, name: str) -> bool:
        is_own = name.partition("/")[0] in (self.name, *self.orgs)
        return is_own and self.role != "read" and self.may_create


@dataclass
class Hub:
    """Repositories by their id: folders by commit, of which the last one is `main`.

    Attributes:
        sets: Data sets.
        gated: Ids to whose files there is no access.
        requests: Method and path of every request so far.
        models: Models.
        accounts: Users by their token.
        folder: Folder for what is uploaded.
        private: Ids of the repositories that were made as private ones.
    """

    sets: dict[str, dict[str, Path]]
    gated: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    url: str = ""
    models: dict[str, dict[str, Path]] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)
    folder: Path = Path()
    private: set[str] = field(default_factory=set)

    def commit(self, commits: dict[str, Path], revision: str) -> str | None:
        """The commit of a revision; None if there is none."""
        return [*commits][-1] if revision == "main" else revision if revision in commits else None

    def files(self, name: str, *, is_model: bool = False) -> dict[str, bytes]:
        """The newest files of a repository."""
        commits = (self.models if is_model else self.sets)[name]
        root = [*commits.values()][-1]
        return {str(f.relative_to(root)): f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file()}

    def add(self, repos: dict[str, dict[str, Path]], name: str, operations: Sequence[dict[str, Any]]) -> str:
        """Make a commit of an upload; returns its name."""
        commits = repos[name]
        commit = hashlib.sha1(f"{name} {len(commits)}".encode()).hexdigest()
        root = self.folder / commit
        if commits:
            shutil.copytree([*commits.values()][-1], root)
        for operation in operations:
            value, file = operation["value"], root / operation["value"].get("path", "")
            file.parent.mkdir(parents=True, exist_ok=True)
            if operation["key"] == "file":
                file.write_bytes(base64.b64decode(value["content"]))
            elif operation["key"] == "lfsFile":
                shutil.copyfile(self.folder / "lfs" / value["oid"], file)
            elif operation["key"] == "deletedFile":
                file.unlink()
        commits[commit] = root
        return commit


def _entry(file: Path, root: Path) -> dict[str, Any]:
    kind = "directory" if file.is_dir() else "file"
    digest = hashlib.sha1(str(file).encode()).hexdigest()
    return {
        "type": kind, "oid": digest, "path": file.relative_to(root).as_posix(),
        "size": 0 if file.is_dir() else file.stat().st_size,
    }  # fmt: skip


@contextmanager
def hub_server(hub: Hub, port: int = 0) -> Iterator[Hub]:
    """Serve a hub at `hub.url` until the block ends; on a free port unless one is given."""
    connections = list[socket.socket]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # the body would wait 40 ms for the receipt of the headers

        def setup(self) -> None:
            super().setup()
            connections.append(self.connection)

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if not self.uploads(body):
                self.answer(with_body=True, paths=self.paths(body))

        def do_PUT(self) -> None:
            hub.requests.append(f"PUT {self.path}")
            (hub.folder / "lfs").mkdir(exist_ok=True)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            (hub.folder / "lfs" / self.path.rpartition("/")[2]).write_bytes(body)
            self.send(200, {"ETag": '"x"'}, b"")

        @property
        def account(self) -> Account | None:
            return hub.accounts.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

        def tell(self, status: int, content: dict[str, Any], **headers: str) -> None:
            self.send(status, {}, json.dumps(content).encode(), {k.replace("_", "-"): v for k, v in headers.items()})

        def uploads(self, body: bytes) -> bool:
            """Answer a request of an upload; false for another one."""
            path = unquote(urlsplit(self.path).path)
            parts = path.strip("/").split("/")
            is_api = parts[0] == "api"
            parts = parts[1:] if is_api else parts
            if parts == ["validate-yaml"]:
                self.tell(200, {"warnings": [], "errors": []})
            elif parts == ["repos", "create"]:
                self.create(json.loads(body))
            elif path.endswith(".git/info/lfs/objects/batch"):
                objects = [
                    {**o, "actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}"}}}
                    for o in json.loads(body)["objects"]
                ]
                self.tell(200, {"objects": objects, "transfer": "basic"})
            elif is_api and len(parts) > 3 and parts[3] in ("preupload", "commit"):
                self.take(parts[0], "/".join(parts[1:3]), parts[3], body)
            else:
                return False
            hub.requests.append(f"{self.command} {path}")
            return True

        def create(self, asked: dict[str, Any]) -> None:
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            is_set = asked.get("type") == "dataset"
            repos, account = hub.sets if is_set else hub.models, self.account
            if account is None:
                return self.tell(401, {"error": "Invalid username or password."})
            if not account.owns(name):
                why = f"You don't have the rights to create a {'dataset' if is_set else 'model'} under the namespace"
                return self.tell(403, {"error": why})
            address = {"url": f"{hub.url}/{'datasets/' if is_set else ''}{name}", "name": name}
            if name in repos:
                return self.tell(409, {"error": "You already created this repo", **address})
            repos[name] = {}
            hub.add(repos, name, [{"key": "file", "value": {"path": ".gitattributes", "content": ""}}])
            if asked.get("visibility") == "private":
                hub.private.add(name)
            return self.tell(200, address)

        def take(self, kind: str, name: str, step: str, body: bytes) -> None:
            repos, account = {"datasets": hub.sets, "models": hub.models}[kind], self.account
            if name not in repos:
                return self.tell(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            if account is None or not account.owns(name):
                return self.tell(403, {"error": "Forbidden: you must use a write token to upload to a repository."})
            if step == "preupload":
                large = (".parquet", ".safetensors", ".arrow")
                modes = {
                    f["path"]: "lfs" if f["path"].endswith(large) else "regular" for f in json.loads(body)["files"]
                }
                files = [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]
                return self.tell(200, {"files": files})
            commit = hub.add(repos, name, [json.loads(line) for line in body.splitlines()])
            return self.tell(200, {"commitOid": commit, "commitUrl": f"{hub.url}/{name}/commit/{commit}"})

        def paths(self, body: bytes) -> list[str]:
            if self.headers["Content-Type"] == "application/json":
                return list(json.loads(body)["paths"])
            return [unquote(part.partition("=")[2]) for part in body.decode().split("&") if part.startswith("paths=")]

        def answer(self, *, with_body: bool, paths: list[str] | None = None) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            if path == "/api/whoami-v2":
                return self.whoami()
            is_api, is_set = path.startswith("/api/"), path.removeprefix("/api").startswith("/datasets/")
            repos = hub.sets if is_set else hub.models
            parts = path.removeprefix("/api").removeprefix("/datasets" if is_set else "/models").strip("/").split("/")
            name, rest = "/".join(parts[:2]), parts[2:]
            if name not in repos:
                return self.send(404, {}, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body=with_body)
            if name in hub.gated and (rest[:1] == ["auth-check"] or not is_api):
                return self.send(403, {}, b"{}", {"X-Error-Code": "GatedRepo"}, with_body=with_body)
            if rest[:1] == ["auth-check"]:
                return self.send(200, {}, b"{}", with_body=with_body)
            commit = hub.commit(repos[name], rest[1] if len(rest) > 1 else "main")
            if commit is None:
                return self.send(404, {}, b"{}", {"X-Error-Code": "RevisionNotFound"}, with_body=with_body)
            root, below = repos[name][commit], "/".join(rest[2:])
            headers = {"X-Repo-Commit": commit}
            if is_api:
                return self.send(
                    200, headers, json.dumps(self.listing(name, root, commit, rest, below, paths)).encode()
                )
            file = root / below
            if not file.is_file():
                return self.send(404, headers, b"", {"X-Error-Code": "EntryNotFound"}, with_body=with_body)
            content = file.read_bytes()
            headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.send(200, headers, content, with_body=with_body)

        def whoami(self) -> None:
            if (account := self.account) is None:
                return self.tell(401, {"error": "Invalid credentials in Authorization header"})
            orgs = [{"name": name} for name in account.orgs]
            token = {"displayName": "t", "role": account.role}
            return self.tell(200, {"name": account.name, "orgs": orgs, "auth": {"accessToken": token}})

        def listing(
            self, name: str, root: Path, commit: str, rest: list[str], below: str, paths: list[str] | None
        ) -> dict[str, Any] | list[dict[str, Any]]:
            if rest[:1] == ["tree"]:
                found = (root / below).rglob("*") if "recursive=True" in self.path else (root / below).glob("*")
                return [_entry(file, root) for file in sorted(found)]
            if rest[:1] == ["paths-info"]:
                return [_entry(root / path, root) for path in paths or [] if (root / path).exists()]
            files = [{"rfilename": str(f.relative_to(root))} for f in sorted(root.rglob("*")) if f.is_file()]
            return {"_id": "1", "id": name, "sha": commit, "siblings": files, "tags": []}

        def send(
            self, status: int, headers: dict[str, str], content: bytes, more: dict[str, str] | None = None,
            *, with_body: bool = True,
        ) -> None:  # fmt: skip
            start, end = 0, len(content)
            if (wanted := self.headers.get("Range")) and status == 200:
                first, last = wanted.removeprefix("bytes=").split("-")
                start, end, status = int(first), int(last) + 1 if last else end, 206
                headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
            self.send_response(status)
            sent = {**headers, **(more or {}), "Content-Length": str(len(content[start:end]))}
            for key, value in {"Content-Type": "application/json", **sent}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(content[start:end])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        for connection in connections:  # else its thread would go on answering
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def client_environment(hub: Hub, home: Path, token: str | None = None, **more: str) -> dict[str, str]:
    """Variables of a process whose huggingface_hub talks to a hub of this machine, and has no other account."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "WANDB"))}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    return {**kept, **own, **({} if token is None else {"HF_TOKEN": token}), **more}
