"""The only reader and writer of stage outputs.

An artifact is a folder `artifacts/<stage>/<fingerprint>/` with the stage's files and a `manifest.json`. The
fingerprint is a hash of everything that determines the content (never batch size, devices or workers), so that an
artifact is computed once however many jobs need it. An unfinished artifact lies under `artifacts/.partial/`, where an
interrupted stage reads its own progress again; one atomic rename moves it to its final name. File locks, released by
the kernel when the process ends, let one of several jobs do the work, or several jobs a part each. A process compares
every file with the checksum in the manifest before it first reads the file.
"""

import dataclasses
import datetime
import enum
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from filelock import FileLock, Timeout

from cotpress.errors import ArtifactError, CotpressError, UnreadableError, WorkerError
from cotpress.store.paths import (
    FIX,
    checked_key,
    disk_problem,
    is_unreadable,
    probe_writing,
    stays_below,
    unreadable,
)
from cotpress.store.redaction import masked

if TYPE_CHECKING:
    from cotpress.store.source import Identity

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
CHECKSUM = "checksum"  # key of the manifest: a hash of the other keys, which detects a damaged number among the facts
TIMING = "timing.json"
_MANIFEST_KEYS = {"stage", "fingerprint", "identity", "num_rows", "dropped", "facts", "files"}
SCRATCH = "scratch"  # folder inside a partial artifact for resumable progress; removed when the artifact is finished
_MOST_COMPARED = 200  # newest artifacts of a stage that are compared with the one that is computed
_BRIEF_S = 0.5  # a shorter wait is not logged: each job that does a part holds the lock of the whole when it starts


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Description of an artifact, by the stage that has just written it."""

    num_rows: int  # rows of its main table (or training rows seen)
    dropped: Mapping[str, int] = field(default_factory=dict)  # number of dropped rows by reason
    facts: Mapping[str, Any] = field(default_factory=dict)  # further deterministic numbers and names (JSON values)
    shared_seconds: float = 0.0  # wall time of earlier work on several artifacts at once (`unfinished`)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A finished stage output on disk."""

    stage: str
    fingerprint: str  # hash of its identity
    path: Path
    manifest: Mapping[str, Any]
    seconds: float  # wall time of the job that computed it
    fresh: bool = False  # true if the call that returned it computed it
    verified: bool = True  # false if its files have not been compared with their checksums; `file` then does so

    @property
    def key(self) -> str:
        """`stage/fingerprint`, the reference to this artifact in other artifacts and in run directories."""
        return f"{self.stage}/{self.fingerprint}"

    @property
    def facts(self) -> Mapping[str, Any]:
        """The stage's own facts from the manifest."""
        facts: Mapping[str, Any] = self.manifest["facts"]
        return facts

    def file(self, name: str) -> Path:
        """Path of a file of the artifact, with the content that the stage wrote.

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
    """Convert `value` to JSON types: dataclasses to dicts, enums to their values, paths to strings, tuples to lists."""
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
    """Hash of an identity: 16 hex digits, equal exactly for equal identities."""
    return content_checksum(plain(identity))[:16]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as hex digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def content_checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values as hex digits, independent of key order and spacing."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
"""Names of the files that `replaced` yields."""


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces `path` at the end, so that `path` never has half of its new content.

    The file lies in the same folder, from which those of killed processes are removed.

    Raises:
        OSError: The file cannot be written; it names `path`, which is as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with _created(temporary):
            _remove_leftovers(path.parent)
            yield temporary
            temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # free the space, as the disk may be full
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise


def _created(temporary: Path) -> BinaryIO:
    """Create a temporary file and hold its lock, which the kernel releases when this process ends."""
    while True:
        file = temporary.open("xb")
        with suppress(OSError):  # a file system without locks, where `_remove_leftovers` gets none either
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # `_remove_leftovers` of another process found it before it was locked


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes; a living one holds the lock of its own."""
    with suppress(OSError):  # a folder that may be written but not listed
        for path in [Path(entry.path) for entry in os.scandir(folder) if _TEMPORARY.fullmatch(entry.name)]:
            with suppress(OSError), path.open("r+b") as file:  # locked, or of another user
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def follow_umask(*paths: Path) -> None:
    """Give files that libraries wrote the permissions of plain new files; some create theirs for the owner alone."""
    mask = os.umask(0o077)  # the only way to read it; for this moment a new file is private
    os.umask(mask)
    for path in paths:
        if not path.is_symlink() and path.stat().st_uid == os.geteuid():
            path.chmod(0o666 & ~mask)


def move_folder(source: Path, target: Path) -> None:
    """Rename a folder, in one step also where the target lies on another disk (through a copy beside it)."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy = target.with_name(f".{target.name}.copy")
        shutil.rmtree(copy, ignore_errors=True)  # of a killed process; the lock of the work is held
        try:
            shutil.copytree(source, copy, symlinks=True)
            copy.rename(target)
        except BaseException:
            shutil.rmtree(copy, ignore_errors=True)
            raise
        shutil.rmtree(source, ignore_errors=True)


def write_text_atomic(path: Path, text: str | Iterable[str]) -> None:
    """Replace the content of `path` in one step: even after a power cut it has the old text or all of the new one.

    Of a text in pieces one is in memory at a time.
    """
    with replaced(path) as temporary, temporary.open("w", encoding="utf-8") as handle:
        handle.writelines([text] if isinstance(text, str) else text)
        handle.flush()
        os.fsync(handle.fileno())


def _write_json(path: Path, value: object) -> None:
    write_text_atomic(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """An artifact that the holder of its lock makes: files go into `folder`, then `finish` is called once."""

    folder: Path
    artifact: Artifact | None  # the finished artifact, if there is nothing to make
    finish: Callable[[Summary], Artifact]


def _refuse(summary: Summary) -> Artifact:
    raise AssertionError("the artifact was finished before")


class ArtifactStore:
    """Artifacts below one output directory: lookup, building and verification.

    `build`, `unfinished` and `sharing` raise an `ArtifactError` if the directory cannot be written.
    """

    def __init__(self, output_root: Path) -> None:
        self._root = output_root / "artifacts"
        self._announced: set[str] = set()
        self.computed: set[str] = set()
        """Keys of the artifacts that this store has computed, also in an earlier call."""
        self._locked: set[str] = set()  # keys of the artifacts whose locks `unfinished` holds
        self._verified: set[tuple[object, ...]] = set()  # states of folders with correct checksums

    @property
    def output_root(self) -> Path:
        """The output directory."""
        return self._root.parent

    def find(self, stage: str, identity: "Identity") -> Artifact | None:
        """The finished artifact of this identity, verified by checksum, or None.

        Raises:
            ArtifactError: The artifact exists but is damaged.
        """
        return self._open(self.key(stage, identity))

    def open(self, key: str, *, verify: bool = False) -> Artifact | None:
        """The finished artifact of a key `stage/fingerprint`, or None.

        Without `verify` files are verified when `Artifact.file` is called: a report reads a small log beside weights of
        many gigabytes.

        Raises:
            ArtifactError: The artifact exists but its manifest is damaged, or the key is malformed.
        """
        return self._open(checked_key(key), verify=verify)

    def build(self, stage: str, identity: "Identity", produce: Callable[[Path], Summary]) -> Artifact:
        """Return the artifact of this identity; call `produce` only if it does not exist yet.

        Args:
            stage: Name of the stage, also the folder name.
            identity: Everything that determines the content, upstream artifact keys and code included (`identified`).
            produce: Writes the files into the given folder (`Making.folder`).
        """
        with self.making(stage, identity) as making:
            return making.artifact or making.finish(produce(making.folder))

    @contextmanager
    def making(self, stage: str, identity: "Identity") -> Iterator["Making"]:
        """Find the artifact of this identity, or lock it and yield the folder that it is made in.

        `scratch/` in that folder holds the progress of an earlier, interrupted call; it is removed at the end.
        """
        key = self.key(stage, identity)
        if artifact := self._undamaged(key):
            if key not in self._announced:
                log.info("%s: found %s", stage, key)
                self._announced.add(key)
            yield Making(folder=self._partial(key), artifact=artifact, finish=_refuse)
            return
        lock = nullcontext() if key in self._locked else self._lock(key).whole()
        with self._writing(stage), lock:
            artifact = self._undamaged(key, discard=True)
            finish = _refuse if artifact else self._begin(key, self._complete(stage, identity))
            yield Making(folder=self._partial(key), artifact=artifact, finish=finish)

    @contextmanager
    def unfinished(self, stage: str, identities: Sequence["Identity"]) -> Iterator[dict[int, Path]]:
        """Lock the artifacts that do not exist yet and yield their partial folders by index.

        For work that is cheaper for several artifacts at once: it writes to `scratch/`, and `build` continues from
        there. Call `build` inside the context, so that no other job takes over an almost finished artifact. Of equal
        identities only the first is included.
        """
        indices: dict[str, int] = {}
        for index, identity in enumerate(identities):
            indices.setdefault(self.key(stage, identity), index)
        missing = [key for key in sorted(indices) if self._undamaged(key) is None]
        with self._writing(stage), ExitStack() as locks:  # sorted: no two jobs wait for each other's lock
            for key in missing:
                locks.enter_context(self._lock(key).whole())
            missing = [key for key in missing if self._undamaged(key, discard=True) is None]
            self._locked.update(missing)
            try:
                yield {indices[key]: self._partial(key) for key in missing}
            finally:
                self._locked.difference_update(missing)

    @contextmanager
    def sharing(self, stage: str, identity: "Identity", part: str) -> Iterator[Path | None]:
        """Yield the partial folder of an artifact to one of several jobs that fill its `scratch/` together.

        Jobs with another name of `part` run at the same time, jobs with the same name one after the other. `build`
        waits for all of them and continues from `scratch/`. Yields None if the artifact is finished.
        """
        key = self.key(stage, identity)
        if self._undamaged(key):  # no lock, which a user without the right to write could not get
            yield None
            return
        lock = self._lock(key).part(part, lambda: self._undamaged(key) is not None)
        with self._writing(stage), lock as needed:
            if needed:
                self._partial(key).mkdir(exist_ok=True)
            yield self._partial(key) if needed else None

    @contextmanager
    def exclusive(self, work: str, name: str) -> Iterator[None]:
        """Hold a lock, which all jobs with this output directory share, on some work outside of the artifacts."""
        key = f"{work}/{fingerprint({'name': name})}"
        with self._writing(work):
            self._root.mkdir(parents=True, exist_ok=True)
        with self._lock(key).whole():
            yield

    def first_time(self, text: str) -> bool:
        """True at the first call with this text: for a line about an artifact that is looked up several times."""
        is_first = text not in self._announced
        self._announced.add(text)
        return is_first

    def _complete(self, stage: str, identity: Mapping[str, Any]) -> dict[str, Any]:
        return {"stage": stage, "format": FORMAT_VERSION, **plain(identity)}

    def key(self, stage: str, identity: "Identity") -> str:
        """Key of the artifact of this identity, which need not exist."""
        return f"{stage}/{fingerprint(self._complete(stage, identity))}"

    def _partial(self, key: str) -> Path:
        return self._root / ".partial" / key.replace("/", "-")

    def _lock(self, key: str) -> "WorkLock":
        return WorkLock(self._partial(key).with_suffix(".lock"), key)

    @contextmanager
    def _writing(self, stage: str) -> Iterator[None]:
        """Turn errors of the disk, also those raised by libraries, into an `ArtifactError`."""
        try:
            (self._root / ".partial").mkdir(parents=True, exist_ok=True)
            yield
        except Exception as error:
            known = isinstance(error, CotpressError) and not isinstance(error, WorkerError)  # whose text has its cause
            problem = None if known else disk_problem(error)
            if problem is None and not isinstance(error, FileExistsError | NotADirectoryError):
                raise
            raise ArtifactError(
                f"{stage}: cannot write below '{self._root}': {problem or error}. {FIX}. Finished stages are kept."
            ) from error

    def _begin(self, key: str, identity: dict[str, Any]) -> Callable[[Summary], Artifact]:
        """Prepare the partial folder of an artifact; returns the function that finishes it."""
        stage, _, digest = key.partition("/")
        partial, final = self._partial(key), self._root / key
        probe_writing(final.parent)  # it may lie on another disk than the work
        partial.mkdir(exist_ok=True)
        for path in partial.iterdir():  # half-written files of a killed job
            if path.name != SCRATCH:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        started = time.monotonic()
        log.info("%s: computing %s%s", stage, key, self._reason(stage, masked(identity)))

        def finish(summary: Summary) -> Artifact:
            seconds = time.monotonic() - started + summary.shared_seconds
            shutil.rmtree(partial / SCRATCH, ignore_errors=True)
            paths = [p for p in partial.rglob("*") if p.is_file()]
            follow_umask(*paths)
            names = sorted(str(p.relative_to(partial)) for p in paths)
            manifest = {
                "stage": stage,
                "fingerprint": digest,
                "identity": masked(identity),
                "num_rows": summary.num_rows,
                "dropped": masked(plain(summary.dropped)),
                "facts": masked(plain(summary.facts)),
                "files": {n: file_sha256(partial / n) for n in names},
            }
            _write_json(partial / MANIFEST, {**manifest, CHECKSUM: content_checksum(manifest)})
            finished_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            _write_json(partial / TIMING, {"seconds": round(seconds, 3), "finished_at": finished_at})
            move_folder(partial, final)
            drops = ", ".join(f"{n} dropped: {why}" for why, n in sorted(summary.dropped.items()))
            if drops and not self.first_time(
                f"{stage}: {drops}"
            ):  # the rows of another artifact, divided in another way
                drops = "dropped as above"
            log.info("%s: %d rows in %.1f s%s", stage, summary.num_rows, seconds, f" ({drops})" if drops else "")
            opened = self._open(key)
            assert opened is not None
            self.computed.add(key)
            return dataclasses.replace(opened, fresh=True)

        return finish

    def _reason(self, stage: str, identity: Mapping[str, Any]) -> str:
        """Explain a computation by changed code if an artifact of the same settings exists."""
        from cotpress.store.source import changed_modules, without_code  # reads all files of the package

        settings = without_code(identity)
        manifests = [(path.stat().st_mtime_ns, path) for path in (self._root / stage).glob(f"*/{MANIFEST}")]
        for _, path in sorted(manifests, reverse=True)[:_MOST_COMPARED]:
            with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                before = json.loads(path.read_text(encoding="utf-8"))["identity"]
                if without_code(before) == settings:
                    changed = sorted(changed_modules(before, identity))
                    more = f" and {len(changed) - 3} other modules" if len(changed) > 3 else ""
                    return f", as {', '.join(changed[:3])}{more} changed after {stage}/{path.parent.name}"
        return ""

    def _undamaged(self, key: str, *, discard: bool = False) -> Artifact | None:
        """The artifact if it is undamaged; with `discard` a damaged one is set aside.

        Only the holder of its lock may discard it, as another job may be replacing it. One that cannot be read is an
        `UnreadableError` and stays in its place.
        """
        try:
            return self._open(key)
        except UnreadableError:
            raise
        except ArtifactError as error:
            if discard:
                log.warning("%s; it is set aside and computed again", error)
                aside = f"damaged-{key.replace('/', '-')}-{uuid.uuid4().hex[:8]}"
                move_folder(self._root / key, self._root / ".partial" / aside)
            return None

    def _open(self, key: str, *, verify: bool = True) -> Artifact | None:
        path = self._root / key
        try:
            if not path.is_dir():
                return None
            manifest = json.loads((path / MANIFEST).read_bytes())
            _check_manifest(manifest, key)
            files: dict[str, str] = manifest["files"]
            state = (path, *((n, s.st_size, s.st_mtime_ns) for n in files for s in [(path / n).stat()]))
        except (OSError, ValueError, RecursionError) as error:
            raise _problem_of(key, path, error) from error
        if verify and state not in self._verified:
            _check(key, path, files)
            self._verified.add(state)
        try:
            seconds = float(json.loads((path / TIMING).read_text(encoding="utf-8"))["seconds"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            seconds = 0.0  # the content does not depend on the timing
        stage, _, digest = key.partition("/")
        return Artifact(stage=stage, fingerprint=digest, path=path, manifest=manifest, seconds=seconds, verified=verify)


class WorkLock:
    """Lock on one piece of work, held by one process for all of it or by several processes for a part each.

    Args:
        path: Lock file, `NAME.lock`; those of the parts lie beside it as `NAME.PART.lock`.
        key: Name of the result, `stage/fingerprint`, for the log.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Hold the lock on the whole, after all parts are released."""
        with self._acquired(FileLock(self._path), self._key):
            for path in sorted(self._path.parent.glob(f"{self._path.stem}.*.lock")):
                with self._acquired(FileLock(path), f"a part of {self._key}"):
                    pass
            yield

    @contextmanager
    def part(self, name: str, done: Callable[[], bool]) -> Iterator[bool]:
        """Hold the lock on one part, beside the holders of other parts; yields True if there is work to do.

        `done` tells if the whole is finished; it is called while no other process works on the whole.
        """
        own = FileLock(self._path.with_suffix(f".{name}.lock"))
        while True:
            with self._acquired(FileLock(self._path), self._key):  # no part starts while the whole is locked
                finished = done()
                if not finished:
                    with suppress(Timeout):
                        own.acquire(timeout=0)
                if finished or own.is_locked:
                    break
            with self._acquired(own, f"part {name} of {self._key}"):
                pass
        try:
            yield not finished
        finally:
            own.release()

    def _acquired(self, lock: FileLock, name: str) -> AbstractContextManager[object]:
        """Acquire a lock and return the context that releases it; a wait is logged."""
        try:
            return lock.acquire(timeout=_BRIEF_S)
        except Timeout:
            stage = self._key.partition("/")[0]
            log.info("%s: another job is computing %s; waiting for it", stage, name)
            return lock.acquire()


def _check_manifest(manifest: Any, key: str) -> None:
    """Raise ValueError for a damaged manifest or that of another artifact."""
    kinds = {"num_rows": int, "dropped": dict, "facts": dict, "files": dict}
    content = {name: value for name, value in manifest.items() if name != CHECKSUM} if type(manifest) is dict else {}
    if content.keys() != _MANIFEST_KEYS or f"{content['stage']}/{content['fingerprint']}" != key:
        raise ValueError(f"{MANIFEST} is not that of this artifact")
    if manifest.get(CHECKSUM) != content_checksum(content):
        raise ValueError(f"checksum of {MANIFEST} differs")
    if wrong := [name for name, kind in kinds.items() if not isinstance(content[name], kind)]:
        raise ValueError(f"{MANIFEST} has other values than a manifest as {', '.join(wrong)}")
    if outside := [name for name in content["files"] if not stays_below(name)]:
        raise ValueError(f"its manifest names {outside[:3]}")


def _check(key: str, folder: Path, files: Mapping[str, str]) -> None:
    """Raise an `ArtifactError` if a file is missing or differs from its checksum, or as `_problem_of`."""
    try:
        wrong = [name for name, digest in files.items() if file_sha256(folder / name) != digest]
    except OSError as error:
        raise _problem_of(key, folder, error) from error
    if wrong:
        raise ArtifactError(f"artifact {key} is damaged: checksum of {', '.join(wrong)} differs")


def _problem_of(key: str, folder: Path, error: Exception) -> ArtifactError:
    """The error of an artifact that cannot be opened: of the system, which says nothing about it, or damage."""
    if is_unreadable(error):
        return unreadable(Path(getattr(error, "filename", None) or folder), error)
    return ArtifactError(f"artifact {key} is damaged: {error}")
