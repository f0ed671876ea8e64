"""The device that a process computes on, and the torch settings of its threads and determinism."""

import os

import torch

from cotpress.devices.config import TrainerConfig, check_accelerator
from cotpress.errors import ConfigError


def pick_device(config: TrainerConfig) -> torch.device:
    """The device of this process: its own GPU (`LOCAL_RANK`), or the CPU.

    Raises:
        ConfigError: There is no GPU but the setting is gpu, or the accelerator is unknown.
    """
    check_accelerator(config)
    has_gpu = torch.cuda.is_available()
    if config.accelerator in ("gpu", "cuda") and not has_gpu:
        raise ConfigError("trainer.accelerator: got 'gpu', but torch sees no GPU. Fix: trainer=cpu")
    if config.accelerator == "cpu" or not has_gpu:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def use_threads(config: TrainerConfig) -> None:
    """Set the number of torch's CPU threads for this process to `trainer.num_threads`, if it is set."""
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)


def use_determinism(config: TrainerConfig) -> None:
    """Restrict torch to deterministic algorithms if `trainer.deterministic` is set.

    torch raises an error that names an operation without such an algorithm; docs/determinism.md lists the limits.
    """
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
