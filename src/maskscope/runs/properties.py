"""The two properties as numbers with intervals: P_specialize of a subtask, P_reuse of subtasks; from what runs measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from maskscope.analysis.compare import Overlap
from maskscope.analysis.intervals import NOTHING, Interval, crossed, nested, student
from maskscope.analysis.modularity import SEPARATE_BELOW, SHARED_ABOVE, Finding, Placed, Reuse
from maskscope.analysis.specialize import Specialization, left, specialization
from maskscope.runs.estimates import accuracies, accuracy, compared, reuse_among, reuse_in
from maskscope.runs.experiment import Experiment
from maskscope.runs.results import WITHOUT_RANDOM, MaskName, PairOverlap, SeedResults


@dataclass(frozen=True)
class Specialized:
    """``Specialization`` of a subtask over masks and networks."""

    subtask: str
    necessity: Interval
    sufficiency: Interval
    specificity: Interval
    p_specialize: Interval
    cost: Interval
    """Of removal, also of a network that has not learned the subtask."""
    alone: Interval
    necessity_at_random: Interval
    """Removing as many random units of each tensor: what necessity is to be compared with."""


def specialized(experiment: Experiment, results: Sequence[SeedResults], subtask: str) -> Specialized:
    """How far a subtask has weights of its own, by what their removal does.

    Args:
        experiment: The values the runs were made from.
        results: One per network seed.
        subtask: One that is tested itself.
    """
    found = [_specializations(experiment, result, subtask) for result in results]

    def over(pick: Callable[[Specialization], float]) -> Interval:
        return nested([[pick(item) for item in items] for items in found])

    return Specialized(
        subtask,
        over(lambda item: item.necessity),
        over(lambda item: item.sufficiency),
        over(lambda item: item.specificity),
        over(lambda item: item.p_specialize),
        over(lambda item: item.cost),
        over(lambda item: item.alone),
        damage(experiment, results, subtask, subtask, WITHOUT_RANDOM),
    )


def damage(
    experiment: Experiment, results: Sequence[SeedResults], removed: str, tested: str, network: str = "complement"
) -> Interval:
    """What removing the mask of one subtask takes from another: 1 to chance, 0 nothing; networks that never learned it do not count.

    Args:
        experiment: The values the runs were made from.
        results: One per network seed.
        removed: The subtask whose masks' weights are gone.
        tested: The other, or the same.
        network: What is left, as named in ``Accuracy``. Default: the network without exactly those weights.
    """
    chance = experiment.chance(tested)
    return nested(
        [
            [
                1 - left(value, accuracy([result], "full network", tested).mean, chance)
                for value in accuracies([result], network, tested, removed)
            ]
            for result in results
        ]
    )


def _specializations(experiment: Experiment, result: SeedResults, subtask: str) -> list[Specialization]:
    """One for each repetition of the mask. The full task, where it is tested too, is no other subtask."""
    chance = {name: experiment.chance(name) for name in experiment.data.subtasks}
    full = {name: value for name, value in _accuracies(result, "full network", None).items() if name in chance}
    names = sorted({m for m in (item.mask for item in result.accuracies) if m and m.subtask == subtask}, key=_seed)
    return [
        specialization(
            subtask,
            full=full,
            mask=_accuracies(result, "mask", name),
            complement=_accuracies(result, "complement", name),
            chance=chance,
        )
        for name in names
        if subtask in full
    ]


def _accuracies(result: SeedResults, network: str, mask: MaskName | None) -> dict[str, float]:
    return {item.subtask: item.value for item in result.accuracies if (item.network, item.mask) == (network, mask)}


def _seed(name: MaskName) -> int:
    return name.seed


@dataclass(frozen=True)
class Reused:
    """P_reuse somewhere in the network: where the overlap of two subtasks lies between chance (0) and ceiling (1)."""

    where: str
    iou: Interval
    iomin: Interval
    """Sees a small mask inside a large one, whose IoU is small for its size alone."""

    @property
    def finding(self) -> Finding:
        """What the intervals say; cannot tell where they reach over a border, or do not exist."""
        if self.iou.within(-math.inf, SEPARATE_BELOW) and self.iomin.within(-math.inf, SEPARATE_BELOW):
            return "separate"
        if self.iou.within(SHARED_ABOVE, math.inf):
            return "shared"
        if self.iou.within(-math.inf, SHARED_ABOVE) and self.iomin.within(SEPARATE_BELOW, math.inf):
            return "partly shared"
        return "cannot tell"


def reused(results: Sequence[SeedResults], where: str, pair: tuple[str, str] | None = None) -> Reused:
    """P_reuse of two subtasks, or of any two, with its interval.

    Over networks where there are several. Of a single network it is an interval over masks: from three masks of each subtask on by
    leaving out one after another (jackknife); of two each, the overlap's interval, from masks of the one subtask crossed with masks
    of the other, and the ceiling's, put together as for a quotient, which is too wide rather than too narrow.

    Args:
        results: One per network seed.
        where: What part of the network.
        pair: The subtasks. Default: any two.

    Raises:
        ValueError: The runs hold no overlap of such subtasks there.
    """
    return Reused(
        where,
        _position(results, where, pair, lambda found: found.iou, lambda overlap: overlap.iou),
        _position(results, where, pair, lambda found: found.iomin, lambda overlap: overlap.iomin),
    )


Value = Callable[[Overlap], float]
"""IoU or IoMin."""


def _position(
    results: Sequence[SeedResults],
    where: str,
    pair: tuple[str, str] | None,
    place: Callable[[Reuse], Placed],
    value: Value,
) -> Interval:
    placed = [place(reuse_in([result], where, pair)) for result in results]
    if len(results) == 1 and not math.isnan(placed[0].position):
        return _of_one(compared(results, where, pair), placed[0], where, place, value)
    return nested([[item.position] for item in placed])


def _of_one(
    items: Sequence[PairOverlap], placed: Placed, where: str, place: Callable[[Reuse], Placed], value: Value
) -> Interval:
    between = _table(items, value)
    masks = min(between.shape)
    if masks >= _LEFT_OUT:
        error = _jackknife(items, where, place)
        return student(placed.position, error, float(masks - 1), sum(between.shape), "masks")
    again = [value(item.overlap) for item in items if item.first.subtask == item.second.subtask]
    table, ceiling = crossed(between) if between.size else NOTHING, nested([again])
    error = math.hypot(table.error, placed.position * ceiling.error) / placed.room
    return student(placed.position, error, float(max(1, masks - 1)), table.n, "masks")


_LEFT_OUT = 3
"""Masks of each subtask from which one can be left out and a ceiling is still there."""


def _jackknife(items: Sequence[PairOverlap], where: str, place: Callable[[Reuse], Placed]) -> float:
    """Standard error of a position: each mask, of the one subtask and of the other, left out once.

    Overlap and ceiling are made of the same masks, and pairs share them; leaving out whole masks sees both.
    """
    names = {name for item in items for name in (item.first, item.second)}
    variance = 0.0
    for subtask in sorted({name.subtask for name in names}):
        own = sorted((name for name in names if name.subtask == subtask), key=_seed)
        rest = ([item for item in items if name not in (item.first, item.second)] for name in own)
        without = [place(reuse_among(some, where)) for some in rest]
        positions = np.array([(item.between.mean - item.chance) / item.room for item in without])
        variance += (len(own) - 1) / len(own) * float(np.sum((positions - positions.mean()) ** 2))
    return math.sqrt(variance)


def _table(items: Sequence[PairOverlap], value: Value) -> Float64[np.ndarray, "first second"]:
    """Overlaps of every mask of the first subtask with every one of the second; empty where there are not just two."""
    found = {
        (item.first, item.second): value(item.overlap) for item in items if item.first.subtask != item.second.subtask
    }
    subtasks = sorted({name.subtask for pair in found for name in pair})
    if len(subtasks) != 2:
        return np.zeros((0, 0))
    rows, columns = (
        sorted({name for pair in found for name in pair if name.subtask == subtask}, key=_seed) for subtask in subtasks
    )
    return np.array([[found.get((a, b), found.get((b, a), math.nan)) for b in columns] for a in rows])
