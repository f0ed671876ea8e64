"""The source of traces as a card names it: by name, never by a path of this machine, with the licence passed on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cotpress.modeling.hub import hub_licence, licence_of
from cotpress.store.local_names import name_of
from cotpress.store.paths import hub_address

_FILE_NAMES = ("jsonl", "hub")
"""Names of sources that read what `path` names, unless the user gives another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The source of traces.

    Attributes:
        text: Its name and parts, in Markdown.
        hub_ids: Data sets of the hub in it.
        licence: `license`, `license_name` and `license_link` of its card; empty if they are unknown.
    """

    text: str
    hub_ids: tuple[str, ...] = ()
    licence: Mapping[str, str] = field(default_factory=dict)


def provenance(settings: Mapping[str, Any], *, online: bool = True) -> Provenance:
    """The source that the settings of a group `data` or `questions` name, which are JSON values.

    `online=False` reads licences of the hub from its cache alone.
    """
    name, path = str(settings.get("name")), settings.get("path")
    if "questions" in settings:
        asked = provenance(settings["questions"], online=online)
        writer = settings.get("writer", "base")
        by = "the model itself" if writer in ("base", "original") else f"`{name_of(writer)}`"
        return Provenance(text=f"right answers of {by} to the questions of {asked.text}", hub_ids=asked.hub_ids)
    if path is None and isinstance(file := settings.get("hub"), Mapping):
        return _of_hub(file["dataset"], file.get("revision"), f", file `{file['file']}`", online=online)
    if path is None:
        built_in = "num_traces" in settings or "num_problems" in settings
        text = f"the built-in word problems of cotpress (`{name}`)" if built_in else f"`{name}`"
        return Provenance(text=text, licence={"license": "apache-2.0"} if built_in else {})
    place = Path(path).expanduser()
    if "split" in settings and not place.exists():
        parts = [f"configuration `{settings['config']}`"] if settings.get("config") else []
        parts.append(f"split `{settings['split']}`")
        hub_id, revision = hub_address(path)
        return _of_hub(hub_id, settings.get("revision") or revision, f", {', '.join(parts)}", online=online)
    given = name if name not in _FILE_NAMES else name_of(str(path))
    return Provenance(text=f"`{given}`", licence=_licence_of_folder(place) if place.is_dir() else {})


def _of_hub(hub_id: str, revision: str | None, parts: str, *, online: bool) -> Provenance:
    licence = hub_licence(hub_id, revision=revision, is_dataset=True, online=online)
    at = f" at `{revision}`" if revision else ""
    return Provenance(
        text=f"[{hub_id}](https://huggingface.co/datasets/{hub_id}){at}{parts}", hub_ids=(hub_id,), licence=licence
    )


def _licence_of_folder(folder: Path) -> dict[str, str]:
    """The licence of a folder with a card, or with the description that `save_to_disk` writes, also of one split."""
    if licence := licence_of(folder / "README.md"):
        return licence
    for file in sorted([*folder.glob("dataset_info.json"), *folder.glob("*/dataset_info.json")]):
        try:
            name = json.loads(file.read_text(encoding="utf-8")).get("license")
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        if isinstance(name, str) and name.strip():
            return {"license": name.strip()}
    return {}
