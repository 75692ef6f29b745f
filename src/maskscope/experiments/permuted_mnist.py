"""Permuted MNIST, permutations learned in turn: values only.

Source: Csordas et al. 2021, permuted MNIST; settings of the published sweeps ``transfer_sharing``,
``transfer_sharing_prefer_old`` and ``transfer_sharing_prefer_old_even_more``. Added: nothing frozen, and a first layer that
all permutations share.
"""

from __future__ import annotations

from dataclasses import replace

from maskscope.core.learning.joint import JointSchedule
from maskscope.data.mnist import PermutedMNIST
from maskscope.runs.continual import Continual

PUBLISHED = Continual("permuted-mnist", "frozen", title="frozen, own first layer")

PAPER = (
    PUBLISHED,
    replace(PUBLISHED, variant="prefer-old", title="frozen, own first layer, new units begin at 0", new=0.0),
    replace(PUBLISHED, variant="prefer-old-more", title="frozen, own first layer, new units begin at -1", new=-1.0),
    replace(PUBLISHED, variant="frozen-one-first-layer", title="frozen, one first layer", own_first_layer=False),
    replace(PUBLISHED, variant="unprotected", title="nothing frozen, own first layer", protection="none"),
    replace(
        PUBLISHED,
        variant="unprotected-one-first-layer",
        title="nothing frozen, one first layer",
        protection="none",
        own_first_layer=False,
    ),
    replace(
        PUBLISHED,
        variant="unprotected-slow",
        title="nothing frozen, one first layer, weights at a tenth of the rate",
        protection="none",
        own_first_layer=False,
        schedule=JointSchedule(weight_learning_rate=1e-3),
    ),
    replace(
        PUBLISHED,
        variant="frozen-slow",
        title="frozen, one first layer, weights at a tenth of the rate",
        own_first_layer=False,
        schedule=JointSchedule(weight_learning_rate=1e-3),
    ),
)
"""The paper's three initialisations, and five controls: the last two differ in what is frozen alone."""

STANDARD = tuple(replace(item, schedule=replace(item.schedule, steps=1500, samples=4)) for item in PAPER)
"""A twentieth of the steps, half of the samples."""

QUICK = tuple(
    replace(item, data=PermutedMNIST(permutations=3), schedule=JointSchedule(steps=800, samples=4))
    for item in (PAPER[0], PAPER[4])
)
"""Three permutations, some ten minutes."""
