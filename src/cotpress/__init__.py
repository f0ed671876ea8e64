"""cotpress: press chains of thought, fine-tune on what is left, measure what it cost.

    import cotpress

    short = cotpress.compress("3 and 4 ... wait, 3 + 4 = 7.", scorer="cts", ratio=0.5, question="3 + 4?", answer="7")
    short.text, short.mask, short.scores

docs/api.md describes the functions. They are imported when they are first used, so that `import cotpress` stays fast.
"""

import importlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cotpress.api.calls import (
        Compressed,
        Scores,
        Verdict,
        columns,
        compress,
        evaluate_answers,
        free_models,
        score,
        select,
    )

__version__ = "0.1.0"
__all__ = [
    "Compressed",
    "Scores",
    "Verdict",
    "columns",
    "compress",
    "evaluate_answers",
    "free_models",
    "score",
    "select",
]
BEGAN = time.monotonic()
"""Time at which the process began, right after Python itself."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cotpress' has no attribute '{name}'")
    return getattr(importlib.import_module("cotpress.api.calls"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
