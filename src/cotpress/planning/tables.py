"""Plans for people: tables with colours on a terminal, as plain text anywhere else."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, TextIO

from cotpress.devices.config import Strategy
from cotpress.planning.config import PlanConfig
from cotpress.planning.hours import Work, total_gpu_hours
from cotpress.planning.memory import Usage, num_trained
from cotpress.planning.search import DEVICE_COUNTS, GB, Fit, Room, fit, smallest_fit
from cotpress.planning.setting import Place, Setting
from cotpress.planning.shape import ModelShape

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

WIDTH = 110
"""Fewest columns that a table is laid out for."""
_FORMATS = {2: "bfloat16", 4: "float32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A model that is to be trained.

    Attributes:
        name: What it is.
        shape: The model.
        setting: How it is trained.
        longest: Tokens of the longest sequence.
    """

    name: str
    shape: ModelShape
    setting: Setting
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A model that is only run.

    Attributes:
        name: What for.
        usage: Memory of each device.
    """

    name: str
    usage: Usage


def gigabytes(size: int) -> str:
    """`61.2`, in 10^9 bytes; hundredths below 1."""
    return f"{size / GB:.1f}" if abs(size) >= GB else f"{size / GB:.2f}"


def described(shape: ModelShape, setting: Setting) -> str:
    """`7.62 B parameters in bfloat16, LoRA of rank 8 (20.2 M), micro-batches of 16,384 tokens, sdpa`."""
    trained = num_trained(shape, setting)
    how = "all weights trained" if setting.trains_all else f"LoRA of rank {setting.lora_rank} ({trained / 1e6:.1f} M)"
    return (
        f"{shape.num_parameters / 1e9:.2f} B parameters in {_FORMATS[setting.value_bytes]}, {how}, "
        f"micro-batches of {setting.tokens:,} tokens, {setting.attention.value}"
    )


def rows(training: Training, room: Room) -> list[tuple[str, bool, list[Fit | None]]]:
    """Strategy, checkpointing, and what fits on each number of devices; one device has a row of its own."""
    found: list[tuple[str, bool, list[Fit | None]]] = []
    for name, strategy in [("one device", None), *((s.value, s) for s in Strategy)]:
        for checkpointing in (False, True):
            setting = replace(training.setting, checkpointing=checkpointing)
            cells = [
                fit(training.shape, setting, Place(devices=n, strategy=strategy or Strategy.ddp), room)
                if (n == 1) == (strategy is None)
                else None
                for n in DEVICE_COUNTS
            ]
            found.append((name, checkpointing, cells))
    return found


def smallest(training: Training, room: Room) -> str:
    """The smallest setting that fits, as settings of the command line, with what it takes."""
    found = smallest_fit(training.shape, training.setting, room, longest=training.longest)
    if found is None:
        return f"nothing on up to {DEVICE_COUNTS[-1]} devices: sft=lora, a smaller model, or devices with more memory"
    words = ["trainer=gpu"]
    if found.place.devices > 1:
        words = [f"trainer={found.place.strategy.value} trainer.devices={found.place.devices}"]
    words.append(f"trainer.tokens_per_batch={found.setting.tokens}")
    words.append(f"trainer.activation_checkpointing={str(found.setting.checkpointing).lower()}")
    return f"{' '.join(words)}: {gigabytes(found.usage.total)} GB per device, {gigabytes(found.margin)} GB free"


def show_training(training: Training, place: Place, room: Room, out: TextIO) -> None:
    """Memory of a training with every strategy on every number of devices, the asked one in its parts."""
    from rich.text import Text

    counts = [f"{n} device{'s' if n > 1 else ''}>" for n in DEVICE_COUNTS]
    table = _table("strategy", "checkpointing", *counts)
    for name, checkpointing, cells in rows(training, room):
        shown = [Text("") if cell is None else _cell(cell, place, training.setting) for cell in cells]
        table.add_row(name, "yes" if checkpointing else "no", *shown)
    asked = fit(training.shape, training.setting, place, room)
    parts = ", ".join(
        f"{f.name} {gigabytes(getattr(asked.usage, f.name))}" for f in fields(Usage) if getattr(asked.usage, f.name)
    )
    notes = [
        f"GB per device (what stays free of {gigabytes(room.device)} less {gigabytes(room.reserve)} in reserve)",
        f"asked, {_where(place)}: {parts}: {_verdict(asked)}",
        f"smallest that fits: {smallest(training, room)}",
    ]
    _print(f"{training.name}: {described(training.shape, training.setting)}", table, notes, out)


def show_uses(found: Sequence[Use], room: Room, out: TextIO) -> None:
    """Memory of what only runs a model; every device holds all of it."""
    table = _table("use", *(f"{part} GB>" for part in ("weights", "cache", "working", "total", "free")))
    for use in found:
        usage = use.usage
        sizes = (usage.weights, usage.activations, usage.working, usage.total, room.margin(usage))
        table.add_row(use.name, *map(gigabytes, sizes))
    _print("without training, on each device", table, [], out)


def show_hours(parts: Sequence[Work], assumed: PlanConfig, unknown: Sequence[str], out: TextIO) -> None:
    """GPU hours of a run, part by part, and what is not counted because its size is `unknown`."""
    table = _table("part", "tokens>", "PFLOP>", "utilisation>", "GPU hours>")
    for part in parts:
        hours = part.gpu_hours(assumed.peak_tflops)
        table.add_row(
            part.name, f"{part.num_tokens:,}", f"{part.flops / 1e15:,.1f}", f"{part.utilisation:.0%}", f"{hours:.2f}"
        )
    table.add_row("all", "", "", "", f"{total_gpu_hours(parts, assumed):.2f}")
    lengths = " + ".join(str(n) for n in (assumed.prompt_tokens, assumed.thinking_tokens, assumed.response_tokens))
    notes = [
        f"assumed (planning.*): {assumed.peak_tflops:g} TFLOP/s of a device at these utilisations; traces of {lengths} "
        "tokens of prompt, thinking and response",
        *unknown,
    ]
    _print("arithmetic of the run, an estimate", table, notes, out)


def _cell(cell: Fit, place: Place, asked: Setting) -> "Text":
    from rich.text import Text

    chosen = cell.setting == asked and cell.place.devices == place.devices
    chosen = chosen and (place.devices == 1 or cell.place.strategy is place.strategy)
    style = ("green" if cell.margin >= 0 else "red") + (" bold" if chosen else "")
    return Text(f"{'> ' if chosen else ''}{gigabytes(cell.usage.total)} ({cell.margin / GB:+.1f})", style=style)


def _where(place: Place) -> str:
    return "one device" if place.devices == 1 else f"{place.strategy.value} on {place.devices} devices"


def _verdict(found: Fit) -> str:
    total = gigabytes(found.usage.total)
    if found.margin >= 0:
        return f"{total} GB, fits with {gigabytes(found.margin)} GB free"
    return f"{total} GB, does not fit, {gigabytes(-found.margin)} GB too many"


def _table(*columns: str) -> "Table":
    """Columns by heading; those that end with > are aligned to the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in columns:
        table.add_column(heading.removesuffix(">"), justify="right" if heading.endswith(">") else "left", no_wrap=True)
    return table


def _print(title: str, table: "Table", notes: Sequence[str], out: TextIO) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(file=out, soft_wrap=True)
    if console.width < WIDTH:  # a narrow terminal may break lines, but no number may be cut short
        console = Console(file=out, soft_wrap=True, width=WIDTH)
    console.print(Text(title, style="bold"))
    console.print(table)
    for note in notes:
        console.print(Text(f"  {note}"))
    console.print()
