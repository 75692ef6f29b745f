"""The grain of a mask: what one unit of it switches inside a parameter.

A granularity turns a parameter into a *view* (a reshape of it) and the shape of the gates that are broadcast over
that view. Gates are never expanded to one per weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from maskscope.core.select import Site, is_bias, is_normalisation


class View(NamedTuple):
    """A parameter reshaped, and the gates that are broadcast over it."""

    shape: tuple[int, ...]
    gates: tuple[int, ...]


class Index(NamedTuple):
    """The unit of each weight of a parameter, as numbers from 0; and how many units there are."""

    numbers: Tensor
    units: int


@runtime_checkable
class Granularity(Protocol):
    """Anything that can cut a parameter into units."""

    @property
    def kind(self) -> str:
        """What a unit is called: weight, output, head, ..."""
        ...

    def view(self, site: Site) -> View:
        """The view of a parameter and the shape of its gates."""
        ...


@dataclass(frozen=True)
class PerWeight:
    """One unit per weight: the paper's grain.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.select import sites
        >>> PerWeight().view(sites(nn.Linear(2, 3))[0])
        View(shape=(6,), gates=(6,))
    """

    kind: Literal["weight"] = "weight"

    def view(self, site: Site) -> View:
        """Flat: every weight has its own gate."""
        count = site.parameter.numel()
        return View((count,), (count,))


@dataclass(frozen=True)
class PerOutput:
    """One unit per output: a row of a linear layer, a filter of a convolution, a gate row of an LSTM.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.select import sites
        >>> PerOutput().view(sites(nn.Linear(2, 3))[0])
        View(shape=(3, 2), gates=(3, 1))
    """

    kind: Literal["output"] = "output"

    def view(self, site: Site) -> View:
        """Gates along the output axis; one-dimensional parameters have one per element."""
        shape = tuple(site.parameter.shape)
        if len(shape) < 2:
            return View((math.prod(shape),), (math.prod(shape),))
        output, _ = axes(site)
        return _along(output, site)


@dataclass(frozen=True)
class PerInput:
    """One unit per input: a column of a linear layer, an input channel of a convolution.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.select import sites
        >>> PerInput().view(sites(nn.Linear(2, 3))[0])
        View(shape=(3, 2), gates=(1, 2))
    """

    kind: Literal["input"] = "input"

    def view(self, site: Site) -> View:
        """Gates along the input axis; a vector that scales elementwise has one per element.

        Raises:
            ValueError: For a bias, which has no input.
        """
        shape = tuple(site.parameter.shape)
        if len(shape) < 2:
            if is_bias(site) and not any(is_normalisation(owner) for owner in site.owners):
                raise ValueError(f"{site.name!r} is a bias and has no input units; leave it out with '!{site.name}'")
            return View((math.prod(shape),), (math.prod(shape),))
        _, incoming = axes(site)
        return _along(incoming, site)


@dataclass(frozen=True)
class PerBlock:
    """One unit per block of a matrix: so many outputs by so many inputs; vectors are cut into as many elements as outputs.

    A kernel's positions belong to its input. The number of outputs and inputs must be divisible.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.select import sites
        >>> PerBlock(2, 3).view(sites(nn.Linear(6, 4))[0])
        View(shape=(2, 2, 2, 3), gates=(2, 1, 2, 1))
    """

    outputs: int
    """Outputs in a block."""
    inputs: int
    """Inputs in a block."""
    kind: Literal["block"] = "block"

    def __post_init__(self) -> None:
        """Check the sizes."""
        if self.outputs < 1 or self.inputs < 1:
            raise ValueError(f"a block has at least one output and one input, got {self.outputs} x {self.inputs}")

    def view(self, site: Site) -> View:
        """Both axes cut into blocks.

        Raises:
            ValueError: They are not divisible.
        """
        shape = tuple(site.parameter.shape)
        sizes = [1] * len(shape)
        if len(shape) < 2:
            sizes[:1] = [self.outputs] * len(shape)
        else:
            output, incoming = axes(site)
            sizes[output], sizes[incoming] = self.outputs, self.inputs
            sizes[2:] = shape[2:]
        if any(size % block for size, block in zip(shape, sizes, strict=True)):
            raise ValueError(
                f"blocks of {self.outputs} x {self.inputs} do not divide {site.name!r} of shape {shape}; leave it out with '!{site.name}'"
            )
        cut = [(size // block, block) for size, block in zip(shape, sizes, strict=True)]
        return View(
            tuple(part for pair in cut for part in pair), tuple(part for count, _ in cut for part in (count, 1))
        )


@dataclass(frozen=True)
class PerTensor:
    """One unit for a whole parameter.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.select import sites
        >>> PerTensor().view(sites(nn.Linear(2, 3))[0])
        View(shape=(6,), gates=(1,))
    """

    kind: Literal["tensor"] = "tensor"

    def view(self, site: Site) -> View:
        """Flat, under one gate."""
        return View((site.parameter.numel(),), (1,))


def axes(site: Site) -> tuple[int, int]:
    """The output and the input axis of a parameter's shape, which depend on the layer it belongs to.

    Raises:
        ValueError: Three axes and no convolution, such as the matrices of several experts in one tensor: some lay them out one way,
            some the other.
    """
    owner = site.owners[0]
    if site.parameter.ndim == 3 and not (hasattr(owner, "kernel_size") or isinstance(owner, nn.Bilinear)):
        raise ValueError(
            f"which axis of {site.name!r}, of shape {tuple(site.parameter.shape)}, are outputs is not known ({type(owner).__name__} is no "
            f"convolution); leave it out with '!{site.name}', or number its units with ms.PerIndex"
        )
    transposed = nn.Embedding | nn.EmbeddingBag | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
    # Hugging Face's Conv1D (GPT-2) is a linear layer that stores (inputs, outputs).
    if isinstance(owner, transposed) or type(owner).__name__ == "Conv1D":
        return 1, 0
    return 0, 1


def _along(axis: int, site: Site) -> View:
    """Gates along one axis; in a grouped convolution axis 1 counts inside a group, so groups get an axis."""
    shape = tuple(site.parameter.shape)
    groups = getattr(site.owners[0], "groups", 1)
    if axis == 1 and groups > 1:
        view = (groups, shape[0] // groups, *shape[1:])
        return View(view, (groups, 1, shape[1], *(1 for _ in shape[2:])))
    return View(shape, tuple(size if i == axis else 1 for i, size in enumerate(shape)))
