"""`python evaluate.py`: see `python evaluate.py --help`."""

from pathlib import Path

from cotpress.app import main

if __name__ == "__main__":
    main("evaluate", Path(__file__).parent / "conf", "cotpress.experiment:evaluate")
