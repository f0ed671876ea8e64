"""Kill a small flow with SIGKILL at random moments of every stage, run it again, and compare its output.

    make test-kills            30 kills and more, about 5 minutes; ARGS="--rounds 10 --seed 3" for others

A round begins with an empty folder. It lets the command begin a stage, kills it some random time later, starts it again
for the next stage, and at last lets it end; what then lies on disk must equal, byte by byte, what an undisturbed run
has left (`undisturbed.contents`: every file of every artifact, the loss of every training step among them; of answers
and results everything but times). Between kills nothing is repaired or removed. The last part starts two and four
processes together, kills one of them while it holds a lock, and counts how often each artifact was computed.

Ends with a table and exit code 1 if anything differs, if a job fails, or if there were fewer kills than asked for.
"""

import argparse
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.commands import Command, Stop
from support.undisturbed import contents

FLOW = [
    "model=tiny", "scorer=cts", "ratio=0.5", "data.num_traces=40", "benchmark.num_problems=6",
    "benchmark.max_new_tokens=32", "evaluation.baselines=[]", "trainer.checkpoint_every_s=0",
    "reference.tune.sequences_per_step=2", "sft.tune.sequences_per_step=2",
]  # fmt: skip
STAGES = ("data", "distill", "reference", "score", "compress", "sft", "answer", "evaluate", "report")
"""In the order of the flow."""
REPORT = r"evaluate: (?:\d+ rows|found)"
"""Last line of the log before the report, which logs nothing until it is done."""
KILLS_ASKED = 30
_COMPUTED = re.compile(r"^\d\d:\d\d:\d\d \w+: computing (\w+/\w+)$", re.MULTILINE)


@dataclass
class Tally:
    """Outcomes of the kills in one stage."""

    killed: int = 0
    missed: int = 0
    half_made: int = 0
    problems: list[str] = field(default_factory=list)


def main() -> int:
    """Run the tool and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=4, help="rounds of one kill in every stage")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    asked = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        command = Command(Path(folder))
        expected, spans = _undisturbed(command, Path(folder) / "whole")
        _say(f"undisturbed: {len(expected)} things to compare; stages take {spans}")
        tallies = {stage: Tally() for stage in STAGES}
        draw = random.Random(asked.seed)
        failures = [
            problem
            for number in range(asked.rounds)
            for problem in _round(command, Path(folder) / f"round{number}", expected, spans, draw, tallies)
        ]
        for copies in (2, 4):
            failures += _together(command, Path(folder) / f"together{copies}", copies, expected)
    return _report(tallies, failures, time.monotonic() - started)


def _undisturbed(command: Command, folder: Path) -> tuple[dict[str, str], dict[str, float]]:
    """Run undisturbed; returns the digests of its output and the approximate seconds of each stage."""
    import json

    folder.mkdir()
    done = command("train.py", *FLOW, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    spans: dict[str, float] = dict.fromkeys(STAGES, 0.05) | {"report": 2.0}
    for path in (folder / "outputs/artifacts").glob("*/*/timing.json"):
        stage = path.parts[-3]
        if stage in spans:
            spans[stage] = max(spans[stage], json.loads(path.read_text())["seconds"])
    return contents(folder / "outputs"), spans


def _round(
    command: Command, folder: Path, expected: dict[str, str], spans: dict[str, float], draw: random.Random,
    tallies: dict[str, Tally],
) -> Iterator[str]:  # fmt: skip
    folder.mkdir()
    for place, stage in enumerate(STAGES):
        # A late kill may have let this stage end: then it is the next one that is killed.
        begins = [f"{later}: computing" for later in STAGES[place:-1]]
        stop = Stop(pattern="|".join([*begins, REPORT]), after_s=draw.uniform(0.0, 1.1 * spans[stage]))
        done, tally = command("train.py", *FLOW, cwd=folder, stop=stop), tallies[stage]
        if done.returncode == -signal.SIGKILL:
            tally.killed += 1
            half = [p for p in (folder / "outputs/artifacts/.partial").glob("*") if p.is_dir()]
            tally.half_made += any(p.name.startswith(f"{stage}-") for p in half)
        elif done.returncode == 0:  # it had ended before its moment came
            tally.missed += 1
        else:
            yield f"{folder.name}, {stage}: exit code {done.returncode}\n{done.stderr[-2000:]}"
    done = command("train.py", *FLOW, cwd=folder)
    if done.returncode != 0:
        yield f"{folder.name}: does not go on: exit code {done.returncode}\n{done.stderr[-2000:]}"
        return
    for name in _differences(expected, contents(folder / "outputs")):
        stage = name.split("/")[1] if name.startswith("artifacts/") else "report"
        tallies.get(stage, tallies["data"]).problems.append(f"{folder.name}: {name}")


def _together(command: Command, folder: Path, copies: int, expected: dict[str, str]) -> Iterator[str]:
    """Run the same job several times at once and kill one of them in its first training."""
    folder.mkdir()
    stop = Stop(pattern="(sft|reference): (computing|another)", after_s=0.1)
    jobs = command.together(copies, "train.py", *FLOW, cwd=folder, stop=stop)
    computed = Counter(key for job in jobs[1:] for key in _COMPUTED.findall(job.stderr))
    begun = set(_COMPUTED.findall(jobs[0].stderr))
    codes = [job.returncode for job in jobs]
    _say(
        f"{copies} together, one killed: exit codes {codes}, "
        f"{len(computed)} artifacts computed by the others, {len(begun)} begun by it"
    )
    if codes != [-signal.SIGKILL, *[0] * (copies - 1)]:
        yield f"{copies} together: exit codes {codes}\n" + "\n".join(job.stderr[-1500:] for job in jobs)
    yield from (f"{copies} together: {key} was computed {n} times" for key, n in computed.items() if n > 1)
    yield from (f"{copies} together: {name} differs" for name in _differences(expected, contents(folder / "outputs")))


def _differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def _report(tallies: dict[str, Tally], failures: list[str], seconds: float) -> int:
    _say(f"\n{'stage':<10} {'kills':>5} {'left half-made':>14} {'ended before':>12}  outcome")
    for stage, tally in tallies.items():
        outcome = "; ".join(tally.problems) or "went on, ends the same"
        _say(f"{stage:<10} {tally.killed:>5} {tally.half_made:>14} {tally.missed:>12}  {outcome}")
    killed = sum(tally.killed for tally in tallies.values())
    unkilled = [stage for stage, tally in tallies.items() if not tally.killed]
    failures += [f"no kill in {stage}" for stage in unkilled]
    if killed < KILLS_ASKED:
        failures.append(f"{killed} kills, asked are {KILLS_ASKED}: more --rounds")
    _say(f"{killed} kills in {seconds:.0f} s")
    for failure in failures:
        _say(f"FAILED: {failure}")
    return int(bool(failures) or any(tally.problems for tally in tallies.values()))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
