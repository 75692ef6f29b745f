"""Which units serve which subtasks, and how subtasks group by what they share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.cluster import hierarchy
from scipy.spatial import distance

from maskscope.analysis.number import Number
from maskscope.core.mask import Mask

MOST = 62
"""So many masks can be told apart in a whole number."""

LARGEST = 40
"""So many sets of subtasks are told; there may be two to the power of their number."""


@dataclass(frozen=True)
class UnitsOf:
    """Units that serve exactly these subtasks."""

    subtasks: tuple[str, ...]
    units: int


@dataclass(frozen=True)
class Serving:
    """How many subtasks the units of a part of the network serve. Source: UpSet plots, Lex et al. 2014."""

    where: str
    degrees: tuple[int, ...]
    """Units that no mask keeps, exactly one, two, ... all."""
    sets: tuple[UnitsOf, ...]
    """The largest sets, largest first; not the units that serve nothing."""


def serving(masks: Mapping[str, Mask], names: Iterable[str] | None = None, where: str = "all") -> Serving:
    """Count the units by which masks keep them.

    Args:
        masks: One for each subtask, over the same layout; at most ``MOST``.
        names: Only these parameters, as globs. Default: all.
        where: What part of the network that is.

    Raises:
        KeyError: A glob matches nothing.
        ValueError: No masks, too many, or different layouts.

    Examples:
        >>> import torch
        >>> from maskscope.core.layout import layout
        >>> over = layout(torch.nn.Linear(2, 2))
        >>> a, b = (Mask.of(over, torch.arange(4) < kept) for kept in (1, 3))
        >>> serving({"a": a, "b": b}).degrees
        (1, 2, 1)
    """
    if not 1 <= len(masks) <= MOST:
        raise ValueError(f"serving needs 1 to {MOST} masks, got {len(masks)}")
    known = list(masks.values())
    over = known[0].layout
    if any(mask.layout != over for mask in known):
        raise ValueError("masks of different layouts cannot be compared unit by unit")
    here = over.covering(over.names if names is None else over.matching(names))
    codes = np.zeros(int(here.sum()), dtype=np.int64)
    degree = np.zeros(len(codes), dtype=np.int64)
    for i, mask in enumerate(known):
        kept = mask.kept[here].numpy()
        codes |= kept.astype(np.int64) << i
        degree += kept
    found, counts = np.unique(codes[codes > 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:LARGEST]
    labels = list(masks)
    sets = tuple(
        UnitsOf(tuple(label for i, label in enumerate(labels) if int(found[at]) >> i & 1), int(counts[at]))
        for at in order
    )
    return Serving(where, tuple(np.bincount(degree, minlength=len(known) + 1).tolist()), sets)


@dataclass(frozen=True)
class Join:
    """Two groups of subtasks that become one."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    likeness: Number
    """Mean over pairs of one with one of the other, of those that are known; NaN where none is."""


@dataclass(frozen=True)
class Clusters:
    """Subtasks grouped by likeness."""

    order: tuple[int, ...]
    """In which like ones stand beside each other."""
    joins: tuple[Join, ...]
    """From the most alike down to the last two groups."""


def clusters(likeness: Float64[np.ndarray, "n n"]) -> Clusters:
    """Hierarchical clustering, by the mean over pairs.

    Args:
        likeness: Of every subtask with every other, symmetric, such as P_reuse; where NaN, the least that there is.

    Raises:
        ValueError: Fewer than two.

    Examples:
        >>> clusters(np.array([[1, 0, 0.9], [0, 1, 0.1], [0.9, 0.1, 1]])).order
        (1, 2, 0)
    """
    if len(likeness) < 2:
        raise ValueError(f"clusters need at least two subtasks, got {len(likeness)}")
    off = ~np.eye(len(likeness), dtype=bool)
    known = likeness[off & ~np.isnan(likeness)]
    least, most = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    apart = most - np.where(np.isnan(likeness), least, likeness)
    np.fill_diagonal(apart, 0.0)
    tree = hierarchy.linkage(distance.squareform(apart, checks=False), "average", optimal_ordering=True)
    members: list[tuple[int, ...]] = [(i,) for i in range(len(likeness))]
    joins: list[Join] = []
    for first, second, *_ in tree.tolist():
        a, b = members[int(first)], members[int(second)]
        pairs = likeness[np.ix_(a, b)]
        joins.append(Join(a, b, float(np.nanmean(pairs)) if not np.isnan(pairs).all() else math.nan))
        members.append((*a, *b))
    return Clusters(tuple(int(i) for i in hierarchy.leaves_list(tree)), tuple(joins))
