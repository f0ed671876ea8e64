"""The only reader and writer of stage outputs.

An artifact is a folder `artifacts/<stage>/<fingerprint>/` that holds the stage's files and a `manifest.json`. The
fingerprint is a hash of everything that determines the content (never batch size, devices or workers), so an
artifact is computed once however many jobs ask for it. While it is made it lives under `artifacts/.partial/`,
where an interrupted stage finds its own progress again; it appears under its final name by one atomic rename,
so half an artifact does not exist. A file lock, released by the kernel when its holder dies, lets only one of
several jobs do the work. A process checks every file against the checksum in the manifest before it first reads it.
"""

import dataclasses
import datetime
import enum
import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cotpress.errors import ArtifactError, CotpressError
from cotpress.store.locks import WorkLock
from cotpress.store.paths import FIX, checked_key, disk_problem, stays_below
from cotpress.store.redaction import masked

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
CHECKSUM = "checksum"
"""Key of the manifest: a hash of all the others, so that a damaged number among the facts is not read either."""
TIMING = "timing.json"
_MANIFEST_KEYS = {"stage", "fingerprint", "identity", "num_rows", "dropped", "facts", "files"}
SCRATCH = "scratch"
"""Name of the folder inside a partial artifact for resumable progress; removed when the artifact is finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a stage says about the artifact it has just written.

    Attributes:
        num_rows: Rows of its main table (or training rows seen).
        dropped: Rows that did not make it, by reason.
        facts: Further deterministic numbers and names worth keeping (JSON values).
        shared_seconds: Wall time of work on it that was done before, together with that on others (`unfinished`).
    """

    num_rows: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    shared_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A finished stage output on disk.

    Attributes:
        stage: Name of the stage.
        fingerprint: Hash of what determines the content.
        path: Its folder.
        manifest: What the stage said about it.
        seconds: Wall time of computing it, whichever job did so.
        fresh: True if the call that returned it computed it.
        verified: False if its files have not been checked against their checksums; `file` then does so.
    """

    stage: str
    fingerprint: str
    path: Path
    manifest: Mapping[str, Any]
    seconds: float
    fresh: bool = False
    verified: bool = True

    @property
    def key(self) -> str:
        """`stage/fingerprint`: how other artifacts and run directories refer to this one."""
        return f"{self.stage}/{self.fingerprint}"

    @property
    def facts(self) -> Mapping[str, Any]:
        """The stage's own facts from the manifest."""
        facts: Mapping[str, Any] = self.manifest["facts"]
        return facts

    def file(self, name: str) -> Path:
        """Path of a file of the artifact, whose content is what the stage wrote.

        Raises:
            ArtifactError: The artifact has no such file, or it is damaged.
        """
        files: Mapping[str, str] = self.manifest["files"]
        if name not in files:
            raise ArtifactError(f"artifact {self.key} has no file '{name}'; it holds {sorted(files)}")
        if not self.verified:
            _check(self.key, self.path, {name: files[name]})
        return self.path / name


def plain(value: object) -> Any:
    """`value` as JSON types: dataclasses become dicts, enums their values, paths strings, tuples lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"{type(value).__name__} cannot be part of an artifact's identity")


def fingerprint(identity: Mapping[str, Any]) -> str:
    """16 hex digits that are equal exactly when the identities are equal."""
    text = json.dumps(plain(identity), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as hex digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def content_checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values, as hex digits, however they are written down."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_text_atomic(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either its old content or all of the new one, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # a full disk is not made fuller
        raise


def _write_json(path: Path, value: object) -> None:
    write_text_atomic(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


class ArtifactStore:
    """Finds, builds and verifies artifacts below one output directory."""

    def __init__(self, output_root: Path) -> None:
        self._root = output_root / "artifacts"
        self._announced: set[str] = set()
        self._locked: set[tuple[str, str]] = set()  # stage and fingerprint of what `unfinished` holds
        self._verified: set[tuple[object, ...]] = set()  # states of folders whose checksums were right

    def find(self, stage: str, identity: Mapping[str, Any]) -> Artifact | None:
        """The finished artifact of this identity, verified by checksum, or None.

        Raises:
            ArtifactError: The artifact is there but damaged.
        """
        return self._open(stage, fingerprint(self._complete(stage, identity)))

    def open(self, key: str) -> Artifact | None:
        """The finished artifact of a key `stage/fingerprint`, or None.

        Only files that are asked for are checked, see `Artifact.file`: a report reads a small log beside weights of
        many gigabytes.

        Raises:
            ArtifactError: The artifact is there but its manifest is damaged, or the key is none.
        """
        stage, _, digest = checked_key(key).partition("/")
        return self._open(stage, digest, verify=False)

    def build(self, stage: str, identity: Mapping[str, Any], produce: Callable[[Path], Summary]) -> Artifact:
        """The artifact of this identity; computed by `produce` only if it is not there yet.

        Args:
            stage: Name of the stage, also the folder name.
            identity: Everything that determines the content, upstream artifact keys included.
            produce: Writes the files into the given folder. What an earlier, interrupted call left below `scratch/`
                is still there, to go on from; it is removed at the end.

        Raises:
            ArtifactError: The output directory cannot be written.
        """
        full = self._complete(stage, identity)
        digest = fingerprint(full)
        found = self._whole(stage, digest)
        if found is not None:
            if found.key not in self._announced:
                log.info("%s: found %s", stage, found.key)
                self._announced.add(found.key)
            return found
        lock = nullcontext() if (stage, digest) in self._locked else self._lock(stage, digest).whole()
        with self._writing(stage), lock:
            found = self._open_or_discard(stage, digest)
            return found or self._produce(stage, digest, full, self._partial(stage, digest), produce)

    @contextmanager
    def unfinished(self, stage: str, identities: Sequence[Mapping[str, Any]]) -> Iterator[dict[int, Path]]:
        """The partial folders of those artifacts that are not there yet, by index, locked against other jobs.

        For work that is cheaper for several artifacts at once: what it leaves in `scratch/` is found by `build`. Call
        that before leaving, so that no other job goes on with what is almost finished. Of equal identities only the
        first is given.

        Raises:
            ArtifactError: The output directory cannot be written.
        """
        digests: dict[str, int] = {}
        for index, identity in enumerate(identities):
            digests.setdefault(fingerprint(self._complete(stage, identity)), index)
        missing = [d for d in sorted(digests) if self._whole(stage, d) is None]
        with self._writing(stage), ExitStack() as locks:  # sorted: no two jobs wait for each other's lock
            for digest in missing:
                locks.enter_context(self._lock(stage, digest).whole())
            still = [d for d in missing if self._open_or_discard(stage, d) is None]
            self._locked |= {(stage, d) for d in still}
            try:
                yield {digests[d]: self._partial(stage, d) for d in still}
            finally:
                self._locked -= {(stage, d) for d in still}

    @contextmanager
    def sharing(self, stage: str, identity: Mapping[str, Any], part: str) -> Iterator[Path | None]:
        """The partial folder of an artifact, for one of several jobs that fill its `scratch/` together.

        Jobs with other names of `part` work beside this one, those with the same name after it, and so does `build`,
        which finds in `scratch/` what they leave. None is given if the artifact is finished.

        Raises:
            ArtifactError: The output directory cannot be written.
        """
        digest = fingerprint(self._complete(stage, identity))
        partial = self._partial(stage, digest)
        with self._writing(stage):
            lock = self._lock(stage, digest)
            with lock.part(part, lambda: self._whole(stage, digest) is not None) as needed:
                if needed:
                    partial.mkdir(exist_ok=True)
                yield partial if needed else None

    def _partial(self, stage: str, digest: str) -> Path:
        return self._root / ".partial" / f"{stage}-{digest}"

    @contextmanager
    def _writing(self, stage: str) -> Iterator[None]:
        """Tell in our words what the disk refuses, also where a library has words of its own for it."""
        try:
            (self._root / ".partial").mkdir(parents=True, exist_ok=True)
            yield
        except Exception as error:
            problem = None if isinstance(error, CotpressError) else disk_problem(error)
            if problem is None and not isinstance(error, FileExistsError | NotADirectoryError):
                raise
            raise ArtifactError(
                f"{stage}: cannot write below '{self._root}': {problem or error}. {FIX}. Finished stages are kept."
            ) from error

    def _complete(self, stage: str, identity: Mapping[str, Any]) -> dict[str, Any]:
        return {"stage": stage, "format": FORMAT_VERSION, **plain(identity)}

    def _lock(self, stage: str, digest: str) -> WorkLock:
        return WorkLock(self._root / ".partial" / f"{stage}-{digest}.lock", stage, f"{stage}/{digest}")

    def _produce(
        self, stage: str, digest: str, identity: Mapping[str, Any], partial: Path, produce: Callable[[Path], Summary]
    ) -> Artifact:
        _keep_only_scratch(partial)
        started = time.monotonic()
        log.info("%s: computing %s/%s", stage, stage, digest)
        summary = produce(partial)
        seconds = time.monotonic() - started + summary.shared_seconds
        shutil.rmtree(partial / SCRATCH, ignore_errors=True)
        names = sorted(str(p.relative_to(partial)) for p in partial.rglob("*") if p.is_file())
        manifest = {
            "stage": stage,
            "fingerprint": digest,
            "identity": masked(identity),
            "num_rows": summary.num_rows,
            "dropped": plain(summary.dropped),
            "facts": plain(summary.facts),
            "files": {n: file_sha256(partial / n) for n in names},
        }
        _write_json(partial / MANIFEST, {**manifest, CHECKSUM: content_checksum(manifest)})
        finished_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        _write_json(partial / TIMING, {"seconds": round(seconds, 3), "finished_at": finished_at})
        final = self._root / stage / digest
        final.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(final)
        drops = ", ".join(f"{n} dropped: {why}" for why, n in sorted(summary.dropped.items()))
        log.info("%s: %d rows in %.1f s%s", stage, summary.num_rows, seconds, f" ({drops})" if drops else "")
        opened = self._open(stage, digest)
        assert opened is not None
        return dataclasses.replace(opened, fresh=True)

    def _whole(self, stage: str, digest: str) -> Artifact | None:
        """The artifact if it is there and undamaged. Called without its lock, so a damaged one stays where it is:
        another job may be about to replace it."""
        try:
            return self._open(stage, digest)
        except ArtifactError:
            return None

    def _open_or_discard(self, stage: str, digest: str) -> Artifact | None:
        """The same for the holder of the lock, who sets a damaged one aside."""
        try:
            return self._open(stage, digest)
        except ArtifactError as error:
            log.warning("%s; it is set aside and computed again", error)
            damaged = self._root / stage / digest
            damaged.rename(self._root / ".partial" / f"damaged-{stage}-{digest}-{uuid.uuid4().hex[:8]}")
            return None

    def _open(self, stage: str, digest: str, *, verify: bool = True) -> Artifact | None:
        path = self._root / stage / digest
        if not path.is_dir():
            return None
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            files: dict[str, str] = manifest["files"]
            _check_manifest(manifest, stage, digest)
            if outside := [n for n in files if not stays_below(n)]:
                raise ArtifactError(f"artifact {stage}/{digest} is damaged: its manifest names {outside[:3]}")
            state = (path, *((n, s.st_size, s.st_mtime_ns) for n in files for s in [(path / n).stat()]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"artifact {stage}/{digest} is damaged: {error}") from error
        if verify and state not in self._verified:
            _check(f"{stage}/{digest}", path, files)
            self._verified.add(state)
        try:
            seconds = float(json.loads((path / TIMING).read_text(encoding="utf-8"))["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            seconds = 0.0  # a lost timing says nothing about the content
        return Artifact(stage=stage, fingerprint=digest, path=path, manifest=manifest, seconds=seconds, verified=verify)


def _check_manifest(manifest: Mapping[str, Any], stage: str, digest: str) -> None:
    """Raises ValueError if it is not what was written, or that of another artifact."""
    content = {key: value for key, value in manifest.items() if key != CHECKSUM}
    if content.keys() != _MANIFEST_KEYS or (content["stage"], content["fingerprint"]) != (stage, digest):
        raise ValueError(f"{MANIFEST} is not that of this artifact")
    # Artifacts of earlier releases have no checksum; one whose name is damaged is an unknown key.
    if CHECKSUM in manifest and manifest[CHECKSUM] != content_checksum(content):
        raise ValueError(f"checksum of {MANIFEST} differs")


def _check(key: str, folder: Path, files: Mapping[str, str]) -> None:
    """Compare files with their checksums.

    Raises:
        ArtifactError: Some differ or cannot be read.
    """
    try:
        wrong = [name for name, digest in files.items() if file_sha256(folder / name) != digest]
    except OSError as error:
        raise ArtifactError(f"artifact {key} is damaged: {error}") from error
    if wrong:
        raise ArtifactError(f"artifact {key} is damaged: checksum of {', '.join(wrong)} differs")


def _keep_only_scratch(partial: Path) -> None:
    """Make the folder of an artifact in the making, without what a kill left half-written where the files go."""
    partial.mkdir(exist_ok=True)
    for path in partial.iterdir():
        if path.name != SCRATCH:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
