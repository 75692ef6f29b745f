"""The convolutional network (CNN) of the CIFAR-10 experiments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

_CHANNELS = (32, 64, 128, 256)
_CONVOLUTIONS = (0, 3, 6, 10)
"""Their places among the features."""


class CNN(nn.Module):
    """Four convolutions, the mean over positions, a linear read-out; torch's default initialisation.

    Source: Csordas et al. 2021, CIFAR-10; published code, whose names of parameters these are.

    Examples:
        >>> sum(p.numel() for p in CNN(3, 10).parameters())
        390986
    """

    def __init__(self, inputs: int, outputs: int, *, dropout: bool = True) -> None:
        """Build it.

        Args:
            inputs: Channels of an image.
            outputs: Classes.
            dropout: Whether a quarter of the third convolution's outputs and half of the fourth's are dropped in training.
        """
        super().__init__()
        first, second, third, fourth = _CHANNELS
        self.features = nn.Sequential(
            nn.Conv2d(inputs, first, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(second, third, 3, padding=1),
            nn.Dropout(0.25 if dropout else 0.0),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(third, fourth, 3, padding=1),
            nn.ReLU(),
            nn.Dropout(0.5 if dropout else 0.0),
        )
        self.out_layer = nn.Linear(fourth, outputs)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outputs"]:
        """A number for each class, before the softmax."""
        return self.out_layer(self.features(x).mean((2, 3)))


@dataclass(frozen=True)
class CNNSettings:
    """The CNN, with dropout or without."""

    kind: Literal["cnn"] = "cnn"
    dropout: bool = True
    """Source: published sweeps ``cifar10`` with, ``cifar10_no_dropout`` and mask stability without."""

    @property
    def ends(self) -> tuple[str, ...]:
        """The parameters of the first convolution and of the read-out, biases too: they are masked here."""
        return ("features.0.weight", "features.0.bias", "out_layer.weight", "out_layer.bias")

    @property
    def read_out(self) -> str:
        """The matrix whose rows are the network's outputs."""
        return "out_layer.weight"

    @property
    def first_half(self) -> tuple[str, ...]:
        """The parameters of the half-mask test. Source: the paper takes the first 3 of 4 convolutions."""
        return tuple(f"features.{place}.{leaf}" for place in _CONVOLUTIONS[:3] for leaf in ("weight", "bias"))

    def build(self, inputs: int, outputs: int) -> CNN:
        """A freshly initialised network; draws from torch's global generator."""
        return CNN(inputs, outputs, dropout=self.dropout)
