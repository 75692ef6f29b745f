"""Every experiment in a size that takes seconds."""

from dataclasses import replace

from maskscope.core.learning.joint import JointSchedule
from maskscope.core.learning.schedules import Schedule
from maskscope.data.add_mul import AddMul
from maskscope.data.cifar10 import ClassPairs, ClassRemoval
from maskscope.data.double_addition import DoubleAddition
from maskscope.data.mathematics import Mathematics
from maskscope.data.mnist import PermutedMNIST
from maskscope.data.planted import Planted
from maskscope.data.scan import Scan
from maskscope.models.cnn import CNNSettings
from maskscope.models.encoder_decoder import EncoderDecoderSettings
from maskscope.models.lstm import LSTMSettings
from maskscope.models.mlp import MLPSettings
from maskscope.models.planted import PlantedSettings
from maskscope.models.resnet import PretrainedResNetSettings
from maskscope.models.transformer import TransformerSettings
from maskscope.models.twin import CopySecondHalf
from maskscope.runs.continual import Continual
from maskscope.runs.experiment import SGD, Adam, Experiment, Masking, Training

_MASKING = Masking(schedule=Schedule(steps=24, samples=2, settled=None, init=1.2), penalty=1e-5, batch=32)

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

_FEW_STEPS = Masking(schedule=Schedule(steps=12, samples=2, init=0.05, settled=None), penalty=1e-6, batch=16, repeats=1)
_EVERYTHING = replace(_FEW_STEPS, select=("*",))

SCAN_LSTM = Experiment(
    "scan",
    "lstm",
    Scan(masked=("jump", "turn left"), forcing=0.5),
    EncoderDecoderSettings(hidden=8, layers=1, embedding=4),
    Training(steps=10, batch=16, clip=5.0),
    _FEW_STEPS,
)
SCAN_TRANSFORMER = replace(
    SCAN_LSTM,
    variant="transformer",
    data=Scan(masked=("jump", "turn left")),
    network=TransformerSettings(width=8, heads=2, encoder=1, decoder=1, feedforward=8),
)
SCAN_BASELINE = replace(
    SCAN_TRANSFORMER,
    name="scan-baseline",
    variant="transformer-jump",
    data=Scan(learned="jump", masked=()),
    masking=None,
)
CIFAR10 = Experiment(
    "cifar10",
    "cnn",
    ClassRemoval(augmented=True),
    CNNSettings(),
    Training(steps=6, batch=16, learning_rate=0.01, clip=None, optimizer=SGD(), warmup=2, milestones=(4,)),
    replace(_EVERYTHING, schedule=replace(_EVERYTHING.schedule, steps=3), from_control=("out_layer.*",)),
    gradients=(("out_layer.*",), ("features.10.*",)),
)
PAIRS = Experiment(
    "cifar10-pairs",
    "cnn",
    ClassPairs(count=3),
    CNNSettings(dropout=False),
    Training(steps=6, batch=16),
    replace(_EVERYTHING, schedule=replace(_EVERYTHING.schedule, steps=3), repeats=2),
)
PRETRAINED = Experiment(
    "cifar10",
    "resnet-20",
    ClassRemoval(validation="test", scaling="imagenet"),
    PretrainedResNetSettings(depth=20),
    Training(steps=0),
    replace(_EVERYTHING, schedule=replace(_EVERYTHING.schedule, steps=1, init=0.005), from_control=("linear.*",)),
)
MATHEMATICS = Experiment(
    "mathematics",
    "add-or-sub",
    Mathematics("arithmetic__add_or_sub", train=60, valid=10),
    TransformerSettings(width=8, heads=2, encoder=1, decoder=1, feedforward=8, tied=True),
    Training(steps=6, batch=16, learning_rate=1e-3, optimizer=Adam(betas=(0.9, 0.995), epsilon=1e-9)),
    _FEW_STEPS,
)
PLANTED = Experiment(
    "planted",
    "cnn-0.5",
    Planted(valid=200),
    PlantedSettings("cnn", shared=0.5, distractors=0),
    Training(steps=0),
    Masking(schedule=Schedule(steps=120, samples=2, settled=None), penalty=1e-3 / 64, batch=64),
    title="cnn, 50% shared",
)
CONTINUAL = Continual(
    "permuted-mnist",
    "tiny",
    data=PermutedMNIST(permutations=3, train=2000),
    network=MLPSettings(hidden=(16, 8), start="xavier"),
    schedule=JointSchedule(steps=40, samples=2),
    batch=32,
    penalty=1e-3,
    first=0.3,
    new=0.3,
    used=0.3,
)
