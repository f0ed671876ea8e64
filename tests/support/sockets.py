"""Sockets on which processes listen, and the addresses of this machine, from Linux's /proc."""

import itertools
import socket
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

Listener = tuple[str, int]
"""Address and port of a TCP socket."""


def family(pid: int) -> set[int]:
    """A process and all that it has started, and they in turn."""
    children = defaultdict(set)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            children[int(stat.read_text().rpartition(")")[2].split()[1])].add(int(stat.parent.name))
    found, new = set[int](), {pid}
    while new:
        found |= new
        new = {child for parent in new for child in children[parent]} - found
    return found


def listeners(pids: Iterable[int]) -> set[Listener]:
    """The TCP sockets on which processes listen."""
    own = set()
    for link in itertools.chain.from_iterable(Path("/proc").glob(f"{pid}/fd/*") for pid in pids):
        with suppress(OSError):  # closed in the meantime
            own.add(str(link.readlink()))
    found = set()
    for name, kind in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        table = Path("/proc/net") / name
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                place, _, port = fields[1].partition(":")
                packed = bytes.fromhex(place)
                words = b"".join(packed[i : i + 4][::-1] for i in range(0, len(packed), 4))
                found.add((socket.inet_ntop(kind, words).removeprefix("::ffff:"), int(port, 16)))
    return found


def outer_addresses() -> list[str]:
    """The addresses of this machine that are no loopback addresses."""
    lines = [line.split() for line in Path("/proc/net/fib_trie").read_text().splitlines()]
    local = {above[-1] for above, line in itertools.pairwise(lines) if line == ["/32", "host", "LOCAL"]}
    table = Path("/proc/net/if_inet6")
    rows = [line.split() for line in table.read_text().splitlines()] if table.exists() else []
    sixes = {socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[0])) for row in rows if row[3] == "00"}
    return sorted({address for address in local if not address.startswith("127.")} | sixes)


def accepts(address: str, port: int) -> bool:
    """Return True if somebody accepts a connection to an address of this machine."""
    try:
        with socket.create_connection((address, port), timeout=2):
            return True
    except OSError:
        return False
