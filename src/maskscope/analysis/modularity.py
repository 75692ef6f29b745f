"""From overlaps to a verdict: chance below, the same subtask learned again above, and the pair in between."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from maskscope.analysis.ablate import random_like
from maskscope.analysis.compare import Overlap, overlap
from maskscope.analysis.number import Number
from maskscope.core.mask import Mask

Finding = Literal["separate", "partly shared", "shared", "cannot tell"]

SEPARATE_BELOW = 1 / 3
SHARED_ABOVE = 2 / 3
"""Where reuse counts as absent and as present. A convention, to be replaced by calibrated intervals."""

_ROOM = 0.2
"""The ceiling must lie this far above chance for a position between them to mean anything."""


@dataclass(frozen=True)
class Estimate:
    """A mean over n values with its sample standard deviation (NaN for n = 1); n counts values that are not NaN."""

    mean: Number
    std: Number
    n: int


def estimate(values: Iterable[float]) -> Estimate:
    """Mean, standard deviation (ddof 1) and n of the values that are not NaN.

    Examples:
        >>> estimate([1.0, 3.0, math.nan])
        Estimate(mean=2.0, std=1.4142135623730951, n=2)
    """
    kept = [value for value in values if not math.isnan(value)]
    if not kept:
        return Estimate(math.nan, math.nan, 0)
    return Estimate(float(np.mean(kept)), float(np.std(kept, ddof=1)) if len(kept) > 1 else math.nan, len(kept))


@dataclass(frozen=True)
class Reuse:
    """How far two subtasks use the same units, somewhere in the network."""

    where: str
    iou: Estimate
    """Between the two subtasks, over all pairs of their masks."""
    chance: Number
    """Expected IoU of random masks of the same per-tensor sizes."""
    ceiling: Estimate
    """IoU of the same subtask learned again, both subtasks pooled."""

    def __str__(self) -> str:
        """One line for a person."""
        return (
            f"{self.where}: IoU {self.iou.mean:.3f} (n={self.iou.n}), chance {self.chance:.3f}, ceiling "
            f"{self.ceiling.mean:.3f} (n={self.ceiling.n}), position {self.position:.0%}: {self.finding}"
        )

    @property
    def position(self) -> float:
        """Where the IoU lies between chance (0) and ceiling (1)."""
        room = self.ceiling.mean - self.chance
        return (self.iou.mean - self.chance) / room if room > 0 else math.nan

    @property
    def finding(self) -> Finding:
        """Separate, partly shared or shared; cannot tell without a ceiling well above chance."""
        if not self.ceiling.mean - self.chance >= _ROOM or math.isnan(self.position):
            return "cannot tell"
        if self.position <= SEPARATE_BELOW:
            return "separate"
        return "shared" if self.position >= SHARED_ABOVE else "partly shared"


def reuse(between: Iterable[Overlap], again: Iterable[Overlap], where: str = "all") -> Reuse:
    """Place the overlap of two subtasks between chance and ceiling.

    Args:
        between: Overlaps of masks of the one subtask with masks of the other.
        again: Overlaps of masks of one and the same subtask, learned with different seeds: the ceiling.
        where: What part of the network they speak of.

    Raises:
        ValueError: Nothing to compare.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> mask = Mask.full(layout(nn.Linear(8, 8)))
        >>> reuse([overlap(mask, mask)], [overlap(mask, mask)]).iou.mean
        1.0
    """
    between, again = list(between), list(again)
    if not between:
        raise ValueError("reuse needs at least one overlap between the two subtasks")
    chance = estimate(item.chance_iou for item in between).mean
    return Reuse(where, estimate(item.iou for item in between), chance, estimate(item.iou for item in again))


def reuse_of(
    first: Sequence[Mask], second: Sequence[Mask], names: Iterable[str] | None = None, where: str = "all"
) -> Reuse:
    """``reuse`` from one or more masks of each subtask, learned with different seeds.

    Raises:
        ValueError: No masks, or different layouts.
    """
    names = None if names is None else tuple(names)
    between = [overlap(a, b, names) for a in first for b in second]
    again = [overlap(a, b, names) for masks in (first, second) for a, b in combinations(masks, 2)]
    return reuse(between, again, where)


def sampled_chance(a: Mask, b: Mask, draws: int, seed: int, names: Iterable[str] | None = None) -> Estimate:
    """IoU of random masks of the same per-tensor sizes, by drawing them: the check of the closed form.

    Examples:
        >>> from torch import nn
        >>> from maskscope.core.layout import layout
        >>> mask = Mask.full(layout(nn.Linear(2, 3)))
        >>> sampled_chance(mask, mask, draws=3, seed=0).mean
        1.0
    """
    names = None if names is None else tuple(names)
    pairs = ((random_like(a, seed + 2 * i), random_like(b, seed + 2 * i + 1)) for i in range(draws))
    return estimate(overlap(x, y, names).iou for x, y in pairs)
