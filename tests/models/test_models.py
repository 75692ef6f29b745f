"""The paper's networks: counts, initialisation, the control with copied weights."""

import pytest
import torch

from maskscope.core.layout import layout
from maskscope.core.seeded import seeded
from maskscope.experiments import experiments
from maskscope.models.lstm import LSTM, LSTMSettings
from maskscope.models.mlp import MLP, MLPSettings
from maskscope.models.twin import CopySecondHalf


@pytest.mark.parametrize(
    ("settings", "masked", "trainable"),
    [
        (MLPSettings(hidden=(2000,) * 4), 12_240_000, 12_248_040),
        (MLPSettings(hidden=(800,) * 4), 2_016_000, 2_019_240),
        (LSTMSettings(hidden=256, layers=2), 878_592, 880_680),
    ],
    ids=["fnn-2000", "fnn-800", "lstm"],
)
def test_counts_are_the_published_ones(settings, masked, trainable):
    with torch.device("meta"):
        model = settings.build(80, 40)
    assert layout(model).weights == masked
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable


@pytest.mark.parametrize(
    ("variant", "masked", "trainable"),
    [
        ("fnn-small", 260_800, 261_820),
        ("fnn-800", 1_969_600, 1_972_820),
        ("fnn-2000", 12_124_000, 12_132_020),
        ("fnn-4000", 48_248_000, 48_264_020),
        ("lstm", 834_560, 836_628),
    ],
)
def test_counts_of_add_mul_are_the_published_ones(variant, masked, trainable):
    (experiment,) = (item for item in experiments("add-mul", "standard") if item.variant == variant)
    with torch.device("meta"):
        model = experiment.network.build(experiment.data.inputs, experiment.data.outputs)
    names = layout(model).names
    assert experiment.layout().weights == masked
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable
    assert all(set(half) < set(names) for half in experiment.halves)


def test_the_ends_and_the_first_half_are_masked_parameters():
    for settings in (MLPSettings(hidden=(8, 8, 8)), LSTMSettings(hidden=4), LSTMSettings(hidden=4, layers=1)):
        names = layout(settings.build(6, 4)).names
        assert set(settings.ends) <= set(names)
        assert set(settings.first_half) < set(names)
    assert MLPSettings().first_half == ("layers.0.weight", "layers.1.weight")


def test_the_lstm_starts_as_published():
    with seeded(0):
        model = LSTM(10, 16, 2, 4)
    for layer in range(2):
        bias = getattr(model.lstm, f"bias_ih_l{layer}")
        assert torch.equal(bias, torch.cat([torch.zeros(16), torch.ones(16), torch.zeros(32)]))
        second = getattr(model.lstm, f"bias_hh_l{layer}")
        assert not second.any()
        assert not second.requires_grad
        cell = getattr(model.lstm, f"weight_hh_l{layer}")[32:48]
        torch.testing.assert_close(cell @ cell.T, torch.eye(16), atol=1e-5, rtol=0)
        limit = (6 / (16 + 16)) ** 0.5
        gate = getattr(model.lstm, f"weight_hh_l{layer}")[:16]
        assert 0.9 * limit < gate.abs().max() <= limit


def test_copied_halves_answer_alike():
    with seeded(0):
        model = MLP(8, (16, 16), 6)
        x = torch.randn(5, 4)
    CopySecondHalf().apply(model)
    none = torch.zeros_like(x)
    first, second = model(torch.cat([x, none], 1)), model(torch.cat([none, x], 1))
    torch.testing.assert_close(first[:, :3], second[:, 3:])
