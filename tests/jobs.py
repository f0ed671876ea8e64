"""Work that tests start in processes of its own; importable there, unlike a test module."""

import time
from pathlib import Path

from cotpress.artifacts import ArtifactStore, Summary


def slow_job(root: Path, counter: Path, seconds: float) -> None:
    """Build one artifact that takes `seconds`, and count how often it is really computed."""

    def produce(folder: Path) -> Summary:
        with counter.open("a") as handle:
            handle.write("x")
        time.sleep(seconds)
        (folder / "rows.txt").write_text("done")
        return Summary(num_rows=1)

    ArtifactStore(root).build("data", {}, produce)
