"""A hub of data sets on a local port: the requests of huggingface_hub and `datasets`, answered from folders."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """Data sets by their id: folders by commit, of which the last one is `main`.

    Attributes:
        gated: Ids to whose files there is no access.
        requests: Method and path of every request so far.
    """

    sets: dict[str, dict[str, Path]]
    gated: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def commit(self, name: str, revision: str) -> str | None:
        """The commit of a revision; None if there is none."""
        commits = self.sets[name]
        return [*commits][-1] if revision == "main" else revision if revision in commits else None


def _entry(file: Path, root: Path) -> dict[str, Any]:
    kind = "directory" if file.is_dir() else "file"
    digest = hashlib.sha1(str(file).encode()).hexdigest()
    return {
        "type": kind, "oid": digest, "path": file.relative_to(root).as_posix(),
        "size": 0 if file.is_dir() else file.stat().st_size,
    }  # fmt: skip


@contextmanager
def hub_server(hub: Hub) -> Iterator[Hub]:
    """Serve a hub at `hub.url` until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # the body would wait 40 ms for the receipt of the headers

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(with_body=True, paths=self.paths(body))

        def paths(self, body: bytes) -> list[str]:
            if self.headers["Content-Type"] == "application/json":
                return list(json.loads(body)["paths"])
            return [unquote(part.partition("=")[2]) for part in body.decode().split("&") if part.startswith("paths=")]

        def answer(self, *, with_body: bool, paths: list[str] | None = None) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            is_api = path.startswith("/api/datasets/")
            parts = path.removeprefix("/api").removeprefix("/datasets/").split("/")
            name, rest = "/".join(parts[:2]), parts[2:]
            if name not in hub.sets:
                return self.send(404, {}, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body=with_body)
            if name in hub.gated and (rest[:1] == ["auth-check"] or not is_api):
                return self.send(403, {}, b"{}", {"X-Error-Code": "GatedRepo"}, with_body=with_body)
            if rest[:1] == ["auth-check"]:
                return self.send(200, {}, b"{}", with_body=with_body)
            commit = hub.commit(name, rest[1] if len(rest) > 1 else "main")
            if commit is None:
                return self.send(404, {}, b"{}", {"X-Error-Code": "RevisionNotFound"}, with_body=with_body)
            root, below = hub.sets[name][commit], "/".join(rest[2:])
            headers = {"X-Repo-Commit": commit}
            if is_api:
                return self.send(200, headers, json.dumps(self.listing(name, commit, rest, below, paths)).encode())
            file = root / below
            if not file.is_file():
                return self.send(404, headers, b"", {"X-Error-Code": "EntryNotFound"}, with_body=with_body)
            content = file.read_bytes()
            headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.send(200, headers, content, with_body=with_body)

        def listing(
            self, name: str, commit: str, rest: list[str], below: str, paths: list[str] | None
        ) -> dict[str, Any] | list[dict[str, Any]]:
            root = hub.sets[name][commit]
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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
