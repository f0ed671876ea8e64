"""Work that processes of tests leave out: it takes half of the time of composing a configuration, and no result
depends on it.
"""

import gc
from typing import Any

from hydra.core.config_store import ConfigStore

USUAL = gc.get_threshold()


def speed_up() -> None:
    """Collect garbage less often, and share Hydra's store of schemas among compositions, which only read it."""
    gc.set_threshold(50_000, 20, 20)
    ConfigStore.__deepcopy__ = _same  # type: ignore[attr-defined]


def _same(store: ConfigStore, _: dict[int, Any]) -> ConfigStore:
    return store
