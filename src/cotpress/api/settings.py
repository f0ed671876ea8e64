"""Options of a call as the configuration of `compress.py`: the same values, checks and messages as on its command line.

An option is a setting of the scorer or of the compression by its name (`condition`, `granularity`), a setting that
stands by itself (`seed`), a group (`trainer="cpu"`), or any setting of a group by its place, as in
`**{"model.dtype": "float32"}`.
"""

import functools
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cotpress.cli.errors import explain, unknown_choice
from cotpress.cli.help import choices
from cotpress.cli.models import is_source
from cotpress.compression.config import Mode
from cotpress.config import CompressConfig, register_schemas, to_objects
from cotpress.errors import ConfigError, did_you_mean
from cotpress.plugins import check_names, load_plugins

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

ENTRY, CONF = "compress", Path(str(resources.files("cotpress") / "conf"))
GROUPS = ("compression", "trainer", "distill")
"""Groups that an option chooses from by their name; `model`, `scorer` and `reference` are arguments of their own."""
ALONE = ("seed", "output_root")
"""Options that are no settings of a group."""
OWNERS = ("scorer", "compression")
"""Groups whose settings are options by their bare names."""
PLACES = (*OWNERS, "model", "reference", "trainer", "distill")
"""Groups whose settings can be given by their places."""
RATIO = 0.5
"""Ratio of a call that names none; 1 where texts have a length of their own."""
_ELSEWHERE = {
    "device": "trainer='cpu' or trainer='gpu'",
    "batch_size": "**{'trainer.tokens_per_batch': NUMBER}",
}
"""Options of other libraries, with what has their place here."""
_MOST = 256
"""Configurations that are remembered; composing one takes a third of a second, more than a short text."""

_lock = threading.RLock()
_known: dict[str, CompressConfig] = {}


def settings(
    *,
    scorer: str,
    model: str,
    ratio: float | None,
    reference: str | None,
    options: Mapping[str, Any],
    owners: tuple[str, ...] = OWNERS,
) -> CompressConfig:
    """Return the checked configuration of a call; equal calls get the same object.

    Args:
        scorer: Choice of the group.
        model: Choice of the group, a folder, or a hub id.
        ratio: Kept fraction; None for 0.5, and 1 where texts have a length of their own.
        reference: Choice of the group, or the folder of a reference model; None reads with the model itself.
        options: See the module.
        owners: Groups whose settings are options by their bare names.

    Raises:
        ConfigError: A name or a value is wrong; the message is that of the command line.
    """
    ratio, values = _plain(ratio), {name: _plain(value) for name, value in options.items()}
    key = repr((scorer, model, ratio, reference, owners, sorted(values.items(), key=lambda option: option[0])))
    with _lock:
        if key not in _known:
            config = _composed(scorer, model, ratio, reference, values, owners)
            while len(_known) >= _MOST:
                del _known[next(iter(_known))]
            _known[key] = config
        return _known[key]


def _plain(value: Any) -> Any:
    """The same value without types of numpy, which OmegaConf refuses."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return [_plain(element) for element in value] if isinstance(value, list | tuple) else value


def _composed(
    scorer: str,
    model: str,
    ratio: float | None,
    reference: str | None,
    options: Mapping[str, Any],
    owners: tuple[str, ...],
) -> CompressConfig:
    for warning in [*_installed_plugins(), *check_names(CONF)]:
        log.warning("%s", warning)
    chosen = {"scorer": str(scorer), "model": model, "reference": reference or "none"}
    chosen |= {name: str(options[name]) for name in GROUPS if name in options}
    values: dict[str, Any] = {}
    for group, named in chosen.items():
        known = choices(CONF / group)
        if named in known:
            continue
        if group == "model" and is_source(named, group):
            chosen[group], values["model.path"] = "hub", named
        elif group == "reference" and Path(named).expanduser().is_dir():
            chosen[group], values["reference.path"] = "saved", named
        else:
            raise ConfigError(unknown_choice(group, named, known))
    with _explained():
        config = _chosen(chosen)
        places = {_place(config, name, owners): value for name, value in options.items() if name not in GROUPS}
        _set(config, values | places)
        if ratio is None:
            ratio = 1.0 if config.compression.mode is Mode.first_solution else RATIO
        _set(config, {"ratio": ratio})
        objects = to_objects(config)
    assert isinstance(objects, CompressConfig)
    return objects


@functools.cache
def _installed_plugins() -> list[str]:
    """Load the plugins of installed packages, once; returns the warnings."""
    return load_plugins([])


@contextmanager
def _explained() -> Iterator[None]:
    """Raise the errors of Hydra and OmegaConf with the messages of the command line."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        message = explain(error, ENTRY, CONF)
        if message is None:
            raise
        raise ConfigError(message) from error


def _chosen(groups: Mapping[str, str]) -> "DictConfig":
    from hydra import compose, initialize_config_dir

    register_schemas()
    with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        return compose(ENTRY, overrides=[f"{group}={choice}" for group, choice in groups.items()])


def _set(config: "DictConfig", values: Mapping[str, Any]) -> None:
    from omegaconf import OmegaConf

    for place, value in values.items():
        OmegaConf.update(config, place, value, merge=False)


def _place(config: "DictConfig", name: str, owners: tuple[str, ...]) -> str:
    """The place of an option in the configuration."""
    if name in ALONE or ("." in name and name.partition(".")[0] in PLACES):
        return name
    having = [owner for owner in owners if name in _names(config, owner)]
    if len(having) > 1:
        both = " and ".join(f"'{owner}.{name}'" for owner in having)
        raise ConfigError(f"option '{name}': there are {both}. Fix: **{{'{having[0]}.{name}': VALUE}}")
    if not having:
        hint = f" Fix: {_ELSEWHERE[name]}." if name in _ELSEWHERE else ""
        names = set[str]().union(ALONE, GROUPS, *(_names(config, owner) for owner in owners))
        raise ConfigError(f"unknown option '{name}'.{hint}{did_you_mean(name, names)}")
    return f"{having[0]}.{name}"


def _names(config: "DictConfig", owner: str) -> set[str]:
    """Settings of a group that are options by their bare names."""
    return {str(key) for key in config[owner]} - {"name"}
