"""What the problems with two-digit numbers have in common: splits, their seeds, how batches are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

Split = Literal["train", "test", "valid"]

_SEED = 0x12345678
_SPLITS: tuple[Split, ...] = ("train", "test", "valid")

P = TypeVar("P")
Pick = Callable[[Int64[Tensor, " batch"] | slice], P]
"""Some examples of a split as a batch."""


def random_of(split: Split) -> np.random.RandomState:
    """The numbers of a split. Source: published code; every split has its own seed.

    Examples:
        >>> random_of("valid").randint(0, 100) == random_of("valid").randint(0, 100)
        True
    """
    return np.random.RandomState(_SEED + _SPLITS.index(split))


def drawn(pick: Pick[P], examples: int, size: int, seed: int) -> Callable[[int], P]:
    """Batches as a function of the step: sampling with replacement, as in the published loader.

    Args:
        pick: Makes a batch of rows.
        examples: How many there are to draw from.
        size: Of a batch.
        seed: Of the draw.

    Examples:
        >>> drawn(lambda rows: len(rows), examples=10, size=4, seed=0)(7)
        4
    """

    def batch(step: int) -> P:
        return pick(torch.from_numpy(np.random.default_rng([seed, step]).integers(examples, size=size)))

    return batch


def in_order(pick: Pick[P], examples: int, size: int) -> list[P]:
    """All examples, in batches.

    Examples:
        >>> in_order(lambda rows: (rows.start, rows.stop), examples=3, size=2)
        [(0, 2), (2, 4)]
    """
    return [pick(slice(start, start + size)) for start in range(0, examples, size)]
