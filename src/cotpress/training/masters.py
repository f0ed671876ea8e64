"""Float32 master weights, which the optimizer updates while the model computes in its own number format.

At a fine-tuning learning rate most updates are smaller than half the distance of two neighbouring bfloat16 numbers, so
bfloat16 weights would not change at all (arXiv 1710.03740, section 3.1). Where all weights of such a model are trained,
its parameters, their gradients and AdamW's moments are float32, and the forward pass computes with copies: each layer
copies its own weights when it is called, and the weights outside of layers (embeddings, last norm, head) are copied
around the whole call. FSDP2's `param_dtype` does the same. Unlike with autocast, every operation gets the numbers of
the model as it is loaded and saved. Autograd keeps a copy while it needs it: with activation checkpointing until its
layer is done.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from cotpress.training.config import Method, TuneConfig


def needs_masters(tune: TuneConfig, computed: torch.dtype) -> bool:
    """True if float32 masters are needed; PEFT keeps adapters in float32 anyway.

    Args:
        tune: How the model is trained.
        computed: Number format that the model computes in.
    """
    return tune.method is Method.full and computed is not torch.float32


def make_masters(model: torch.nn.Module) -> None:
    """Convert every weight to float32, one after the other, in place."""
    for parameter in model.parameters():
        parameter.data = parameter.data.float()


def layers_of(model: Any) -> list[torch.nn.Module]:
    """The decoder layers of a transformers model; empty if the model does not name them."""
    names = set(model._no_split_modules or ())
    return [m for m in model.modules() if type(m).__name__ in names]


def compute_in(called: torch.nn.Module, layers: list[torch.nn.Module], dtype: torch.dtype) -> None:
    """Make `called` and each of the layers in it compute with copies of their weights in `dtype`, in place."""
    inside = {id(p) for layer in layers for p in layer.parameters()}
    outside = [place for place in _places(called) if id(place.master) not in inside]
    for module, places in [*((layer, _places(layer)) for layer in layers), (called, outside)]:
        _copying(module, places, dtype)


@contextmanager
def in_format(model: torch.nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Convert the weights to `dtype`, the format they are saved in, until the context ends; None leaves them.

    To be used between optimizer steps, when there are no gradients.
    """
    if dtype is None:
        yield
        return
    masters = [(p, p.data) for p in model.parameters()]
    try:
        for parameter, master in masters:
            parameter.data = master.to(dtype)
        yield
    finally:
        for parameter, master in masters:
            parameter.data = master


class _Place(NamedTuple):
    """A slot of a module that holds a weight; tied weights have several."""

    owner: Any
    name: str
    master: torch.nn.Parameter


def _places(module: torch.nn.Module) -> list[_Place]:
    owned = [(m, name, p) for m in module.modules() for name, p in m._parameters.items()]
    return [_Place(owner, name, p) for owner, name, p in owned if p is not None]


def _copying(module: torch.nn.Module, places: list[_Place], dtype: torch.dtype) -> None:
    """Make the module's forward pass compute with copies, by changing its class as FSDP2 does.

    transformers recomputes `forward` for activation checkpointing, without hooks, so a hook could not make the copies.
    """
    kind: Any = type(module)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _copied(places, dtype):
            return kind.forward(self, *args, **kwargs)

    module.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


@contextmanager
def _copied(places: list[_Place], dtype: torch.dtype) -> Iterator[None]:
    """Replace the masters by copies, whose gradients flow to the masters; a tied weight is copied once."""
    copies = {id(master): master.to(dtype) for _, _, master in places}
    try:
        for owner, name, master in places:
            owner._parameters[name] = copies[id(master)]
        yield
    finally:
        for owner, name, master in places:
            owner._parameters[name] = master
