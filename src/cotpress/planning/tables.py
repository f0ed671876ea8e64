"""Tables of a plan: with colours on a terminal, as plain text anywhere else."""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from cotpress.devices.config import Strategy
from cotpress.planning.config import PlanConfig
from cotpress.planning.measure import Usage, computed_dtype
from cotpress.planning.training import DEVICE_COUNTS, Training
from cotpress.planning.workload import Work
from cotpress.store.grid import DENSE, WIDTH, Grid, Narrower
from cotpress.terminal import line_width, one_line, text_width, wrapped


def gigabytes(size: float) -> str:
    """`61.2`, in 10^9 bytes; hundredths below 1, megabytes of them below 0.1."""
    size /= 1e9
    return f"{size:.1f}" if size >= 1 else f"{size:.2f}" if size >= 0.1 else f"{size:.3f}"


def verdict(total: float, room: float) -> str:
    """`26.1 GB, fits with 49.9 GB free`, or `88.0 GB, does not fit: 12.0 GB too much`."""
    if total <= room:
        return f"{gigabytes(total)} GB, fits with {gigabytes(room - total)} GB free"
    return f"{gigabytes(total)} GB, does not fit: {gigabytes(total - room)} GB too much"


def described(training: Training) -> str:
    """`7.62 B parameters in bfloat16, LoRA of rank 8 (20.2 M), micro-batches of 16,384 tokens, sdpa`."""
    method = f"LoRA of rank {training.tune.lora_rank} ({training.num_trained / 1e6:.1f} M)"
    return (
        f"{training.num_parameters / 1e9:.2f} B parameters in {str(computed_dtype(training.model))[6:]}, "
        f"{'all weights trained' if training.trains_all else method}, "
        f"micro-batches of {training.requested.tokens_per_batch:,} tokens, {training.model.attention.value}"
    )


def smallest(training: Training, room: float) -> str:
    """The smallest setting that fits, as settings of the command line, with its memory."""
    setting = training.smallest(room)
    if setting is None:
        return f"nothing on up to {DEVICE_COUNTS[-1]} devices: sft=lora, a smaller model, or devices with more memory"
    trainer = "gpu" if setting.devices == 1 else f"{setting.strategy.value} trainer.devices={setting.devices}"
    if setting.offload:
        trainer += " trainer.offload=false" if setting.devices == 1 else " trainer.offload=true"
    total, checkpointing = training.usage(setting).total, str(setting.activation_checkpointing).lower()
    return (
        f"trainer={trainer} trainer.tokens_per_batch={setting.tokens_per_batch} trainer.activation_checkpointing="
        f"{checkpointing}: {gigabytes(total)} GB per device, {gigabytes(room - total)} GB free"
    )


def show_training(training: Training, assumed: PlanConfig) -> None:
    """Memory of a training with every strategy on every number of devices, and the sizes of its files.

    Where lines are too long, the larger numbers of devices are left out first, but not the requested one.
    """
    room, requested = assumed.room, training.requested
    devices_of = {f"{n} device{'s' if n > 1 else ''}": n for n in DEVICE_COUNTS}
    rows = []
    for strategy in (None, Strategy.ddp, Strategy.fsdp2):
        for checkpointing in (False, True):
            cells = []
            for devices in DEVICE_COUNTS:
                setting = replace(requested, activation_checkpointing=checkpointing, devices=devices)
                setting.strategy = strategy or requested.strategy
                shown = (devices == 1) == (strategy is None)
                cells.append(_cell(training.usage(setting).total, room, setting == requested) if shown else "")
            rows.append((strategy.value if strategy else "one device", "yes" if checkpointing else "no", *cells))
    others = [Narrower(name) for name, n in reversed(devices_of.items()) if n != requested.devices]
    headings = ("strategy", "check-\npointing", *devices_of)
    grid = Grid(headings, tuple(rows), left=2, narrower=(DENSE, *others))
    usage = training.usage(requested)
    where = "one device" if requested.devices == 1 else f"{requested.strategy.value} on {requested.devices} devices"
    parts = ", ".join(f"{part} {gigabytes(size)}" for part, size in usage._asdict().items())
    notes = [
        f"GB per device (free of {gigabytes(assumed.rates.device_gb * 1e9)} less {assumed.reserve_gb:.1f} in reserve)",
        f"requested, {where}: {parts}: {verdict(usage.total, room)}",
        f"smallest that fits: {smallest(training, room)}",
        f"on disk: {gigabytes(training.result_bytes)} GB when finished; {gigabytes(training.checkpoint_bytes)} GB for "
        "the checkpoint to resume from, twice that while a new one is written",
    ]
    _print(f"{training.name}: {described(training)}", grid, notes)


def show_uses(uses: Sequence[tuple[str, Usage]], assumed: PlanConfig) -> None:
    """Memory of a model that is not trained; every device holds all of it."""
    rows = []
    for name, usage in uses:
        free = assumed.room - usage.total
        sizes = (gigabytes(usage.weights), gigabytes(usage.activations), gigabytes(usage.total))
        rows.append((name, *sizes, gigabytes(free) if free >= 0 else "does not fit"))
    headings = ("use", *(f"{part}\nGB" for part in ("weights", "working", "total", "free")))
    narrower = (DENSE, Narrower(headings[2]), Narrower(headings[1]))
    _print("without training, on each device", Grid(headings, tuple(rows), narrower=narrower), [])


def show_hours(parts: Sequence[Work], assumed: PlanConfig, unknown: Sequence[str]) -> None:
    """GPU hours of a run, part by part, and the parts that are not counted because their size is `unknown`."""
    rows = [(part.name, f"{part.num_tokens:,.0f}", f"{part.flops / 1e15:,.1f}", f"{part.hours:.2f}") for part in parts]
    rows.append(("all", "", "", f"{sum(part.hours for part in parts):.2f}"))
    headings = ("part", "tokens", "PFLOP", "GPU hours")
    grid = Grid(headings, tuple(rows), narrower=(DENSE, Narrower("PFLOP"), Narrower("tokens")))
    rates = assumed.rates
    notes = [
        f"assumed (planning.*): {assumed.card.value}: {rates.peak_tflops:g} TFLOP/s, in float32 "
        f"{rates.float32_tflops:g}, of which training reaches {assumed.training_utilisation:.0%} and reading "
        f"{assumed.scoring_utilisation:.0%}; {rates.bandwidth_gb_s:g} GB/s, of "
        f"which writing reaches {assumed.generation_utilisation:.0%}; traces of {assumed.prompt_tokens} + "
        f"{assumed.thinking_tokens} + {assumed.response_tokens} tokens of prompt, thinking and response",
        *unknown,
    ]
    _print("time of the run, an estimate", grid, notes)


_FITS, _TOO_LARGE, _REQUESTED = r"[\d.]+ \(\+[\d.]+\)", r"[\d.]+ \(-[\d.]+\)", r"> [\d.]+ \([+-][\d.]+\)"
"""Cells of `_cell`, for their colours."""


def _cell(total: float, room: float, requested: bool) -> str:
    return f"{'> ' if requested else ''}{gigabytes(total)} ({(room - total) / 1e9:+.1f})"


def _print(title: str, grid: Grid, notes: Sequence[str]) -> None:
    console, width = Console(soft_wrap=True), line_width() or WIDTH
    narrow = grid.within(width)
    if missing := grid.given_way(narrow):
        notes = [*notes, f"not in {width} columns, but in a wider terminal: {'; '.join(missing)}"]
    for line in wrapped(one_line(title), text_width()):
        console.print(Text(line, style="bold"))
    for line in narrow.plain().splitlines():
        text = Text(line)
        for pattern, style in ((_FITS, "green"), (_TOO_LARGE, "red"), (_REQUESTED, "bold")):
            text.highlight_regex(pattern, style)
        console.print(text)
    for line in (line for note in notes for line in wrapped(one_line(note), text_width(), "  ")):
        console.print(Text(line))
    console.print()
