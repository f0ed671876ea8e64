"""The commands as the user of this process types them, for messages.

The same command is `python train.py` in a checkout, and `cotpress train` or `python -m cotpress train` where the
package is installed.
"""

import os
from enum import Enum


class Form(Enum):
    """The form of a command."""

    script = "python"
    console = "cotpress"
    module = "python -m cotpress"


VARIABLE = "COTPRESS_FORM"
"""Environment variable with the name of the form: jobs and workers inherit it, also those of other machines."""
_MODULES = ("dashboard", "hub")
"""Commands without a script; their form in a checkout is `python -m cotpress.NAME`."""


def remember(form: Form) -> None:
    """Set the form of the commands in all messages of this process, its jobs and its workers."""
    os.environ[VARIABLE] = form.name


def current_form() -> Form:
    """The form that was set; that of an installed package without one."""
    name = os.environ.get(VARIABLE, "")
    return Form[name] if name in Form.__members__ else Form.console


def as_typed(name: str) -> str:
    """A command as it is typed, e.g. `python train.py`, `cotpress train`."""
    form = current_form()
    if form is Form.script:
        return f"python -m cotpress.{name}" if name in _MODULES else f"python {name}.py"
    return f"{form.value} {name}"


def program(name: str) -> str:
    """The name of a command in a sentence, e.g. `train.py`, `cotpress train`."""
    if current_form() is Form.script:
        return as_typed(name).removeprefix("python ").removeprefix("-m ")
    return f"cotpress {name}"
