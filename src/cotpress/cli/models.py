"""`model=OWNER/NAME` and `model=DIR` as they are typed: they mean `model=hub model.path=OWNER/NAME`.

Such a value becomes a choice of the group in Hydra's config store, under the typed text. So it can be swept, and works
at every place of the group: `model@reference.base=OWNER/NAME`.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cotpress.cli.help import choices
from cotpress.errors import ConfigError
from cotpress.store.paths import neighbours

GROUP = "model"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_PATH = re.compile(r"^ *path: *(\S+)", re.MULTILINE)


def with_models(arguments: Sequence[str], conf: Path) -> list[str]:
    """Store a choice for each hub id or folder that the command line gives as a model; returns notes for the user.

    Raises:
        ConfigError: A path that is no folder.
    """
    from hydra._internal.utils import get_args_parser
    from hydra.core.override_parser.overrides_parser import OverridesParser

    options = get_args_parser().parse_args(list(arguments))
    overrides = OverridesParser.create().parse_overrides(options.overrides)
    folders = [conf, *([Path(options.config_dir)] if options.config_dir else [])]
    known = {name for folder in folders for name in choices(folder / GROUP)}
    notes = []
    for override in (o for o in overrides if o.key_or_group == GROUP and not o.is_delete()):
        for text in _texts(override._value):
            if text in known or not is_source(text, str(override.get_key_element())):
                continue
            _store(text)
            if preset := _preset(text, conf):
                place = str(override.get_key_element())
                notes.append(f"{place}={preset} is this model with the settings of its preset, such as its system text")
    return list(dict.fromkeys(notes))


def _texts(value: Any) -> Iterator[str]:
    """The choices in the value of an override, those of a sweep one by one; patterns such as `*` name none."""
    from hydra.core.override_parser.types import ChoiceSweep, QuotedString

    if isinstance(value, ChoiceSweep):
        for element in value.list:
            yield from _texts(element)
    elif isinstance(value, QuotedString):
        yield value.text
    elif isinstance(value, str):
        yield value


def is_source(text: str, place: str) -> bool:
    """True for a hub id or a folder that exists; False for what may be the misspelt name of a choice.

    Raises:
        ConfigError: A path that is no folder; `place` is the setting to name.
    """
    if (text and Path(text).expanduser().is_dir()) or _HUB_ID.fullmatch(text):
        return True
    if "/" in text or text.startswith("~"):
        folder = Path(text).expanduser().absolute()
        raise ConfigError(
            f"{place}: got '{text}', but there is no folder '{folder}'.{neighbours(folder)} Allowed: a folder with "
            f"safetensors weights, a hub id OWNER/NAME, or a name of --help {GROUP}. Fix: {place}=DIR with a folder "
            f"that exists, or {place}=smollm2, which needs no download"
        )
    return False


def _store(text: str) -> None:
    from hydra.core.config_store import ConfigStore

    node = {"defaults": [f"/{GROUP}/hub@_here_", "_self_"], "path": text}
    parts = [part for part in text.split("/") if part]
    names = [parts, [*parts, ""]] if text.endswith("/") else [parts]  # Hydra looks for both
    for *folders, name in names:
        ConfigStore.instance().store(group="/".join([GROUP, *folders]), name=name, node=node, package=GROUP)


def _preset(hub_id: str, conf: Path) -> str | None:
    """The choice whose file names a hub id as its `path`; None without one."""
    for file in sorted((conf / GROUP).glob("*.yaml")):
        path = _PATH.search(file.read_text(encoding="utf-8"))
        if path is not None and path[1].lower() == hub_id.lower():
            return file.stem
    return None
