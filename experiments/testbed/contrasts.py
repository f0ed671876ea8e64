"""Parts of the fall from Original to a student of pruned traces.

    python -m experiments.testbed.contrasts MULTIRUN [DIR]

MULTIRUN is the folder of this experiment's multiruns; contrasts.csv goes into DIR. Missing sweeps are left out.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from experiments.answers import CONTRASTS_FILE, Contrast, contrasts_csv, sweep_answers

HERE = Path(__file__).parent
RATIOS, UPPER_RATIOS = (0.7, 0.5), (0.9, 0.7)


def planned() -> Iterator[Contrast]:
    """Yield the contrasts, those of the default start, rate and number of examples first."""
    for ratio in RATIOS:
        for name, system, minus in (
            ("planted redundancy deleted", ("bounds", "planted"), ("bounds", "Original")),
            ("scores of cts, not planted labels", ("cts", "cts granularity=word"), ("bounds", "planted")),
            (
                "scores of tokenskip, not planted labels",
                ("tokenskip", "tokenskip granularity=word"),
                ("bounds", "planted"),
            ),
            ("scores of cts, not chance", ("cts", "cts granularity=word"), ("bounds", "Random")),
            ("cts: steps, not words", ("cts", "cts granularity=step"), ("cts", "cts granularity=word")),
            ("chance: steps, not words", ("cts", "Random granularity=step"), ("bounds", "Random")),
            (
                "scores of cts, not chance, by steps",
                ("cts", "cts granularity=step"),
                ("cts", "Random granularity=step"),
            ),
            ("cts: tokens, not words", ("tokens", "cts"), ("cts", "cts granularity=word")),
            ("cts: numbers and operators kept", ("protect", "cts"), ("cts", "cts granularity=word")),
            ("random words: numbers and operators kept", ("protect", "random"), ("bounds", "Random")),
            ("cts: warm start, not cold", ("start", "cts sft.start=original"), ("start", "cts sft.start=base")),
        ):
            at = 1.0 if minus[1] == "Original" else None
            yield Contrast(name=name, system=system, minus=minus, ratio=ratio, at=at)
    for ratio in UPPER_RATIOS:
        for name, system, minus in (
            ("cts: openings of sentences kept", ("openings", "cts"), ("cts", "cts granularity=word")),
            ("random words: openings of sentences kept", ("openings", "random"), ("bounds", "Random")),
        ):
            yield Contrast(name=name, system=system, minus=minus, ratio=ratio)
    for rate in ("0.0003", "0.003"):
        yield Contrast(
            name=f"cts: learning rate {rate}, not 0.001",
            system=("rate", f"cts learning_rate={rate}"),
            minus=("rate", "cts learning_rate=0.001"),
            ratio=0.7,
        )
    for number in (140, 560):
        yield Contrast(
            name=f"cts, not whole traces: {number} of them",
            system=("examples", f"cts data.num_traces={number}"),
            minus=("examples", f"Original data.num_traces={number}"),
            ratio=0.5,
            at=1.0,
        )
    yield Contrast(
        name="cts: 560 traces, not 140",
        system=("examples", "cts data.num_traces=560"),
        minus=("examples", "cts data.num_traces=140"),
        ratio=0.5,
    )


def main(multirun: Path, folder: Path) -> None:
    """Write contrasts.csv."""
    contrasts = list(planned())
    names = {sweep for c in contrasts for sweep, _ in (c.system, c.minus)}
    sweeps = {name: sweep_answers(multirun / name) for name in sorted(names) if (multirun / name).is_dir()}
    (folder / CONTRASTS_FILE).write_text(contrasts_csv(contrasts, sweeps), encoding="utf-8")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else HERE)
