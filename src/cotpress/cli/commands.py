"""Parsing, completion and exit codes of the commands without a configuration, which take `key=value`."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

from cotpress.cli.app import end_with_code, stop
from cotpress.cli.completion import SWITCHES, Candidate, last_word, shell_completion
from cotpress.errors import ConfigError, CotpressError, did_you_mean, raise_together
from cotpress.invocation import as_typed, program
from cotpress.settings import insert_home
from cotpress.store.paths import disk_problem
from cotpress.store.redaction import Redacting, refuse_secret_arguments

C = TypeVar("C")


def parse(schema: type[C], arguments: Sequence[str]) -> C:
    """Parse the settings of a command into its dataclass of plain types.

    `--key=value` and `--key` (for true) mean the same as `key=value`.

    Raises:
        ConfigError: Unknown keys, all of them; or a wrong type or a missing value. Names it and what is allowed.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    refuse_secret_arguments(arguments)
    names = [f.name for f in fields(schema)]  # type: ignore[arg-type]
    assignments = [_as_assignment(argument) for argument in arguments]
    keys = [assignment.partition("=")[0] for assignment in assignments]
    raise_together(
        [
            ConfigError(f"'{key}' is no setting of this command.{did_you_mean(key, names)}")
            for key in keys
            if key not in names
        ]
    )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.from_dotlist(assignments))
        if missing := sorted(OmegaConf.missing_keys(merged)):
            fix = f"Fix: give it on the command line, {missing[0]}=VALUE"
            raise ConfigError(f"no value for {', '.join(missing)}. {fix}")
        settings = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{' '.join(arguments)}: {str(error).splitlines()[0]}. See --help") from error
    assert isinstance(settings, schema)
    insert_home(settings)
    return settings


def run_command(name: str, schema: type[C], task: Callable[[C], None], usage: str) -> None:
    """Run a command and exit with its code; errors that a user can act on have no stack trace.

    `usage` holds `{command}` in the place of the command as it is typed, and `{train}` for the name of that command.
    """
    end_with_code(lambda: _command(name, schema, task, usage))


def _command(name: str, schema: type[C], task: Callable[[C], None], usage: str) -> None:
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        sys.stdout.write(usage.format(command=as_typed(name), train=program("train")))
        return
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(Redacting("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[lines])
    logging.getLogger("cotpress").setLevel(logging.INFO)
    try:
        if set(SWITCHES) & set(arguments):
            offer = partial(_candidates, schema)
            sys.stdout.write(shell_completion(as_typed(name), offer, arguments, os.environ))
            return
        task(parse(schema, arguments))
    except CotpressError as error:
        stop(str(error), 2 if isinstance(error, ConfigError) else 1)
    except OSError as error:
        problem = disk_problem(error) if error.filename is None else f"'{error.filename}': {error.strerror}"
        if problem is None:
            raise
        stop(f"cannot use {problem}. Fix: output=PATH, a place that can be written", 1)


def _candidates(schema: type[Any], line: str) -> Iterator[Candidate]:
    """The completions of the last word of a command line: settings, and the values of those that are true or false."""
    _, word = last_word(line)
    for field in fields(schema):
        words = [f"{field.name}={value}" for value in ("true", "false")] if field.type is bool else []
        yield from (Candidate(w) for w in (words if "=" in word else [f"{field.name}="]) if w.startswith(word))


def _as_assignment(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if argument.startswith("--"):
        key, value = key.removeprefix("--").replace("-", "_"), value if equals else "true"
    elif not equals:
        raise ConfigError(f"got '{argument}', allowed: key=value. See --help")
    return f"{key}={value}"
