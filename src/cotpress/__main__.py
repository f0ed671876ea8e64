"""`cotpress COMMAND ...` and `python -m cotpress COMMAND ...`: see `cotpress --help`.

The commands are those of the entry scripts (`train.py`, ...), with the configuration that the package holds, and those
without a script.
"""

import os
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from cotpress import __version__
from cotpress.cli.app import end_with_code, stop
from cotpress.cli.app import main as run_task
from cotpress.cli.completion import SWITCHES, Candidate, last_word, line_typed, shell_completion
from cotpress.cli.help import COMPLETION, USAGE
from cotpress.errors import ConfigError, did_you_mean
from cotpress.invocation import Form, current_form, remember
from cotpress.tasks import COMPRESS, EVALUATE, FIDELITY, REPORT, TRAIN

CONF = Path(str(resources.files("cotpress") / "conf"))
"""Folder of the configuration groups: files of an installed package, a link to the top-level `conf` in a checkout."""
TASKS = {task.name: task for task in (TRAIN, COMPRESS, EVALUATE, FIDELITY, REPORT)}
COMMANDS = {
    **{name: USAGE[name][0] for name in TASKS},
    "plan": "Memory on 1 to 8 GPUs and GPU hours of `train` with the same settings; loads no weights.",
    "dashboard": "The Weights & Biases workspace and report over the runs of tracker=wandb.",
    "hub": "A trained student to the Hugging Face hub, with its model card.",
}
"""Purpose of each command."""


def main() -> None:
    """Run a command and end the process with its code."""
    form = Form.module if Path(sys.argv[0]).name == "__main__.py" else Form.console
    remember(form)
    name = _command_of(sys.argv[1:])
    if name not in COMMANDS:
        end_with_code(lambda: _without_command(form.value, sys.argv[1:]))
        return
    if name == sys.argv[1]:
        del sys.argv[1]
    if name == "plan" and not set(SWITCHES) & set(sys.argv):
        sys.argv.insert(1, "plan=true")
    if name == "hub":
        from cotpress.hub.__main__ import run

        run()
    elif name == "dashboard":
        from cotpress.dashboard.__main__ import run

        run()
    else:
        run_task(TASKS["train" if name == "plan" else name], CONF, form)


def _command_of(arguments: list[str]) -> str:
    """The command: the first argument, or behind `-sc` that of the line to be completed; empty without one."""
    if arguments[:1] and arguments[0] in SWITCHES:
        words, _ = last_word(line_typed(os.environ))
        arguments = words[_num_words() :]
    return arguments[0] if arguments else ""


def _num_words() -> int:
    """Number of words before the command in a command line."""
    return len(current_form().value.split())


def _without_command(program: str, arguments: list[str]) -> None:
    """Show the list of commands, the version or completions; refuse anything else."""
    first = arguments[0] if arguments else "--help"
    if first in ("--help", "-h"):
        sys.stdout.write(_page(program))
    elif first == "--version":
        sys.stdout.write(f"cotpress {__version__}\n")
    elif first in SWITCHES:
        try:
            sys.stdout.write(shell_completion(program, _candidates, arguments, os.environ))
        except ConfigError as error:
            stop(str(error), 2)
    elif first.startswith("-") or "=" in first:
        stop(f"'{first}' is no command. Fix: {program} COMMAND {first}; {program} --help lists the commands", 2)
    else:
        stop(f"unknown command '{first}'.{did_you_mean(first, COMMANDS)}", 2)


def _page(program: str) -> str:
    """The list of commands, a line each."""
    lines = [
        "cotpress - compress chains of thought, fine-tune on what is left, measure what it costs",
        "",
        f"Commands ({program} COMMAND --help explains one):",
        *(f"  {name:<10} {purpose}" for name, purpose in COMMANDS.items()),
        "",
        f"Files of all choices and sweeps: {CONF.resolve()}",
        COMPLETION.format(command=program),
    ]
    return "\n".join(lines)


def _candidates(line: str) -> Iterator[Candidate]:
    """The commands and options that the last word of a command line may become."""
    words, word = last_word(line)
    options = {"--help": "list the commands", "--version": "show the version"}
    offered = COMMANDS if not word.startswith("-") else options
    if len(words) == _num_words():
        yield from (Candidate(name, meaning) for name, meaning in offered.items() if name.startswith(word))


if __name__ == "__main__":
    main()
