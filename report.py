"""`python report.py`: see `python report.py --help`."""

from pathlib import Path

from cotpress.cli.app import main
from cotpress.tasks import REPORT

if __name__ == "__main__":
    main(REPORT, Path(__file__).parent / "conf")
