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
    """What of the tests that have nothing of it is lost most, in the mean; empty where there is no such test."""
    relative_other: Estimate
    """The same for that."""
    ratio: Estimate
    """The drop of what is lost most besides under a mask (0 if nothing is), over that of what was left out. Source: published
    code of CIFAR-10, "largest other/target"."""


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
        lost = _relative(results, data.full, subtask, out)
        besides = {name: _relative(results, data.full, subtask, name) for name in data.besides(subtask) if name != out}
        others = {name: estimate(values) for name, values in besides.items()}
        worst = max(others, key=lambda name: _or_least(others[name].mean), default="")
        ratios = [
            max(0.0, *map(_or_least, most)) / target if target > 0 else math.nan
            for target, *most in zip(lost, *besides.values(), strict=True)
            if most
        ]
        found.append(
            Drop(
                subtask,
                out,
                accuracy(results, "full network", out),
                accuracy(results, "mask", out, data.full),
                accuracy(results, "mask", out, subtask),
                estimate(lost),
                worst,
                others.get(worst, estimate(())),
                estimate(ratios),
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


def worst_besides(found: Sequence[Drop]) -> Drop | None:
    """The one whose mask takes most of something that its training did not leave out; None where no test shows it."""
    shown = [drop for drop in found if drop.worst_other]
    return max(shown, key=lambda drop: _or_least(drop.relative_other.mean), default=None)


def _relative(results: Sequence[SeedResults], control: str, subtask: str, tested: str) -> list[float]:
    """Of each mask."""
    values: list[float] = []
    for result in results:
        (before,) = accuracies([result], "mask", tested, control)
        after = accuracies([result], "mask", tested, subtask)
        values += [(before - value) / before if before > 0 else math.nan for value in after]
    return values


def _or_least(value: float) -> float:
    return -math.inf if math.isnan(value) else value
