"""Kill small commands with SIGKILL at random moments of every stage, run them again, and compare their output.

    make test-kills            60 kills and more, about 2 minutes; ARGS="--rounds 10 --seed 3" for others

A round begins with an empty folder. It lets the command begin a stage, kills it some random time later, starts it again
for the next stage, and at last lets it end; what then lies on disk must equal, byte by byte, what an undisturbed run
has left (`undisturbed.contents`: every file of every artifact, the loss of every training step among them; of answers
and results everything but times). Between kills nothing is repaired or removed. `FLOWS` lists the commands; those that
ask a server get answers from a local one. The last part starts two and four processes together, kills one of them
while it holds a lock, and counts how often each artifact was computed.

Ends with a table and exit code 1 if anything differs, if a job fails, or if there were fewer kills than asked for.
"""

import argparse
import json
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cotpress.modeling.config import ModelConfig, ModelSource
from cotpress.modeling.loading import load_tokenizer
from cotpress.store.artifacts import ArtifactStore
from support.commands import Command, Stop
from support.encoder import save_encoder
from support.openai_server import Call, Reply, openai_server
from support.undisturbed import contents


@dataclass(frozen=True)
class Flow:
    """A command, and its stages that are killed, in the order in which it begins them.

    `last` matches the last line of the log before a report, which logs nothing until it is done; empty without one.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    stages: tuple[str, ...]
    last: str = ""


ANSWERED = r"evaluate: (?:\d+ rows|found)"
TINY = ("model=tiny", "trainer.checkpoint_every_s=0", "data.num_traces=40")
REFERENCE = "reference.tune.sequences_per_step=2"
TRAIN = Flow(
    "train",
    "train.py",
    (*TINY, "scorer=cts", "ratio=0.5", "benchmark.num_problems=6", "benchmark.max_new_tokens=32",
     "evaluation.baselines=[]", REFERENCE, "sft.tune.sequences_per_step=2"),
    ("data", "distill", "reference", "score", "compress", "sft", "answer", "evaluate", "report"),
    last=ANSWERED,
)  # fmt: skip
COMPRESS = ("ratio=0.5", "output=outputs/compressed")
SERVER = ("base_url=ADDRESS", "model=stub", "concurrency=1")
FLOWS = (
    TRAIN,
    Flow(
        "fidelity",
        "fidelity.py",
        (*TINY, "truth.num_traces=20", "scorer=cts", REFERENCE),
        ("truth", "distill", "reference", "score"),
    ),
    Flow(
        "self_written",
        "compress.py",
        (*TINY[:2], *COMPRESS, "scorer=random", "data=self_written", "questions@data.questions=jsonl",
         "data.questions.path=QUESTIONS",
         "generation@data.generation=server", *(f"data.generation.{setting}" for setting in SERVER)),
        ("benchmark", "write", "solve", "data", "score", "compress"),
    ),
    Flow(
        "distill=llm",
        "compress.py",
        (*TINY, *COMPRESS, "scorer=cts", REFERENCE, "distill=llm_server",
         *(f"distill.generation.{setting}" for setting in SERVER)),
        ("extract", "distill", "reference"),
    ),
    Flow(
        "tokenskip",
        "compress.py",
        (*TINY, *COMPRESS, "scorer=tokenskip", "scorer.path=ENCODER", "scorer.window_tokens=30",
         "scorer.trained_layers=null"),
        ("classifier", "score"),  # trained inside of the stage score, so a kill of that may come after it
    ),
    Flow(
        "fsdp2",
        "train.py",
        (*TRAIN.arguments, "reference=full", "sft=full", "trainer.accelerator=cpu", "trainer.devices=2",
         "trainer.strategy=fsdp2"),
        ("reference", "score", "sft"),
    ),
)  # fmt: skip
KILLS_ASKED = 60
MORE_ROUNDS = 6
"""Most further rounds, with earlier and earlier kills, for the stages in which none came in time."""
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
    parser.add_argument(
        "--rounds", type=int, default=2, help="rounds of one kill in every stage, of train twice as many"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--flows", nargs="*", default=[flow.name for flow in FLOWS], help="names of the commands")
    asked = parser.parse_args()
    started, draw = time.monotonic(), random.Random(asked.seed)
    tallies: dict[str, dict[str, Tally]] = {}
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as name, _help(Path(name)) as filled:
        command = Command(Path(name))
        for flow in (replace(f, arguments=filled(f.arguments)) for f in FLOWS if f.name in asked.flows):
            folder = Path(name) / flow.name.replace("=", "-")
            folder.mkdir()
            expected, spans = _undisturbed(command, flow, folder / "whole")
            _say(f"{flow.name}, undisturbed: {len(expected)} things to compare; stages take {spans}")
            tallies[flow.name] = {stage: Tally() for stage in flow.stages}
            for number in range(asked.rounds * (2 if flow.name == TRAIN.name else 1)):
                place = folder / f"round{number}"
                failures += _round(command, flow, place, expected, spans, draw, tallies[flow.name])
            for number in range(1, 1 + MORE_ROUNDS):  # a stage of milliseconds may have ended before every kill
                left = tuple(stage for stage, tally in tallies[flow.name].items() if not tally.killed)
                shorter = {stage: seconds / 2**number for stage, seconds in spans.items()}
                place, only = folder / f"more{number}", replace(flow, stages=left)
                failures += _round(command, only, place, expected, shorter, draw, tallies[flow.name]) if left else []
            if flow.name == TRAIN.name:
                for copies in (2, 4):
                    failures += _together(command, folder / f"together{copies}", copies, expected)
    return _report(tallies, failures, time.monotonic() - started, everything=len(asked.flows) == len(FLOWS))


@contextmanager
def _help(folder: Path) -> Iterator[Callable[[Sequence[str]], tuple[str, ...]]]:
    """Run a server, write questions and save an encoder; yields a function that names them in arguments."""
    tiny = ModelConfig(name="tiny", source=ModelSource.tiny, path="tiny")
    tokenizer, questions = load_tokenizer(tiny, ArtifactStore(folder / "tiny")), folder / "questions.jsonl"
    rows = [{"id": f"q{i}", "question": f"What is {i} + 2?", "answer": str(i + 2)} for i in range(20)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    encoder = save_encoder(folder / "encoder", [f"So {i} + {i} = {2 * i}. Wait, we add them." for i in range(99)])

    def script(call: Call, seen: int) -> Reply:
        if call.path.endswith("chat/completions"):  # copies the equations
            reasoning = call.body["messages"][-1]["content"].partition("Reasoning:\n")[2]
            return Reply(text=" ".join(step for step in re.split(r"(?<=[.!?])\s", reasoning) if "=" in step) or "NONE")
        match = re.search(r"What is (\d+) \+ 2", str(tokenizer.decode(call.body["prompt"])))
        assert match
        total = int(match[1]) + 2
        return Reply(text=f"We add the numbers. {match[1]} + 2 = {total}.\n\nThe final answer is: $\\boxed{{{total}}}$")

    with openai_server(script) as server:
        places = {"ADDRESS": server.base_url, "QUESTIONS": str(questions), "ENCODER": str(encoder)}

        def filled(arguments: Sequence[str]) -> tuple[str, ...]:
            for name, place in places.items():
                arguments = [argument.replace(name, place) for argument in arguments]
            return tuple(arguments)

        yield filled


def _undisturbed(command: Command, flow: Flow, folder: Path) -> tuple[dict[str, str], dict[str, float]]:
    """Run undisturbed; returns the digests of its output and the approximate seconds of each stage."""
    folder.mkdir()
    done = command(flow.script, *flow.arguments, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    spans: dict[str, float] = dict.fromkeys(flow.stages, 0.05) | {"report": 2.0}
    for path in (folder / "outputs/artifacts").glob("*/*/timing.json"):
        stage = path.parts[-3]
        if stage in spans:
            spans[stage] = max(spans[stage], json.loads(path.read_text())["seconds"])
    return contents(folder / "outputs"), spans


def _round(
    command: Command, flow: Flow, folder: Path, expected: dict[str, str], spans: dict[str, float], draw: random.Random,
    tallies: dict[str, Tally],
) -> Iterator[str]:  # fmt: skip
    folder.mkdir()
    where = f"{flow.name}, {folder.name}"
    for place, stage in enumerate(flow.stages):
        # A late kill may have let this stage end: then it is the next one that is killed.
        begins = [f"{later}: computing" for later in flow.stages[place:] if later != "report"]
        pattern = "|".join([*begins, *([flow.last] if flow.last else [])])
        stop = Stop(pattern=pattern, after_s=draw.uniform(0.0, 1.1 * spans[stage]))
        done, tally = command(flow.script, *flow.arguments, cwd=folder, stop=stop), tallies[stage]
        if done.returncode == -signal.SIGKILL:
            tally.killed += 1
            half = [p for p in (folder / "outputs/artifacts/.partial").glob("*") if p.is_dir()]
            tally.half_made += any(p.name.startswith(f"{stage}-") for p in half)
        elif done.returncode == 0:  # it had ended before its moment came
            tally.missed += 1
        else:
            yield f"{where}, {stage}: exit code {done.returncode}\n{done.stderr[-2000:]}"
    done = command(flow.script, *flow.arguments, cwd=folder)
    if done.returncode != 0:
        yield f"{where}: does not go on: exit code {done.returncode}\n{done.stderr[-2000:]}"
        return
    for name in _differences(expected, contents(folder / "outputs")):
        stage = name.split("/")[1] if name.startswith("artifacts/") else "report"
        tallies.get(stage, tallies[flow.stages[0]]).problems.append(f"{folder.name}: {name}")


def _together(command: Command, folder: Path, copies: int, expected: dict[str, str]) -> Iterator[str]:
    """Run the same job several times at once and kill one of them in its first training."""
    folder.mkdir()
    stop = Stop(pattern="(sft|reference): (computing|another)", after_s=0.1)
    jobs = command.together(copies, TRAIN.script, *TRAIN.arguments, cwd=folder, stop=stop)
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


def _report(tallies: dict[str, dict[str, Tally]], failures: list[str], seconds: float, *, everything: bool) -> int:
    _say(f"\n{'command':<12} {'stage':<10} {'kills':>5} {'left half-made':>14} {'ended before':>12}  outcome")
    for name, stages in tallies.items():
        for stage, tally in stages.items():
            outcome = "; ".join(tally.problems) or "went on, ends the same"
            row = f"{name:<12} {stage:<10} {tally.killed:>5} {tally.half_made:>14} {tally.missed:>12}"
            _say(f"{row}  {outcome}")
            failures += [f"no kill in {stage} of {name}"] * (not tally.killed)
    every = [tally for stages in tallies.values() for tally in stages.values()]
    killed = sum(tally.killed for tally in every)
    if everything and killed < KILLS_ASKED:
        failures.append(f"{killed} kills, asked are {KILLS_ASKED}: more --rounds")
    _say(f"{killed} kills in {seconds:.0f} s")
    for failure in failures:
        _say(f"FAILED: {failure}")
    return int(bool(failures) or any(tally.problems for tally in every))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
