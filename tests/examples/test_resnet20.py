"""examples/resnet20.py: groups of classes, channels as units; the real network where its weights are."""

import pytest
import torch

import maskscope as ms
import pictures
from example_files import example
from maskscope.data.cifar10_archive import CLASSES
from maskscope.locate import SETTING
from maskscope.models.resnet import ResNet

resnet20 = example("resnet20")
REAL = pictures.REAL / "resnet-cifar10" / "resnet20.safetensors"


def test_groups_share_out_the_classes():
    labels = sorted(label for group in resnet20.GROUPS.values() for label in group)
    assert labels == list(range(len(CLASSES)))
    assert {CLASSES[label] for label in resnet20.GROUPS["animals"]} == {"bird", "cat", "deer", "dog", "frog", "horse"}


def test_units_are_the_output_channels_of_all_convolutions():
    model = ResNet(3, 3, 10, "option-a")
    layout = ms.layout(model, resnet20.channels.select, granularity=resnet20.channels.granularity)
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert layout.units == sum(module.out_channels for module in convolutions) == 16 * 7 + 32 * 6 + 64 * 6
    assert layout.matching(resnet20.channels.ends) == ("conv1.weight",)


@pytest.mark.skipif(
    not REAL.exists(), reason="needs resnet-cifar10/resnet20.safetensors and cifar10/ in the data folder"
)
def test_the_real_network_knows_both_groups_and_learns_on_images_of_one(monkeypatch):
    monkeypatch.setenv(SETTING, str(pictures.REAL))
    model = resnet20.weights.network(0).eval()
    for name, subtask in resnet20.weights.subtasks.items():
        first = subtask.tests()[0]
        images = (first[0][:60], first[1][:60])
        assert set(images[1].tolist()) <= set(resnet20.GROUPS[name])
        assert ms.evaluate(model, [images], subtask.metric).value > 0.8
        assert set(subtask.learn(0)[1].tolist()) <= set(resnet20.GROUPS[name])
