"""What a run tests: the network, and under each mask and what is made from it; each made when it is its turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from operator import and_, sub
from typing import NamedTuple

from torch import nn

from maskscope.analysis import controls
from maskscope.analysis.ablate import complement, half, keep_open, random_like
from maskscope.core.apply import masked
from maskscope.core.layout import Layout
from maskscope.core.mask import Mask
from maskscope.core.objectives import Network
from maskscope.core.replacement import Replacement
from maskscope.core.seeded import derive
from maskscope.runs.experiment import Experiment
from maskscope.runs.results import FEW, WITHOUT_RANDOM, MaskName

CONTROLS = (controls.EMPTY, controls.RANDOM, controls.SAMPLED, controls.ENDS, controls.WITHOUT_ENDS)
"""Made from the first mask of every subtask, where there are few. (The full mask is the network, masks shuffled within tensors
are what "random mask" is for every mask.)"""


class Under(NamedTuple):
    """A network, to be put under masks."""

    model: nn.Module
    replacement: Replacement
    """What removed weights become."""

    def __call__(self, mask: Mask) -> Network:
        """The network under a mask."""
        return masked(self.model, mask, self.replacement)


def under_masks(experiment: Experiment, model: nn.Module, masks: Mapping[MaskName, Mask]) -> Under:
    """The network of an experiment, to be put under its masks."""
    some = next(iter(masks.values()), None)
    return Under(model, {} if some is None else experiment.replacement(model, some.layout))


class Tested(NamedTuple):
    """Something that is tested."""

    network: str
    mask: MaskName | None
    make: Callable[[], Network]
    """Called when it is its turn, for it unpacks a mask."""
    choice: int = 0
    """Which one, where there are several of a kind: halves."""

    def key(self, what: str) -> str:
        """Its name among the tests, of which no other has the same."""
        mask = "" if self.mask is None else f"{self.mask.subtask} {self.mask.seed}"
        return " | ".join((what, self.network, mask, *([str(self.choice)] if self.choice else [])))


class Removal(NamedTuple):
    """The network without something of two masks."""

    removed: str
    first: MaskName
    second: MaskName
    make: Callable[[], Mask]
    """What is removed; called when it is its turn."""
    under: Under


def tested(experiment: Experiment, over: Layout) -> int:
    """How many networks are tested, each on every subtask."""
    nothing = Mask.empty(over)
    masks = {MaskName(subtask, seed): nothing for subtask, seed in experiment.masks()}
    under = Under(nn.Identity(), {})
    return sum(1 for _ in networks(experiment, 0, under, masks)) + sum(1 for _ in removals(experiment, under, masks))


def networks(experiment: Experiment, seed: int, under: Under, masks: Mapping[MaskName, Mask]) -> Iterator[Tested]:
    """Everything that is tested: the network, and under each mask and what is made from it."""
    yield Tested("full network", None, lambda: under.model)
    if not masks:
        return
    control = masks[MaskName(experiment.data.full, 0)]
    names, ends, spans = control.layout.names, experiment.network.ends, control.layout.spans
    first_spans = tuple(segment.parameter for span in spans[: len(spans) // 2] for segment in span.segments)
    halves = experiment.halves or (experiment.network.first_half or first_spans,)
    for name, mask in masks.items():
        drawn = partial(random_like, mask, derive(seed, "random mask", name.subtask, name.seed))
        ablated: list[tuple[str, Callable[[], Mask]]] = [
            ("mask", partial(_itself, mask)),
            ("complement", partial(complement, mask)),
            ("random mask", drawn),
            (WITHOUT_RANDOM, partial(_without, drawn)),
        ]
        if ends:
            ablated.insert(2, ("complement with ends open", partial(_open, mask, control, ends)))
        if len(experiment.data.subtasks) <= FEW and name.subtask != experiment.data.full and name.seed == 0:
            others = controls.makers(mask, ends, derive(seed, "control", name.subtask))
            ablated += [(kind, make) for kind, make in others.items() if kind in CONTROLS]
        for network, made in ablated:
            yield Tested(network, name, partial(_made, under, made))
        for choice, first in enumerate(halves if name.subtask == experiment.data.full else ()):
            second = [parameter for parameter in names if parameter not in first]
            if first and second:
                for network, part in (("first half masked", first), ("second half masked", second)):
                    yield Tested(network, name, partial(_made, under, partial(half, mask, part)), choice)


def _itself(mask: Mask) -> Mask:
    return mask


def _without(make: Callable[[], Mask]) -> Mask:
    return complement(make())


def _open(mask: Mask, control: Mask, ends: Sequence[str]) -> Mask:
    return keep_open(complement(mask), control, ends)


def _made(under: Under, make: Callable[[], Mask]) -> Network:
    return under(make())


def removals(experiment: Experiment, under: Under, masks: Mapping[MaskName, Mask]) -> Iterator[Removal]:
    """Shared weights need not be weights that matter: what does removing them do, and removing the others?"""
    data = experiment.data
    if len(data.subtasks) > FEW:
        return
    for first, second in combinations(masks, 2):
        if first.seed != second.seed or data.full in (first.subtask, second.subtask):
            continue
        a, b = masks[first], masks[second]
        makers = {"shared": partial(and_, a, b), "first alone": partial(sub, a, b), "second alone": partial(sub, b, a)}
        for removed, make in makers.items():
            yield Removal(removed, first, second, make, under)
