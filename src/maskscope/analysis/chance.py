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


class Sizes(NamedTuple):
    """One tensor: its units, and how many of them either mask keeps."""

    units: int
    first: int
    second: int


class Expected(NamedTuple):
    """Expected overlap of random masks."""

    iou: float
    iomin: float


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
    for tensor in tensors:
        if not (0 <= tensor.first <= tensor.units and 0 <= tensor.second <= tensor.units):
            raise ValueError(f"a mask keeps between 0 and all units of a tensor, got {tensor}")
    first, second = (sum(tensor[i] for tensor in tensors) for i in (1, 2))
    if not (first and second):
        return Expected(math.nan, math.nan)
    total = _Distribution(0, np.ones(1))
    for tensor in tensors:
        if tensor.first and tensor.second:
            total = _sum(total, _intersection(tensor))
    values = total.start + np.arange(len(total.probability))
    probability = total.probability / total.probability.sum()
    either = first + second - values
    return Expected(
        float((probability * values / either).sum()), float((probability * values).sum()) / min(first, second)
    )


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
