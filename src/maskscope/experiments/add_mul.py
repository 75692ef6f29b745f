"""Addition and multiplication with one network: values only.

Source: Csordas et al. 2021, addition and multiplication; settings of the published sweeps ``addmul_feedforward``,
``addmul_feedforward_big``, ``addmul_feedforward_huge``, ``addmul_rnn`` and ``addmul_ff_alpha_analysis``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from maskscope.core.learning.schedules import FAST, PUBLISHED
from maskscope.data.add_mul import AddMul
from maskscope.experiments.halves import random_halves
from maskscope.models.lstm import LSTMSettings
from maskscope.models.mlp import MLPSettings
from maskscope.runs.experiment import Experiment, Masking, Training

_BATCH = 128


def _fnn(hidden: tuple[int, ...], variant: str, title: str) -> Experiment:
    tensors = tuple(f"layers.{i}.weight" for i in range(len(hidden) + 1))
    return Experiment(
        name="add-mul",
        variant=variant,
        title=title,
        data=AddMul("once"),
        network=MLPSettings(hidden=hidden),
        masking=Masking(penalty=1e-4 / _BATCH),
        halves=(tensors[: (len(tensors) + 1) // 2],),
    )


def _halves(settings: LSTMSettings) -> tuple[tuple[str, ...], ...]:
    layers = range(settings.layers)
    return random_halves([*(f"lstm.weight_{part}_l{i}" for i in layers for part in ("ih", "hh")), "output.weight"])


FNN_SMALL = _fnn((400, 400, 200), "fnn-small", "FNN 400-400-200")
FNN_800 = _fnn((800,) * 4, "fnn-800", "FNN 4×800")
FNN_2000 = _fnn((2000,) * 4, "fnn-2000", "FNN 4×2000")
FNN_4000 = _fnn((4000,) * 4, "fnn-4000", "FNN 4×4000")
LSTM = Experiment(
    name="add-mul",
    variant="lstm",
    title="LSTM 2×256",
    data=AddMul("last"),
    network=LSTMSettings(),
    masking=Masking(penalty=1e-4 / _BATCH),
    halves=_halves(LSTMSettings()),
)

STANDARD = (FNN_SMALL, FNN_800, FNN_2000, FNN_4000, LSTM)
"""The paper's networks, the fast schedule."""

PAPER = tuple(item.remasked(schedule=PUBLISHED) for item in STANDARD)
"""The paper's networks and the paper's schedule."""

_QUICK_SCHEDULE = replace(FAST, steps=1500, samples=2)
_QUICK_LSTM = LSTMSettings(hidden=192, layers=1)
QUICK = (
    replace(
        _fnn((512,) * 3, "fnn", "FNN 3×512"),
        training=Training(steps=4000),
    ).remasked(schedule=_QUICK_SCHEDULE),
    replace(
        LSTM,
        title="LSTM 1×192",
        network=_QUICK_LSTM,
        training=Training(steps=8000),
        halves=_halves(_QUICK_LSTM),
    ).remasked(schedule=_QUICK_SCHEDULE),
)
"""Smaller networks, fewer steps and samples: minutes in all."""


def penalties(experiment: Experiment, count: int) -> tuple[Experiment, ...]:
    """The same network under masks of many penalties, from 1e-5 to 1e-3 over the batch, evenly on a logarithmic scale.

    Source: published sweep ``addmul_ff_alpha_analysis``: 25 values.
    """
    return tuple(
        replace(
            experiment,
            name="add-mul-penalty",
            variant=f"{experiment.variant}-{beta:.2g}",
            title=f"{experiment.title}, β = {beta:.2g}",
        ).remasked(penalty=float(beta) / _BATCH, repeats=1)
        for beta in np.logspace(-5, -3, count)
    )


PENALTY_QUICK = penalties(QUICK[0], 5)
PENALTY_STANDARD = penalties(FNN_800, 25)
PENALTY_PAPER = penalties(PAPER[1], 25)
