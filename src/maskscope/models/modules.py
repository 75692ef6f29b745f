"""Small networks of four architectures that can be put side by side, with what is known of every axis of their parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from maskscope.models.lstm import LSTM
from maskscope.models.mlp import MLP

Kind = Literal["mlp", "lstm", "cnn", "transformer"]

DIGITS = 4
"""A problem is the difference of two numbers below this, modulo this."""

Sizes = Mapping[str, int]
"""How many modules side by side each space has."""


@dataclass(frozen=True)
class Space:
    """Units that layers write and others read, such as those of a hidden layer, or a residual stream."""

    size: int
    """Units of one module."""
    hidden: bool = True
    scalable: bool = False
    """Whether a unit can be scaled by a positive number and those that read it by its inverse, which changes nothing."""
    together: int = 1
    """Units that only move together, such as those of an attention head."""


@dataclass(frozen=True)
class Axis:
    """An axis of a parameter: a space's units."""

    space: str
    writes: bool = True
    """Whether the parameter writes them, or reads them."""
    chunks: int = 1
    """How often they follow each other: once for each of an LSTM's gates."""


@dataclass(frozen=True)
class Architecture:
    """A kind of network, from one module to many side by side."""

    build: Callable[[Sizes], nn.Module]
    spaces: Mapping[str, Space]
    axes: Mapping[str, tuple[Axis | None, ...]]
    """By parameter, the axes in order; None for one that is no space, such as a kernel's."""
    ends: tuple[str, ...]
    """The weights that read inputs and the weights that write outputs."""
    learning_rate: float
    """Of Adam, for one module."""


def reads(space: str) -> Axis:
    """An axis along which a parameter reads."""
    return Axis(space, writes=False)


def writes(space: str, chunks: int = 1) -> Axis:
    """An axis along which a parameter writes."""
    return Axis(space, chunks=chunks)


def _in_steps(x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch steps=2 features"]:
    """The first digit of every problem, then the second."""
    return x.unflatten(1, (-1, 2, DIGITS)).movedim(2, 1).flatten(2)


class Stepped(LSTM):
    """An LSTM that reads the first digits, then the second, and answers after them."""

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """The read-out at the last step."""
        return super().forward(_in_steps(x))[:, -1]


class Circular(nn.Module):
    """Convolutions around a circle of places, two channels for each problem, the mean over places, and a read-out."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], outputs: int) -> None:
        """Build ``len(hidden)`` convolutions."""
        super().__init__()
        sizes = (inputs, *hidden)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, 3, padding=1, padding_mode="circular") for a, b in pairwise(sizes)
        )
        self.output = nn.Linear(hidden[-1], outputs)

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """A digit is a mark on a circle; a difference does not change if both move."""
        x = x.unflatten(1, (-1, DIGITS))
        for convolution in self.convolutions:
            x = convolution(x).relu()
        return self.output(x.mean(2))


class Stream(nn.Module):
    """A Transformer over two tokens: attention and a feed-forward part that write to a stream, without normalisation."""

    def __init__(self, inputs: int, width: int, heads: int, feedforward: int, outputs: int) -> None:
        """Build one layer."""
        super().__init__()
        self.embedding = nn.Linear(inputs, width)
        self.position = nn.Embedding(2, width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.inner = nn.Linear(width, feedforward)
        self.outer = nn.Linear(feedforward, width)
        self.output = nn.Linear(width, outputs)

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """The read-out at the second token."""
        stream = self.embedding(_in_steps(x)) + self.position.weight
        stream = stream + self.attention(stream[:, 1:], stream, stream, need_weights=False)[0]
        stream = stream + self.outer(self.inner(stream).relu())
        return self.output(stream[:, 0])


_MLP_LAYERS, _MLP_WIDTH = 5, 24
_CELLS = 10
_CHANNELS = 12
_WIDTH, _HEADS, _FEEDFORWARD = 16, 2, 32


def _mlp() -> Architecture:
    names = tuple(f"hidden {i}" for i in range(_MLP_LAYERS))
    spaces = {
        "inputs": Space(2 * DIGITS, hidden=False),
        **dict.fromkeys(names, Space(_MLP_WIDTH, scalable=True)),
        "outputs": Space(DIGITS, hidden=False),
    }
    axes: dict[str, tuple[Axis | None, ...]] = {}
    for i, (before, after) in enumerate(zip(("inputs", *names), (*names, "outputs"), strict=True)):
        axes |= {f"layers.{i}.weight": (writes(after), reads(before)), f"layers.{i}.bias": (writes(after),)}

    def build(sizes: Sizes) -> nn.Module:
        hidden = tuple(sizes[name] * _MLP_WIDTH for name in names)
        return MLP(sizes["inputs"] * 2 * DIGITS, hidden, sizes["outputs"] * DIGITS, "xavier")

    return Architecture(build, spaces, axes, ("layers.0.weight", f"layers.{_MLP_LAYERS}.weight"), 5e-3)


def _lstm() -> Architecture:
    spaces = {
        "inputs": Space(DIGITS, hidden=False),
        "cells 0": Space(_CELLS),
        "cells 1": Space(_CELLS),
        "outputs": Space(DIGITS, hidden=False),
    }
    axes: dict[str, tuple[Axis | None, ...]] = {}
    for i, before in enumerate(("inputs", "cells 0")):
        rows = writes(f"cells {i}", chunks=4)
        axes |= {
            f"lstm.weight_ih_l{i}": (rows, reads(before)),
            f"lstm.weight_hh_l{i}": (rows, reads(f"cells {i}")),
            f"lstm.bias_ih_l{i}": (rows,),
            f"lstm.bias_hh_l{i}": (rows,),
        }
    axes |= {"output.weight": (writes("outputs"), reads("cells 1")), "output.bias": (writes("outputs"),)}

    def build(sizes: Sizes) -> nn.Module:
        return Stepped(sizes["inputs"] * DIGITS, sizes["cells 0"] * _CELLS, 2, sizes["outputs"] * DIGITS)

    return Architecture(build, spaces, axes, ("lstm.weight_ih_l0", "output.weight"), 2e-2)


def _cnn() -> Architecture:
    names = tuple(f"channels {i}" for i in range(3))
    spaces = {
        "inputs": Space(2, hidden=False),
        **dict.fromkeys(names, Space(_CHANNELS, scalable=True)),
        "outputs": Space(DIGITS, hidden=False),
    }
    axes: dict[str, tuple[Axis | None, ...]] = {}
    for i, (before, after) in enumerate(zip(("inputs", *names), names, strict=False)):
        axes |= {
            f"convolutions.{i}.weight": (writes(after), reads(before), None),
            f"convolutions.{i}.bias": (writes(after),),
        }
    axes |= {"output.weight": (writes("outputs"), reads(names[-1])), "output.bias": (writes("outputs"),)}

    def build(sizes: Sizes) -> nn.Module:
        hidden = tuple(sizes[name] * _CHANNELS for name in names)
        return Circular(sizes["inputs"] * 2, hidden, sizes["outputs"] * DIGITS)

    return Architecture(build, spaces, axes, ("convolutions.0.weight", "output.weight"), 1e-2)


def _transformer() -> Architecture:
    spaces = {
        "inputs": Space(DIGITS, hidden=False),
        "stream": Space(_WIDTH, scalable=True),
        "heads": Space(_WIDTH, together=_WIDTH // _HEADS),
        "feedforward": Space(_FEEDFORWARD, scalable=True),
        "outputs": Space(DIGITS, hidden=False),
    }
    axes: dict[str, tuple[Axis | None, ...]] = {
        "embedding.weight": (writes("stream"), reads("inputs")),
        "embedding.bias": (writes("stream"),),
        "position.weight": (None, writes("stream")),
        "attention.in_proj_weight": (writes("heads", chunks=3), reads("stream")),
        "attention.in_proj_bias": (writes("heads", chunks=3),),
        "attention.out_proj.weight": (writes("stream"), reads("heads")),
        "attention.out_proj.bias": (writes("stream"),),
        "inner.weight": (writes("feedforward"), reads("stream")),
        "inner.bias": (writes("feedforward"),),
        "outer.weight": (writes("stream"), reads("feedforward")),
        "outer.bias": (writes("stream"),),
        "output.weight": (writes("outputs"), reads("stream")),
        "output.bias": (writes("outputs"),),
    }

    def build(sizes: Sizes) -> nn.Module:
        return Stream(
            sizes["inputs"] * DIGITS,
            sizes["stream"] * _WIDTH,
            sizes["heads"] * _HEADS,
            sizes["feedforward"] * _FEEDFORWARD,
            sizes["outputs"] * DIGITS,
        )

    return Architecture(build, spaces, axes, ("embedding.weight", "output.weight"), 1e-2)


ARCHITECTURES: dict[Kind, Architecture] = {
    "mlp": _mlp(),
    "lstm": _lstm(),
    "cnn": _cnn(),
    "transformer": _transformer(),
}
"""The kinds of planted networks."""
