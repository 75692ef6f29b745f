"""Networks with a known answer, for the instrument itself: values only."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from maskscope.core.gates import GumbelSigmoid, HardConcrete, Sigmoid
from maskscope.core.learning.schedules import FAST, PUBLISHED, Schedule
from maskscope.data.planted import Planted
from maskscope.models.modules import Kind
from maskscope.models.planted import PlantedSettings
from maskscope.runs.experiment import Experiment, Gates, Masking, Training

_BATCH = 128

KINDS: tuple[Kind, ...] = ("mlp", "lstm", "cnn", "transformer")
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)


def planted(
    kind: Kind,
    shared: float,
    schedule: Schedule,
    *,
    by: Literal["units", "layers"] = "units",
    distractors: int = 1,
    penalty: float = 1e-3 / _BATCH,
    gate: Gates | None = None,
    marked: str = "",
) -> Experiment:
    """One network and how its masks are learned.

    Args:
        kind: Its architecture.
        shared: Share of modules, or hidden layers, that serve both subtasks.
        schedule: Of the masks.
        by: What is shared.
        distractors: Modules' worth of random units.
        penalty: Of the masks.
        gate: Of the masks. Default: the paper's.
        marked: What else is special, for its name.
    """
    parts = (kind, "layers" if by == "layers" else "", marked.replace(" ", "-"), f"{shared:g}")
    return Experiment(
        name="planted",
        variant="-".join(part for part in parts if part),
        title=f"{kind}{', layers' if by == 'layers' else ''}{f', {marked}' if marked else ''}, {shared:.0%} shared",
        data=Planted(),
        network=PlantedSettings(kind, shared, by, distractors),
        training=Training(steps=0),
        masking=Masking(gate=gate or GumbelSigmoid(), schedule=schedule, penalty=penalty),
    )


_SHORT = replace(FAST, steps=800, samples=2)
"""In which masks of such small networks settle."""


def _every(schedule: Schedule, fractions: tuple[float, ...] = FRACTIONS) -> tuple[Experiment, ...]:
    return tuple(planted(kind, shared, schedule) for kind in KINDS for shared in fractions)


def _settings() -> tuple[Experiment, ...]:
    """Other settings of one architecture, some of them known to be wrong: what is then said?"""
    found: list[Experiment] = []
    for shared in (0.0, 0.5, 1.0):
        found += [
            planted("mlp", shared, _SHORT, distractors=0, marked="no distractors"),
            planted("mlp", shared, _SHORT, distractors=4, marked="4 distractors"),
            planted("mlp", shared, _SHORT, penalty=1e-2 / _BATCH, marked="penalty x10"),
            planted("mlp", shared, _SHORT, penalty=1e-5 / _BATCH, marked="penalty x.01"),
            planted("mlp", shared, _SHORT, penalty=1e-9 / _BATCH, marked="penalty x.000001"),
            planted("mlp", shared, replace(_SHORT, steps=50), marked="50 steps"),
            planted("mlp", shared, replace(_SHORT, steps=10), marked="10 steps"),
            planted("mlp", shared, _SHORT, gate=GumbelSigmoid(0.5), marked="temperature 0.5"),
            planted("mlp", shared, _SHORT, gate=GumbelSigmoid(2.0), marked="temperature 2"),
            planted("mlp", shared, _SHORT, gate=HardConcrete(), penalty=1e-2 / _BATCH, marked="hard concrete"),
            planted("mlp", shared, _SHORT, gate=Sigmoid(), penalty=1e-2 / _BATCH, marked="sharpened sigmoid"),
            planted("mlp", shared, replace(PUBLISHED, steps=4000, samples=2), marked="published schedule"),
        ]
    return tuple(found)


QUICK = _every(_SHORT, (0.0, 0.5, 1.0))
STANDARD = (
    *_every(_SHORT),
    *(planted("mlp", shared, _SHORT, by="layers") for shared in FRACTIONS),
    *_settings(),
)
PAPER = tuple(item.remasked(schedule=PUBLISHED) for item in _every(_SHORT))
"""The paper has no such networks; its schedule on them."""
