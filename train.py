"""`python train.py`: see `python train.py --help`."""

from pathlib import Path

from cotpress.cli.app import main
from cotpress.tasks import TRAIN

if __name__ == "__main__":
    main(TRAIN, Path(__file__).parent / "conf")
