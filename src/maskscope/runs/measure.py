"""Testing a network under its masks, and comparing them: from a trained network to records."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import torch
from torch import nn

from maskscope.analysis import controls
from maskscope.analysis.ablate import complement, half, keep_open, random_like
from maskscope.analysis.compare import overlaps, remaining, shared
from maskscope.analysis.evaluate import evaluate, evaluate_each
from maskscope.analysis.faithfulness import Curve, Likeness, curve
from maskscope.analysis.gradients import Similarity, gradient_similarity
from maskscope.analysis.serving import MOST, Serving, serving
from maskscope.core.apply import masked
from maskscope.core.layout import Layout, by_layer
from maskscope.core.mask import Mask
from maskscope.core.objectives import Network
from maskscope.core.seeded import derive
from maskscope.runs.results import (
    ALL,
    ENDS,
    FEW,
    HIDDEN,
    HISTOGRAM_BINS,
    Accuracy,
    Answering,
    Confusable,
    HoldsOut,
    MaskName,
    MaskSize,
    Outcome,
    PairAccuracy,
    PairOverlap,
    Predicting,
    Removed,
    SeedResults,
    Share,
)
from maskscope.runs.study import Experiment

SUFFICIENT = 0.9
"""Below this share of the network's own accuracy a mask does not suffice for its subtask, and is warned of."""

CONFUSED = ("full network", "mask", "complement", "complement with ends open")
"""Networks whose outputs are looked at more closely than right and wrong."""

CONTROLS = (controls.EMPTY, controls.RANDOM, controls.SAMPLED, controls.ENDS, controls.WITHOUT_ENDS)
"""Made from the first mask of every subtask, where there are few. (The full mask is the network, masks shuffled within tensors
are what "random mask" is for every mask.)"""

LAYERS = 32
"""More than so many layers under many subtasks are too much to keep."""

SOME = 2
"""Batches of the tests that are enough for a curve."""

EMPTY_OR_FULL = "keeps {what}: no overlap or ablation of it means anything"


def measure(experiment: Experiment, seed: int, model: nn.Module, masks: Mapping[MaskName, Mask]) -> SeedResults:
    """Test a network under its masks and compare them.

    Args:
        experiment: The values the run was made from.
        seed: Of the network.
        model: The trained network.
        masks: All its masks; the control is that of the full task. Empty: the network alone is tested.
    """
    accuracies: list[Accuracy] = []
    outcomes: list[Outcome] = []
    for tested in _networks(experiment, seed, model, masks):  # one at a time: each holds its mask unpacked
        accuracies += _accuracies(experiment, *tested)
        outcomes += _outcomes(experiment, *tested)
    pairs = [(a, b) for a, b in combinations(masks, 2) if experiment.data.full not in (a.subtask, b.subtask)]
    compared = tuple(
        PairOverlap(a, b, item)
        for a, b in pairs
        for item in overlaps(masks[a], masks[b], places(experiment, masks[a].layout))
    )
    sizes = tuple(MaskSize(name, mask.counts()) for name, mask in masks.items())
    warnings = (
        *_mask_warnings(masks),
        *_network_warnings(experiment, accuracies),
        *_sufficiency_warnings(experiment, accuracies),
    )
    return SeedResults(
        experiment.digest,
        seed,
        tuple(accuracies),
        tuple(outcomes),
        sizes,
        compared,
        tuple(_shares(experiment, masks)),
        warnings,
        tuple(_removed(experiment, masks)),
        tuple(_pairs(experiment, model, masks)),
        _gradients(experiment, model, masks),
        tuple(_serving(experiment, masks)),
        tuple(_likeness(experiment, model, masks)),
    )


def places(experiment: Experiment, over: Layout) -> dict[str, tuple[str, ...]]:
    """The parts of a network in which overlap is reported: tensors, layers of several tensors, hidden, ends, all.

    With many subtasks: layers, if there are not many of those too, hidden, ends, all.
    """
    ends = set(experiment.network.ends)
    layers = by_layer(over.names)
    single = {name: (name,) for name in over.names} | {
        where: names for where, names in layers.items() if len(names) > 1
    }
    few = len(experiment.data.subtasks) <= FEW
    parts = {
        **(single if few else layers if len(layers) <= LAYERS else {}),
        HIDDEN: tuple(name for name in over.names if name not in ends),
        ENDS: tuple(name for name in over.names if name in ends),
        ALL: over.names,
    }
    return {where: names for where, names in parts.items() if names}


def _networks(
    experiment: Experiment, seed: int, model: nn.Module, masks: Mapping[MaskName, Mask]
) -> Iterator[tuple[str, MaskName | None, Network]]:
    """Everything that is tested: the network, and under each mask and what is made from it."""
    yield "full network", None, model
    if not masks:
        return
    control = masks[MaskName(experiment.data.full, 0)]
    ends, halves = experiment.network.ends, experiment.halves or (experiment.network.first_half,)
    for name, mask in masks.items():
        ablated = [
            ("mask", mask),
            ("complement", complement(mask)),
            ("complement with ends open", keep_open(complement(mask), control, ends)),
            ("random mask", random_like(mask, derive(seed, "random mask", name.subtask, name.seed))),
        ]
        if len(experiment.data.subtasks) <= FEW and name.subtask != experiment.data.full and name.seed == 0:
            others = controls.made(mask, ends, derive(seed, "control", name.subtask))
            ablated += [(kind, made) for kind, made in others.items() if kind in CONTROLS]
        if name.subtask == experiment.data.full:
            for first in halves:
                second = [parameter for parameter in control.layout.names if parameter not in first]
                ablated += [("first half masked", half(mask, first)), ("second half masked", half(mask, second))]
        for network, made in ablated:
            yield network, name, masked(model, made)


def _accuracies(experiment: Experiment, network: str, name: MaskName | None, callable_: Network) -> Iterator[Accuracy]:
    data = experiment.data
    for subtask in data.tested:
        score = evaluate(callable_, data.tests("valid", subtask), data.metric(subtask))
        yield Accuracy(network, name, subtask, score.value, score.examples)


def _pairs(experiment: Experiment, model: nn.Module, masks: Mapping[MaskName, Mask]) -> Iterator[PairAccuracy]:
    """Shared weights need not be weights that matter: what does removing them do, and removing the others?"""
    data = experiment.data
    if len(data.subtasks) > FEW:
        return
    for first, second in combinations(masks, 2):
        if first.seed != second.seed or data.full in (first.subtask, second.subtask):
            continue
        a, b = masks[first], masks[second]
        for removed, mask in (("shared", a & b), ("first alone", a - b), ("second alone", b - a)):
            for found in _accuracies(experiment, removed, None, masked(model, complement(mask))):
                yield PairAccuracy(
                    removed, first, second, mask.kept_weights, found.subtask, found.value, found.examples
                )


def _outcomes(experiment: Experiment, network: str, name: MaskName | None, callable_: Network) -> Iterator[Outcome]:
    data = experiment.data
    if isinstance(data, Confusable) and network in (CONFUSED if len(data.subtasks) <= FEW else CONFUSED[:2]):
        for subtask in data.tested:
            scores = evaluate_each(callable_, data.tests("valid", subtask), data.outcome())
            for outcome, score in zip(data.outcomes, scores, strict=True):
                yield Outcome(network, name, subtask, outcome, score.value, score.examples)


def _shares(experiment: Experiment, masks: Mapping[MaskName, Mask]) -> Iterator[Share]:
    if experiment.masking is None:
        return
    control = masks[MaskName(experiment.data.full, 0)]
    for repeat in range(experiment.masking.repeats):
        names = [MaskName(subtask, repeat) for subtask in experiment.data.subtasks]
        for where, parameters in places(experiment, control.layout).items():
            alone = len(names) < 2
            shares = (math.nan,) if alone else shared([masks[name] for name in names], parameters)
            for name, share in zip(names, shares, strict=True):
                yield Share(name, where, share, remaining(masks[name], control, parameters))


def _likeness(experiment: Experiment, model: nn.Module, masks: Mapping[MaskName, Mask]) -> Iterator[Accuracy]:
    """Cross-task faithfulness. Source: Mondorf et al. 2025, 1 - Jensen-Shannon divergence."""
    data = experiment.data
    if not isinstance(data, Predicting) or len(data.subtasks) > FEW:
        return
    for name, mask in masks.items():
        if name.seed:
            continue
        for network, made in (("mask", mask), ("complement", complement(mask))):
            for subtask in data.tested:
                metric = Likeness(model, data.predictions(subtask))
                score = evaluate(masked(model, made), data.tests("valid", subtask)[:SOME], metric)
                yield Accuracy(network, name, subtask, score.value, score.examples)


def faithfulness(
    experiment: Experiment, model: nn.Module, name: MaskName, over: Layout, logits: torch.Tensor
) -> Curve | None:
    """How well the units that a mask keeps first do on its subtask, by size; None where that is not asked.

    Args:
        experiment: The values the run was made from.
        model: The trained network.
        name: Of the mask.
        over: Its layout.
        logits: As learned, for every unit.
    """
    data = experiment.data
    if name.seed or name.subtask not in data.tested or isinstance(data, HoldsOut) or len(data.subtasks) > FEW:
        return None
    tests, metric = data.tests("valid", name.subtask)[:SOME], data.metric(name.subtask)
    return curve(over, logits, lambda mask: evaluate(masked(model, mask), tests, metric).value)


def _serving(experiment: Experiment, masks: Mapping[MaskName, Mask]) -> Iterator[Serving]:
    first = {name.subtask: mask for name, mask in masks.items() if name.seed == 0}
    first = {subtask: first[subtask] for subtask in experiment.data.subtasks if subtask in first}
    if 1 < len(first) <= MOST:
        parts = places(experiment, next(iter(first.values())).layout)
        for where in (place for place in (HIDDEN, ENDS, ALL) if place in parts):
            yield serving(first, parts[where], where)


def _removed(experiment: Experiment, masks: Mapping[MaskName, Mask]) -> Iterator[Removed]:
    data, matrix = experiment.data, experiment.network.read_out
    control = masks.get(MaskName(data.full, 0))
    if control is None or not isinstance(data, Answering) or matrix not in control.layout.by_name:
        return
    whole = control.parameter(matrix)
    for name, mask in masks.items():
        gone = whole & ~mask.parameter(matrix)
        for row, answer in enumerate(data.answers):
            kept = int(whole[row].sum())
            yield Removed(name, answer, kept, int(gone[row].sum()) / kept if kept else math.nan)


def _gradients(experiment: Experiment, model: nn.Module, masks: Mapping[MaskName, Mask]) -> tuple[Similarity, ...]:
    """Source: published code: one mask, the validation images of all classes."""
    data = experiment.data
    if not masks or not experiment.gradients:
        return ()
    mask = masks[MaskName(data.subtasks[0], 0)]
    return gradient_similarity(
        model, mask, data.tests("valid", data.full), data.objective(data.full), experiment.gradients
    )


def _mask_warnings(masks: Mapping[MaskName, Mask]) -> Iterator[str]:
    for name, mask in masks.items():
        if mask.is_empty or mask.is_full:
            what = EMPTY_OR_FULL.format(what="nothing" if mask.is_empty else "everything")
            yield f"the mask of {name.subtask} (repetition {name.seed + 1}) {what}"


def _network_warnings(experiment: Experiment, accuracies: Sequence[Accuracy]) -> Iterator[str]:
    for item in accuracies:
        if item.network == "full network" and item.value < experiment.data.solved:
            yield (
                f"the full network itself solves {item.subtask} only in {item.value:.1%} of cases "
                f"(below {experiment.data.solved:.0%}): a mask cannot show what was not learned"
            )


def _sufficiency_warnings(experiment: Experiment, accuracies: Sequence[Accuracy]) -> Iterator[str]:
    """Masks that lose what they were learned for: a subtask's its own, the control's anything, where subtasks leave out some."""
    data = experiment.data
    full = {item.subtask: item.value for item in accuracies if item.network == "full network"}
    for item in accuracies:
        mask = item.mask.subtask if item.network == "mask" and item.mask is not None else None
        meant = mask == data.full if isinstance(data, HoldsOut) else mask == item.subtask
        if meant and item.value < SUFFICIENT * full[item.subtask]:
            yield (
                f"a mask of {mask} serves {'its own subtask' if mask == item.subtask else item.subtask} only in "
                f"{item.value:.1%} of cases (the network: {full[item.subtask]:.1%}): it has lost weights that matter; learn "
                "longer or lower the penalty"
            )


def histogram(probability: torch.Tensor) -> tuple[int, ...]:
    """Units per bin of keep probability."""
    return tuple(int(count) for count in torch.histc(probability, HISTOGRAM_BINS, 0.0, 1.0))
