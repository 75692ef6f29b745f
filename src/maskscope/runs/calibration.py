"""Networks whose answer is known: what is true of them, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from maskscope.analysis.compare import overlap
from maskscope.analysis.intervals import Interval
from maskscope.analysis.modularity import Finding, estimate
from maskscope.core.mask import Mask
from maskscope.models.planted import PlantedSettings
from maskscope.runs.experiment import Experiment
from maskscope.runs.properties import reused, specialized
from maskscope.runs.results import HIDDEN, SeedResults
from maskscope.runs.verdict import verdict


@dataclass(frozen=True)
class Truth:
    """The numbers of a planted network, from what was planted."""

    iou: float
    """P_reuse by IoU of the subtasks' modules in the hidden layers: (IoU - chance) / (1 - chance)."""
    iomin: float
    """The same by IoMin."""
    p_specialize: float
    """Where modules are shared, the share that is a subtask's own: without the shared ones the other fails them too. Where
    the first layers are shared, 0: without them everything fails."""


@dataclass(frozen=True)
class Recovered:
    """What a run said of one planted network, beside the truth."""

    seed: int
    truth: Truth
    iou: Interval
    iomin: Interval
    p_specialize: float
    """Mean over both subtasks."""
    finding: str


def truth(experiment: Experiment) -> Truth | None:
    """What is true of a planted network; None for any other.

    Examples:
        >>> from maskscope.data.planted import Planted
        >>> found = truth(Experiment("planted", "mlp", Planted(), PlantedSettings("mlp", shared=0.5)))
        >>> round(found.iou, 2), round(found.iomin, 2), found.p_specialize
        (0.3, 0.46, 0.5)
    """
    network = experiment.network
    if not isinstance(network, PlantedSettings):
        return None
    over = experiment.layout()
    hidden = [name for name in over.names if name not in network.ends]
    first, second = (
        Mask.of(over, torch.cat([segment.collected(support[segment.parameter]) for segment in over.segments]))
        for support in network.supports()
    )
    found = overlap(first, second, hidden)
    iou, iomin = (
        (value - chance) / (1 - chance)
        for value, chance in ((found.iou, found.chance_iou), (found.iomin, found.chance_iomin))
    )
    own = 1 - network.shared if network.by == "units" else float(not network.shared)
    return Truth(iou, iomin, own)


def recovered(experiment: Experiment, results: Sequence[SeedResults]) -> tuple[Recovered, ...]:
    """One for each network seed, each judged alone; none where nothing was planted."""
    true = truth(experiment)
    if true is None:
        return ()
    found: list[Recovered] = []
    for result in results:
        placed = reused([result], HIDDEN)
        special = estimate(
            specialized(experiment, [result], subtask).p_specialize.mean for subtask in experiment.data.subtasks
        )
        said = verdict(experiment, [result]).finding
        found.append(Recovered(result.seed, true, placed.iou, placed.iomin, special.mean, said))
    return tuple(found)


@dataclass(frozen=True)
class Calibration:
    """How well known answers were recovered, over some planted networks."""

    n: int
    """Networks."""
    told: int
    """Networks whose P_reuse by IoU is a number."""
    error_iou: float
    """Mean absolute error of P_reuse by IoU."""
    told_iomin: int
    """Networks whose P_reuse by IoMin is a number."""
    error_iomin: float
    told_special: int
    """Networks whose P_specialize is a number."""
    error_special: float
    """Of P_specialize."""
    disjoint: int
    """Networks that share nothing."""
    called_shared: int
    """Those of them called shared."""
    same: int
    """Networks that share everything."""
    called_separate: int
    """Those of them called separate."""
    cannot_tell: int


def calibration(found: Sequence[Recovered]) -> Calibration:
    """Errors and wrong verdicts.

    Examples:
        >>> calibration(()).n
        0
    """
    disjoint = [item for item in found if item.truth.iomin <= 0]
    same = [item for item in found if item.truth.iou == 1]
    wrong: tuple[Finding, Finding] = ("shared", "separate")
    return Calibration(
        len(found),
        estimate(item.iou.mean for item in found).n,
        estimate(abs(item.iou.mean - item.truth.iou) for item in found).mean,
        estimate(item.iomin.mean for item in found).n,
        estimate(abs(item.iomin.mean - item.truth.iomin) for item in found).mean,
        estimate(item.p_specialize for item in found).n,
        estimate(abs(item.p_specialize - item.truth.p_specialize) for item in found).mean,
        len(disjoint),
        sum(item.finding == wrong[0] for item in disjoint),
        len(same),
        sum(item.finding == wrong[1] for item in same),
        sum(item.finding == "cannot tell" for item in found),
    )
