"""`python fidelity.py`: see `python fidelity.py --help`."""

from pathlib import Path

from cotpress.cli.app import main
from cotpress.tasks import FIDELITY

if __name__ == "__main__":
    main(FIDELITY, Path(__file__).parent / "conf")
