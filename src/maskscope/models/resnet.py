"""Residual networks for CIFAR-10: the published ResNet-110, and pretrained ones from files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from maskscope.locate import find, missing

Shortcut = Literal["projection", "option-a"]
"""Where a block halves the image. projection: a 1×1 convolution and batch normalisation. option-a: every second pixel,
and channels of zeros, without parameters. Source: He et al. 2016, options B and A."""

_CHANNELS = (16, 32, 64)

_ORIGIN = "from https://github.com/akamaster/pytorch_resnet_cifar10, saved again as safetensors,"


class BasicBlock(nn.Module):
    """Two convolutions with batch normalisation, and a shortcut around them.

    Source: He et al. 2016, https://arxiv.org/abs/1512.03385.
    """

    def __init__(self, inputs: int, outputs: int, shortcut: Shortcut) -> None:
        """Build it; with more outputs than inputs it halves the image."""
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.grown = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, self.stride, bias=False), nn.BatchNorm2d(outputs))
            if self.grown and shortcut == "projection"
            else None
        )

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs h w"]:
        """What goes around, plus what goes through."""
        through = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.shortcut is not None:
            return (self.shortcut(x) + through).relu()
        if self.grown:
            before = self.grown // 2
            around = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(around, (0, 0, 0, 0, before, self.grown - before))
        return (x + through).relu()


class ResNet(nn.Module):
    """A convolution, three stages of blocks, the mean over positions, a linear read-out.

    Convolutions start normal with variance 2 / (outputs × kernel area), the read-out as torch's.

    Source: He et al. 2016, section 4.2; Csordas et al. 2021 and their code, which calls the read-out ``out_layer``.

    Examples:
        >>> sum(p.numel() for p in ResNet(3, 3, 10).parameters())
        272474
    """

    def __init__(self, blocks: int, inputs: int, outputs: int, shortcut: Shortcut = "projection") -> None:
        """Build it.

        Args:
            blocks: Per stage; there are ``6 * blocks + 2`` layers.
            inputs: Channels of an image.
            outputs: Classes.
            shortcut: What goes around a block that halves the image.
        """
        super().__init__()
        first, second, third = _CHANNELS
        self.conv1 = nn.Conv2d(inputs, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(blocks, first, first, shortcut)
        self.layer2 = _stage(blocks, first, second, shortcut)
        self.layer3 = _stage(blocks, second, third, shortcut)
        self.linear = nn.Linear(third, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                area = math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=math.sqrt(2 / (area * module.out_channels)))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outputs"]:
        """A number for each class, before the softmax."""
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _stage(blocks: int, inputs: int, outputs: int, shortcut: Shortcut) -> nn.Sequential:
    return nn.Sequential(*(BasicBlock(outputs if i else inputs, outputs, shortcut) for i in range(blocks)))


@dataclass(frozen=True)
class ResNetSettings:
    """A residual network by its depth.

    Raises:
        ValueError: No blocks.
    """

    kind: Literal["resnet"] = "resnet"
    blocks: int = 18
    """Per stage; 18 make the ResNet-110 of the paper."""
    shortcut: Shortcut = "projection"
    """What goes around a block that halves the image. Source: published code: projection."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.blocks < 1:
            raise ValueError(f"blocks must be at least 1, got {self.blocks}")

    @property
    def ends(self) -> tuple[str, ...]:
        """The parameters that read the image and write the classes."""
        return ("conv1.weight", "linear.weight", "linear.bias")

    @property
    def read_out(self) -> str:
        """The matrix whose rows are the network's outputs."""
        return "linear.weight"

    @property
    def first_half(self) -> tuple[str, ...]:
        """The parameters of the half-mask test. Source: published code: the stem and the first two of three stages."""
        with torch.device("meta"):
            model = ResNet(self.blocks, 3, 10, self.shortcut)
        stages = ("conv1.", "bn1.", "layer1.", "layer2.")
        return tuple(name for name, _ in model.named_parameters() if name.startswith(stages))

    def build(self, inputs: int, outputs: int) -> ResNet:
        """A freshly initialised network; draws from torch's global generator."""
        return ResNet(self.blocks, inputs, outputs, self.shortcut)


@dataclass(frozen=True)
class PretrainedResNetSettings:
    """A residual network that was trained by others on CIFAR-10; images in the scaling ``imagenet``.

    Source: https://github.com/akamaster/pytorch_resnet_cifar10; test accuracy 91.73 % at depth 20, 93.39 % at 56.
    """

    kind: Literal["pretrained-resnet"] = "pretrained-resnet"
    depth: Literal[20, 56] = 20
    """Layers with weights."""

    @property
    def ends(self) -> tuple[str, ...]:
        """The parameters that read the image and write the classes."""
        return self._untrained().ends

    @property
    def read_out(self) -> str:
        """The matrix whose rows are the network's outputs."""
        return "linear.weight"

    @property
    def first_half(self) -> tuple[str, ...]:
        """The parameters of the half-mask test: the stem and the first two of three stages."""
        return self._untrained().first_half

    def build(self, inputs: int = 3, outputs: int = 10) -> ResNet:
        """The network with its weights, read from ``resnet-cifar10/`` in the data folder.

        Raises:
            FileNotFoundError: The weights are not there.
            ValueError: Not the images and classes it was trained for, or the file is damaged or another network's.
        """
        if (inputs, outputs) != (3, 10):
            raise ValueError(f"the pretrained ResNet has 3 inputs and 10 outputs, asked for {inputs} and {outputs}")
        model = self._untrained().build(inputs, outputs)
        if model.linear.weight.is_meta:  # only its layout is wanted, which needs no file
            return model
        folder, name = "resnet-cifar10", f"resnet{self.depth}.safetensors"
        path = find(folder, (name,))
        if path is None:
            raise missing(folder, (name,), _ORIGIN)
        try:
            model.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]  # torch names every tensor
            raise ValueError(
                f"{path} does not hold the weights of a ResNet-{self.depth} ({reason}); copy it again"
            ) from error
        return model

    def _untrained(self) -> ResNetSettings:
        return ResNetSettings(blocks=(self.depth - 2) // 6, shortcut="option-a")
