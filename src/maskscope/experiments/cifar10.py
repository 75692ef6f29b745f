"""CIFAR-10: a class left out, and whether masks come out alike twice: values only.

Source: Csordas et al. 2021, CIFAR-10; settings of the published sweeps ``cifar10``, ``cifar10_no_dropout``,
``cifar10_resnet`` and the mask-stability analysis. Everything is masked, biases and batch normalisation too; the output
layer of class masks is the control mask's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from maskscope.core.learning.schedules import FAST, PUBLISHED
from maskscope.data.cifar10 import ClassPairs, ClassRemoval
from maskscope.models.cnn import CNNSettings
from maskscope.models.resnet import PretrainedResNetSettings, ResNetSettings
from maskscope.runs.experiment import SGD, Experiment, Masking, Training

_CNN_SCHEDULE = replace(FAST, learning_rate=1e-2)
"""The published rate, 1e-3, is a tenth of that of the arithmetic experiments; so is this."""

CNN = Experiment(
    name="cifar10",
    variant="cnn",
    title="CNN",
    data=ClassRemoval(),
    network=CNNSettings(),
    masking=Masking(
        schedule=_CNN_SCHEDULE, penalty=3e-4 / 128, select=("*",), repeats=1, from_control=("out_layer.*",)
    ),
    gradients=tuple(
        (f"{layer}.*",) for layer in ("out_layer", "features.10", "features.6", "features.3", "features.0")
    ),
)
CNN_PLAIN = replace(CNN, variant="cnn-no-dropout", title="CNN without dropout", network=CNNSettings(dropout=False))
RESNET_110 = Experiment(
    name="cifar10",
    variant="resnet-110",
    title="ResNet-110",
    data=ClassRemoval(validation="test", augmented=True, scaling="resnet"),
    network=ResNetSettings(),
    training=Training(steps=64_000, learning_rate=0.1, clip=None, optimizer=SGD(), milestones=(32_000, 48_000)),
    masking=Masking(penalty=2e-5 / 128, batch=256, select=("*",), repeats=1, from_control=("linear.*",)),
)


def pretrained(depth: Literal[20, 56]) -> Experiment:
    """Masks on a network that others trained."""
    return Experiment(
        name="cifar10",
        variant=f"resnet-{depth}-pretrained",
        title=f"ResNet-{depth}, trained by others",
        data=ClassRemoval(validation="test", scaling="imagenet"),
        network=PretrainedResNetSettings(depth=depth),
        training=Training(steps=0),
        masking=RESNET_110.remasked(batch=128).masking,
    )


RESNET_20, RESNET_56 = pretrained(20), pretrained(56)


def _with(experiment: Experiment, training: int, steps: int) -> Experiment:
    """The CNN in fewer steps, at a rate at which logits move as far."""
    schedule = replace(_CNN_SCHEDULE, steps=steps, learning_rate=_CNN_SCHEDULE.learning_rate * FAST.steps / steps)
    return replace(experiment, training=replace(experiment.training, steps=training)).remasked(schedule=schedule)


def _fewer(experiment: Experiment, steps: int) -> Experiment:
    """A network that comes trained, masks in fewer steps.

    They begin with a keep probability of .993: with every gain of batch normalisation masked too, what is left of ResNet-20 at
    the published .88 computes nothing (cross-entropy 2.0 after 250 steps; from .993 on it is .1). From there, 300 steps at the
    default rate and the published penalty of ResNet-110 remove a tenth of the weights; three times the rate, and a penalty that
    is 6 times as large, as ResNet-20 has 6 times fewer weights, remove three tenths within 150. The deeper ones take the same.
    """
    schedule = replace(FAST, steps=steps, learning_rate=0.3, init=5.0, warmup=0.1)
    return experiment.remasked(schedule=schedule, penalty=1e-6)


QUICK = (_with(CNN, 600, 200), _fewer(RESNET_20, 60))
STANDARD = (
    _with(CNN, 4000, 800),
    _with(CNN_PLAIN, 4000, 800),
    _fewer(RESNET_20, 300),
    _fewer(RESNET_56, 300),
    _fewer(replace(RESNET_110, training=replace(RESNET_110.training, steps=8000, milestones=(4000, 6000))), 300),
)
"""Sized for about an hour on two cores, and for 12,000 training images; ResNet-110 is for a GPU."""

_PUBLISHED_CNN = replace(PUBLISHED, learning_rate=1e-3)
PAPER = (
    CNN.remasked(schedule=_PUBLISHED_CNN),
    CNN_PLAIN.remasked(schedule=_PUBLISHED_CNN),
    RESNET_110.remasked(schedule=replace(PUBLISHED, learning_rate=0.03, steps=30_000)),
)
"""The paper's networks and the paper's schedules."""

PAIRS = Experiment(
    name="cifar10-pairs",
    variant="cnn-no-dropout",
    title="CNN without dropout, masks of two classes",
    data=ClassPairs(),
    network=CNNSettings(dropout=False),
    masking=Masking(schedule=_CNN_SCHEDULE, penalty=3e-4 / 128, select=("*",)),
)
PAIRS_QUICK = (replace(_with(PAIRS, 600, 200), data=ClassPairs(count=2)),)
PAIRS_STANDARD = (_with(PAIRS, 4000, 800),)
PAIRS_PAPER = (PAIRS.remasked(schedule=_PUBLISHED_CNN),)
