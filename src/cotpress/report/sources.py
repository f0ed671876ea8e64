"""From a run directory to the artifacts that it names: they lie beside the runs, unless somebody tidied up."""

import logging
from pathlib import Path

from cotpress.artifacts import Artifact, ArtifactStore
from cotpress.errors import ArtifactError
from cotpress.places import checked_key

log = logging.getLogger(__name__)

READ_FILES = ("traces.parquet", "ranking.parquet", "train_log.csv")
"""What pages read of artifacts, and what is therefore checked; weights beside them are not."""


class Sources:
    """Finds artifacts by the keys in `results.json`; each store is opened once for all runs below it."""

    def __init__(self) -> None:
        self._stores: dict[Path, ArtifactStore] = {}
        self._found: dict[tuple[Path, str], Artifact | None] = {}

    def find(self, run_dir: Path, key: str) -> Artifact | None:
        """The artifact `stage/fingerprint` of a run, from the nearest `artifacts/` at or above its directory.

        None if it is gone or damaged; the second is logged.
        """
        try:
            checked_key(key)
        except ArtifactError as error:
            log.warning("report: %s: %s; the page does without it", run_dir, error)
            return None
        for root in [run_dir.absolute(), *run_dir.absolute().parents]:
            if (root / "artifacts" / key).is_dir():
                return self._open(root, key)
        return None

    def _open(self, root: Path, key: str) -> Artifact | None:
        if (root, key) not in self._found:
            store = self._stores.setdefault(root, ArtifactStore(root))
            try:
                found = self._found[root, key] = store.open(key)
                if found is not None:
                    for name in set(READ_FILES) & set(found.manifest["files"]):
                        found.file(name)
            except ArtifactError as error:
                log.warning("report: %s; the page does without it", error)
                self._found[root, key] = None
        return self._found[root, key]
