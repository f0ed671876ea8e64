"""cotpress: press chains of thought, fine-tune on what is left, measure what it cost."""

import time

__version__ = "0.1.0"
BEGAN = time.monotonic()
"""Time at which the process began, right after Python itself."""
