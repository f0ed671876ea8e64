"""`python report.py`: see `python report.py --help`."""

from pathlib import Path

from cotpress.app import main

if __name__ == "__main__":
    main("report", Path(__file__).parent / "conf", "cotpress.experiment:report")
