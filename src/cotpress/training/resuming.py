"""Where an interrupted training goes on."""

from pathlib import Path

from cotpress.errors import TrainingError


def resume_point(checkpoint: Path) -> Path | None:
    """The checkpoint to go on from, None if there is none.

    It is opened here once (memory-mapped, so it costs no second copy of the weights) to tell what is wrong with one
    that cannot be used. Objects other than numbers, texts and containers are never unpickled from it.

    Raises:
        TrainingError: It is damaged or holds other objects.
    """
    if not checkpoint.exists():
        return None
    if checkpoint.is_file():
        import torch

        try:
            torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # pickle, zip and torch each raise their own
            reason = str(error).partition("\n")[0].partition(". In PyTorch")[0]
            raise TrainingError(
                f"the checkpoint '{checkpoint}' cannot be used: it is damaged or holds objects that could run code "
                f"({type(error).__name__}: {reason}). Fix: remove it; training then starts anew"
            ) from error
    return checkpoint
