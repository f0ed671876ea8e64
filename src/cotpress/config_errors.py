"""Turns the errors of Hydra and OmegaConf into one message: what, got, allowed, how to fix."""

import dataclasses
import re
from pathlib import Path

from cotpress.config import RATIO_RANGE, SCHEMAS
from cotpress.errors import did_you_mean


def explain(error: BaseException, entry: str, conf: Path) -> str | None:
    """A message for the user, or None if the error is not about the configuration.

    Args:
        error: What Hydra raised.
        entry: Entry script, e.g. `train`.
        conf: Folder of the configuration groups.
    """
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OmegaConfBaseException):
            return _explain_value(cause, entry)
        if isinstance(cause, MissingConfigException):
            return _explain_choice(cause, conf)
        following = cause.__cause__
        if following is None and isinstance(cause, HydraException):
            return _explain_override(str(cause), entry, conf)
        cause = following
    return None


def _explain_choice(error: BaseException, conf: Path) -> str:
    missing = str(getattr(error, "missing_cfg_file", "")).removesuffix(".yaml")
    group, _, choice = missing.rpartition("/")
    folder = conf / group
    if not group or not folder.is_dir():
        return str(error).strip()
    return f"{group}: unknown choice '{choice}'.{did_you_mean(choice, [f.stem for f in folder.glob('*.yaml')])}"


def _explain_value(error: BaseException, entry: str) -> str:
    key = str(getattr(error, "full_key", None) or getattr(error, "key", "") or "")
    owner = getattr(error, "object_type", None)
    text = str(getattr(error, "msg", None) or error).partition("\n")[0]
    if wanted := re.search(r"Interpolation key '(.+)\.(.+?)' not found", text):
        return _explain_reference(error, key, wanted[1], wanted[2])
    if "is not in struct" in text or "not in '" in text or "not found" in text:
        schema = owner if isinstance(owner, type) and dataclasses.is_dataclass(owner) else SCHEMAS[f"{entry}_schema"]
        return f"unknown key '{key}'.{did_you_mean(key.rpartition('.')[2], _names(schema))}"
    if key == "ratio":
        return f"ratio: {_got(text)}, allowed: {RATIO_RANGE}"
    return f"{key}: {_allowed(text)}" if key else _allowed(text)


def _explain_reference(error: BaseException, key: str, group: str, name: str) -> str:
    """A value is taken from another one that does not exist, as `max_new_tokens` is from the budget of a protocol."""
    from omegaconf import DictConfig, OmegaConf

    parent = getattr(error, "parent_node", None)  # references of our own files are relative to it
    there = OmegaConf.select(parent, group) if isinstance(parent, DictConfig) else None
    if not isinstance(there, DictConfig):
        return f"{key}: taken from '{group}.{name}', which does not exist"
    place = f"{key.rpartition('.')[0]}.{group}"
    return f"{key}: taken from {place}, which has no '{name}'.{did_you_mean(name, map(str, there))}"


def _got(text: str) -> str:
    quoted = re.search(r"'(.*?)'", text)
    return f"got '{quoted[1]}'" if quoted else text


def _names(schema: type) -> list[str]:
    return [f.name for f in dataclasses.fields(schema)]


def _allowed(text: str) -> str:
    converted = re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", text)
    if converted:
        kinds = {"Float": "a number", "Integer": "a whole number", "Boolean": "true or false"}
        return f"got '{converted[1]}', allowed: {kinds.get(converted[2], converted[2])}"
    return text


def _explain_override(text: str, entry: str, conf: Path) -> str:
    unknown = re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^']+)'", text)
    if unknown:
        key = unknown[1].partition("@")[0]
        groups = [f.name for f in conf.iterdir() if f.is_dir() and f.name != "hydra"]
        names = sorted({*_names(SCHEMAS[f"{entry}_schema"]), *groups})
        return f"unknown key '{key}'.{did_you_mean(key.partition('.')[0].partition('=')[0], names)}"
    return text.strip()
