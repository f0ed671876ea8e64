"""`train.py until=sft`, then `evaluate.py runs=DIR`, as typed: a multirun, its list of students, the table later."""

import json
import re

import pytest

from support.commands import SMALL, Command

pytestmark = pytest.mark.timeout(300)


@pytest.mark.slow
def test_students_of_a_multirun_are_listed_and_asked_by_the_command_that_it_prints(command: Command) -> None:
    trained = command("train.py", "-m", "scorer=random", "ratio=0.5,0.7", "until=sft", *SMALL)
    assert trained.returncode == 0, trained.stderr[-3000:]
    lines = trained.stdout.splitlines()
    assert lines[:3] == [
        "student Original: outputs/students/original",
        "student random 0.5: outputs/students/random-0.5",
        "student random 0.7: outputs/students/random-0.7",
    ]
    assert lines[-1] == "sweep: 2 jobs finished, 0 failed"
    assert "System" not in trained.stdout
    match = re.search(r"^their answers and the table: python (evaluate\.py) (runs=\S+)$", trained.stdout, re.MULTILINE)
    assert match is not None
    asked = command(*match.groups())
    assert asked.returncode == 0, asked.stderr[-3000:]
    table = asked.stdout[asked.stdout.rindex("System") :]
    assert [line.split()[0] for line in table.splitlines()[2:5]] == ["Original", "random", "random"]
    assert "not in the table" not in asked.stdout
    again = command("train.py", "scorer=random", "ratio=0.5", *SMALL)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "student random 0.5: outputs/students/random-0.5\nrun directory: " in again.stdout
    assert "computing" not in again.stderr


@pytest.mark.slow
def test_another_file_is_asked_by_its_key_alone(command: Command) -> None:
    for name, number in (("own", 1), ("other", 2)):
        row = {"id": "1", "question": f"What is {number} + 0?", "answer": str(number)}
        (command.folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    few = ["benchmark=jsonl", "benchmark.path=own.jsonl", "benchmark.max_new_tokens=8"]
    small = [setting for setting in SMALL if not setting.startswith("benchmark.")]
    trained = command("train.py", "scorer=random", "ratio=0.6", "until=sft", *small, *few, "output_root=by_key")
    assert trained.returncode == 0, trained.stderr[-3000:]
    asked = command("evaluate.py", "runs=by_key/runs", "benchmark.path=other.jsonl")
    assert asked.returncode == 0, asked.stderr[-3000:]
    (results,) = (command.folder / "by_key" / "runs").glob("*/results.json")
    assert json.loads(results.read_text())["settings"]["benchmark"]["path"] == "other.jsonl"
    unknown = command("evaluate.py", "runs=by_key/runs", "benchmark.num_problems=4")
    assert unknown.returncode == 2
