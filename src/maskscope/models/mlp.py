"""The feed-forward network (FNN) of the arithmetic experiments."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

Start = Literal["torch", "xavier"]
"""How weights begin: torch's own uniform numbers, or Xavier-normal with the gain of ReLU (1 in the last layer) and biases of zero."""


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Source: Csordas et al. 2021, arithmetic experiments (start "torch") and permuted MNIST (start "xavier"); published code.

    Examples:
        >>> sum(p.numel() for p in MLP(80, (2000,) * 4, 40).parameters())
        12248040
    """

    def __init__(self, inputs: int, hidden: tuple[int, ...], outputs: int, start: Start = "torch") -> None:
        """Build ``len(hidden) + 1`` linear layers."""
        super().__init__()
        sizes = (inputs, *hidden, outputs)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        if start == "xavier":
            for layer in self.layers:
                self._begin(cast("nn.Linear", layer), "linear" if layer is self.layers[-1] else "relu")

    @torch.no_grad()
    def _begin(self, layer: nn.Linear, followed_by: Literal["linear", "relu"]) -> None:
        nn.init.xavier_normal_(layer.weight, nn.init.calculate_gain(followed_by))
        layer.bias.zero_()

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """The last layer's activations."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


@dataclass(frozen=True)
class MLPSettings:
    """A feed-forward network by its hidden sizes."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[int, ...] = (2000, 2000, 2000, 2000)
    """Units per hidden layer. Source: the paper's double addition."""
    start: Start = "torch"
    """How weights begin."""

    @property
    def ends(self) -> tuple[str, ...]:
        """The masked parameters of the first and the last layer."""
        return ("layers.0.weight", f"layers.{len(self.hidden)}.weight")

    @property
    def read_out(self) -> str:
        """The matrix whose rows are the network's outputs."""
        return f"layers.{len(self.hidden)}.weight"

    @property
    def first_half(self) -> tuple[str, ...]:
        """The parameters of the half-mask test. Source: the paper takes the first 2 of 5 for double addition."""
        return tuple(f"layers.{i}.weight" for i in range((len(self.hidden) + 1) // 2))

    def build(self, inputs: int, outputs: int) -> MLP:
        """A freshly initialised network; draws from torch's global generator."""
        return MLP(inputs, self.hidden, outputs, self.start)
