"""`python fidelity.py`: see `python fidelity.py --help`."""

from pathlib import Path

from cotpress.app import main

if __name__ == "__main__":
    main("fidelity", Path(__file__).parent / "conf", "cotpress.fidelity_task:fidelity")
