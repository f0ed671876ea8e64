"""The `--help` page: every configuration group with its choices and their meaning.

Choices are the files in the folder of a group; the comment at the top of a file is its meaning. Neither Hydra nor torch
is imported, so that the page appears at once.
"""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from cotpress.errors import ConfigError, did_you_mean
from cotpress.invocation import as_typed, program
from cotpress.plugins import choice_lines

LINE = 118
"""Longest line of a page, in characters."""

USAGE: dict[str, tuple[str, list[str]]] = {
    "train": (
        "The whole flow: data, reference model, scores, compression, fine-tuning, evaluation, table.",
        [
            "scorer=cts ratio=0.7",
            "-m scorer=cts,tokenskip,random ratio=0.5,0.7,0.9",
            "data=self_written questions@data.questions=gsm8k model=qwen7b scorer=tokenskip_xlmr",
            "-m scorer=cts,random ratio=0.7 until=sft",
            "model=qwen32b sft=full trainer=gpu plan=true",
        ],
    ),
    "compress": (
        "Data to compressed training data, no fine-tuning.",
        [
            "data=jsonl data.path=FILE scorer=cts ratio=0.5 export=trl output=DIR",
            "data=jsonl data.path=FILE data.field=COLUMN scorer.condition=question ratio=0.5",
        ],
    ),
    "fidelity": (
        "Agreement of a scorer with known importance.",
        [
            "scorer=cts truth=planted",
            "-m scorer=cts,tokenskip,random reference=none,lora",
            "truth=thought_anchors truth.path=FILE scorer=cts",
        ],
    ),
    "evaluate": (
        "Any checkpoint or PEFT adapter on any benchmark.",
        [
            "model=smollm2 adapter=DIR benchmark=planted",
            "runs=outputs/runs",
            "-m model=OWNER/NAME adapter=DIR benchmark=gsm8k,math500 n=4",
            "-m model=smollm2 adapter=DIR ratio=0.5,0.7,1.0    (a student of compression=mixed)",
        ],
    ),
    "report": ("Tables and plots from finished runs.", ["runs=outputs/runs"]),
}
GROUPS = {
    "benchmark": "the problems that students are asked",
    "chat": "a published conversation format of the student, chosen with chat@model.chat=NAME",
    "compression": "selection of the kept tokens by their scores, at one ratio or at mixed ones",
    "data": "traces to compress and to train on",
    "distill": "the valuable part of a trace, on which reference model and classifier are trained",
    "evaluation": "compared systems, and sampling of their answers",
    "experiment": "a named setting of all groups",
    "generation": "backend that generates text: the model in this process, or a server",
    "model": "the student, and by default the base of the reference model; also OWNER/NAME of the hub, or a folder",
    "protocol": "a paper's prompt, budget and sampling for a benchmark, chosen with benchmark.protocol",
    "questions": "training questions of self-written data",
    "reference": "the model that scores: tuned on valuable parts, given, or none",
    "scorer": "importance of each thinking token",
    "sft": "tuning of the students",
    "sweep": "a named multirun",
    "tracker": "destination of metrics besides the run directory",
    "trainer": "device, batch sizes, threads",
    "truth": "traces of known importance, which the scores are compared with",
    "tune": "trained part of a model: adapters, all weights, or nothing",
}
"""Purpose of each configuration group."""
PLAN = "  plan=true          memory on 1 to 8 GPUs and GPU hours of what would run, then end; loads no weights"
"""Line of the page of `train`."""
_SETTINGS = {
    "ratio": "ratio=R            fraction of the thinking tokens KEPT, in [0, 1]",
    "output": "output=DIR         folder for the result; of compress also hf://OWNER/NAME",
    "export": "export=FORMAT      parquet, trl, llamafactory, openai or datasets (for load_from_disk and the hub)",
    "private": "private=false      an upload by output=hf://OWNER/NAME that everybody sees",
    "license": "license=ID         licence of the card, instead of that of the source",
    "shard": "shard=K/N          score and compress the Kth of N shares of the traces",
    "adapter": "adapter=DIR        PEFT adapter, or a hub id",
    "marker": "marker=true        the adapter was trained with a ratio marker, and no record says so",
    "n": "n=N                answers per question",
    "confidence": "confidence=C       level of the intervals, in (0, 1)",
    "runs": "runs=DIR           folder with run directories",
    "viewer_traces": "viewer_traces=N    maximum number of traces in the token viewer",
    "margin": "margin=P           points of accuracy within which it counts as kept",
    "num_resamples": "num_resamples=N    bootstrap resamples behind each interval",
    "until": "until=STAGE        end after data, distill, reference, score, compress or sft, to go on later",
    "seed": "seed=N             seed of everything random",
    "name": "name=NAME          name of the run; by default made from the settings",
    "output_root": "output_root=DIR    folder for everything that is written",
    "plugins": "plugins=[MODULE]   modules of your own that register scorers, data or benchmarks",
}
"""Settings that stand by themselves, with their meaning."""
OWN = {
    "train": ("ratio", "until", "seed", "name", "output_root", "plugins"),
    "compress": ("ratio", "output", "export", "private", "license", "shard", "seed", "name", "output_root", "plugins"),
    "fidelity": ("confidence", "num_resamples", "seed", "name", "output_root", "plugins"),
    "evaluate": ("adapter", "runs", "ratio", "marker", "n", "seed", "name", "output_root", "plugins"),
    "report": ("runs", "output", "viewer_traces", "margin", "output_root", "plugins"),
}
"""The settings of each command that stand by themselves."""
_COMMON = """\
  GROUP.KEY=VALUE    any value inside a group, e.g. scorer.condition=question
  -m                 multirun: comma-separated values, every combination once
  --help GROUP       every choice of a group and what it is
  --cfg job          show the composed configuration and stop
  --hydra-help       Hydra's own options
"""
COMPLETION = """\
Tab completion: eval "$({command} -sc install=bash)", for zsh the same with zsh; fish:
{command} -sc install=fish | source
"""
"""End of a page, which installs the completion by a command."""


def help_page(name: str, conf: Path, words: Sequence[str] = ()) -> str:
    """The help text of an entry script, or of the groups in `words`, also as `scorer=` or `model@reference.base`.

    Raises:
        ConfigError: No such group.
    """
    known = groups_of(name, conf)
    if words:
        named = dict.fromkeys(word.partition("=")[0].partition("@")[0] for word in words)
        return "\n".join(_group_page(group, known.get(group), conf) for group in named)
    purpose, examples = USAGE[name]
    command = as_typed(name)
    lines = [f"{program(name)} - {purpose}", "", *(f"  {command} {settings}" for settings in examples)]
    if name == "train":
        lines += ["", PLAN]
    if known:
        lines += ["", f"Groups (GROUP=CHOICE, * is the default; {command} --help GROUP explains the choices):"]
    width = max(map(len, known), default=0)
    indent = " " * (width + 6)
    for group, default in known.items():
        lines.append(f"  {group:<{width}}  {group_line(group)}")
        names = " ".join(f"{'*' if choice == default else ''}{choice}" for choice in choices(conf / group))
        lines += textwrap.wrap(names, LINE, initial_indent=indent, subsequent_indent=indent)
    settings = [f"  {_SETTINGS[key]}" for key in OWN[name]]
    return "\n".join([*lines, "", "Settings:", *settings, _COMMON, COMPLETION.format(command=command)])


def _group_page(group: str, default: str | None, conf: Path) -> str:
    """Every choice of a group with the comment at the top of its file."""
    if group not in GROUPS:
        raise ConfigError(f"--help: unknown group '{group}'.{did_you_mean(group, GROUPS)}")
    lines = [f"{group} - {group_line(group)}", ""]
    registered = {choice: [line] for choice, line in choice_lines(group).items()}
    meanings = registered | {file.stem: _opening(file) for file in sorted((conf / group).glob("*.yaml"))}
    width = max(map(len, meanings)) + 2
    for choice, comments in meanings.items():
        star = "*" if choice == default else " "
        for i, comment in enumerate(comments):
            first = f"  {star} {choice:<{width}}" if i == 0 else " " * (width + 4)
            lines += textwrap.wrap(comment, LINE, initial_indent=first, subsequent_indent=" " * (width + 4))
    return "\n".join([*lines, ""])


def groups_of(name: str, conf: Path) -> dict[str, str]:
    """The groups of an entry script with their defaults, in the order of its file."""
    defaults = defaults_of(conf / f"{name}.yaml")
    return {group: choice for group, place, choice in defaults if not place and group != "hydra"}


def defaults_of(file: Path) -> list[tuple[str, str, str]]:
    """Group, place (may be empty) and choice of the entries of a defaults list; needs no YAML parser."""
    entry = r"^ +- /?(\w+)(?:@([\w.]+))?: *(\S+)"
    return re.findall(entry, file.read_text(encoding="utf-8"), re.MULTILINE)


def group_line(group: str) -> str:
    """The purpose of a group, with its place for one such as `model@reference.base`."""
    name, _, place = group.partition("@")
    line = GROUPS.get(name, "")
    return f"{line} (for {place})" if place else line


def choices(folder: Path) -> dict[str, str]:
    """Choices of a group with their lines of help, those of plugins last."""
    files = {file.stem: one_liner(file) for file in sorted(folder.glob("*.yaml"))}
    return files | {name: line for name, line in choice_lines(folder.name).items() if name not in files}


def one_liner(path: Path) -> str:
    """The first comment line at the top of a YAML file; empty if there is none."""
    return next(iter(_opening(path)), "")


def _opening(path: Path) -> list[str]:
    """The comment lines at the top of a YAML file, without Hydra's directives."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return [line for line in lines if not line.startswith("@package")]
