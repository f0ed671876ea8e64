"""`python evaluate.py`: see `python evaluate.py --help`."""

from pathlib import Path

from cotpress.cli.app import main
from cotpress.tasks import EVALUATE

if __name__ == "__main__":
    main(EVALUATE, Path(__file__).parent / "conf")
