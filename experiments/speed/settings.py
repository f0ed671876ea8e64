"""The command line of the benchmark."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

GROUPS = (
    "scoring",
    "sweep",
    "readings",
    "corpus",
    "selection",
    "training",
    "generation",
    "startup",
    "agreement",
    "format",
)
"""Parts of the benchmark, in the order in which they run."""
RATIOS = (0.9, 0.8, 0.7, 0.6, 0.5)
"""The five ratios of a sweep; one ratio alone is the last."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Measured parts and numbers of repetitions.

    Attributes:
        groups: Parts to run, in order.
        model: Name in the config group `model`.
        device: `cpu` or `cuda`.
        threads: CPU threads of every side.
        best: Hydra overrides of the best settings, on top of `model.dtype=auto`.
        lengths: Thinking tokens of the traces.
        sweep_length: Thinking tokens of the trace that a sweep of ratios is measured on.
        corpora: Numbers of traces that growth is measured on, with `corpus_length` tokens each.
        streamed: The same on the tiny model, with which corpora of real size are affordable.
        selected_tokens: Thinking tokens that selection is measured on.
        repeats: Repetitions of each measurement; shorter traces than `LONG_TOKENS` are repeated more often.
        long_repeats: The same for traces over `LONG_TOKENS`.
        quick: Whether short work is done that says little.
        release: Whether the release takes part.
        traces: jsonl file to take texts from; None uses built-in ones.
        profile: Also write the profiler's table of cotpress.
        output: Folder for the results.
        cache: Folder for environments and models that are kept between runs.
    """

    groups: tuple[str, ...]
    model: str
    device: str
    threads: int
    best: tuple[str, ...]
    lengths: tuple[int, ...]
    sweep_length: int
    corpora: tuple[int, ...]
    corpus_length: int
    streamed: tuple[int, ...]
    selected_tokens: int
    repeats: int
    long_repeats: int
    quick: bool
    release: bool
    traces: Path | None
    profile: bool
    output: Path
    cache: Path

    def repeats_at(self, num_tokens: int) -> int:
        """Repetitions for traces of this length: short ones cost little and waver more."""
        if num_tokens > LONG_TOKENS:
            return self.long_repeats
        return self.repeats * max(LONG_TOKENS // num_tokens, 1) if self.repeats > 1 else 1


LONG_TOKENS = 2048
"""Longer traces take minutes per repetition on a CPU."""


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Settings from the command line; leaves the process with a message where they make no sense."""
    given = _parser().parse_args(arguments)
    quick = given.quick
    lengths = given.lengths or ([256] if quick else [256, 512, 1024, 2048, 4096, 8192])
    repeats = given.repeats or (1 if quick else 5)
    return Settings(
        groups=tuple(g for g in GROUPS if g in (given.only or GROUPS)),
        model=given.model,
        device=given.device or _device(),
        threads=given.threads or _threads(),
        best=tuple(given.best),
        lengths=tuple(lengths),
        sweep_length=min(max(lengths), 1024),
        corpora=(1, 2) if quick else (2, 6, 18),
        corpus_length=64 if quick else 256,
        streamed=(20, 80) if quick else (250, 1000, 4000),
        selected_tokens=100_000 if quick else 1_000_000,
        repeats=repeats,
        long_repeats=given.long_repeats or min(repeats, 3),
        quick=quick,
        release=not given.without_release,
        traces=given.traces,
        profile=given.profile,
        output=given.output.resolve(),
        cache=given.cache.resolve(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description="Speed and memory of cotpress, as ratios.")
    add = parser.add_argument
    add("--quick", action="store_true", help="short traces, one repetition: only shows that it runs")
    add("--only", action="append", choices=GROUPS, help="run this part alone; may be repeated")
    add("--repeats", type=_count, metavar="N", help="repetitions of each measurement (5; 1 with --quick)")
    add("--long-repeats", type=_count, metavar="N", help=f"the same for traces over {LONG_TOKENS} tokens (3)")
    add("--lengths", type=_count, nargs="+", metavar="N", help="thinking tokens of the traces (256 to 8192)")
    add("--device", choices=("cpu", "cuda"), help="a GPU if there is one")
    add("--threads", type=_count, metavar="N", help="CPU threads of every side (all cores)")
    add("--model", default="smollm2", metavar="NAME", help="config group model (smollm2)")
    add("--best", nargs="*", default=[], metavar="KEY=VALUE", help="further Hydra overrides of the best settings")
    add(
        "--traces", type=Path, metavar="FILE", help="jsonl with question, thinking, response, answer to take texts from"
    )
    add("--without-release", action="store_true", help="leave LLMLingua out; nothing is installed then")
    add("--profile", action="store_true", help="also write the torch profiler's table of cotpress")
    add("--output", type=Path, default=Path("outputs/bench"), metavar="DIR", help="folder for results (outputs/bench)")
    add("--cache", type=Path, default=Path(".bench"), metavar="DIR", help="kept environments and models (.bench)")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {number}, allowed: a whole number of at least 1")
    return number


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _threads() -> int:
    import torch

    return torch.get_num_threads()
