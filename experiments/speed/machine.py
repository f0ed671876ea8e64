"""The machine of a benchmark: processor, memory, versions, commit."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from experiments.speed.processes import ROOT

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pyarrow", "pytorch-lightning", "peft", "trl")


def machine(device: str, threads: int) -> dict[str, Any]:
    """Facts that the numbers depend on, as JSON values."""
    import torch

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "memory_gb": _memory_gb(),
        "capabilities": sorted(name for name, there in torch.cpu.get_capabilities().items() if there is True),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "system": platform.platform(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str | None]:
    """Versions of what computes; None for what is not installed."""
    facts: dict[str, str | None] = {"python": platform.python_version(), "commit": _commit()}
    for name in _PACKAGES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = None
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError):
        return None


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return None
    return done.stdout.strip() or None
