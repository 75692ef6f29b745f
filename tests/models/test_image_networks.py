"""Networks for images: published counts and names, initialisation, pretrained weights."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from maskscope.analysis.evaluate import evaluate
from maskscope.core.layout import layout
from maskscope.core.objectives import accuracy
from maskscope.core.seeded import seeded
from maskscope.data.cifar10 import ClassRemoval
from maskscope.data.mnist import PermutedMNIST
from maskscope.locate import SETTING
from maskscope.models.cnn import CNNSettings
from maskscope.models.mlp import MLPSettings
from maskscope.models.resnet import BasicBlock, PretrainedResNetSettings, ResNetSettings
from pictures import REAL, needs_data

SETTINGS = [
    CNNSettings(),
    CNNSettings(dropout=False),
    ResNetSettings(),
    ResNetSettings(blocks=1, shortcut="option-a"),
    PretrainedResNetSettings(depth=20),
    PretrainedResNetSettings(depth=56),
]


def on_meta(settings, inputs=3, outputs=10):
    with torch.device("meta"):
        return settings.build(inputs, outputs)


@pytest.mark.parametrize(
    ("settings", "inputs", "weights", "tensors"),
    [
        (CNNSettings(), 3, 390_986, 10),
        (ResNetSettings(), 3, 1_730_714, 335),
        (MLPSettings(hidden=(800, 800, 64)), PermutedMNIST.inputs, 1_320_714, 8),
        (PretrainedResNetSettings(depth=20), 3, 269_722, 59),
        (PretrainedResNetSettings(depth=56), 3, 853_018, 167),
    ],
    ids=["cnn", "resnet-110", "fnn", "resnet-20", "resnet-56"],
)
def test_with_every_parameter_masked_counts_are_the_published_ones(settings, inputs, weights, tensors):
    found = layout(on_meta(settings, inputs), ["*"])
    assert (found.weights, len(found.names)) == (weights, tensors)


@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
def test_the_ends_and_the_first_half_are_parameters(settings):
    names = layout(on_meta(settings), ["*"]).names
    assert set(settings.ends) < set(names)
    assert set(settings.first_half) < set(names)


def test_halves_are_the_published_ones():
    assert len(ResNetSettings().first_half) == 222
    assert CNNSettings().first_half == tuple(f"features.{i}.{leaf}" for i in (0, 3, 6) for leaf in ("weight", "bias"))


@pytest.mark.parametrize(
    "settings", [CNNSettings(), ResNetSettings(blocks=1), ResNetSettings(blocks=1, shortcut="option-a")], ids=repr
)
def test_an_image_gives_a_number_for_each_class_and_its_gradient_reaches_every_parameter(settings):
    with seeded(0):
        model = settings.build(3, 10)
        outputs = model(torch.randn(4, 3, 32, 32))
    assert outputs.shape == (4, 10)
    outputs.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_convolutions_of_the_resnet_start_as_published():
    with seeded(0):
        model = ResNetSettings(blocks=4).build(3, 10)
    for name, weight in ((n, p) for n, p in model.named_parameters() if p.ndim == 4):
        expected = math.sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3]))
        assert weight.std().item() == pytest.approx(expected, rel=0.15), name
    assert torch.equal(model.layer1[0].bn1.weight, torch.ones(16))


def test_a_block_whose_convolutions_say_nothing_is_its_shortcut():
    x = torch.arange(2 * 16 * 8 * 8.0).view(2, 16, 8, 8)
    same, halved = BasicBlock(16, 16, "projection"), BasicBlock(16, 32, "option-a")
    for block in (same, halved):
        torch.nn.init.zeros_(block.bn2.weight)
    assert torch.equal(same(x), x)
    out = halved(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_dropout_is_on_in_training_only_and_can_be_left_out():
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with seeded(0):
        model, plain = CNNSettings().build(3, 10), CNNSettings(dropout=False).build(3, 10)
        assert not torch.equal(model(x), model(x))
        assert torch.equal(plain(x), plain(x))
        model.eval()
        assert torch.equal(model(x), model(x))


def test_pretrained_weights_that_are_missing_damaged_or_anothers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(SETTING, str(tmp_path))
    settings = PretrainedResNetSettings(depth=20)
    with pytest.raises(FileNotFoundError, match=r"no file resnet20.safetensors in .*resnet-cifar10: get it from https"):
        settings.build(3, 10)
    path = tmp_path / "resnet-cifar10" / "resnet20.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"not tensors")
    with pytest.raises(ValueError, match=r"resnet20.safetensors does not hold the weights of a ResNet-20"):
        settings.build(3, 10)
    save_file(ResNetSettings(blocks=1, shortcut="option-a").build(3, 10).state_dict(), path)
    with pytest.raises(ValueError, match=r"does not hold the weights of a ResNet-20.*Missing key"):
        settings.build(3, 10)
    with pytest.raises(ValueError, match="has 3 inputs and 10 outputs, asked for 1 and 10"):
        settings.build(1, 10)


def test_the_layout_of_a_pretrained_network_needs_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv(SETTING, str(tmp_path))
    assert layout(on_meta(PretrainedResNetSettings())).names


@needs_data
@pytest.mark.parametrize("depth", [20, 56])
def test_pretrained_weights_are_the_files_tensors(monkeypatch, depth):
    monkeypatch.setenv(SETTING, str(REAL))
    model = PretrainedResNetSettings(depth=depth).build(3, 10)
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    saved = load_file(REAL / "resnet-cifar10" / f"resnet{depth}.safetensors")
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in saved)


@needs_data
@pytest.mark.parametrize(
    ("depth", "images", "least"),
    [
        (20, 1000, 0.90),
        (56, 250, 0.90),
        pytest.param(20, 3000, 0.90, marks=pytest.mark.slow),
        pytest.param(56, 3000, 0.92, marks=pytest.mark.slow),
    ],
)
def test_pretrained_networks_know_the_test_images(monkeypatch, depth, images, least):
    monkeypatch.setenv(SETTING, str(REAL))
    model = PretrainedResNetSettings(depth=depth).build(3, 10)
    tests = ClassRemoval(validation="test", scaling="imagenet").tests("valid", size=250)[: images // 250]
    score = evaluate(model, tests, accuracy)
    assert score.examples == images
    assert score.value >= least
