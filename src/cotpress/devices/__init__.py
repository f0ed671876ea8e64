"""The hardware: devices and their memory, several devices at once, settings of Lightning's Trainer.

The command stays one process per machine. A stage calls `run_on_devices` with a function of a module. That function
runs in every worker: `here()` is the worker's place, `report` sends numbers to the stage, and `lightning_settings` are
the arguments of its `pl.Trainer`. One device is one call in this process.

Nothing is imported here: the settings in `config.py` are read by commands that never load torch.
"""
