"""`python compress.py`: see `python compress.py --help`."""

from pathlib import Path

from cotpress.cli.app import main
from cotpress.tasks import COMPRESS

if __name__ == "__main__":
    main(COMPRESS, Path(__file__).parent / "conf")
