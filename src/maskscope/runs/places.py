"""The parts of a network in which overlap is reported."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from maskscope.core.layout import Layout
from maskscope.core.select import by_layer
from maskscope.runs.experiment import Experiment
from maskscope.runs.results import ALL, ENDS, FEW, HIDDEN

LAYERS = 32
"""More than so many layers under many subtasks are too much to keep."""


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
