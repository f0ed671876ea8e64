"""Work on several devices: one process per device, started and watched by the stage that needs them.

The flow stays one process per machine. A stage calls `run_on_devices` with a function of a module; that function runs
in every worker, asks `here()` which part is its own, tells the stage what is worth hearing with `report`, and makes its
`pl.Trainer` with `lightning_settings`. One device means one call in this process.
"""

from cotpress.devices.launch import num_local_devices, run_on_devices
from cotpress.devices.lightning import ctrl_c_stops, lightning_settings, quiet_lightning
from cotpress.devices.place import Place, here, report

__all__ = [
    "Place",
    "ctrl_c_stops",
    "here",
    "lightning_settings",
    "num_local_devices",
    "quiet_lightning",
    "report",
    "run_on_devices",
]
