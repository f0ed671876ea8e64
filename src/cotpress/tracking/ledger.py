"""Notes of what a W&B project has got, so that jobs that share a stage, and repeated commands, send it once."""

import json
from pathlib import Path

from cotpress.artifacts import fingerprint, write_text_atomic


class Ledger:
    """One small file per thing sent, below `folder`; removing the folder has everything sent again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, identity: str) -> bool:
        return self._note(identity).exists()

    def add(self, identity: str, run_id: str) -> None:
        """Note that the W&B run `run_id` holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(self._note(identity), json.dumps({"identity": identity, "run": run_id}) + "\n")

    def _note(self, identity: str) -> Path:
        return self.folder / f"{identity.partition('/')[0]}-{fingerprint({'identity': identity})}.json"
