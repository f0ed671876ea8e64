"""A service that accepts every connection and never answers."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent_service() -> Iterator[str]:
    """Its address, `http://127.0.0.1:PORT`."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        held: list[socket.socket] = []
        accepting = threading.Thread(target=_accept, args=(listening, held), daemon=True)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)  # wakes the thread, which nobody else may leave connections with
            accepting.join()
            for connection in held:
                connection.close()


def _accept(listening: socket.socket, held: list[socket.socket]) -> None:
    while True:
        try:
            held.append(listening.accept()[0])  # held, or the connection would be closed, which is an answer
        except OSError:
            return
