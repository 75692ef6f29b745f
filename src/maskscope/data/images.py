"""What the image data sets have in common: the split of the training file, scaling, crops and flips."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

File = Literal["train", "test"]
"""Data sets come in two files; a split is a part of one."""

_SEED = 0xC1CAFA52
_VALID = 0.2

_PAD = 4
"""Pixels on each side. Source: published code, ResNet."""


class Images(NamedTuple):
    """The images of a file with their classes."""

    images: UInt8[Tensor, "examples ..."]
    labels: UInt8[Tensor, " examples"]


class Scaling(NamedTuple):
    """Makes numbers from pixels of 0 to 255: less the mean, over the deviation, per channel."""

    mean: Float[Tensor, " channels"]
    deviation: Float[Tensor, " channels"]

    def __call__(self, images: UInt8[Tensor, "examples channels ..."]) -> Float[Tensor, "examples channels ..."]:
        """The same images as numbers.

        Examples:
            >>> Scaling(torch.tensor([100.0]), torch.tensor([50.0]))(torch.tensor([[150]], dtype=torch.uint8))
            tensor([[1.]])
        """
        shape = (-1, *[1] * (images.ndim - 2))
        return (images.float() - self.mean.view(shape)) / self.deviation.view(shape)


def rows_of(split: Literal["train", "valid"], examples: int) -> Int64[Tensor, " rows"]:
    """The part of a training file that is trained on, or the fifth that is held out.

    Source: published code: the same seed for all image data sets.

    Examples:
        >>> len(rows_of("train", 60_000)), len(rows_of("valid", 60_000))
        (48017, 11983)

    Raises:
        ValueError: So few examples that one of the two would be empty.
    """
    kept = np.random.RandomState(_SEED).rand(examples) > _VALID
    if kept.all() or not kept.any():
        raise ValueError(f"of {examples} training images a fifth cannot be held out; get the whole file, or more of it")
    return torch.from_numpy(np.flatnonzero(kept if split == "train" else ~kept))


def measured(images: UInt8[Tensor, "examples channels ..."]) -> Scaling:
    """Mean and deviation of every channel over all its pixels.

    Source: published code: over the whole training file, the held-out part too.

    Examples:
        >>> measured(torch.tensor([[1], [3]], dtype=torch.uint8)).mean
        tensor([2.])
    """
    channels = images.shape[1]
    sums, squares = torch.zeros(2, channels, dtype=torch.int64)
    for chunk in images.split(1000):  # 64-bit copies of all pixels would take eight times their memory
        pixels = chunk.transpose(0, 1).reshape(channels, -1).long()
        sums += pixels.sum(1)
        squares += pixels.square().sum(1)
    count = images.numel() // channels
    mean = sums.double() / count
    variance = (squares.double() / count - mean.square()) * count / (count - 1)
    return Scaling(mean.float(), variance.sqrt().float())


def shifted_and_mirrored(
    images: UInt8[Tensor, "batch channels height width"], random: np.random.Generator
) -> UInt8[Tensor, "batch channels height width"]:
    """Every image cropped at random from itself with a black border of 4 pixels, and mirrored or not.

    Source: published code, ResNet: of the pixels, before they are scaled.

    Examples:
        >>> shifted_and_mirrored(torch.ones(2, 3, 8, 8, dtype=torch.uint8), np.random.default_rng(0)).shape
        torch.Size([2, 3, 8, 8])
    """
    batch, channels, height, width = images.shape
    tops, lefts = torch.from_numpy(random.integers(2 * _PAD + 1, size=(2, batch, 1)))
    mirrored = torch.from_numpy(random.integers(2, size=(batch, 1))).bool()
    rows = tops + torch.arange(height)
    columns = lefts + torch.arange(width)
    columns = torch.where(mirrored, columns.flip(1), columns)
    padded = functional.pad(images, (_PAD,) * 4)
    return padded[
        torch.arange(batch).view(-1, 1, 1, 1),
        torch.arange(channels).view(1, -1, 1, 1),
        rows.view(batch, 1, height, 1),
        columns.view(batch, 1, 1, width),
    ]
