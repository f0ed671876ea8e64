"""Memory and GPU hours of a run, measured on the code of the run with tensors without values. Loads no weights.

measure.py   one pass of training, scoring and writing: peak memory of a device, in bytes, and operations
training.py  a training with every strategy on 1 to 8 devices, and the smallest setting that fits
workload.py  the amount of work, and the time that a card takes for it
tables.py    the tables of `python train.py ... plan=true` (`tasks/plan.py`)
"""
