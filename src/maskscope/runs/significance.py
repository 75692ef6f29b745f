"""Whether subtasks' masks overlap otherwise than by chance, and otherwise than masks of one subtask do; from what runs measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from maskscope.analysis.chance import Sizes, tails
from maskscope.analysis.compare import symmetric
from maskscope.analysis.number import Number
from maskscope.analysis.significance import Network, combined, corrected, differs_from_ceiling
from maskscope.runs.estimates import compared
from maskscope.runs.experiment import Experiment
from maskscope.runs.places import places
from maskscope.runs.results import MaskName, PairOverlap, SeedResults


@dataclass(frozen=True)
class Significance:
    """P-values of one pair of subtasks in one part of the network."""

    pair: tuple[str, str]
    where: str
    chance: Number
    """That random masks of the same sizes overlap so much, or so little."""
    chance_corrected: Number
    """The same, corrected for all pairs and parts."""
    ceiling: Number
    """That masks of one subtask overlap so little; NaN where there are too few masks to tell."""
    ceiling_corrected: Number


def significance(experiment: Experiment, results: Sequence[SeedResults]) -> tuple[Significance, ...]:
    """Every pair of subtasks in every part of the network.

    Chance: of each network the first mask of either subtask, by the exact permutation test over units, two-sided; networks are
    put together by Fisher's method. Ceiling: all masks, by a permutation test over their names.

    Args:
        experiment: The values the runs were made from.
        results: One per network seed.
    """
    wanted = {item.overlap.where for result in results for item in result.overlaps}
    if not wanted:
        return ()
    spans = results[0].spans
    parts = {
        where: [first for first, tied in spans.items() if {*tied} & {*names}]
        for where, names in places(experiment, spans).items()
        if where in wanted
    }
    asked = [(pair, where) for pair in combinations(experiment.data.subtasks, 2) for where in parts]
    chance = [combined([_by_chance(result, pair, where, parts[where]) for result in results]) for pair, where in asked]
    ceiling = [
        differs_from_ceiling([_network(compared([result], where, pair), pair) for result in results])
        for pair, where in asked
    ]
    return tuple(
        Significance(*which, *values)
        for which, *values in zip(asked, chance, corrected(chance), ceiling, corrected(ceiling), strict=True)
    )


def _by_chance(result: SeedResults, pair: tuple[str, str], where: str, parameters: Sequence[str]) -> float:
    names = [MaskName(subtask, 0) for subtask in pair]
    sizes = [{t.parameter: t for t in size.tensors} for name in names for size in result.sizes if size.name == name]
    both = [
        item.overlap.both
        for item in result.overlaps
        if item.overlap.where == where and {item.first, item.second} == {*names}
    ]
    if len(sizes) < len(names) or not both:
        return math.nan
    first, second = sizes
    tensors = [Sizes(first[p].units, first[p].kept_units, second[p].kept_units) for p in parameters]
    units, *kept = (sum(tensor[i] for tensor in tensors) for i in range(3))
    if min(kept) == 0 or max(kept) == units:  # there is only one way to place nothing, or everything
        return math.nan
    return min(1.0, 2 * min(tails(tensors, both[0])))


def _network(found: Sequence[PairOverlap], pair: tuple[str, str]) -> Network:
    """The overlaps of all masks of two subtasks as a table."""
    masks = {name for item in found for name in (item.first, item.second)}
    names = sorted(masks, key=lambda name: (pair.index(name.subtask), name.seed))
    table = symmetric({(item.first, item.second): item.overlap.iou for item in found}, names)
    np.fill_diagonal(table, 1.0)
    return Network(table, sum(name.subtask == pair[0] for name in names))
