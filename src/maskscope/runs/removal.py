"""Masks of subtasks that leave something out: what they lose of it, and of everything else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from maskscope.analysis.modularity import Estimate, estimate
from maskscope.runs.estimates import accuracies, accuracy
from maskscope.runs.experiment import Experiment
from maskscope.runs.results import HoldsOut, SeedResults

RemovalFinding = Literal["exclusive weights", "some exclusive weights", "no exclusive weights", "cannot tell"]

EXCLUSIVE_ABOVE = 1 / 2
NONE_BELOW = 1 / 10
"""Mean relative drop from which what is left out counts as having weights of its own, and up to which as having none. A
convention."""


@dataclass(frozen=True)
class Drop:
    """What the masks of a subtask lose of what their training left out; accuracies over network seeds and masks."""

    subtask: str
    held_out: str
    network: Estimate
    """Accuracy of the network itself on it."""
    control: Estimate
    """Under the control mask, learned with everything."""
    mask: Estimate
    """Under the subtask's mask."""
    relative: Estimate
    """(control - mask) / control, of each mask: 0 nothing is lost, 1 everything."""
    worst_other: str
    """What else of the tested is lost most."""
    relative_other: Estimate
    """The same for that."""

    @property
    def ratio(self) -> float:
        """The drop of what is lost most besides, over that of what was left out. Source: the paper's CIFAR-10 statistics."""
        return self.relative_other.mean / self.relative.mean if self.relative.mean > 0 else math.nan


def drops(experiment: Experiment, results: Sequence[SeedResults]) -> tuple[Drop, ...]:
    """One for each subtask; none where the data hold nothing out, or no mask was learned.

    Args:
        experiment: The values the runs were made from.
        results: One per network seed.
    """
    data = experiment.data
    if experiment.masking is None or not isinstance(data, HoldsOut):
        return ()
    found: list[Drop] = []
    for subtask in data.subtasks:
        out = data.held_out(subtask)
        others = {name: _relative(results, data.full, subtask, name) for name in data.tested if name != out}
        worst = max(others, key=lambda name: _or_least(others[name].mean), default=out)
        found.append(
            Drop(
                subtask,
                out,
                accuracy(results, "full network", out),
                accuracy(results, "mask", out, data.full),
                accuracy(results, "mask", out, subtask),
                _relative(results, data.full, subtask, out),
                worst,
                others.get(worst, estimate(())),
            )
        )
    return tuple(found)


def removal_finding(found: Sequence[Drop]) -> RemovalFinding:
    """From the mean of the relative drops.

    Examples:
        >>> removal_finding(())
        'cannot tell'
    """
    mean = estimate(drop.relative.mean for drop in found).mean
    if math.isnan(mean):
        return "cannot tell"
    if mean >= EXCLUSIVE_ABOVE:
        return "exclusive weights"
    return "no exclusive weights" if mean <= NONE_BELOW else "some exclusive weights"


def worst_besides(found: Sequence[Drop]) -> Drop:
    """The one whose mask takes most of something that its training did not leave out."""
    return max(found, key=lambda drop: _or_least(drop.relative_other.mean))


def _relative(results: Sequence[SeedResults], control: str, subtask: str, tested: str) -> Estimate:
    values: list[float] = []
    for result in results:
        (before,) = accuracies([result], "mask", tested, control)
        after = accuracies([result], "mask", tested, subtask)
        values += [(before - value) / before if before > 0 else math.nan for value in after]
    return estimate(values)


def _or_least(value: float) -> float:
    return -math.inf if math.isnan(value) else value
