"""`python compress.py`: see `python compress.py --help`."""

from pathlib import Path

from cotpress.app import main

if __name__ == "__main__":
    main("compress", Path(__file__).parent / "conf", "cotpress.experiment:compress")
