"""A service that accepts every connection and never answers."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent_service() -> Iterator[str]:
    """Run the service; yields its address, `http://127.0.0.1:PORT`."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        held: list[socket.socket] = []
        accepting = threading.Thread(target=_accept, args=(listening, held), daemon=True)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)  # ends the blocking accept of the thread
            accepting.join()
            for connection in held:
                connection.close()


def _accept(listening: socket.socket, held: list[socket.socket]) -> None:
    while True:
        try:
            held.append(listening.accept()[0])  # kept open: closing it would be an answer
        except OSError:
            return
