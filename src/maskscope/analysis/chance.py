"""What overlap random masks of the same sizes have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy import signal, stats

_REACH = 12.0
"""Standard deviations around the mean that are summed; beyond them lies less than 1e-30."""

_SMALLEST = 1e-12
"""Smallest tail that is told: sums by Fourier transforms are not exact beyond."""


class Sizes(NamedTuple):
    """One tensor: its units, and how many of them either mask keeps."""

    units: int
    first: int
    second: int


class Expected(NamedTuple):
    """Expected overlap of random masks."""

    iou: float
    iomin: float


class Tails(NamedTuple):
    """How likely random masks have as much in common, or as little."""

    above: float
    """P(intersection >= observed)."""
    below: float
    """P(intersection <= observed)."""


class _Distribution(NamedTuple):
    """P(intersection = start + i)."""

    start: int
    probability: Float64[np.ndarray, " values"]


def expected(tensors: Sequence[Sizes]) -> Expected:
    """Expected IoU and IoMin of two random masks that keep given numbers of units of each tensor.

    In each tensor the intersection I is hypergeometric; over tensors it is the sum of independent ones. With A and B
    the total sizes, E[IoU] = sum over i of P(I = i) i / (A + B - i), exactly (up to far tails), and
    E[IoMin] = E[I] / min(A, B).

    A ratio of the means instead (E[I] / (A + B - E[I])) is too low, and plainly so for small tensors.

    NaN if a mask is empty in all of them.

    Raises:
        ValueError: A mask keeps more units than a tensor has.

    Examples:
        >>> expected([Sizes(units=2, first=1, second=1)])
        Expected(iou=0.5, iomin=0.5)
    """
    first, second = (sum(tensor[i] for tensor in tensors) for i in (1, 2))
    values, probability = _in_common(tensors)
    if not (first and second):
        return Expected(math.nan, math.nan)
    either = first + second - values
    return Expected(
        float((probability * values / either).sum()), float((probability * values).sum()) / min(first, second)
    )


def tails(tensors: Sequence[Sizes], both: int) -> Tails:
    """Whether two masks have more, or less, in common than random ones.

    This is the permutation test over all ways of putting the kept units of each tensor elsewhere in it, without drawing one.

    Tails are exact down to 1e-12.

    Args:
        tensors: Sizes, as for ``expected``.
        both: Units that both masks keep, over all tensors.

    Raises:
        ValueError: A mask keeps more units than a tensor has.

    Examples:
        >>> above, below = tails([Sizes(units=4, first=2, second=2)], both=2)
        >>> round(above, 6), round(below, 6)  # one of six ways
        (0.166667, 1.0)
    """
    values, probability = _in_common(tensors)
    return Tails(
        float(np.clip(probability[values >= both].sum(), _SMALLEST, 1)),
        float(np.clip(probability[values <= both].sum(), _SMALLEST, 1)),
    )


def _in_common(tensors: Sequence[Sizes]) -> tuple[Float64[np.ndarray, " values"], Float64[np.ndarray, " values"]]:
    """How many units random masks have in common, and how likely that is."""
    total = _Distribution(0, np.ones(1))
    for tensor in tensors:
        if not (0 <= tensor.first <= tensor.units and 0 <= tensor.second <= tensor.units):
            raise ValueError(f"a mask keeps between 0 and all units of a tensor, got {tensor}")
        if tensor.first and tensor.second:
            total = _sum(total, _intersection(tensor))
    values = total.start + np.arange(len(total.probability), dtype=np.float64)
    return values, total.probability / total.probability.sum()


def _intersection(tensor: Sizes) -> _Distribution:
    units, first, second = tensor
    mean = first * second / units
    deviation = math.sqrt(mean * (units - first) / units * (units - second) / max(units - 1, 1))
    low = max(0, tensor.first + tensor.second - tensor.units, math.floor(mean - _REACH * deviation - 1))
    high = min(tensor.first, tensor.second, math.ceil(mean + _REACH * deviation + _REACH))
    values = np.arange(low, high + 1)
    return _Distribution(low, np.asarray(stats.hypergeom.pmf(values, *tensor), dtype=np.float64))


def _sum(a: _Distribution, b: _Distribution) -> _Distribution:
    both = np.clip(signal.fftconvolve(a.probability, b.probability), 0.0, None)
    return _Distribution(a.start + b.start, both)
