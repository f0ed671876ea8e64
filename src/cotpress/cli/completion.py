"""Tab completion of the commands in bash, zsh and fish.

After `eval "$(cotpress -sc install=bash)"`, or the same with `python train.py`, the shell calls `cotpress -sc
query=bash` at every TAB. This replaces Hydra's plugins, which search the script for `@hydra.main`, offer schemas and
groups that the script does not have, complete no members of enumerations, and remove `=` from the word breaks of the
whole shell.

The function of each shell calls what the command line begins with: `cotpress`, `python -m cotpress`, or an entry script
with the Python before it. Every other command is left to the shell. Without candidates the shell completes file names.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cotpress.cli.help import choices, group_line, groups_of
from cotpress.errors import ConfigError
from cotpress.invocation import as_typed

if TYPE_CHECKING:
    from omegaconf import DictConfig

SWITCHES = ("-sc", "--shell-completion")
_FLAGS = {
    "--help": "groups and choices; with a GROUP behind it what each choice is",
    "--multirun": "comma-separated values, every combination once",
    "--cfg": "show the composed configuration and stop",
}
_CFG = {"job": "the run's configuration", "hydra": "Hydra's own", "all": "both"}

_SHELLS = ("bash", "zsh", "fish")
"""Shells with a file `completion.SHELL` beside this one."""


class Candidate(NamedTuple):
    """A completion: the whole word, and its meaning (may be empty)."""

    word: str
    meaning: str = ""


def shell_completion(
    command: str,
    offer: Callable[[str], Iterable[Candidate]],
    arguments: Sequence[str],
    environment: Mapping[str, str],
) -> str:
    """The output of `-sc install=SHELL`, or of `-sc query=SHELL` for the line that is being typed.

    The shell gives the line and the position of the cursor in the variables `COMP_LINE` and `COMP_POINT`.

    Args:
        command: The command as it is typed, for messages.
        offer: Returns the completions of the last word of a line.
        arguments: Arguments with `-sc`.
        environment: Environment variables.

    Raises:
        ConfigError: No such action or shell.
    """
    request = next((a for a in arguments if a not in SWITCHES), "")
    action, _, shell = request.partition("=")
    if action not in ("install", "query") or shell not in _SHELLS:
        raise ConfigError(
            f"-sc: got '{request}', allowed: install=SHELL with SHELL one of {', '.join(_SHELLS)}. "
            f'Fix: eval "$({command} -sc install=bash)", or {command} -sc install=fish | source'
        )
    if action == "install":
        return Path(__file__).with_name(f"completion.{shell}").read_text(encoding="utf-8")
    offered = offer(line_typed(environment))
    return "".join(f"{c.word}\t{c.meaning}\n" if c.meaning and shell != "bash" else f"{c.word}\n" for c in offered)


def line_typed(environment: Mapping[str, str]) -> str:
    """The command line before the cursor."""
    line, point = environment.get("COMP_LINE", ""), environment.get("COMP_POINT", "")
    return line[: int(point)] if point.isdigit() else line


def last_word(line: str) -> tuple[list[str], str]:
    """The words of a command line before the one that is being typed, and that one, which may be empty."""
    words = line.split()
    word = "" if not words or line[-1].isspace() else words.pop()
    return words, word


def candidates(entry: str, conf: Path, line: str) -> list[Candidate]:
    """The completions of the last word of a command line (its text before the cursor), in reading order."""
    words, word = last_word(line)
    earlier = words[len(as_typed(entry).split()) :]
    if word.startswith("-"):
        offered: Iterator[Candidate] = (Candidate(flag, meaning) for flag, meaning in _FLAGS.items())
    elif earlier and earlier[-1] in ("--cfg", "-c"):
        offered = (Candidate(name, meaning) for name, meaning in _CFG.items())
    elif "--help" in earlier or "-h" in earlier:
        offered = (Candidate(group, group_line(group)) for group in groups_of(entry, conf))
    elif "=" in word:
        offered = _values(entry, conf, earlier, *word.split("=", 1))
    else:
        offered = _keys(entry, conf, earlier, word)
    return [c for c in offered if c.word.startswith(word)]


def _values(entry: str, conf: Path, earlier: Sequence[str], key: str, typed: str) -> Iterator[Candidate]:
    """The choices of a group, the members of an enumeration, or the current value of a key."""
    sign = key[:1] if key[:1] in "+~" else ""
    group, _, package = key.removeprefix(sign).partition("@")
    before, comma, _ = typed.rpartition(",")  # of several values of a sweep, the last one is being typed
    start = f"{key}={before}{comma}"
    if (conf / group).is_dir() and (package or group in groups_of(entry, conf)):
        yield from (Candidate(start + name, meaning) for name, meaning in choices(conf / group).items())
    elif "." in key or not (conf / group).is_dir():
        config, _ = composed(entry, conf, earlier)
        yield from (Candidate(start + value) for value in _values_of(config, key.removeprefix(sign)))


def _values_of(config: "DictConfig", key: str) -> list[str]:
    from omegaconf import BooleanNode, DictConfig, EnumNode, OmegaConf

    place, _, name = key.rpartition(".")
    parent = OmegaConf.select(config, place) if place else config
    if not isinstance(parent, DictConfig) or name not in parent:
        return []
    node = parent._get_node(name)
    if isinstance(node, EnumNode):
        return [member.name for member in node.enum_type]
    if isinstance(node, BooleanNode):
        return ["true", "false"]
    value = OmegaConf.select(parent, name, throw_on_resolution_failure=False)  # may refer to a value not given yet
    return [str(value)] if isinstance(value, int | float | str) and not isinstance(value, Enum) else []


def _keys(entry: str, conf: Path, earlier: Sequence[str], word: str) -> Iterator[Candidate]:
    """The groups at all their places in the configuration, then its keys."""
    from omegaconf import DictConfig, OmegaConf

    sign = word[:1] if word[:1] in "+~" else ""
    config, known = composed(entry, conf, earlier)
    yield from (Candidate(f"{sign}{group}=", group_line(group)) for group in known)
    place, dot, _ = word.removeprefix(sign).rpartition(".")
    parent = OmegaConf.select(config, place) if place else config
    if not isinstance(parent, DictConfig):
        return
    for name in map(str, parent):
        node, key = parent._get_node(name), f"{place}{dot}{name}"
        if isinstance(node, DictConfig):
            if node._is_missing() or not node._is_none():  # null has no keys
                yield Candidate(f"{sign}{key}.")
        elif key not in known:
            yield Candidate(f"{sign}{key}=")


def composed(entry: str, conf: Path, earlier: Sequence[str]) -> tuple["DictConfig", list[str]]:
    """The configuration of the typed words, of which those that do not compose are ignored, and its groups as they
    are overridden: `scorer`, `model@...`.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import open_dict
    from omegaconf.errors import OmegaConfBaseException

    from cotpress.cli.experiments import with_experiments
    from cotpress.config import register_schemas

    register_schemas()
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        overrides = []
        try:
            settings = with_experiments([w for w in earlier if "=" in w and not w.startswith("-")], entry, conf)
            for override in OverridesParser.create().parse_overrides(settings):
                text = str(override.input_line)
                if override.is_sweep_override():  # every value has the same keys
                    text = f"{text.partition('=')[0]}={next(override.sweep_string_iterator())}"
                overrides.append(text)
            config = compose(entry, overrides=overrides, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException, ConfigError):
            config = compose(entry, return_hydra_config=True)
    known = [group for group in config.hydra.runtime.choices if not group.startswith("hydra")]
    with open_dict(config):
        del config["hydra"]
    return config, sorted(known, key=lambda group: ("@" in group, group))
