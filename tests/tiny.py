"""A double addition that takes seconds."""

from dataclasses import replace

from maskscope.core.learning.schedules import Schedule
from maskscope.data.add_mul import AddMul
from maskscope.data.double_addition import DoubleAddition
from maskscope.models.lstm import LSTMSettings
from maskscope.models.mlp import MLPSettings
from maskscope.models.twin import CopySecondHalf
from maskscope.runs.study import Experiment, Masking, Training

_MASKING = Masking(schedule=Schedule(steps=40, samples=2, settled=None), penalty=1e-5, batch=32)

FNN = Experiment(
    "double-addition",
    "fnn",
    DoubleAddition("separate", train=2000, valid=300),
    MLPSettings(hidden=(16, 12)),
    Training(steps=60, batch=32),
    _MASKING,
    title="tiny <b>FNN</b>",
)
LSTM = Experiment(
    "double-addition",
    "lstm",
    DoubleAddition("together", train=2000, valid=300),
    LSTMSettings(hidden=8),
    Training(steps=30, batch=32),
    _MASKING,
)
FORCED = Experiment(
    "double-addition",
    "lstm-forced",
    DoubleAddition("forced", train=2000, valid=300),
    LSTMSettings(hidden=8, layers=1),
    Training(steps=30, batch=32),
    _MASKING,
)
SAME_IO = replace(
    FORCED, name="double-addition-modes", variant="lstm-same-io", data=replace(FORCED.data, mode="same-io")
)
COPIED = Experiment(
    "double-addition", "fnn-copied", FNN.data, FNN.network, FNN.training, _MASKING, surgery=CopySecondHalf()
)
ADD_MUL = Experiment(
    "add-mul",
    "fnn",
    AddMul("once", train=2000, valid=600),
    MLPSettings(hidden=(16, 12)),
    Training(steps=60, batch=32),
    _MASKING,
    halves=(("layers.0.weight", "layers.1.weight"),),
)
ADD_MUL_LSTM = Experiment(
    "add-mul",
    "lstm",
    AddMul("last", train=2000, valid=600),
    LSTMSettings(hidden=8, layers=1),
    Training(steps=30, batch=32),
    _MASKING,
    halves=(("lstm.weight_ih_l0",), ("output.weight",)),
)
EVERY = (FNN, LSTM, FORCED, SAME_IO, COPIED, ADD_MUL, ADD_MUL_LSTM)
