"""Rows and columns cut out of a module: along which axis units lie, and a layer with fewer outputs or inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor, nn

from maskscope.core.granularity import axes
from maskscope.core.segments import Segment
from maskscope.core.select import Site, sites

Side = Literal["outputs", "inputs"]


class Placed(NamedTuple):
    """On which side of its module a parameter's units lie."""

    side: Side
    units: Int64[Tensor, " positions"]
    """The unit of each position along that side."""


def placed(site: Site, segment: Segment) -> Placed:
    """Where a parameter's units lie.

    Args:
        site: The parameter and its module.
        segment: Its part of a layout.

    Raises:
        ValueError: They lie along neither its outputs nor its inputs, or the module cannot be cut; the message says why.

    Examples:
        >>> layer = nn.Linear(2, 6)
        >>> heads = Segment("weight", shape=(6, 2), view=(3, 2, 2), gates=(3, 1, 1), offset=0, kind="head")
        >>> placed(sites(layer)[0], heads)
        Placed(side='outputs', units=tensor([0, 0, 1, 1, 2, 2]))
    """
    why = _why_not(site)
    if why:
        raise ValueError(f"{site.name!r} cannot be cut: {why}; bake(model, mask) sets to zero what is removed")
    output, incoming = axes(site) if len(segment.shape) > 1 else (0, None)
    axis, units = _along(segment)
    if axis is None or axis not in (output, incoming):
        raise ValueError(
            f"units ({segment.kind}) of {site.name!r} are not whole outputs or whole inputs, so they cannot be cut; "
            "bake(model, mask) sets to zero what is removed"
        )
    return Placed("outputs" if axis == output else "inputs", units)


def cut(module: nn.Module, side: Side, stay: Bool[Tensor, " positions"]) -> None:
    """Leave some outputs or inputs in a module and cut out the others, in place.

    With the outputs go the bias and running statistics. Parameters become new objects.

    Args:
        module: A layer that ``placed`` accepts.
        side: What is cut.
        stay: Which of them stay.

    Examples:
        >>> layer = nn.Linear(2, 3)
        >>> cut(layer, "outputs", torch.tensor([True, False, True]))
        >>> layer, tuple(layer.weight.shape), tuple(layer.bias.shape)
        (Linear(in_features=2, out_features=2, bias=True), (2, 2), (2,))
    """
    for site in sites(module):
        output, incoming = axes(site) if site.parameter.ndim > 1 else (0, None)
        axis = output if side == "outputs" else incoming
        if axis is not None:
            left = _left(site.parameter.detach(), axis, stay)
            setattr(module, site.leaf, nn.Parameter(left, requires_grad=site.parameter.requires_grad))
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.ndim:  # not the number of batches seen
            setattr(module, name, _left(buffer, 0, stay))
    setattr(module, _counts(module)[side], int(stay.sum()))


def _left(tensor: Shaped[Tensor, "..."], axis: int, stay: Bool[Tensor, " positions"]) -> Shaped[Tensor, "..."]:
    return tensor.index_select(axis, stay.nonzero().flatten().to(tensor.device))


def _why_not(site: Site) -> str | None:
    owner, kind = site.owners[0], type(site.owners[0]).__name__
    if any(other is not owner for other in site.owners):
        return f"it is also {site.names[1]!r}"
    if isinstance(owner, nn.MultiheadAttention):
        return f"torch's {kind} computes with as many features as it is given"
    if not _counts(owner):
        return f"it belongs to a {kind}, not to a Linear, Conv1D, batch norm or convolution without groups"
    return None


def _counts(module: nn.Module) -> Mapping[Side, str]:
    """What a module calls its numbers of outputs and inputs; nothing for one that cannot be cut."""
    if isinstance(module, nn.Linear):
        return {"outputs": "out_features", "inputs": "in_features"}
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1:
        return {"outputs": "out_channels", "inputs": "in_channels"}
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        return {"outputs": "num_features"}
    return {"outputs": "nf", "inputs": "nx"} if type(module).__name__ == "Conv1D" else {}  # GPT-2's


def _along(segment: Segment) -> tuple[int | None, Int64[Tensor, " positions"]]:
    """The axis along which a parameter's units lie, and the unit of each position there; no axis if they lie across several."""
    start = 0
    for axis, size in enumerate(segment.shape):
        stop = start
        while math.prod(segment.view[start:stop]) < size:
            stop += 1
        view, gates = segment.view[start:stop], segment.gates[start:stop]
        if math.prod(view) != size:
            break
        # One unit alone does not show where it lies, unless the view splits its axis, as that of heads does.
        if math.prod(gates) == segment.units and (segment.units > 1 or len(view) > 1):
            return axis, torch.arange(segment.units).view(gates).expand(view).reshape(-1)
        start = stop
    return None, torch.empty(0, dtype=torch.int64)
