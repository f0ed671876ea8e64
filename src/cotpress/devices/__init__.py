"""The hardware: devices and their memory, several devices at once, settings of Lightning's Trainer.

A stage calls `run_on_devices` with a function of a module, which runs in one worker per device. Nothing is imported
here: the settings in `config.py` are read by commands that never load torch.
"""
