"""Linear layers in oneDNN's own weight layout: on a CPU, what a step of a few rows costs is mostly reading weights.

torch hands `x @ W.T` for a few rows to a BLAS that lays the weights out anew in every call. Here that is done once,
when a model is opened for writing only. The sums run in another order, so the numbers are those of the plain layers
up to float32 rounding.
"""

import torch

_ROWS = 32
"""Rows that the layout is chosen for; any number works."""


class PackedLinear(torch.nn.Module):
    """`torch.nn.Linear` for inference in float32 on a CPU.

    Args:
        linear: The layer it stands for.
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., in]` to `[..., out]`."""
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y


def pack_linears(model: torch.nn.Module) -> int:
    """Replace the linear layers of a model that will only write, freeing their weights; returns how many.

    Nothing is done where it does not apply: on another device, in another number format, or in a torch without oneDNN.
    """
    weight = next(model.parameters())
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if weight.device.type != "cpu" or weight.dtype is not torch.float32 or not has_onednn:
        return 0
    places = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    linears = [(parent, name, child) for parent, name, child in places if type(child) is torch.nn.Linear]
    for parent, name, child in linears:
        setattr(parent, name, PackedLinear(child))
    return len(linears)
