"""A stand-in for a SLURM cluster of one machine: `sbatch` records its batch script and runs it.

It runs as a program under the names `sbatch`, `srun`, `sacct` and `scancel`. The queue is a folder beside them with the
batch script and the state of every job of its array.
"""

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.waiting import announce

JOB_ID = "4242"
NAMES = ("sbatch", "srun", "sacct", "scancel")


def install(folder: Path) -> dict[str, str]:
    """Put the programs into `folder` / bin; returns the environment variables with which a command finds them."""
    (folder / "bin").mkdir(parents=True)
    (folder / "queue").mkdir()
    for name in NAMES:
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__)}" {name} "{folder / "queue"}" "$@"\n')
        program.chmod(0o755)
    return {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def options(script: str) -> dict[str, str]:
    """The `#SBATCH` lines of a batch script."""
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def sbatch(queue: Path, path: str) -> None:
    """Start every job of the script's array at once, and print the id of the array."""
    text = Path(path).read_text()
    (queue / "script.sh").write_text(text)
    given = options(text)
    last = int(given["array"].partition("%")[0].partition("-")[2]) if "array" in given else 0
    for index in range(last + 1):
        subprocess.Popen(
            [sys.executable, __file__, "job", str(queue), str(index), given["nodes"]],
            start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    print(f"Submitted batch job {JOB_ID}")


def job(queue: Path, index: str, nodes: str) -> None:
    """Run one job of the array."""
    array = "--array" in (queue / "script.sh").read_text()
    state = queue / (f"{JOB_ID}_{index}" if array else JOB_ID)
    numbers = {"SLURM_ARRAY_JOB_ID": JOB_ID, "SLURM_ARRAY_TASK_ID": index} if array else {}
    announce(state, "RUNNING")
    code = subprocess.call(
        ["bash", str(queue / "script.sh")],
        env={**os.environ, **numbers, "SLURM_JOB_ID": JOB_ID, "SLURM_JOB_NUM_NODES": nodes, "SLURM_NTASKS": nodes},
    )
    announce(state, "COMPLETED" if code == 0 else "OUT_OF_MEMORY")


def srun(queue: Path, *arguments: str) -> None:
    """Run the command behind the options, one task per node."""
    rest, output = list(arguments), {}
    while rest[0].startswith("--"):
        flag = rest.pop(0)
        if flag != "--unbuffered":
            output[flag] = rest.pop(0)
    own = f"{JOB_ID}_{os.environ['SLURM_ARRAY_TASK_ID']}" if "SLURM_ARRAY_TASK_ID" in os.environ else JOB_ID
    tasks = []
    for node in range(int(os.environ["SLURM_JOB_NUM_NODES"])):
        place = {"SLURM_NODEID": str(node), "SLURM_PROCID": str(node), "SLURM_LOCALID": "0"}
        names = {k: v.replace("%A_%a", own).replace("%j", own).replace("%t", str(node)) for k, v in output.items()}
        for name in names.values():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
        with Path(names["--output"]).open("a") as out, Path(names["--error"]).open("a") as err:
            tasks.append(subprocess.Popen(rest, env={**os.environ, **place}, stdout=out, stderr=err))
    sys.exit(max(abs(task.wait()) for task in tasks))


def sacct(queue: Path, *_: str) -> None:
    """Print the state of every job."""
    print("JobID|State|NodeList")
    for state in sorted(queue.glob(f"{JOB_ID}*")):
        print(f"{state.name}|{state.read_text()}|here")


def scancel(queue: Path, *arguments: str) -> None:
    """Record the id of a job to cancel."""
    with (queue / "cancelled").open("a") as handle:
        handle.write(f"{arguments[0]}\n")


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
