"""Sizes: a sweep hits each and nests them; hardening is measured against samples."""

import math

import pytest
import torch
from torch import nn

import maskscope as ms
from maskscope.analysis.sizes import Hardening, expected_size, hardening, sweep
from maskscope.core.seeded import seeded


def batch_of(step, rows=32):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(rows, 8, generator=generator)
    return x, x[:, :4].argmax(-1)


@pytest.fixture(scope="module")
def model():
    with seeded(0):
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(300):
        adam.zero_grad()
        ms.cross_entropy(model, batch_of(step, 64)).backward()
        adam.step()
    return model


def test_a_sweep_hits_every_size_and_smaller_masks_lie_inside_larger_ones(model):
    schedule = ms.Schedule(steps=200, samples=2, settled=None)
    options = {"layout": ms.layout(model), "schedule": schedule, "penalty": 1e-4}
    found = sweep(
        model, batch_of, ms.cross_entropy, [0.1, 0.4, 0.2], tests=[batch_of(999, 500)], metric=ms.accuracy, **options
    )
    assert [size.density for size in found] == [0.4, 0.2, 0.1]
    units = ms.layout(model).units
    assert [size.learned.mask.kept_units for size in found] == [round(share * units) for share in (0.4, 0.2, 0.1)]
    assert found[0].value > 0.85
    assert found[0].value >= found[2].value
    inside = (found[1].learned.mask & found[0].learned.mask).kept_units / found[1].learned.mask.kept_units
    assert inside > 0.9
    with pytest.raises(ValueError, match=r"shares of the units, between 0 and 1, got \[1.5\]"):
        sweep(model, batch_of, ms.cross_entropy, [1.5], **options)


@pytest.mark.parametrize(
    ("gate", "penalty"), [(ms.GumbelSigmoid(), 3e-4), (ms.HardConcrete(), 3e-3), (ms.Sigmoid(), 1e-2)]
)
def test_hardening_compares_samples_with_the_hard_mask(model, gate, penalty):
    schedule = ms.Schedule(steps=60, samples=2, settled=None)
    learned = ms.learn_mask(model, batch_of, ms.cross_entropy, gate=gate, schedule=schedule, penalty=penalty)
    tests = [batch_of(999, 500)]
    found = hardening(model, learned, gate, tests, ms.accuracy, samples=4)
    assert found.hard == ms.evaluate(ms.masked(model, learned.mask), tests, ms.accuracy).value
    assert found.kept == learned.mask.kept_units
    assert found.expected_kept == round(float(learned.probability.double().sum())) == expected_size(learned).kept_units
    assert found.gap == pytest.approx(found.sampled - found.hard)
    assert math.isnan(hardening(model, learned, gate, tests, ms.accuracy, samples=1).deviation)


def test_samples_of_a_settled_mask_are_the_mask(model):
    layout = ms.layout(model)
    kept = torch.rand(layout.units, generator=torch.Generator().manual_seed(0)) < 0.5
    learned = ms.learn_mask(
        model,
        batch_of,
        ms.cross_entropy,
        initial=torch.where(kept, 30.0, -30.0),
        schedule=ms.Schedule(steps=1, settled=None),
    )
    found = hardening(model, learned, ms.GumbelSigmoid(), [batch_of(999, 500)], ms.accuracy)
    assert found.sampled == found.hard == found.expected
    assert found.deviation == 0
    assert isinstance(found, Hardening)
