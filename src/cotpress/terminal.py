"""Text on a terminal: control characters in it are escaped, and a reader that has gone away is no error."""

import errno
import os
import re
import shutil
import sys
import textwrap
from typing import Any, TextIO

_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 without tab and line feed, among them the escape of terminal sequences
    "\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb"
    "\U000e0000-\U000e0fff\ud800-\udfff]"
)
"""Characters that steer a terminal, change the direction of a line, break it, or cannot be seen."""
UNREAD = 141
"""Exit code of a command whose output nobody reads any longer: that of the signal SIGPIPE, as of other commands."""


_GONE = (errno.EPIPE, errno.EBADF, errno.EIO)
"""Errors of a pipe without a reader, a closed descriptor, and a terminal that has hung up."""


def escaped(text: str) -> str:
    """Escape control characters and invisible ones, as names and texts of others could steer the terminal.

    Tabs and line feeds stay.
    """
    return _STEERING.sub(_escape, text)


def one_line(text: str) -> str:
    """Escape line feeds and tabs as well, e.g. of a name in a table."""
    return escaped(text).replace("\n", "\\n").replace("\t", "\\t")


def line_width() -> int | None:
    """Columns of the terminal that standard output is, or those of the variable COLUMNS; None for a file or a pipe."""
    return shutil.get_terminal_size((0, 0)).columns or None


def text_width() -> int | None:
    """Columns at which sentences are broken: those of the terminal; None for a file or a pipe, where each is a line."""
    return line_width() if sys.stdout.isatty() else None


def wrapped(text: str, width: int | None, indent: str = "") -> list[str]:
    """Return a text as lines of at most `width` characters, the first after one `indent` and the others after two."""
    if width is None:
        return [f"{indent}{text}"]
    return textwrap.wrap(
        text, max(width, 20), initial_indent=indent, subsequent_indent=2 * indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _escape(match: "re.Match[str]") -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Output:
    """Standard output or error that drops what cannot be written, so that the work goes on.

    Attributes:
        is_unread: True if a text had no reader (`| head`, `>&-`).
        problem: The system's message for any other error, e.g. of a full disk; empty without.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._had_reader = stream is not None
        # Stays open until the process ends.
        self._stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        self.is_unread, self.problem = False, ""

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        self.is_unread |= not self._had_reader
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Send everything from here on, also what the stream has buffered, to the null device."""
        if error.errno in _GONE:
            self.is_unread = True
        else:
            self.problem = error.strerror or str(error)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_output() -> Output:
    """Put `Output` in the place of standard output and standard error; returns the former.

    A descriptor that was closed at the start is opened as the null device: otherwise the next file would get its
    number, and with it everything that libraries write to the descriptor.
    """
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(null)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, Output):
            setattr(sys, name, Output(stream))
    output = sys.stdout
    assert isinstance(output, Output)
    return output
