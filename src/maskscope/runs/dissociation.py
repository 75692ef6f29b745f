"""Whether each of two subtasks has weights that it alone needs: what is lost without those that one mask keeps and the other does not.

It is not asked where the masks do not share the input and output layers: subtasks with inputs of their own are told apart by
removing the weights of those, however much else they share (planted networks that share every hidden weight are).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from maskscope.analysis.intervals import Interval, nested
from maskscope.analysis.modularity import SHARED_ABOVE, Estimate, estimate
from maskscope.analysis.number import Number
from maskscope.analysis.specialize import left
from maskscope.runs.estimates import accuracies, compared, reuse_in
from maskscope.runs.experiment import Experiment
from maskscope.runs.results import ENDS, PairAccuracy, SeedResults

LOST = 0.5
"""Damage from which a subtask counts as lost. A convention, as the next."""
SPARED = 0.9
"""Share of its accuracy (above chance) from which a subtask counts as spared."""


@dataclass(frozen=True)
class Dissociation:
    """The network without what the masks of one subtask keep and those of another do not, on both."""

    lost: str
    """The subtask whose weights are removed."""
    spared: str
    """The other."""
    share: Number
    """Of the masked weights that are removed."""
    own: Estimate
    """Accuracy on ``lost``, over network seeds and masks."""
    other: Estimate
    """On ``spared``."""
    damage: Interval
    """To ``lost``: 0 as the network, 1 at chance."""
    spill: Interval
    """To ``spared``."""

    @property
    def holds(self) -> bool:
        """Whether its own subtask is lost and the other spared, by the intervals: False where masks are single."""
        return self.damage.within(LOST, math.inf) and self.spill.within(-math.inf, 1 - SPARED)


def dissociations(experiment: Experiment, results: Sequence[SeedResults]) -> tuple[Dissociation, ...]:
    """Two for each pair of subtasks, one after the other; none where removals were not measured, or the pair's masks do not share the ends.

    Args:
        experiment: The values the runs were made from.
        results: One per network seed.
    """
    pairs = dict.fromkeys((item.first.subtask, item.second.subtask) for result in results for item in result.pairs)
    ends = bool(experiment.network.ends) and bool(compared(results, ENDS))
    return tuple(
        _dissociation(experiment, results, pair, removed)
        for pair in pairs
        if set(pair) <= set(experiment.data.tested)
        and (not ends or reuse_in(results, ENDS, pair).iou.position > SHARED_ABOVE)
        for removed in ("first alone", "second alone")
    )


def _dissociation(
    experiment: Experiment, results: Sequence[SeedResults], pair: tuple[str, str], removed: str
) -> Dissociation:
    own, other = pair if removed == "first alone" else pair[::-1]

    def mine(result: SeedResults, subtask: str) -> Iterator[PairAccuracy]:
        for item in result.pairs:
            if (item.first.subtask, item.second.subtask, item.removed, item.subtask) == (*pair, removed, subtask):
                yield item

    def right(subtask: str) -> Estimate:
        return estimate(item.value for result in results for item in mine(result, subtask))

    def damage(subtask: str) -> Interval:
        return nested([_damages(experiment, result, subtask, mine) for result in results])

    share = estimate(item.weights / _masked_weights(result) for result in results for item in mine(result, own)).mean
    return Dissociation(own, other, share, right(own), right(other), damage(own), damage(other))


def _damages(
    experiment: Experiment,
    result: SeedResults,
    subtask: str,
    mine: Callable[[SeedResults, str], Iterator[PairAccuracy]],
) -> list[float]:
    (full,) = accuracies([result], "full network", subtask)
    return [1 - left(item.value, full, experiment.chance(subtask)) for item in mine(result, subtask)]


def _masked_weights(result: SeedResults) -> int:
    return max(1, sum(tensor.weights for size in result.sizes[:1] for tensor in size.tensors))
