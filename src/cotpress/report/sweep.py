"""The table of one multirun: its jobs left notes that say where their run directories are."""
