"""Rows of a data set of the Hugging Face hub, or of a folder that the library `datasets` saved or reads.

A data set of the hub is downloaded once, into the cache of `datasets`, or streamed. It is identified by the commit of
its revision, its configuration and split. With HF_HUB_OFFLINE it comes from that cache. No code of a data set is run:
`datasets` reads only files of tables.

The argument `group` is the configuration group of the settings, for messages.
"""

import functools
import json
import os
import re
import sys
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from cotpress.data.config import HubDataConfig
from cotpress.data.files import BATCH_ROWS, ENDS, Files, Raw, ending, sha256, table_rows
from cotpress.errors import ConfigError, DataError, MissingExtraError, did_you_mean, install_extra
from cotpress.modeling.hub import from_hub
from cotpress.store.paths import HUB_SCHEME, hub_address

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SAVED_SPLITS = "dataset_dict.json"
_SAVED = "state.json"


@dataclass(frozen=True, slots=True)
class HubRows:
    """A split of a data set of `datasets`.

    Attributes:
        name: Its name in messages.
        identity: What determines its rows.
        note: What is read of the data set.
        tables: Opens the tables of at most `BATCH_ROWS` rows, which are downloaded only then.
        key: Setting of the data set, for messages.
    """

    name: str
    identity: dict[str, Any]
    note: str
    tables: Callable[[], Iterable[pa.Table]]
    key: str

    def __str__(self) -> str:
        return self.name

    @property
    def layout(self) -> str:
        """Empty: a split consists of its rows."""
        return ""

    def rows(self, columns: Container[str] | None = None) -> Iterator[Raw]:
        """All rows; see `Files.rows`.

        Raises:
            DataError: They cannot be downloaded or read.
        """
        number = 0
        for table in _told(self.tables, self.key):
            read = [name for name in table.column_names if columns is None or name in columns]
            for row in table_rows(table.select(read) if read else table):
                number += 1
                yield Raw(number, f"row {number}", row)


def find(config: HubDataConfig, group: str) -> Files | HubRows:
    """The split of a data set, which is not downloaded yet.

    Raises:
        ConfigError: There is no such configuration or split.
        DataError: There is no such data set or revision, access is gated, or it needs code of its own; or the hub
            cannot be reached, or offline it is not in the cache.
        MissingExtraError: `datasets` is not installed.
    """
    _quiet(group)
    config = _of_address(config, group)
    folder = Path(os.path.expanduser(config.path))  # noqa: PTH111 (an unknown user stays as typed)
    if not folder.is_dir():
        return _of_hub(config, group)
    if config.revision is not None:
        raise ConfigError(f"{group}.revision: got '{config.revision}', but '{folder}' is a folder. Fix: leave it out")
    if (folder / _SAVED_SPLITS).is_file() or (folder / _SAVED).is_file():
        return _saved(folder, config, group)
    builder = _builder(str(folder.absolute()), config.config, None, group)
    splits = builder.config.data_files or {}
    _require_split(config.split, splits, group)
    files = [Path(file) for file in splits[config.split]]
    if other := [file for file in files if not ending(file)]:
        raise ConfigError(f"{group}.path: '{other[0]}' cannot be read, allowed: files that end in {ENDS}")
    return Files(folder, files, [], f"{group}.path")


def _of_address(config: HubDataConfig, group: str) -> HubDataConfig:
    """The settings with the hub id in place of an address, `hf://owner/name` or `hf://datasets/owner/name@revision`.

    Raises:
        ConfigError: Address and `revision` name different revisions.
    """
    if not config.path.startswith(HUB_SCHEME):
        return config
    path, revision = hub_address(config.path)
    if revision is not None and config.revision not in (None, revision):
        raise ConfigError(
            f"{group}.revision: got '{config.revision}', but {group}.path names '{revision}'. Fix: only one of them"
        )
    return replace(config, path=path, revision=revision or config.revision)


def _jsonl(group: str) -> str:
    """The setting that reads files instead."""
    return "data=jsonl" if group == "data" else f"data@{group}=jsonl"


def _quiet(group: str) -> None:
    """Import `datasets`, without its messages, and without progress where nobody sees it."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise MissingExtraError(f"{group}=hub", "datasets", install_extra("hub")) from None
    datasets.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


def _require_split(split: str, splits: Iterable[str], group: str) -> None:
    if split not in (names := list(map(str, splits))):
        raise ConfigError(f"{group}.split: got '{split}'.{did_you_mean(split, names)}")


def _saved(folder: Path, config: HubDataConfig, group: str) -> HubRows:
    """A data set that `save_to_disk` wrote: one, or several by split."""
    import datasets

    if config.config is not None:
        raise ConfigError(f"{group}.config: got '{config.config}', but '{folder}' was saved without. Fix: leave it out")
    try:
        if (folder / _SAVED_SPLITS).is_file():
            splits = json.loads((folder / _SAVED_SPLITS).read_text(encoding="utf-8"))["splits"]
            _require_split(config.split, splits, group)
            data = datasets.load_from_disk(str(_with_rows(folder / config.split, group)))
        else:
            data = datasets.load_from_disk(str(_with_rows(folder, group)))
            _require_split(config.split, {"train", str(data.split or "train")}, group)
        hashes = [sha256(Path(file["filename"])) for file in data.cache_files]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(f"{group}.path: '{folder}' cannot be read as a saved data set: {error}") from error
    identity = {"source": "saved", "sha256": hashes}
    note = f"'{folder}', split {config.split}, {len(data)} rows"
    return HubRows(f"'{folder}'", identity, note, functools.partial(_batches, data), f"{group}.path")


def _with_rows(folder: Path, group: str) -> Path:
    """The folder of a saved split, after a check that it has rows, without which `datasets` cannot read it."""
    state = json.loads((folder / _SAVED).read_text(encoding="utf-8"))
    if not state["_data_files"]:
        raise DataError(f"{group}.path: '{folder}' is a saved data set without rows. Fix: another one, or its split")
    return folder


def _of_hub(config: HubDataConfig, group: str) -> HubRows:
    path, key = config.path, f"{group}.path"
    if Path(os.path.expanduser(path)).is_file():  # noqa: PTH111
        fix = f"{_jsonl(group)} {key}={path}"
        raise ConfigError(f"{key}: '{path}' is a file, allowed: a hub id or a folder. Fix: {fix}")
    if path.count("/") != 1 or not all(path.split("/")) or path.startswith((".", "~")):
        allowed = f"the hub id of a data set, OWNER/NAME or {HUB_SCHEME}OWNER/NAME, or an existing folder"
        raise ConfigError(f"{key}: got '{path}', allowed: {allowed}")
    builder = _builder(path, config.config, config.revision, group)
    splits = builder.config.data_files or builder.info.splits or {}
    _require_split(config.split, splits, group)
    name, commit = builder.config.name, builder.hash
    identity = {"source": "hub", "dataset": path, "commit": commit, "config": name, "split": config.split}

    def tables() -> Iterator[pa.Table]:
        with from_hub(key, path, local=f"{key}=DIR", error=DataError, revision=config.revision, is_dataset=True):
            if config.streaming:
                # A batch is filled across files, so a larger one would download files that `limit` does not need.
                size = min(BATCH_ROWS, config.limit or BATCH_ROWS)
                yield from _batches(builder.as_streaming_dataset(split=config.split), size)
            else:
                builder.download_and_prepare()
                yield from _batches(builder.as_dataset(split=config.split))

    note = f"{path}, commit {commit}, configuration {name}, split {config.split}"
    return HubRows(f"'{path}'", identity, note, tables, key)


def _batches(data: Any, size: int = BATCH_ROWS) -> Iterator[pa.Table]:
    yield from data.with_format("arrow").iter(batch_size=size)


def _builder(path: str, config: str | None, revision: str | None, group: str) -> Any:
    """The builder of a data set in `datasets`: its configurations, splits and commit, without its rows."""
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub import constants

    return _found(path, config, revision, group, str(HF_DATASETS_CACHE), constants.HF_HUB_OFFLINE)


@functools.lru_cache
def _found(path: str, config: str | None, revision: str | None, group: str, cache: str, offline: bool) -> Any:
    """See `_builder`; once per process, so that all its jobs read the same commit."""
    from datasets import load_dataset_builder

    key, remote = f"{group}.path", not os.path.isabs(path)  # noqa: PTH117
    options: dict[str, Any] = {"local": f"{key}=DIR", "error": DataError, "revision": revision, "is_dataset": True}
    commit = None
    if remote and not offline:
        with from_hub(key, path, **options):
            commit = _commit(path, revision)
    with from_hub(key, path, **options), _refused(path, config, revision, group, offline=remote and offline):
        builder = load_dataset_builder(path, name=config, revision=revision)
    if remote and offline:
        _require_cached(builder.hash, path, revision, group)
    elif commit is not None and builder.hash != commit:  # `datasets` takes an older one where a request fails
        raise DataError(f"{key}: '{path}': the hub did not give commit {commit}. Fix: try again")
    return builder


def _commit(path: str, revision: str | None) -> str:
    """The commit of a revision on the hub, to whose files there is access."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.auth_check(path, repo_type="dataset")
    return str(api.dataset_info(path, revision=revision).sha)


@contextmanager
def _refused(path: str, config: str | None, revision: str | None, group: str, *, offline: bool) -> Iterator[None]:
    """Turn refusals of `datasets` inside into errors that name the setting."""
    from datasets import get_dataset_config_names
    from datasets.exceptions import DatasetsError

    key = f"{group}.path"
    try:
        yield
    except ValueError as error:  # among others an unknown configuration
        lines = str(error).splitlines()
        if "onfig" not in lines[0]:
            raise DataError(f"{key}: '{path}' cannot be read: {lines[0]}") from error
        if offline:
            raise ConfigError(f"{group}.config: got {config!r}, offline: {' '.join(lines[:2])}") from error
        names = get_dataset_config_names(path, revision=revision)
        got = "null" if config is None else f"'{config}'"
        raise ConfigError(f"{group}.config: got {got}.{did_you_mean(config or '', names)}") from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise DataError(f"{key}: '{path}' cannot be read: {error}") from error
        raise DataError(
            f"{key}: '{path}' needs a script of its own to be loaded, and no code of a data set is run. Fix: "
            f"{group}.revision=refs/convert/parquet, if the hub has converted it; or download its files and read them "
            f"with {_jsonl(group)}"
        ) from error
    except (DatasetsError, FileNotFoundError) as error:
        raise DataError(f"{key}: '{path}' cannot be read: {str(error).splitlines()[0]}") from error
    except ConnectionError as error:
        if not offline:
            raise
        raise DataError(_not_cached(path, group)) from error


def _not_cached(path: str, group: str) -> str:
    from datasets.config import HF_DATASETS_CACHE

    return (
        f"{group}.path: '{path}' is not in the cache of `datasets`, {HF_DATASETS_CACHE}, and HF_HUB_OFFLINE is set. "
        f"Fix: run the command once with a network and without {group}.streaming, and copy the cache "
        f"(HF_DATASETS_CACHE=DIR); or hf download --repo-type dataset {path} --local-dir DIR and {group}.path=DIR"
    )


def _require_cached(commit: str, path: str, revision: str | None, group: str) -> None:
    """Check that the copy in the cache is that of the revision: `datasets` takes the last one, whatever its commit."""
    from huggingface_hub import constants

    named = revision or "main"
    ref = Path(constants.HF_HUB_CACHE, f"datasets--{path.replace('/', '--')}", "refs", named)
    wanted = named if _COMMIT.fullmatch(named) else ref.read_text().strip() if ref.is_file() else None
    if wanted is None and revision is None:
        return  # a data set without README.md, whose revisions are not kept
    if commit != wanted:
        raise DataError(
            f"{group}.revision: got '{named}'{f', commit {wanted}' if wanted else ''}, but with HF_HUB_OFFLINE the "
            f"copy of '{path}' in the cache that was made last is commit {commit}. Fix: {group}.revision={commit}, or "
            "a network"
        )


def _told(tables: Callable[[], Iterable[pa.Table]], key: str) -> Iterator[pa.Table]:
    """The tables; what makes `datasets` fail in between is an error with the setting."""
    from datasets.exceptions import DatasetsError

    try:
        yield from tables()
    except (DatasetsError, ValueError, OSError, pa.ArrowException) as error:
        cause = error.__cause__ or error
        raise DataError(
            f"{key}: the rows cannot be read by `datasets`: {cause}. Fix: download the files and read them with "
            f"{_jsonl(key.removesuffix('.path'))}, which drops and counts single bad rows"
        ) from error
