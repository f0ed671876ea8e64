"""What a setting takes, from numbers alone: memory of each device, arithmetic, GPU hours. Loads no weights, no torch.

    shape.py         a model as numbers: parameters of the model and of its adapter
    activations.py   what the forward pass keeps for the backward pass, and what is alive for a moment
    memory.py        everything that a device holds while a model is trained, by strategy
    inference.py     the same while it scores and while it writes
    search.py        which settings fit, and the smallest one that does
    arithmetic.py    floating-point operations
    hours.py         a whole run in GPU hours
    task.py          `python train.py ... plan=true`

All sizes are in bytes, all per device.
"""
