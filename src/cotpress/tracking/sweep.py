"""Which sweep a job belongs to."""

from pathlib import Path


def sweep_name(folder: Path) -> str | None:
    """The `sweep=NAME` of the command, or when its multirun began; None for a single job.

    Args:
        folder: The job's log folder; in a multirun `.../<date>/<time>/<number>`.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    name = hydra.runtime.choices.get("sweep")
    if name and name != "null":
        return str(name)
    return f"{folder.parents[1].name} {folder.parent.name}" if hydra.mode is RunMode.MULTIRUN else None
