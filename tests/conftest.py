"""Fixtures of all tests."""

import gc
import logging
import os
from collections.abc import Iterator

import pytest

from cotpress.invocation import VARIABLE
from support.speed import USUAL, collect_less


@pytest.fixture(scope="session", autouse=True)
def _quick() -> None:
    collect_less()


@pytest.fixture
def usual_garbage_collection() -> Iterator[None]:
    """Collect garbage as often as in a process of a user, where memory is measured."""
    threshold = gc.get_threshold()
    gc.set_threshold(*USUAL)
    yield
    gc.set_threshold(*threshold)


@pytest.fixture(scope="module", autouse=True)
def _imports_without_garbage_collection() -> None:
    """Take everything that is imported by now out of garbage collection.

    With torch and transformers it is half a million objects; each full collection takes a third of a second to find
    that they are all in use.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _usual_logs() -> Iterator[None]:
    """Undo what jobs and commands in this process set for logs: the level of ours, and handlers of files."""
    logger, root = logging.getLogger("cotpress"), logging.getLogger()
    level, handlers = logger.level, list(root.handlers)
    yield
    logger.setLevel(level)
    for handler in [h for h in root.handlers if h not in handlers]:
        root.removeHandler(handler)
        handler.close()


@pytest.fixture(autouse=True)
def _usual_form_of_commands() -> Iterator[None]:
    """Begin without a form of commands in messages, and undo that of a command in this process."""
    os.environ.pop(VARIABLE, None)
    yield
    os.environ.pop(VARIABLE, None)
