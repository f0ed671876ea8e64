"""Parsing of report pages without a browser."""

import base64
import json
from html.parser import HTMLParser
from typing import Any

_VOID = {"meta", "link", "br", "hr", "img", "input", "use", "path"}


class Parsed(HTMLParser):
    """Elements, attributes and scripts of a page.

    Attributes:
        elements: Names of all elements, in order.
        attributes: Every attribute's name.
        scripts: Content of the script elements.
        open: Elements that were never closed.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[str] = []
        self.attributes: set[str] = set()
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)

    @property
    def viewer(self) -> dict[str, Any]:
        """The token viewer's data."""
        data: dict[str, Any] = json.loads(self.scripts[0])
        return data


def token_lengths(trace: dict[str, Any]) -> list[int]:
    """UTF-16 units per token, as the viewer's script decodes them."""
    found, value, shift = [], 0, 0
    for byte in base64.b64decode(trace["lengths"]):
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            found.append(value)
            value = shift = 0
    return found
