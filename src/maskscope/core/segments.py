"""The parts of a layout: a parameter with its units, and a run of units with all the parameters that it switches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """One parameter's part of a layout.

    The parameter is reshaped to ``view``; a gate tensor of shape ``gates`` is broadcast over it. Its units are
    ``offset .. offset + units`` of the flat vector. Segments that share an offset are tied: a unit switches its
    slice of each of them (an attention head: its part of q, k, v and o).

    Raises:
        ValueError: The view does not hold the parameter's weights, or the gates do not broadcast over it.

    Examples:
        >>> head = Segment("o.weight", shape=(8, 8), view=(8, 2, 4), gates=(1, 2, 1), offset=0, kind="head")
        >>> head.units, head.weights_per_unit
        (2, 32)
    """

    parameter: str
    shape: tuple[int, ...]
    view: tuple[int, ...]
    gates: tuple[int, ...]
    offset: int
    kind: str

    def __post_init__(self) -> None:
        """Check the arithmetic of the view."""
        if math.prod(self.view) != math.prod(self.shape):
            raise ValueError(f"{self.parameter!r} of shape {self.shape} cannot be viewed as {self.view}")
        if len(self.gates) != len(self.view) or any(
            gate not in (1, size) for gate, size in zip(self.gates, self.view, strict=True)
        ):
            raise ValueError(f"gates {self.gates} do not broadcast over the view {self.view} of {self.parameter!r}")
        if self.offset < 0:
            raise ValueError(f"offset of {self.parameter!r} must not be negative, got {self.offset}")

    @property
    def units(self) -> int:
        """How many units lie over this parameter."""
        return math.prod(self.gates)

    @property
    def weights(self) -> int:
        """How many weights the parameter has."""
        return math.prod(self.shape)

    @property
    def weights_per_unit(self) -> int:
        """How many of this parameter's weights one unit switches."""
        return self.weights // self.units if self.units else 0

    @property
    def plain(self) -> bool:
        """Whether there is a unit for every weight, in their order."""
        return self.units == self.weights

    def sizes(self) -> Int64[Tensor, " units"]:
        """How many of this parameter's weights each unit switches."""
        return torch.tensor(self.weights_per_unit).expand(self.units)

    def kept_weights(self, kept: Bool[Tensor, " units"]) -> int:
        """How many of its weights the kept units switch."""
        return int(kept.sum()) * self.weights_per_unit

    def own(self, flat: Shaped[Tensor, " all_units"]) -> Shaped[Tensor, " units"]:
        """This parameter's part of a flat vector; a view."""
        return flat[self.offset : self.offset + self.units]

    def gated(self, parameter: Shaped[Tensor, "..."], gates: Shaped[Tensor, " units"]) -> Shaped[Tensor, "..."]:
        """The parameter times its gates, in the parameter's shape and dtype; differentiable in both."""
        gates = self.spread(gates.to(parameter.device, parameter.dtype))
        return (parameter.reshape(self.view) * gates).view(self.shape)

    def spread(self, units: Shaped[Tensor, " units"]) -> Shaped[Tensor, "..."]:
        """The units' values in a shape that broadcasts over the view."""
        return units.view(self.gates)

    def expanded(self, units: Shaped[Tensor, " units"]) -> Shaped[Tensor, "..."]:
        """The units' values, one per weight, in the parameter's shape."""
        return self.spread(units).expand(self.view).reshape(self.shape)

    def collected(self, per_weight: Shaped[Tensor, "..."]) -> Shaped[Tensor, " units"]:
        """Sum a tensor of the parameter's shape over the weights of each unit."""
        return per_weight.reshape(self.view).sum_to_size(self.gates).reshape(-1)


@dataclass(frozen=True)
class IndexedSegment(Segment):
    """A parameter's part of a layout whose units lie anywhere in it: a number for each weight says which unit it belongs to.

    Raises:
        ValueError: Not a number from 0 to below ``units`` for each weight.

    Examples:
        >>> index = np.array([0, 0, 1, 0], dtype=np.int32).tobytes()
        >>> corner = IndexedSegment("weight", shape=(2, 2), view=(4,), gates=(2,), offset=0, kind="part", index=index)
        >>> corner.sizes().tolist(), corner.expanded(torch.tensor([5, 7])).tolist()
        ([3, 1], [[5, 5], [7, 5]])
    """

    index: bytes = field(repr=False)
    """32-bit integers, one for each weight."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if len(self.index) != 4 * self.weights or self.view != (self.weights,) or len(self.gates) != 1:
            raise ValueError(
                f"{self.parameter!r} of shape {self.shape} needs a number for each of its {self.weights} weights"
            )
        numbers = self.numbers
        if self.weights and not (int(numbers.min()) >= 0 and int(numbers.max()) < self.units):
            raise ValueError(f"numbers of units of {self.parameter!r} lie outside of 0 to {self.units - 1}")
        if self.offset < 0:
            raise ValueError(f"offset of {self.parameter!r} must not be negative, got {self.offset}")

    @property
    def plain(self) -> bool:
        """No: units are in an order of their own."""
        return False

    @property
    def numbers(self) -> Int32[Tensor, " weights"]:
        """The unit of each weight."""
        return torch.from_numpy(np.frombuffer(self.index, dtype=np.int32).copy())

    def sizes(self) -> Int64[Tensor, " units"]:
        """How many of this parameter's weights each unit switches."""
        return torch.bincount(self.numbers, minlength=self.units)

    def kept_weights(self, kept: Bool[Tensor, " units"]) -> int:
        """How many of its weights the kept units switch."""
        return int(self.sizes()[kept].sum())

    def spread(self, units: Shaped[Tensor, " units"]) -> Shaped[Tensor, "..."]:
        """The units' values, one for each weight."""
        return units[self._on(units.device)]

    def collected(self, per_weight: Shaped[Tensor, "..."]) -> Shaped[Tensor, " units"]:
        """Sum a tensor of the parameter's shape over the weights of each unit."""
        flat = per_weight.reshape(-1)
        return flat.new_zeros(self.units).index_add_(0, self._on(flat.device), flat)

    def _on(self, device: torch.device) -> Int32[Tensor, " weights"]:
        """The numbers, brought to a device once."""
        known: dict[torch.device, Tensor] = self.__dict__.setdefault("_brought", {})
        if device not in known:
            known[device] = self.numbers.to(device)
        return known[device]


class Span(NamedTuple):
    """A run of units with one noise stream, and the segments tied to it."""

    name: str
    """The first parameter that uses these units; names the noise."""
    offset: int
    units: int
    segments: tuple[Segment, ...]

    def own(self, flat: Shaped[Tensor, " all_units"]) -> Shaped[Tensor, " units"]:
        """These units' part of a flat vector; a view."""
        return flat[self.offset : self.offset + self.units]
