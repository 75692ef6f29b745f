"""A network for CIFAR-10 that others trained: are the weights, or the channels, for animals those for vehicles?

    maskscope study examples/resnet20.py                   # about half an hour on one core; writes a report
    maskscope study examples/resnet20.py --only channels   # five minutes

The network is ResNet-20 by Yerlan Idelbayev, the units of the masks are single weights or output channels of convolutions. The weights
(resnet-cifar10/resnet20.safetensors) and the images (cifar10/) are read from the folder that MASKSCOPE_DATA names; images may also be
downloaded, weights may not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import maskscope as ms
from maskscope.data.cifar10_archive import CLASSES
from maskscope.data.cifar10_batches import Labelled, Pictures
from maskscope.models.resnet import PretrainedResNetSettings

VEHICLES = ("airplane", "automobile", "ship", "truck")
GROUPS = {
    "animals": tuple(label for label, name in enumerate(CLASSES) if name not in VEHICLES),
    "vehicles": tuple(CLASSES.index(name) for name in VEHICLES),
}
PICTURES = Pictures(validation="test", augmented=False, scaling="imagenet")


def group(name: str) -> ms.Subtask:
    """The class of an image of a group, of all ten classes; images are read when they are needed."""

    def learn(step: int) -> Labelled:
        return _batches(name)(step)

    def tests() -> list[Labelled]:
        return PICTURES.tests("test", 500, GROUPS[name])

    return ms.Subtask(learn, tests)


@cache
def _batches(name: str) -> Callable[[int], Labelled]:
    return PICTURES.batches("train", 32, 0, GROUPS[name])


weights = ms.Study(
    name="weights",
    title="ResNet-20 for CIFAR-10, trained by others",
    model=lambda: PretrainedResNetSettings(depth=20).build(),
    subtasks={name: group(name) for name in GROUPS},
    select=("*conv*",),
    schedule=replace(ms.FAST, steps=1500, init=4.0),
    penalty=3e-6,
    repeats=3,
    ends=("conv1.weight",),
    chance=0.1,
    solved=0.85,  # it has 89.7 % of animals right
)

channels = ms.Study(
    name="channels",
    title="ResNet-20 for CIFAR-10, trained by others, by channels",
    model=lambda: PretrainedResNetSettings(depth=20).build(),
    subtasks={name: group(name) for name in GROUPS},
    select=("*conv*",),
    granularity=ms.PerOutput(),
    schedule=replace(ms.FAST, steps=300, learning_rate=0.2, init=4.0),
    penalty=3e-4,
    ends=("conv1.weight",),
    chance=0.1,
    solved=0.85,
)
