"""Composition of a command line as Hydra does it, to look at its result before or after Hydra's own."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.types import Override


def folders_of(arguments: Sequence[str], overrides: "Iterable[Override]", conf: Path) -> list[Path]:
    """The folders of the configuration: that of the package, then those of `--config-dir` and `hydra.searchpath`."""
    from hydra._internal.utils import get_args_parser

    options = get_args_parser().parse_args(list(arguments))
    folders = [conf, *([Path(options.config_dir).resolve()] if options.config_dir else [])]
    for override in overrides:
        if override.key_or_group == "hydra.searchpath" and isinstance(places := override.value(), list):
            folders += [Path(str(place).removeprefix("file://")) for place in places]
    return folders


def loader_of(folders: Sequence[Path]) -> "ConfigLoaderImpl":
    """A loader of the configuration in some folders."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path

    path = create_config_search_path(str(folders[0].resolve()))
    for folder in folders[1:]:
        path.prepend("command-line", f"file://{folder}", "schema")  # before the schemas, as Hydra does
    return ConfigLoaderImpl(path)
