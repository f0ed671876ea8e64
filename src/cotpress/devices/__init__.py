"""The hardware: devices and their memory, several devices at once, settings of Lightning's Trainer.

A stage calls `run_on_devices` with a function of a module, which runs in one worker per device: `here()` is the place
of the worker, `report` sends numbers to the stage, and `lightning_settings` are the arguments of its `pl.Trainer`. One
device is one call in this process.

Nothing is imported here: the settings in `config.py` are read by commands that never load torch.
"""
