"""Garbage collection of the processes of tests, which is a quarter of the time of composing a configuration."""

import gc

USUAL = gc.get_threshold()


def collect_less() -> None:
    """Collect garbage after 50,000 new objects in place of 700."""
    gc.set_threshold(50_000, 20, 20)
