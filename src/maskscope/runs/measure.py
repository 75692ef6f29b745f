"""Testing a network under its masks, and comparing them: from a trained network to records."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import torch
from torch import nn

from maskscope.analysis.ablate import complement
from maskscope.analysis.compare import overlaps, remaining_in, shared_in
from maskscope.analysis.evaluate import Score, evaluate, evaluate_each
from maskscope.analysis.faithfulness import Curve, Likeness, curve
from maskscope.analysis.gradients import Similarity, gradient_similarity
from maskscope.analysis.serving import MOST, Serving, serving
from maskscope.analysis.specialize import left
from maskscope.core.batches import Batch, size
from maskscope.core.layout import Layout
from maskscope.core.mask import Mask
from maskscope.core.objectives import Network
from maskscope.runs.ablations import Removal, Tested, Under, networks, removals, under_masks
from maskscope.runs.about import about
from maskscope.runs.experiment import Experiment
from maskscope.runs.places import places, spans_of
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
from maskscope.runs.testing import Tests

SUFFICIENT = 0.9
"""Below this share of the network's own accuracy (above chance) a mask does not suffice for its subtask, and is warned of."""

CONFUSED = ("full network", "mask", "complement", "complement with ends open")
"""Networks whose outputs are looked at more closely than right and wrong."""

FIRST, ENOUGH = 2, 400
"""Batches, and examples, of the tests that are enough for a curve."""

EMPTY_OR_FULL = "keeps {what}: no overlap or ablation of it means anything"


def measure(
    experiment: Experiment, seed: int, model: nn.Module, masks: Mapping[MaskName, Mask], tests: Tests | None = None
) -> SeedResults:
    """Test a network under its masks and compare them.

    Args:
        experiment: The values the run was made from.
        seed: Of the network.
        model: The trained network.
        masks: All its masks; the control is that of the full task. Empty: the network alone is tested.
        tests: What is known already, and where progress goes. Default: nothing, nowhere.
    """
    tests = Tests() if tests is None else tests
    under = under_masks(experiment, model, masks)
    tested, removed = list(networks(experiment, seed, under, masks)), list(removals(experiment, under, masks))
    looked_at = [item for item in tested if _is_looked_at(experiment, item)]
    compared_to = list(_alike(experiment, tested))
    tests.total = len(tested) + len(looked_at) + len(removed) + len(compared_to)
    accuracies = [found for item in tested for found in _accuracies(experiment, item, tests)]
    outcomes = tuple(found for item in looked_at for found in _outcomes(experiment, item, tests))
    pairs = tuple(found for item in removed for found in _pairs(experiment, item, tests))
    likeness = tuple(found for item in compared_to for found in _likeness(experiment, model, item, tests))
    some = list(masks.values())[:1]
    warnings = (
        *_mask_warnings(masks),
        *_network_warnings(experiment, accuracies),
        *_sufficiency_warnings(experiment, accuracies),
    )
    return SeedResults(
        experiment.digest,
        seed,
        tuple(accuracies),
        outcomes,
        tuple(MaskSize(name, mask.counts()) for name, mask in masks.items()),
        tuple(_overlaps(experiment, masks)),
        tuple(_shares(experiment, masks)),
        warnings,
        tuple(_removed(experiment, masks)),
        pairs,
        _gradients(experiment, model, masks),
        tuple(_serving(experiment, masks)),
        likeness,
        tuple(names for mask in some for names in spans_of(mask.layout).values() if len(names) > 1),
    )


def _on_each(experiment: Experiment, network: Network) -> list[Score]:
    data = experiment.data
    scores: list[Score] = []
    for subtask in data.tested:
        with about(f"the test of {subtask}"):
            scores.append(evaluate(network, data.tests("valid", subtask), data.metric(subtask)))
    return scores


def _accuracies(experiment: Experiment, item: Tested, tests: Tests) -> Iterator[Accuracy]:
    scores = tests.scores(item.key("right"), lambda: _on_each(experiment, item.make()))
    for subtask, score in zip(experiment.data.tested, scores, strict=True):
        yield Accuracy(item.network, item.mask, subtask, score.value, score.examples)


def _pairs(experiment: Experiment, item: Removal, tests: Tests) -> Iterator[PairAccuracy]:
    names = (f"{name.subtask} {name.seed}" for name in (item.first, item.second))
    key = " | ".join(("right", f"without {item.removed}", *names))
    mask = item.make()
    scores = tests.scores(key, lambda: _on_each(experiment, item.under(complement(mask))))
    for subtask, score in zip(experiment.data.tested, scores, strict=True):
        yield PairAccuracy(
            item.removed, item.first, item.second, mask.kept_weights, subtask, score.value, score.examples
        )


def _is_looked_at(experiment: Experiment, item: Tested) -> bool:
    wanted = CONFUSED if len(experiment.data.subtasks) <= FEW else CONFUSED[:2]
    return isinstance(experiment.data, Confusable) and item.network in wanted


def _outcomes(experiment: Experiment, item: Tested, tests: Tests) -> Iterator[Outcome]:
    data = experiment.data
    if not isinstance(data, Confusable):
        return

    def work(confusable: Confusable = data) -> list[Score]:
        network, metric = item.make(), confusable.outcome()
        return [
            score for subtask in data.tested for score in evaluate_each(network, data.tests("valid", subtask), metric)
        ]

    cells = [(subtask, outcome) for subtask in data.tested for outcome in data.outcomes]
    for (subtask, outcome), score in zip(cells, tests.scores(item.key("outcomes"), work), strict=True):
        yield Outcome(item.network, item.mask, subtask, outcome, score.value, score.examples)


def _overlaps(experiment: Experiment, masks: Mapping[MaskName, Mask]) -> Iterator[PairOverlap]:
    for a, b in combinations(masks, 2):
        if experiment.data.full not in (a.subtask, b.subtask):
            for item in overlaps(masks[a], masks[b], places(experiment, spans_of(masks[a].layout))):
                yield PairOverlap(a, b, item)


def _shares(experiment: Experiment, masks: Mapping[MaskName, Mask]) -> Iterator[Share]:
    if experiment.masking is None:
        return
    control = masks[MaskName(experiment.data.full, 0)]
    parts = places(experiment, spans_of(control.layout))
    for repeat in range(experiment.masking.repeats):
        names = [MaskName(subtask, repeat) for subtask in experiment.data.subtasks]
        alone = len(names) < 2
        every = [dict.fromkeys(parts, math.nan)] if alone else shared_in([masks[name] for name in names], parts)
        for name, own in zip(names, every, strict=True):
            left = remaining_in(masks[name], control, parts)
            yield from (Share(name, where, own[where], left[where]) for where in parts)


def _alike(experiment: Experiment, networks: Sequence[Tested]) -> Iterator[Tested]:
    if isinstance(experiment.data, Predicting) and len(experiment.data.subtasks) <= FEW:
        for item in networks:
            if item.network in ("mask", "complement") and item.mask is not None and not item.mask.seed:
                yield item


def _likeness(experiment: Experiment, model: nn.Module, item: Tested, tests: Tests) -> Iterator[Accuracy]:
    """Cross-task faithfulness. Source: Mondorf et al. 2025, 1 - Jensen-Shannon divergence."""
    data = experiment.data
    if not isinstance(data, Predicting):
        return

    def work(predicting: Predicting = data) -> list[Score]:
        network = item.make()
        return [
            evaluate(network, some(data.tests("valid", subtask)), Likeness(model, predicting.predictions(subtask)))
            for subtask in data.tested
        ]

    for subtask, score in zip(data.tested, tests.scores(item.key("like the network"), work), strict=True):
        yield Accuracy(item.network, item.mask, subtask, score.value, score.examples)


def some(batches: Sequence[Batch]) -> Sequence[Batch]:
    """The first batches of a test, enough for a curve."""
    examples = 0
    for count, batch in enumerate(batches):
        if count >= FIRST and examples >= ENOUGH:
            return batches[:count]
        examples += size(batch)
    return batches


def faithfulness(
    experiment: Experiment, under: Under, name: MaskName, over: Layout, logits: torch.Tensor
) -> Curve | None:
    """How well the units that a mask keeps first do on its subtask, by size; None where that is not asked.

    Args:
        experiment: The values the run was made from.
        under: The trained network.
        name: Of the mask.
        over: Its layout.
        logits: As learned, for every unit.
    """
    data = experiment.data
    own = data.full if isinstance(data, HoldsOut) else name.subtask  # what a subtask left out is no test of its mask
    if name.seed or own not in data.tested:
        return None
    tests, metric = some(data.tests("valid", own)), data.metric(own)
    return curve(over, logits, lambda mask: evaluate(under(mask), tests, metric).value)


def _serving(experiment: Experiment, masks: Mapping[MaskName, Mask]) -> Iterator[Serving]:
    first = {name.subtask: mask for name, mask in masks.items() if name.seed == 0}
    first = {subtask: first[subtask] for subtask in experiment.data.subtasks if subtask in first}
    if 1 < len(first) <= MOST:
        parts = places(experiment, spans_of(next(iter(first.values())).layout))
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
        if meant and left(item.value, full[item.subtask], experiment.chance(item.subtask)) < SUFFICIENT:
            yield (
                f"a mask of {mask} serves {'its own subtask' if mask == item.subtask else item.subtask} only in "
                f"{item.value:.1%} of cases (the network: {full[item.subtask]:.1%}): it has lost weights that matter; learn "
                "longer or lower the penalty"
            )


def histogram(probability: torch.Tensor) -> tuple[int, ...]:
    """Units per bin of keep probability."""
    return tuple(int(count) for count in torch.histc(probability, HISTOGRAM_BINS, 0.0, 1.0))
