"""Whether an overlap differs from chance, and from its ceiling; and what to make of many such questions at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from jaxtyping import Float64
from scipy import stats

from maskscope.analysis.number import Number

ALPHA = 0.1
"""Where there are too few renamings for a p-value of this, there is no test."""

_DRAWS = 9999
"""Renamings that are drawn where there are more."""


@dataclass(frozen=True)
class Network:
    """The masks of two subtasks on one network, in one part of it."""

    overlaps: Float64[np.ndarray, "masks masks"]
    """Of every mask with every other, symmetric."""
    first: int
    """How many of the masks are the first subtask's; they come first."""


def differs_from_ceiling(networks: Sequence[Network]) -> Number:
    """The p-value that masks of two subtasks overlap as masks of one do; a permutation test.

    If it does not matter which subtask a mask was learned for, then within each network any of its masks could bear either name.
    The statistic is the mean overlap of masks with one name less that of masks with two, averaged over networks; the p-value is
    the share of renamings that give as much. Two masks of each subtask can be named in 3 ways on one network, in 27 on three.

    Args:
        networks: One for each; those with fewer than two masks of a subtask do not count.

    Returns:
        The p-value; NaN where no renaming could give ``ALPHA`` or less.

    Examples:
        >>> table = np.array([[1, 0.9, 0.1, 0.1], [0.9, 1, 0.1, 0.1], [0.1, 0.1, 1, 0.9], [0.1, 0.1, 0.9, 1]])
        >>> round(differs_from_ceiling([Network(table, first=2)] * 3), 3)
        0.037
        >>> differs_from_ceiling([Network(table, first=2)])
        nan
    """
    known = [n for n in networks if min(n.first, len(n.overlaps) - n.first) >= 2 and not np.isnan(n.overlaps).any()]
    every = [_namings(network) for network in known]
    count = math.prod(map(len, every))
    if not known or 1 / count > ALPHA:
        return math.nan
    observed = sum(values[0] for values in every)
    if count <= _DRAWS:
        as_much = sum(sum(values) >= observed - 1e-12 for values in product(*every))
        return as_much / count
    generator = np.random.default_rng(0)
    drawn = sum(generator.choice(values, _DRAWS) for values in every)
    return (1 + int(np.sum(drawn >= observed - 1e-12))) / (1 + _DRAWS)


def _namings(network: Network) -> list[float]:
    """The statistic for every way of naming the masks, or for many, the true one first."""
    count = len(network.overlaps)
    if math.comb(count, network.first) > _DRAWS:
        generator = np.random.default_rng(0)
        drawn = [tuple(generator.permutation(count)[: network.first].tolist()) for _ in range(_DRAWS)]
        return [_gap(network.overlaps, way) for way in (tuple(range(network.first)), *drawn)]
    ways = list(combinations(range(count), network.first))
    if 2 * network.first == count:  # names can be exchanged as a whole
        ways = [way for way in ways if 0 in way]
    return [_gap(network.overlaps, way) for way in ways]


def _gap(overlaps: Float64[np.ndarray, "masks masks"], first: Sequence[int]) -> float:
    named = np.isin(np.arange(len(overlaps)), first)
    within = named[:, None] == named[None, :]
    pairs = np.triu(np.ones_like(within), k=1)
    return float(overlaps[within & pairs].mean() - overlaps[~within & pairs].mean())


def combined(values: Sequence[float]) -> Number:
    """One p-value from those of independent networks, by Fisher's method; NaN for none.

    Examples:
        >>> round(combined([0.1, 0.1]), 3)
        0.056
    """
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan
    return float(stats.chi2.sf(-2 * np.log(known).sum(), 2 * len(known)))


def corrected(values: Sequence[float]) -> tuple[float, ...]:
    """P-values of many layers or pairs, so that of those below a level no more than that share is expected to be false.

    Source: Benjamini and Yekutieli 2001, which holds for any dependence; scipy. NaN stays NaN and does not count.

    Examples:
        >>> [round(p, 3) for p in corrected([0.01, float("nan"), 0.02])]
        [0.03, nan, 0.03]
    """
    known = [i for i, value in enumerate(values) if not math.isnan(value)]
    found = list(values)
    if known:
        adjusted = stats.false_discovery_control([values[i] for i in known], method="by")
        for i, value in zip(known, adjusted, strict=True):
            found[i] = float(value)
    return tuple(found)
