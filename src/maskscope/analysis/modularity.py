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
"""Where reuse counts as absent and as present. A convention."""

_ROOM = 0.2
"""The ceiling must lie this far above chance for a position between them to mean anything."""


def percent(share: float) -> str:
    """A share for a person; a dash where there is none.

    Examples:
        >>> percent(0.25), percent(math.nan)
        ('25%', '–')
    """
    return "–" if math.isnan(share) else f"{share:z.0%}"


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
class Placed:
    """An overlap of two subtasks with what it can be compared to."""

    between: Estimate
    """Of the two subtasks, over all pairs of their masks."""
    chance: Number
    """To be expected of random masks of the same per-tensor sizes."""
    ceiling: Estimate
    """Of the same subtask learned again, both subtasks pooled."""

    @property
    def room(self) -> float:
        """From chance to ceiling."""
        return self.ceiling.mean - self.chance

    @property
    def position(self) -> float:
        """Where it lies between chance (0) and ceiling (1); NaN where there is no room between them."""
        return (self.between.mean - self.chance) / self.room if self.room >= _ROOM else math.nan


@dataclass(frozen=True)
class Reuse:
    """How far two subtasks use the same units, somewhere in the network."""

    where: str
    iou: Placed
    iomin: Placed
    """Sees a small mask inside a large one, whose IoU is small for its size alone."""

    def __str__(self) -> str:
        """One line for a person."""
        parts = (
            f"{name} {placed.between.mean:.3f} (n={placed.between.n}, chance {placed.chance:.3f}, ceiling "
            f"{placed.ceiling.mean:.3f} with n={placed.ceiling.n}, position {percent(placed.position)})"
            for name, placed in (("IoU", self.iou), ("IoMin", self.iomin))
        )
        return f"{self.where}: {', '.join(parts)}: {self.finding}"

    @property
    def finding(self) -> Finding:
        """Shared by IoU, separate by both, partly shared otherwise; cannot tell without a ceiling well above chance."""
        positions = self.iou.position, self.iomin.position
        if any(math.isnan(position) for position in positions):
            return "cannot tell"
        if self.iou.position >= SHARED_ABOVE:
            return "shared"
        return "separate" if max(positions) <= SEPARATE_BELOW else "partly shared"


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
        >>> reuse([overlap(mask, mask)], [overlap(mask, mask)]).iou.between.mean
        1.0
    """
    between, again = list(between), list(again)
    if not between:
        raise ValueError("reuse needs at least one overlap between the two subtasks")
    return Reuse(
        where,
        Placed(
            estimate(item.iou for item in between),
            estimate(item.chance_iou for item in between).mean,
            estimate(item.iou for item in again),
        ),
        Placed(
            estimate(item.iomin for item in between),
            estimate(item.chance_iomin for item in between).mean,
            estimate(item.iomin for item in again),
        ),
    )


def reuse_of(
    first: Mask | Sequence[Mask], second: Mask | Sequence[Mask], names: Iterable[str] | None = None, where: str = "all"
) -> Reuse:
    """``reuse`` from one or more masks of each subtask, learned with different seeds.

    Sees masks only: first make sure that the network can do both, and that each mask serves its own (``evaluate``).

    Raises:
        ValueError: No masks, or different layouts.
    """
    names = None if names is None else tuple(names)
    first, second = ([masks] if isinstance(masks, Mask) else masks for masks in (first, second))
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
