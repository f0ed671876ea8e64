"""`train.py until=sft`, then `evaluate.py runs=DIR`, as typed: a multirun, its list of students, the table later."""

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
