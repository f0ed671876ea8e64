"""`python train.py`: see `python train.py --help`."""

from pathlib import Path

from cotpress.app import main

if __name__ == "__main__":
    main("train", Path(__file__).parent / "conf", "cotpress.experiment:train")
