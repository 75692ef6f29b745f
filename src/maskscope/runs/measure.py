"""Testing a network under its masks, and comparing them: from a trained network to records."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import combinations
from typing import NamedTuple

import torch
from torch import nn

from maskscope.analysis import controls
from maskscope.analysis.ablate import complement, half, keep_open, random_like
from maskscope.analysis.compare import overlaps, remaining, shared
from maskscope.analysis.evaluate import Score, evaluate, evaluate_each
from maskscope.analysis.faithfulness import Curve, Likeness, curve
from maskscope.analysis.gradients import Similarity, gradient_similarity
from maskscope.analysis.serving import MOST, Serving, serving
from maskscope.core.apply import masked
from maskscope.core.batches import Batch, size
from maskscope.core.layout import Layout
from maskscope.core.mask import Mask
from maskscope.core.objectives import Network
from maskscope.core.replacement import Replacement
from maskscope.core.seeded import derive
from maskscope.core.select import by_layer
from maskscope.runs.experiment import Experiment
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
"""Below this share of the network's own accuracy a mask does not suffice for its subtask, and is warned of."""

CONFUSED = ("full network", "mask", "complement", "complement with ends open")
"""Networks whose outputs are looked at more closely than right and wrong."""

CONTROLS = (controls.EMPTY, controls.RANDOM, controls.SAMPLED, controls.ENDS, controls.WITHOUT_ENDS)
"""Made from the first mask of every subtask, where there are few. (The full mask is the network, masks shuffled within tensors
are what "random mask" is for every mask.)"""

LAYERS = 32
"""More than so many layers under many subtasks are too much to keep."""

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
    under = _under(experiment, model, masks)
    networks, removals = list(_networks(experiment, seed, under, masks)), list(_removals(experiment, under, masks))
    looked_at = [item for item in networks if _is_looked_at(experiment, item)]
    compared_to = list(_alike(experiment, networks))
    tests.total = len(networks) + len(looked_at) + len(removals) + len(compared_to)
    accuracies = [found for item in networks for found in _accuracies(experiment, item, tests)]
    outcomes = tuple(found for item in looked_at for found in _outcomes(experiment, item, tests))
    pairs = tuple(found for item in removals for found in _pairs(experiment, item, tests))
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


def tested(experiment: Experiment, over: Layout) -> int:
    """How many networks ``measure`` tests, each on every subtask."""
    nothing = Mask.empty(over)
    masks = {MaskName(subtask, seed): nothing for subtask, seed in experiment.masks()}
    under = Under(nn.Identity(), {})
    return sum(1 for _ in _networks(experiment, 0, under, masks)) + sum(1 for _ in _removals(experiment, under, masks))


def spans_of(over: Layout) -> dict[str, tuple[str, ...]]:
    """The parameters of each run of units, by the first of them."""
    return {span.name: tuple(segment.parameter for segment in span.segments) for span in over.spans}


def places(experiment: Experiment, spans: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The parts of a network in which overlap is reported: tensors, layers of several tensors, hidden, ends, all.

    With many subtasks: layers, if there are not many of those too, hidden, ends, all.

    Args:
        experiment: The values a run is made from.
        spans: The parameters of each run of units, by the first of them.
    """
    every = tuple(name for names in spans.values() for name in names)
    globs = experiment.network.ends
    ends = {name for name in every if any(fnmatchcase(name, glob) for glob in globs)}
    layers = {
        where: tuple(parameter for name in names for parameter in spans[name])
        for where, names in by_layer(spans).items()
    }
    single = {**spans} | {where: names for where, names in layers.items() if names not in spans.values()}
    few = len(experiment.data.subtasks) <= FEW
    apart = {
        HIDDEN: tuple(name for name in every if name not in ends),
        ENDS: tuple(name for name in every if name in ends),
    }
    parts = {
        **(single if few else layers if len(layers) <= LAYERS else {}),
        **(apart if globs else {}),
        ALL: every,
    }
    return {where: names for where, names in parts.items() if names}


class Under(NamedTuple):
    """A network, to be put under masks."""

    model: nn.Module
    replacement: Replacement
    """What removed weights become."""

    def __call__(self, mask: Mask) -> Network:
        """The network under a mask."""
        return masked(self.model, mask, self.replacement)


def _under(experiment: Experiment, model: nn.Module, masks: Mapping[MaskName, Mask]) -> Under:
    some = next(iter(masks.values()), None)
    return Under(model, {} if some is None else experiment.replacement(model, some.layout))


class _Tested(NamedTuple):
    """Something that is tested."""

    network: str
    mask: MaskName | None
    make: Callable[[], Network]
    """Called when it is its turn, for it unpacks a mask."""

    def key(self, what: str) -> str:
        """Its name among the tests."""
        mask = "" if self.mask is None else f"{self.mask.subtask} {self.mask.seed}"
        return " | ".join((what, self.network, mask))


class _Removal(NamedTuple):
    """The network without something of two masks."""

    removed: str
    first: MaskName
    second: MaskName
    mask: Mask
    """What is removed."""
    under: Under


def _networks(experiment: Experiment, seed: int, under: Under, masks: Mapping[MaskName, Mask]) -> Iterator[_Tested]:
    """Everything that is tested: the network, and under each mask and what is made from it."""
    yield _Tested("full network", None, lambda: under.model)
    if not masks:
        return
    control = masks[MaskName(experiment.data.full, 0)]
    names, ends = control.layout.names, experiment.network.ends
    halves = experiment.halves or (experiment.network.first_half or names[: len(names) // 2],)
    for name, mask in masks.items():
        ablated: list[tuple[str, Callable[[], Mask]]] = [
            ("mask", partial(_itself, mask)),
            ("complement", partial(complement, mask)),
            ("random mask", partial(random_like, mask, derive(seed, "random mask", name.subtask, name.seed))),
        ]
        if ends:
            ablated.insert(2, ("complement with ends open", partial(_open, mask, control, ends)))
        if len(experiment.data.subtasks) <= FEW and name.subtask != experiment.data.full and name.seed == 0:
            others = controls.makers(mask, ends, derive(seed, "control", name.subtask))
            ablated += [(kind, make) for kind, make in others.items() if kind in CONTROLS]
        if name.subtask == experiment.data.full:
            for first in halves:
                second = [parameter for parameter in names if parameter not in first]
                if first and second:
                    ablated += [
                        ("first half masked", partial(half, mask, first)),
                        ("second half masked", partial(half, mask, second)),
                    ]
        for network, made in ablated:
            yield _Tested(network, name, partial(_made, under, made))


def _itself(mask: Mask) -> Mask:
    return mask


def _open(mask: Mask, control: Mask, ends: Sequence[str]) -> Mask:
    return keep_open(complement(mask), control, ends)


def _made(under: Under, make: Callable[[], Mask]) -> Network:
    return under(make())


def _on_each(experiment: Experiment, network: Network) -> list[Score]:
    data = experiment.data
    return [evaluate(network, data.tests("valid", subtask), data.metric(subtask)) for subtask in data.tested]


def _accuracies(experiment: Experiment, item: _Tested, tests: Tests) -> Iterator[Accuracy]:
    scores = tests.scores(item.key("right"), lambda: _on_each(experiment, item.make()))
    for subtask, score in zip(experiment.data.tested, scores, strict=True):
        yield Accuracy(item.network, item.mask, subtask, score.value, score.examples)


def _removals(experiment: Experiment, under: Under, masks: Mapping[MaskName, Mask]) -> Iterator[_Removal]:
    """Shared weights need not be weights that matter: what does removing them do, and removing the others?"""
    data = experiment.data
    if len(data.subtasks) > FEW:
        return
    for first, second in combinations(masks, 2):
        if first.seed != second.seed or data.full in (first.subtask, second.subtask):
            continue
        a, b = masks[first], masks[second]
        for removed, mask in (("shared", a & b), ("first alone", a - b), ("second alone", b - a)):
            yield _Removal(removed, first, second, mask, under)


def _pairs(experiment: Experiment, item: _Removal, tests: Tests) -> Iterator[PairAccuracy]:
    names = (f"{name.subtask} {name.seed}" for name in (item.first, item.second))
    key = " | ".join(("right", f"without {item.removed}", *names))
    scores = tests.scores(key, lambda: _on_each(experiment, item.under(complement(item.mask))))
    for subtask, score in zip(experiment.data.tested, scores, strict=True):
        yield PairAccuracy(
            item.removed, item.first, item.second, item.mask.kept_weights, subtask, score.value, score.examples
        )


def _is_looked_at(experiment: Experiment, item: _Tested) -> bool:
    wanted = CONFUSED if len(experiment.data.subtasks) <= FEW else CONFUSED[:2]
    return isinstance(experiment.data, Confusable) and item.network in wanted


def _outcomes(experiment: Experiment, item: _Tested, tests: Tests) -> Iterator[Outcome]:
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
    for repeat in range(experiment.masking.repeats):
        names = [MaskName(subtask, repeat) for subtask in experiment.data.subtasks]
        for where, parameters in places(experiment, spans_of(control.layout)).items():
            alone = len(names) < 2
            shares = (math.nan,) if alone else shared([masks[name] for name in names], parameters)
            for name, share in zip(names, shares, strict=True):
                yield Share(name, where, share, remaining(masks[name], control, parameters))


def _alike(experiment: Experiment, networks: Sequence[_Tested]) -> Iterator[_Tested]:
    if isinstance(experiment.data, Predicting) and len(experiment.data.subtasks) <= FEW:
        for item in networks:
            if item.network in ("mask", "complement") and item.mask is not None and not item.mask.seed:
                yield item


def _likeness(experiment: Experiment, model: nn.Module, item: _Tested, tests: Tests) -> Iterator[Accuracy]:
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
    own = data.full if isinstance(data, HoldsOut) else name.subtask  # what a subtask left out is no test of its mask
    if name.seed or own not in data.tested or len(data.subtasks) > FEW:
        return None
    tests, metric = some(data.tests("valid", own)), data.metric(own)
    under = Under(model, experiment.replacement(model, over))
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
        if meant and item.value < SUFFICIENT * full[item.subtask]:
            yield (
                f"a mask of {mask} serves {'its own subtask' if mask == item.subtask else item.subtask} only in "
                f"{item.value:.1%} of cases (the network: {full[item.subtask]:.1%}): it has lost weights that matter; learn "
                "longer or lower the penalty"
            )


def histogram(probability: torch.Tensor) -> tuple[int, ...]:
    """Units per bin of keep probability."""
    return tuple(int(count) for count in torch.histc(probability, HISTOGRAM_BINS, 0.0, 1.0))
