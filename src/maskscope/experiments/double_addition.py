"""Double addition (Table 1 of the paper): values only.

Source: Csordas et al. 2021, double addition; settings of the published sweeps ``tuple_feedforward_big``,
``tuple_rnn`` and ``tuple_feedforward_big_copyweight``.
"""

from __future__ import annotations

from dataclasses import replace

from maskscope.core.learning.schedules import FAST, PUBLISHED
from maskscope.data.double_addition import DoubleAddition, Mode
from maskscope.models.lstm import LSTMSettings
from maskscope.models.mlp import MLPSettings
from maskscope.models.twin import CopySecondHalf
from maskscope.runs.experiment import Experiment, Masking, Training

_BATCH = 128

FNN = Experiment(
    name="double-addition",
    variant="fnn",
    title="FNN 4×2000",
    data=DoubleAddition("separate"),
    network=MLPSettings(),
    masking=Masking(penalty=4e-4 / _BATCH),
)
LSTM = Experiment(
    name="double-addition",
    variant="lstm",
    title="LSTM 2×256",
    data=DoubleAddition("together"),
    network=LSTMSettings(),
    masking=Masking(penalty=1e-4 / _BATCH),
)
LSTM_FORCED = replace(LSTM, variant="lstm-forced", title="LSTM 2×256 (forced)", data=DoubleAddition("forced"))
FNN_COPIED = replace(FNN, variant="fnn-copied", title="FNN 4×2000, pair 2 copied over pair 1", surgery=CopySecondHalf())

STANDARD = (FNN, LSTM, LSTM_FORCED, FNN_COPIED)
"""The paper's networks, the fast schedule. The FNN trains all of its 20,000 steps, though its loss is 3e-7 after 3,000: masks of
a network that was trained for less lose accuracy (4×800, mask of pair 1: 97.6 % after 2,000 steps, 99.0 % after 8,000)."""

PAPER = tuple(item.remasked(schedule=PUBLISHED) for item in (FNN, LSTM, LSTM_FORCED, FNN_COPIED))
"""The paper's networks and the paper's schedule."""

_QUICK_SCHEDULE = replace(FAST, steps=1500, samples=2)
_QUICK_FNN = replace(
    FNN,
    title="FNN 2×512",
    network=MLPSettings(hidden=(512, 512)),
    training=Training(steps=1500),
).remasked(schedule=_QUICK_SCHEDULE)
_QUICK_LSTM = replace(
    LSTM,
    title="LSTM 1×192",
    network=LSTMSettings(hidden=192, layers=1),
    training=Training(steps=3000),
).remasked(schedule=replace(_QUICK_SCHEDULE, steps=2500))
_QUICK_COPIED = replace(
    _QUICK_FNN, variant="fnn-copied", title="FNN 2×512, pair 2 copied over pair 1", surgery=CopySecondHalf()
)
QUICK = (_QUICK_FNN, _QUICK_LSTM, _QUICK_COPIED)
"""Smaller networks, fewer steps and samples: minutes in all."""

MODES: tuple[Mode, ...] = ("only-one", "same-input", "same-output", "same-io")
"""The ways of showing and reading that the published code has besides Table 1's."""


def modes(lstm: Experiment) -> tuple[Experiment, ...]:
    """The same LSTM, shown and read in the other ways."""
    return tuple(
        replace(
            lstm,
            name="double-addition-modes",
            variant=f"lstm-{mode}",
            title=f"{lstm.title} ({mode})",
            data=DoubleAddition(mode),
        )
        for mode in MODES
    )


MODES_QUICK = modes(_QUICK_LSTM)
MODES_STANDARD = modes(LSTM)
MODES_PAPER = modes(PAPER[1])


def controls(experiment: Experiment) -> tuple[Experiment, ...]:
    """A network, the same with its initial weights, and with masks of shuffled labels: what masks do on their own."""
    real = replace(experiment, name="double-addition-controls")
    return (
        real,
        replace(
            real,
            variant=f"{real.variant}-untrained",
            title=f"{real.title}, untrained",
            training=replace(real.training, steps=0),
        ),
        replace(real, variant=f"{real.variant}-shuffled", title=f"{real.title}, shuffled labels").remasked(
            shuffled_labels=True
        ),
    )


CONTROLS_QUICK = (*controls(_QUICK_FNN), *controls(_QUICK_LSTM))
CONTROLS_STANDARD = (*controls(STANDARD[0]), *controls(LSTM))
CONTROLS_PAPER = (*controls(PAPER[0]), *controls(PAPER[1]))
