"""A local HTTP server with the OpenAI interface; a script decides answers, failures and delays."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """The server's reaction to one request.

    Attributes:
        text: The completion.
        status: HTTP status; anything but 200 is an error with `text` as its message.
        finish_reason: As the interface names it.
        token_ids: Ids of the completion, the end token included; None leaves the field out.
        num_tokens: Number of tokens that it reports, the end token included; None counts ids or words.
        delay_s: Seconds before the answer.
        raw: Sent instead of JSON.
        content_type: Of the answer.
        breaks_off: End the connection before the last byte.
        extra: Further fields of the message (of a conversation) or the choice.
    """

    text: str | None = ""
    status: int = 200
    finish_reason: str | None = "stop"
    token_ids: list[int] | None = None
    num_tokens: int | None = None
    delay_s: float = 0.0
    raw: bytes | None = None
    content_type: str = "application/json"
    breaks_off: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Call:
    """One request as it arrived."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]


Script = Callable[[Call, int], Reply]
"""Gets a request and how often the same body has come before."""


@dataclass
class OpenAIServer:
    """The running server: its address and the requests it received."""

    script: Script
    models: list[dict[str, Any]] | None = None
    listing_status: int = 200
    base_url: str = ""
    calls: list[Call] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, call: Call) -> Reply:
        """Count the request and answer it by the script."""
        with self._lock:
            seen = sum(c.body == call.body for c in self.calls)
            self.calls.append(call)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            reply = self.script(call, seen)
            time.sleep(reply.delay_s)
            return reply
        finally:
            with self._lock:
                self._at_once -= 1


@contextmanager
def openai_server(
    script: Script, models: list[dict[str, Any]] | None = None, *, listing_status: int = 200, port: int = 0
) -> Iterator[OpenAIServer]:
    """Run a server on a local port, by default a free one, until the block ends.

    It lists `models`, if there are any, with a status, and says at /health that it runs.
    """
    state = OpenAIServer(script, models, listing_status)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # the body would wait 40 ms for the receipt of the headers

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {k.lower(): v for k, v in self.headers.items()}
            reply = state.answer(Call(path=self.path, body=body, headers=headers))
            content = _content(self.path, reply) if reply.raw is None else reply.raw
            self.send(reply, content)

        def do_GET(self) -> None:
            listed = {"object": "list", "data": [{"object": "model", **model} for model in state.models or []]}
            is_listed = state.models is not None and self.path == "/v1/models"
            status = 200 if self.path == "/health" else 404
            reply = Reply(status=state.listing_status if is_listed else status)
            self.send(reply, json.dumps(listed).encode())

        def send(self, reply: Reply, content: bytes) -> None:
            try:
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.content_type)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Retry-After-Ms", "1")
                self.end_headers()
                self.wfile.write(content[:-1] if reply.breaks_off else content)
                self.close_connection = self.close_connection or reply.breaks_off
            except (BrokenPipeError, ConnectionResetError):  # the client has given up waiting
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            """Say nothing of a client that was killed."""

    server = Quiet(("127.0.0.1", port), Handler)
    state.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _content(path: str, reply: Reply) -> bytes:
    if reply.status != 200:
        return json.dumps({"error": {"message": reply.text, "type": "scripted", "code": reply.status}}).encode()
    choice: dict[str, Any] = {"index": 0, "finish_reason": reply.finish_reason, "logprobs": None}
    if path.endswith("/chat/completions"):
        kind, choice["message"] = "chat.completion", {"role": "assistant", "content": reply.text, **reply.extra}
    else:
        kind, choice["text"] = "text_completion", reply.text
        choice |= reply.extra
    if reply.token_ids is not None:
        choice["token_ids"] = reply.token_ids
    num = len(reply.token_ids or (reply.text or "").split()) + (
        reply.token_ids is None and reply.finish_reason == "stop"
    )
    num = num if reply.num_tokens is None else reply.num_tokens
    usage = {"prompt_tokens": 1, "completion_tokens": num, "total_tokens": num + 1}
    answer = {"id": "x", "object": kind, "created": 0, "model": "stub", "choices": [choice], "usage": usage}
    return json.dumps(answer).encode()
