"""Channels: a convolution's filter with its place in the normalisation behind it."""

import pytest
import torch
from torch import nn

from maskscope.core.apply import masked
from maskscope.core.channels import PerChannel
from maskscope.core.granularity import PerOutput
from maskscope.core.layout import layout
from maskscope.core.mask import Mask
from maskscope.core.seeded import seeded


def channels(model):
    """The parameters of each unit's group."""
    groups = PerChannel().groups(model)
    return [tuple(group) for group in groups]


def trained(*layers):
    """Layers whose normalisations have learned something and seen something."""
    with seeded(0):
        model = nn.Sequential(*layers)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
                module.running_mean.normal_()
    return model.eval()


@pytest.mark.parametrize(
    ("convolution", "shape"),
    [
        (nn.Conv1d(2, 6, 3), (4, 2, 5)),
        (nn.Conv2d(2, 6, 3), (4, 2, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 2, groups=2), (4, 4, 5, 5)),
        (nn.Conv2d(6, 6, 3, groups=6, bias=False), (4, 6, 5, 5)),
    ],
    ids=["1d", "2d", "grouped transposed", "depthwise"],
)
def test_a_removed_channel_is_silent_and_the_others_stay(convolution, shape):
    norm = nn.BatchNorm1d(6) if len(shape) == 3 else nn.BatchNorm2d(6)
    model = trained(convolution, norm)
    over = layout(model, granularity=PerChannel())
    kept = torch.tensor([True, False, True, False, False, True])
    with seeded(1), torch.no_grad():
        images = torch.randn(*shape)
        whole, under = model(images), masked(model, Mask.of(over, kept))(images)
    assert over.units == 6
    assert not under[:, ~kept].any()
    assert whole[:, ~kept].any()
    torch.testing.assert_close(under[:, kept], whole[:, kept])


def test_a_filter_alone_is_not():
    model = trained(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6))
    over = layout(model, ["0.weight"], granularity=PerOutput())
    with torch.no_grad():
        assert masked(model, Mask.of(over, torch.arange(6) > 0))(torch.ones(1, 2, 5, 5))[:, 0].any()


class Block(nn.Module):
    """Convolutions registered together, then what normalises them, as some write it."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 8, 1)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.BatchNorm2d(4)


def test_registered_apart_they_are_told_by_their_numbers():
    assert channels(Block()) == [
        ("conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"),
        ("conv2.weight", "conv2.bias", "bn2.weight", "bn2.bias"),
        ("conv3.weight", "conv3.bias"),  # bn3 has half as many channels
    ]


def test_a_normalisation_before_its_convolution_belongs_to_what_came_before_it():
    """As in DenseNets: norm, convolution, norm, convolution."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3))
    assert channels(model) == [("1.weight", "1.bias", "2.weight", "2.bias"), ("4.weight", "4.bias")]


def test_one_without_scale_and_shift_leaves_the_filter():
    assert channels(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=False))) == [("0.weight", "0.bias")]


def test_a_normalisation_serves_one_convolution():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    assert channels(model) == [("0.weight", "0.bias"), ("1.weight", "1.bias", "2.weight", "2.bias")]


def test_a_network_without_convolutions_is_refused():
    with pytest.raises(ValueError, match=r"no convolutions are found in Linear; name its channels with ms\.Tied"):
        layout(nn.Linear(2, 2), granularity=PerChannel())
